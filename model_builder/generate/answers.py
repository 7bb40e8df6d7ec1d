"""Answers that the grammar of ``constrain: prompt-values`` can write."""

from __future__ import annotations

import re

import msgspec

from contracts import codec
from contracts.errors import InputError
from model_builder.generate.pairs import Pair

_EXPECTED = 'expected a completion like {"intent": "TurnOn", "slots": {"area": "attic"}}'
_IN_JSON = re.compile(r'["\\\x00-\x1f\x7f]')
# As the agent cuts a prompt (agent/generate/constraint.py); the tests hold the two together.
_ESCAPED = re.compile(r'["\\\x00-\x1f]')
_PIECES = re.compile(r"\d+|[^\W\d]+|\s+|[^\w\s]")


class _Answer(msgspec.Struct, forbid_unknown_fields=True):
    intent: str
    slots: dict[str, str]


def completion(intent: str, slots: dict[str, str]) -> str:
    """The answer as compact JSON, slots in the order of their names."""
    return codec.encode({"intent": intent, "slots": dict(sorted(slots.items()))}).decode()


def as_answer(pair: Pair) -> Pair:
    """The pair with its completion as the grammar writes it: compact, slots by name.

    Raises:
        InputError: ``bad-data``; the completion is no intent with slots, or has a value that is
            not in the prompt as whole words.
    """
    try:
        answer = msgspec.json.decode(pair.completion, type=_Answer)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InputError(
            "bad-data", f"{_EXPECTED}, found {_short(pair.completion)}: {error}"
        ) from None
    for what, name in (("intent", answer.intent), *(("slot", key) for key in answer.slots)):
        if not name or _IN_JSON.search(name):
            raise InputError(
                "bad-data",
                f"the {what} {_short(name)} "
                "is empty or has a quote, a backslash or a control character",
            )
    pieces = _PIECES.findall(_ESCAPED.sub(" ", pair.prompt))
    for key, value in answer.slots.items():
        if not _is_run(value, pieces):
            raise InputError(
                "bad-data",
                f"the slot {_short(key)} has the value {_short(value)}, which is not in the prompt "
                f"{_short(pair.prompt)} as whole words",
            )
    return msgspec.structs.replace(pair, completion=completion(answer.intent, answer.slots))


def _is_run(value: str, pieces: list[str]) -> bool:
    """Whether a value is some of the pieces, in a row; it begins and ends with no space."""
    if not value or value.strip(" ") != value or "\n" in value:
        return False
    wanted = _PIECES.findall(value)
    size = len(wanted)
    return any(pieces[at : at + size] == wanted for at in range(len(pieces) - size + 1))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
