"""Which written texts are of use: pure, the same for the same texts in the same order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from contracts.likeness import features, likeness
from contracts.text import normalize
from model_builder.writing.plan import spoken

_BLANK: Final = re.compile(r"\[(?!\d+\])[^\]]{1,40}\]|\{[^}]{1,40}\}|<[^>]{1,40}>|_{3,}|\bX{4,}\b")
"""What a model leaves to be filled in: ``[Your name]``, ``{amount}``, ``<date>``."""

_SAID_AGAIN: Final = 0.9
"""How like the meaning, or an example, a text is that only repeats it."""

_SHOWN: Final = 3

EMPTY, LONG, BLANK = "no words", "too long", "has a blank to fill in"
NAMED, REPEATED = "only names the label", "repeats the description or an example"
TWICE, ALIKE, CHECKED = "written before", "nearly written before", "has another label by the check"


class Sieve:
    """Keeps texts that say something new.

    Args:
        meanings: of the labels.
        examples: by label, which are there already.
        longest: characters of a text.
        alike: likeness from which a text is one that is there, 0 to 1.
    """

    def __init__(
        self,
        meanings: Mapping[str, str],
        examples: Mapping[str, Sequence[str]],
        longest: int,
        alike: float,
    ) -> None:
        self._longest, self._alike = longest, alike
        self._names = {label: set(normalize(spoken(label)).split()) for label in meanings}
        self._given = {
            label: [features(text) for text in (meaning, *examples.get(label, ()))]
            for label, meaning in meanings.items()
        }
        self._seen: set[str] = set()
        self._known: dict[str, list[frozenset[int]]] = {label: [] for label in meanings}
        self.dropped: Counter[tuple[str, str]] = Counter()
        self.shown: dict[str, list[str]] = {}

    def take(self, label: str, text: str) -> bool:
        """Whether a text is of use; if so it is one that is there from now on."""
        why = self._why_not(label, text)
        if why:
            self.drop(label, why, text)
            return False
        self._seen.add(normalize(text))
        self._known[label].append(features(text))
        return True

    def drop(self, label: str, why: str, text: str) -> None:
        """Remembers a text that is left out, and why."""
        self.dropped[label, why] += 1
        shown = self.shown.setdefault(why, [])
        if len(shown) < _SHOWN:
            shown.append(text[:120])

    def _why_not(self, label: str, text: str) -> str:
        plain = normalize(text)
        if not any(c.isalpha() for c in plain):
            return EMPTY
        if len(text) > self._longest:
            return LONG
        if _BLANK.search(text):
            return BLANK
        if set(plain.split()) <= self._names[label]:
            return NAMED
        if plain in self._seen:
            return TWICE
        own = features(text)
        if any(likeness(own, given) >= _SAID_AGAIN for given in self._given[label]):
            return REPEATED
        if any(likeness(own, known) >= self._alike for known in self._known[label]):
            return ALIKE
        return ""


class Dropped(msgspec.Struct, frozen=True):
    """For the report: texts left out for one reason, and some of them."""

    why: str
    texts: int
    examples: list[str]


def told(sieve: Sieve) -> list[Dropped]:
    """What was left out, the most frequent reason first."""
    counts: Counter[str] = Counter()
    for (_, why), number in sieve.dropped.items():
        counts[why] += number
    return [Dropped(why, number, sieve.shown[why]) for why, number in counts.most_common()]
