"""Formats of JSON Schema: whatever the grammar allows is valid by other programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any
from uuid import UUID

import jsonschema_rs
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from agent.generate.constraint import ConstraintFactory
from agent.generate.formats import PATTERNS, narrowed
from contracts.errors import InputError

END = 256
WALKS = 60


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    """A token a byte, so that a walk goes everywhere."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|end|>"])
    return made


def _walk(schema: dict[str, Any], letters: Tokenizer, *, most: int = 400) -> list[Any]:
    """What tokens, each picked with equal chance of those allowed, make of a schema."""
    factory = ConstraintFactory(letters.to_str(), END + 1, [END])
    rng = np.random.default_rng(3)
    found = []
    for _ in range(WALKS):
        constraint, ids = factory.json_schema(schema), list[int]()
        while not (constraint.complete or len(ids) > most):
            ids.append(int(rng.choice(np.flatnonzero(constraint.allowed()))))
            constraint.accept(ids[-1])
        if constraint.complete:
            found.append(json.loads(letters.decode(ids)))
    return found


def _utc(text: str) -> str:
    return text.replace("Z", "+00:00")  # Python 3.10


KEPT: dict[str, Callable[[str], object]] = {
    "date": date.fromisoformat,
    "date-time": lambda text: datetime.fromisoformat(_cut(text)),
    "time": lambda text: datetime.fromisoformat(_cut("2026-01-01T" + text)),
    "duration": str,
    "email": lambda text: text.index("@"),
    "hostname": lambda text: text.encode("idna"),
    "ipv4": IPv4Address,
    "ipv6": IPv6Address,
    "uuid": UUID,
    "uri": str,
}
NARROW = {
    "date": "02-29$",
    "date-time": "-02-29T23:5",
    "email": "^a@[a-z]",
    "uri": r"^http://\[",
    "ipv6": "::",
}


def _cut(text: str) -> str:
    """With three or six decimals or none, as Python 3.10 wants them."""
    whole, dot, rest = _utc(text).partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    return f"{whole}.{rest[:digits].ljust(6, '0')}{rest[digits:]}" if dot else whole


@pytest.mark.parametrize("pattern", [False, True], ids=["any", "where it is hard"])
@pytest.mark.parametrize("name", KEPT)
def test_a_format_is_always_held(name: str, letters: Tokenizer, *, pattern: bool) -> None:
    """By another validator, and by who has to read it; an email was not in five of twelve."""
    schema: dict[str, Any] = {"type": "string", "format": name}
    if pattern:
        schema["pattern"] = NARROW.get(name, "[0-9]")
    validator = jsonschema_rs.validator_for(schema, validate_formats=True)
    found = _walk(schema, letters)
    assert len(set(found)) > WALKS // 4
    for text in found:
        assert validator.is_valid(text), text
        KEPT[name](text)


@pytest.mark.parametrize(
    "name",
    [
        "idn-email", "idn-hostname", "iri", "iri-reference", "json-pointer", "regex",
        "relative-json-pointer", "uri-reference", "uri-template",
    ],
)  # fmt: skip
def test_any_other_format_is_refused_by_name(name: str, letters: Tokenizer) -> None:
    """Rather than passed over."""
    with pytest.raises(InputError, match=name) as raised:
        _walk({"type": "string", "format": name}, letters)
    assert raised.value.code == "bad-constraint"


@pytest.mark.parametrize(
    "text",
    [
        "ann@example.org", "first.last+tag@sub-domain.example.co.uk", "o'neil_7@x1.example",
        "a.b.c@deutsche-rentenversicherung-bund.de", "x@a.b.c.d.example",
    ],
)  # fmt: skip
def test_usual_addresses_can_be_written(text: str, letters: Tokenizer) -> None:
    """The part that all validators take is no small one."""
    factory = ConstraintFactory(letters.to_str(), END + 1, [END])
    constraint = factory.json_schema({"type": "string", "format": "email"})
    for token in letters.encode(json.dumps(text)).ids:
        assert constraint.allowed()[token]
        constraint.accept(token)
    assert constraint.complete


def test_only_schemas_are_narrowed() -> None:
    """Not what is said of them, nor properties that bear a keyword's name."""
    email = {"pattern": PATTERNS["email"]}
    schema = {
        "properties": {
            "format": {"format": "email"},
            "enum": {"anyOf": [{"format": "email", "pattern": "a"}, {"format": "other"}]},
            "const": {"const": {"format": "email"}},
        },
        "$defs": {"default": {"format": "email", "allOf": [{"minLength": 7}]}},
        "default": {"format": "email"},
    }
    assert narrowed(schema) == {
        "properties": {
            "format": email,
            "enum": {"anyOf": [{"pattern": "a", "allOf": [email]}, {"format": "other"}]},
            "const": {"const": {"format": "email"}},
        },
        "$defs": {"default": {"allOf": [{"minLength": 7}, email]}},
        "default": {"format": "email"},
    }


def test_many_formats_in_one_schema_are_quick(letters: Tokenizer) -> None:
    """Patterns cost the compiler no more than formats did."""
    names = [f"p{n}" for n in range(30)]
    schema = {
        "type": "object",
        "properties": {name: {"type": "string", "format": "email"} for name in names},
        "required": names,
        "additionalProperties": False,
    }
    assert _walk(schema, letters, most=200) == []  # it goes on, and no limit was met
