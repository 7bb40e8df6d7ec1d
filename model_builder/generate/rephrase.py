"""Other ways to say a command: phrases moved, swapped, put in and left out.

Templates fix the order of phrases and which slots stand together. A student that sees only them
learns the templates by heart, and fails at the next. These sentences are not always what a
person would say; what they mean is as certain as it was, since each phrase keeps its slot.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec

_PLACES = ("area", "floor")
_MARK = re.compile(r"\x01([^\x02]*)\x02([^\x03]*)\x03")
_TOKEN = re.compile(r"(?:\x01[^\x03]*\x03|[^ \x01])+")
_OPERATIONS = 3
_TRIES = 4
_LEFT_OUT = 0.3
_RIGHT = 2
"""Words after a number that belong to it: "20 minutes timer"."""


def mark(slot: str, value: str) -> str:
    """A value in a sentence with the name of its slot."""
    return f"\x01{slot}\x02{value}\x03"


def unmarked(sentence: str) -> str:
    """The sentence as it is said."""
    return _MARK.sub(r"\2", sentence)


def slots_of(sentence: str) -> dict[str, str]:
    """Slots of a marked sentence."""
    return {m[1]: m[2] for m in _MARK.finditer(sentence)}


class Phrase(msgspec.Struct, frozen=True):
    """A run of words.

    Attributes:
        words: as they stand, values marked.
        slot: that it fills; empty: none.
        number: whether the value is one.
    """

    words: tuple[str, ...]
    slot: str = ""
    number: bool = False


def phrases_of(sentence: str, joining: frozenset[str]) -> list[Phrase]:
    """Cuts a marked sentence into phrases.

    A value takes the joining words before it along, and a number the words after it up to the
    next joining word.
    """
    tokens = _TOKEN.findall(sentence)
    found: list[Phrase] = []
    rest: list[str] = []
    at = 0
    while at < len(tokens):
        slot = _MARK.search(tokens[at])
        if slot is None:
            rest.append(tokens[at])
            at += 1
            continue
        words: list[str] = []
        while rest and rest[-1] in joining:
            words.insert(0, rest.pop())
        if rest:
            found.append(Phrase(tuple(rest)))
            rest = []
        words.append(tokens[at])
        at += 1
        number = slot[2][:1].isdigit()
        end = at + _RIGHT if number else at
        while at < min(end, len(tokens)) and not _blocks(tokens[at], joining):
            words.append(tokens[at])
            at += 1
        found.append(Phrase(tuple(words), slot[1], number))
    if rest:
        found.append(Phrase(tuple(rest)))
    return found


def _blocks(token: str, joining: frozenset[str]) -> bool:
    return token in joining or "\x01" in token


class Rephraser:
    """Makes other sentences of the same meaning.

    Args:
        said: intents with their marked sentences; phrases are taken from them.
        joining: small words between phrases: articles, prepositions.
    """

    def __init__(self, said: Iterable[tuple[str, str]], joining: Sequence[str]) -> None:
        self._joining = frozenset(joining)
        self._slots: dict[str, set[str]] = defaultdict(set)
        self._places: dict[str, list[Phrase]] = defaultdict(list)
        self._numbers: dict[tuple[str, ...], list[Phrase]] = defaultdict(list)
        for intent, sentence in said:
            for phrase in phrases_of(sentence, self._joining):
                if not phrase.slot:
                    continue
                self._slots[intent].add(phrase.slot)
                if phrase.slot in _PLACES:
                    self._places[phrase.slot].append(phrase)
                elif phrase.number:
                    self._numbers[self._shape(intent, phrase)].append(phrase)

    def _shape(self, intent: str, phrase: Phrase) -> tuple[str, ...]:
        """What two number phrases must share to stand for one another: all but the unit."""
        kind = phrase.slot.rpartition("_")[0]
        return (intent, kind, *[w for w in phrase.words if w in self._joining])

    def other(self, intent: str, sentence: str, rng: random.Random) -> str:
        """One other marked sentence; the same if none was found in which values stand apart."""
        for _ in range(_TRIES):
            phrases = phrases_of(sentence, self._joining)
            for _ in range(rng.randrange(1, _OPERATIONS + 1)):
                ways = (self._move, self._move, self._place, self._unit, self._join)
                phrases = rng.choice(ways)(intent, phrases, rng)
            if not any(self._touch(*two) for two in pairwise(phrases)):
                return " ".join(word for phrase in phrases for word in phrase.words)
        return sentence

    def _touch(self, first: Phrase, second: Phrase) -> bool:
        """Whether nobody could tell where one value ends and the next begins."""
        words = first.slot and second.slot and not first.number and not second.number
        return bool(words) and second.words[0] not in self._joining

    def _move(self, intent: str, phrases: list[Phrase], rng: random.Random) -> list[Phrase]:
        if len(phrases) < 2:
            return phrases
        rest = list(phrases)
        moved = rest.pop(rng.randrange(len(rest)))
        rest.insert(rng.randrange(len(rest) + 1), moved)
        return rest

    def _place(self, intent: str, phrases: list[Phrase], rng: random.Random) -> list[Phrase]:
        """Puts a place in, exchanges it, or leaves it out."""
        known = [slot for slot in _PLACES if slot in self._slots[intent] and self._places[slot]]
        there = [i for i, phrase in enumerate(phrases) if phrase.slot in _PLACES]
        if not known:
            return phrases
        place = rng.choice(self._places[rng.choice(known)])
        rest = list(phrases)
        if not there:
            rest.insert(rng.randrange(len(rest) + 1), place)
        elif len(there) == 1 and len(rest) > 1 and rng.random() < 0.25:
            del rest[there[0]]
        elif len(there) == 1:
            rest[there[0]] = place
        return rest

    def _unit(self, intent: str, phrases: list[Phrase], rng: random.Random) -> list[Phrase]:
        """Exchanges a number with its unit."""
        there = [i for i, phrase in enumerate(phrases) if phrase.number]
        if not there:
            return phrases
        at = rng.choice(there)
        other = rng.choice(self._numbers[self._shape(intent, phrases[at])] or [phrases[at]])
        if other.slot in {phrase.slot for i, phrase in enumerate(phrases) if i != at}:
            return phrases
        return [*phrases[:at], other, *phrases[at + 1 :]]

    def _join(self, intent: str, phrases: list[Phrase], rng: random.Random) -> list[Phrase]:
        """Leaves joining words out; those before a value stay: they tell what it is."""
        changed = []
        for phrase in phrases:
            bare = phrase.number or not phrase.slot
            words = [
                word
                for word in phrase.words
                if not (bare and word in self._joining and rng.random() < _LEFT_OUT)
            ]
            if words:
                changed.append(msgspec.structs.replace(phrase, words=tuple(words)))
        return changed
