"""The grammar of answers ``{"intent": ..., "slots": {...}}`` whose values stand in the prompt."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from model_builder.generate.pairs import Pair

_LOOKS = 5
"""Values of a slot in the validation split that say whether new ones are to be expected."""

_NUMBER = "-?[0-9]+"

_COMMON = 10
"""One of so many sentences holds a common word."""

_MANY = 500
"""Values of a slot from which on their edges are known."""


def answer_phrases(pairs: list[Pair]) -> list[str]:
    """What stands around the values in the answers: each is one piece of the vocabulary.

    A piece ends where the grammar leaves a choice: what it forces is cut into pieces apart from
    what follows, and must be cut there as it was in training.
    """
    intents = _intents_of(pairs)
    shared = os.path.commonprefix(list(intents))  # noqa: RUF071  # letters, not folders
    found = {f'{{"intent":"{shared}', '"}}', "}}"}
    for intent, keys in intents.items():
        found.add(f'{intent.removeprefix(shared)}","slots":{{')
        for key in keys:
            found |= {f'"{key}":"', f'","{key}":"'}
    return sorted(found)


def output_grammar(pairs: list[Pair], validation: Sequence[Pair] = ()) -> str:
    """A Lark grammar for the answers.

    Known intents, each with slots that were seen with it, in the order of their names and once
    each; values are whole words of the prompt. Where `validation` shows that a slot takes a
    closed list of values or numbers, it takes no others.
    """
    intents = _intents_of(pairs)
    # Numbered: a key may hold what no name of a rule may.
    slots_at = {key: at for at, key in enumerate(sorted({k for s in intents.values() for k in s}))}
    rules = []
    starts = []
    for number, (intent, keys) in enumerate(sorted(intents.items())):
        listed = sorted(keys)
        starts.append(f"i{number}")
        slots = f" s{number}_0?" if listed else ""
        rules.append(f'i{number}: "{intent}\\",\\"slots\\":{{"{slots} "}}}}"')
        rules += _slot_rules(number, [slots_at[key] for key in listed])
    patterns = _patterns(pairs, validation)
    edges = _edges(pairs)
    for key, at in slots_at.items():
        # Key and value are one lexeme: where the prompt has no value for it, neither can be.
        more = f" & /{patterns[key]}/" if key in patterns else "".join(edges[key])
        rules.append(f"VALUE_{at}: WORDS{more}")
        rules.append(f'SLOT_{at}: "\\"{key}\\":\\"" VALUE_{at} "\\""')
    return (
        f'start: "{{\\"intent\\":\\"" ({" | ".join(starts)})\n'
        + "\n".join(rules)
        + "\nWORDS: PROMPT & /[^ ](.*[^ ])?/\n"
        + 'PROMPT: %regex { "substring_chunks": @PIECES@ }\n'
    )


def _slot_rules(number: int, keys: list[int]) -> list[str]:
    """Rule ``sN_K``: a slot out of the keys from K on, and then any later ones."""
    rules = []
    for at, key in enumerate(keys):
        rest = f' ("," s{number}_{at + 1})?' if at + 1 < len(keys) else ""
        other = f" | s{number}_{at + 1}" if at + 1 < len(keys) else ""
        rules.append(f"s{number}_{at}: SLOT_{key}{rest}{other}")
    return rules


def _patterns(pairs: Sequence[Pair], validation: Sequence[Pair]) -> dict[str, str]:
    """Regular expressions of the slots whose values are known to the last.

    A slot is such a one if none of its values in `validation` is new, a number aside.
    """
    known, looked = _values_of(pairs), _values_of(validation)
    found = {}
    for key, values in known.items():
        words = {value for value in values if not _is_number(value)}
        new = {value for value in looked[key] if not _is_number(value)} - words
        if len(looked[key]) < _LOOKS or new:
            continue
        number = [_NUMBER] if any(map(_is_number, values)) else []
        found[key] = "|".join([*number, *_escaped(words)])
    return found


def _edges(pairs: Sequence[Pair]) -> dict[str, list[str]]:
    """What no value of a slot begins or ends with: words that all sentences are full of.

    Such a word is in one of ten sentences, and at that edge of none of the slot's values, if
    those are many: an area is not "the attic", nor "attic to".
    """
    said = Counter(word for pair in pairs for word in set(pair.prompt.split()))
    common = {word for word, count in said.items() if count * _COMMON >= len(pairs)}
    found: dict[str, list[str]] = defaultdict(list)
    for key, values in _values_of(pairs).items():
        if len(values) < _MANY:
            continue
        for at, pattern in ((0, "({})( .*)?"), (-1, "(.* )?({})")):
            edge = common - {value.split()[at] for value in values}
            if edge:
                found[key].append(f" & ~/{pattern.format('|'.join(_escaped(edge)))}/")
    return found


def _escaped(words: Iterable[str]) -> list[str]:
    return [re.escape(word).replace("/", r"\/") for word in sorted(words)]


def _is_number(value: str) -> bool:
    return re.fullmatch(_NUMBER, value) is not None


def _values_of(pairs: Sequence[Pair]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for pair in pairs:
        for key, value in msgspec.json.decode(pair.completion)["slots"].items():
            found[key].append(value)
    return found


def _intents_of(pairs: list[Pair]) -> dict[str, set[str]]:
    """Intents with the slots that they were seen with."""
    found: dict[str, set[str]] = {}
    for pair in pairs:
        answer = msgspec.json.decode(pair.completion)
        found.setdefault(answer["intent"], set()).update(answer["slots"])
    return found
