"""Home commands as people say them, which the templates of Home Assistant leave out.

``model_builder/data/spoken.yaml`` has ways to say an intent ("we are out of milk"), in the
templates' syntax, and polite words that may surround a request. A pretrained model needs few of
them to know what to listen for.
"""

from __future__ import annotations

import random
from importlib import resources
from typing import Any, Final, Protocol

import msgspec
import yaml
from hassil.parse_expression import parse_sentence
from hassil.util import normalize_whitespace

from model_builder.generate.answers import completion
from model_builder.generate.pairs import Pair
from model_builder.generate.rephrase import unmarked

_TRIES: Final = 20
_POLITE: Final = 0.35
"""Share of requests with a polite word before, and of those with one after."""

_SPARED: Final = 12
"""One of so many ways is for validation alone."""

_MOST_SPARED: Final = 100


class Way(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ways to say an intent.

    Attributes:
        intent: that is meant.
        ask: requests.
        say: anything else.
        domain: of the names; empty: any that can be switched.
    """

    intent: str
    ask: list[str] = []
    say: list[str] = []
    domain: list[str] = []


class Spoken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What people say in a language."""

    before: list[str]
    after: list[str]
    ways: list[Way]


class Walker(Protocol):
    """Expands expressions, and knows what filled their slots."""

    slots: dict[str, str]

    def begin(self, *, testing: bool) -> None:
        """Forgets the last expansion."""

    def expand(self, node: Any, domains: tuple[str, ...], rng: random.Random) -> str | None:
        """A sentence with its values marked."""


def spoken(language: str) -> Spoken | None:
    """What people say; None: nothing is known of the language."""
    data = (resources.files("model_builder.data") / "spoken.yaml").read_bytes()
    return msgspec.convert(yaml.safe_load(data), type=dict[str, Spoken]).get(language)


def sample_spoken(
    language: str, wanted: int, walker: Walker, owner: dict[str, str], rng: random.Random
) -> tuple[list[Pair], list[Pair]]:
    """Distinct pairs to train with, and some of other ways to stop by.

    Args:
        language: for example ``en``; one that is not known gives none.
        wanted: pairs, of both together.
        walker: that fills the slots.
        owner: answers by sentence; what is said there with another answer is left out, and what
            is found is put there.
        rng: of the sample.
    """
    said = spoken(language)
    if said is None:
        return [], []
    ways = [
        (way, parse_sentence(text).expression, asked)
        for way in said.ways
        for asked, listed in ((True, way.ask), (False, way.say))
        for text in listed
    ]
    train: dict[str, Pair] = {}
    spared: dict[str, Pair] = {}
    for _ in range(wanted * _TRIES):
        if len(train) + len(spared) >= wanted:
            break
        number = rng.randrange(len(ways))
        way, expression, asked = ways[number]
        if number % _SPARED == 0 and len(spared) >= _MOST_SPARED:
            continue
        walker.begin(testing=False)
        words = walker.expand(expression, tuple(way.domain), rng)
        text = unmarked(normalize_whitespace(words or "").strip())
        if not text or any(value not in text for value in walker.slots.values()):
            continue
        if asked:
            parts = [rng.choice(said.before) if rng.random() < _POLITE else "", text]
            parts.append(rng.choice(said.after) if rng.random() < _POLITE else "")
            text = " ".join(part for part in parts if part)
        answer = completion(way.intent, walker.slots)
        if owner.setdefault(text, answer) == answer:
            found = train if number % _SPARED else spared
            found[text] = Pair(text, answer, f"spoken/{number}")
    return list(train.values()), list(spared.values())
