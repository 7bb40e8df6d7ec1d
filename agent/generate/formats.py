"""Formats of JSON Schema as patterns, so that whatever is written under one is valid.

llguidance's own for these take what validators refuse: the 29th of February of any year, a leap
second at any minute, ``t`` and ``z``, names of hosts with ``--`` or without an end. Each pattern
here is the part of its format that every validator takes.
"""

from __future__ import annotations

from typing import Any, Final

_FOUR_YEARS = "(?:0[48]|[2468][048]|[13579][26])"
_LEAP_YEAR = f"(?:[0-9]{{2}}{_FOUR_YEARS}|{_FOUR_YEARS}00)"
_YEAR = "(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_DAY = (
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|"
    "02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_DATE = f"(?:{_YEAR}-{_DAY}|{_LEAP_YEAR}-02-29)"
_HOUR_AND_MINUTE = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_HOUR_AND_MINUTE}:[0-5][0-9](?:\.[0-9]{{1,6}})?(?:Z|[+-]{_HOUR_AND_MINUTE})"

# Labels of at most 63 or 27 characters, without two hyphens in a row: those are of IDNA.
_LABEL, _SHORT_LABEL = (f"[A-Za-z0-9](?:-?[A-Za-z0-9]){{0,{n}}}" for n in (31, 13))
_LAST_LABEL = "[A-Za-z](?:-?[A-Za-z0-9]){0,13}"
_HOST = rf"(?:(?:{_LABEL}\.){{0,2}}|(?:{_SHORT_LABEL}\.){{3,6}}){_LAST_LABEL}"
_DOMAIN = rf"(?:(?:{_LABEL}\.){{1,2}}|(?:{_SHORT_LABEL}\.){{3,5}})[A-Za-z]{{2,18}}"
_ATOM = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_MAILBOX = "|".join(
    [
        f"{_ATOM}{{1,64}}",
        rf"{_ATOM}{{1,31}}\.{_ATOM}{{1,31}}",
        rf"(?:{_ATOM}{{1,15}}\.){{2,3}}{_ATOM}{{1,15}}",
    ]
)

PATTERNS: Final = {
    "date": f"^{_DATE}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "time": f"^{_TIME}$",
    "hostname": f"^{_HOST}$",
    "email": f"^(?:{_MAILBOX})@{_DOMAIN}$",
}

_OF_SCHEMAS = frozenset(
    ["$defs", "definitions", "dependentSchemas", "patternProperties", "properties"]
)
_NO_SCHEMAS = frozenset(["const", "default", "enum", "examples", "required"])


def narrowed(schema: Any) -> Any:
    """A schema with patterns in the place of formats that have one here.

    Args:
        schema: within the caps of :func:`agent.generate.constraint.check_schema`.
    """
    if isinstance(schema, list):
        return [narrowed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _OF_SCHEMAS and isinstance(value, dict):
            made[key] = {name: narrowed(one) for name, one in value.items()}
        else:
            made[key] = value if key in _NO_SCHEMAS else narrowed(value)
    name = made.get("format")
    if isinstance(name, str) and name in PATTERNS:
        del made["format"]
        more = made.get("allOf", [])
        if not isinstance(more, list):
            return {**made, "format": name}  # which llguidance refuses
        made["allOf"] = [*more, {"pattern": PATTERNS[name]}]
        if "pattern" not in made and not more:
            made["pattern"] = made.pop("allOf")[0]["pattern"]
    return made
