"""What is asked of who writes: one label and one way of writing a request.

Texts that are asked for alike come back alike. So each request draws one value of each attribute
(Y. Yu et al., "Large Language Model as Attributed Training Data Generator", 2023), and what is
asked for again shows what there is already. The same seed asks the same.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from contracts import codec
from contracts.likeness import features, likeness, spread
from model_builder.recipes.written import WrittenConfig

_OTHERS: Final = 8
"""Labels that a request is told to keep away from: the likest ones."""

SHOWN: Final = 6
"""Texts that are shown as there already, and examples."""

SURPLUS: Final = 1.2
"""Texts asked for, as a share of those wanted: some are always left out."""

_TOKENS_PER_LINE: Final = 60

_COMPARED: Final = 2000

SYSTEM: Final = (
    "You write texts that a small text classifier learns from. Write as different people really "
    "write: other words, other beginnings, other details in each text. Never name the label, "
    "never number the texts, and never leave a blank such as [name] to fill in. Answer with one "
    'JSON object and nothing else, in this form: {"texts": ["first text", "second text"]}'
)


class Ask(msgspec.Struct, frozen=True):
    """One request.

    Attributes:
        label: that the texts are for.
        prompt: what is asked.
        number: of the request in its round.
        round: from 0.
        lines: texts that are asked for.
        temperature: of the sampling.
        tokens: of the answer at most; 0: as many as the texts need.
    """

    label: str
    prompt: str
    number: int
    round: int
    lines: int
    temperature: float
    tokens: int = 0

    @property
    def key(self) -> str:
        """Names the request and its answer; the same whatever ran before."""
        return hashlib.sha256(codec.encode(self)).hexdigest()[:32]

    @property
    def max_tokens(self) -> int:
        """Of the answer: room for the texts and the JSON around them."""
        return self.tokens or 64 + self.lines * _TOKENS_PER_LINE


def plan(
    config: WrittenConfig,
    meanings: Mapping[str, str],
    have: Mapping[str, Sequence[str]],
    round_: int,
    seed: int,
) -> list[Ask]:
    """The requests of a round: labels in turn, so that what ends early has some of each.

    Args:
        config: of the writing.
        meanings: of all labels.
        have: texts that are there, by label.
        round_: from 0.
        seed: of the attributes.
    """
    by_label: list[list[Ask]] = []
    for label in meanings:
        missing = config.per_label - len(have.get(label, ()))
        wanted = int(missing * SURPLUS + 0.999)
        asks: list[Ask] = []
        draw = random.Random(f"{seed}/{round_}/{label}")
        ways = {name: turns(values, draw) for name, values in config.attributes.items()}
        while missing > 0 and wanted > 0:
            lines = 1 if config.kind == "bundle" else min(config.lines, max(wanted, 2))
            number = len(asks)
            style = {name: turn[number % len(turn)] for name, turn in ways.items()}
            there = have.get(label, ())
            prompt = _prompt(config, meanings, label, lines, style, there, draw)
            if config.kind == "bundle":
                prompt = _short_prompt(config, meanings[label], label, style, draw)
            asks.append(Ask(label, prompt, number, round_, lines, config.temperature))
            wanted -= lines
        by_label.append(asks)
    longest = max((len(asks) for asks in by_label), default=0)
    return [asks[i] for i in range(longest) for asks in by_label if i < len(asks)]


def turns(values: Sequence[str], draw: random.Random) -> list[str]:
    """Values in an order of their own, several times, so that those of attributes mix."""
    found: list[str] = []
    for _ in range(12):
        found += draw.sample(list(values), len(values))
    return found


def _prompt(
    config: WrittenConfig,
    meanings: Mapping[str, str],
    label: str,
    lines: int,
    style: Mapping[str, str],
    have: Sequence[str],
    draw: random.Random,
) -> str:
    said = [f"What the texts are: {config.about}"] if config.about else []
    said += [
        f"Language: {config.language}",
        f"Label: {spoken(label)}",
        f"What the label means: {meanings[label]}",
    ]
    others = nearest_labels(meanings, label)
    if others:
        said.append("The texts must not be about one of these:")
        said += [f"- {spoken(other)}: {meanings[other]}" for other in others]
    examples = config.examples.get(label, [])
    if examples:
        said.append("Examples, not to be repeated:")
        said += [f"- {text}" for text in draw.sample(examples, min(SHOWN, len(examples)))]
    if have:
        said.append("These are there already; write others:")
        said += [f"- {text}" for text in draw.sample(list(have), min(SHOWN, len(have)))]
    if style:
        said.append(f"How: {'; '.join(f'{name}: {value}' for name, value in style.items())}")
    said.append(
        f"Write {lines} texts of the label, each of at most {config.longest} characters, each "
        "one that somebody would write."
    )
    return "\n".join(said)


def _short_prompt(
    config: WrittenConfig, meaning: str, label: str, style: Mapping[str, str], draw: random.Random
) -> str:
    """For small models, which follow one instruction better than many."""
    said = f"Write one of these: {config.about or 'a short text'}. "
    said += f"What it says: {meaning}. "
    if config.examples.get(label):
        said += f'Like this, in other words: "{draw.choice(config.examples[label])}". '
    if style:
        said += f"How: {'; '.join(f'{name}: {value}' for name, value in style.items())}. "
    if config.language.casefold() not in ("en", "english"):
        said += f"Language: {config.language}. "
    return f"{said}Answer with the text alone, as the one who says it would write it."


def spoken(label: str) -> str:
    """A label's name as words."""
    return " ".join(label.replace("_", " ").split())


def nearest_labels(meanings: Mapping[str, str], label: str) -> list[str]:
    """The labels whose names and meanings share most with a label's."""

    def of(name: str) -> frozenset[int]:
        return features(f"{spoken(name)} {meanings[name]}")

    own = of(label)
    others = [name for name in meanings if name != label]
    return sorted(others, key=lambda name: (-likeness(own, of(name)), name))[:_OTHERS]


def most_different(texts: list[str], most: int) -> list[str]:
    """At most so many texts, those that are unlike each other, in their order.

    Of very many the first: each would be compared with each.
    """
    if len(texts) <= most or len(texts) > _COMPARED:
        return texts[:most]
    return [texts[i] for i in sorted(spread(texts, [1.0] * len(texts), most))]
