"""Texts that shift: what a model was taught, and what people say to it later. A real data set.

Of a data set's labels some are taken (``--labels``). Before the shift people say what the model was
taught. After it they also say:

* ``phrases``: of some labels a family of phrases that no training row was like;
* ``new``: a label that the model never heard of;
* ``dialect``: at one site frequent words are other ones.

Each kind is split: what devices hear before the next version, and what nobody has heard, by which
versions are compared.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from contracts.likeness import features, likeness

Kind = Literal["known", "phrases", "new", "dialect"]
Row = tuple[str, str]

SITES: Final = tuple(f"site-{n}" for n in range(8))
DIALECT_SITE: Final = SITES[3]

MIX: Final[dict[Kind, float]] = {"known": 0.72, "phrases": 0.18, "new": 0.10, "dialect": 0.0}
"""Shares of what is said after the shift."""

DIALECT_MIX: Final[dict[Kind, float]] = {
    "known": 0.22, "phrases": 0.10, "new": 0.08, "dialect": 0.60,
}  # fmt: skip
"""The same at the site that degrades."""

_FAMILY: Final = 0.5
"""Share of a label's texts that are the family of new phrases."""

_WORDS: Final = 40
"""Words that the dialect has others for."""


class Said(msgspec.Struct, frozen=True):
    """A text that people say, with its label."""

    text: str
    label: str
    kind: Kind


class Texts(msgspec.Struct, frozen=True):
    """What is taught, heard by devices, and kept for the comparison of versions."""

    taught: list[Row]
    heard: list[Said]
    unseen: list[Said]


def clinc(path: Path) -> list[Row]:
    """All rows of CLINC150 that have a label."""
    parts = json.loads(path.read_bytes())
    return [(text, label) for part in ("train", "val", "test") for text, label in parts[part]]


def made(rows: Sequence[Row], labels: int, seed: int) -> Texts:
    """Texts of a shift: one label in five gets new phrases, one in twenty is new."""
    chance = random.Random(seed)
    names = sorted({label for _, label in rows})
    chosen = chance.sample(names, labels)
    fresh = set(chosen[: max(1, labels // 20)])
    moving = set(chosen[len(fresh) : len(fresh) + max(2, labels // 5)])
    own = [row for row in rows if row[1] in set(chosen)]
    words = _dialect([text for text, label in own if label not in fresh], chance)
    taught: list[Row] = []
    pool: list[Said] = []
    for label in chosen:
        texts = sorted({text for text, of in own if of == label})
        if label in fresh:
            pool += [Said(text, label, "new") for text in texts]
            continue
        family = _family(texts) if label in moving else set()
        pool += [Said(text, label, "phrases") for text in sorted(family)]
        for text in texts:
            if text in family:
                continue
            if _side(text) < 0.6:
                taught.append((text, label))
                continue
            pool.append(Said(text, label, "known"))
            other = " ".join(words.get(word, word) for word in text.split())
            if other != text:
                pool.append(Said(other, label, "dialect"))
    # By the text as it is without dialect, so that nobody has heard what is unseen.
    heard = [one for one in pool if _side(_plain(one.text, words), "heard") < 0.6]
    known = set(heard)
    unseen = [one for one in pool if one not in known]
    return Texts(taught, heard, unseen)


def _side(text: str, of: str = "taught") -> float:
    return int(hashlib.sha256(f"{of} {text}".encode()).hexdigest()[:8], 16) / 2**32


def _plain(text: str, words: dict[str, str]) -> str:
    back = {new: old for old, new in words.items()}
    return " ".join(back.get(word, word) for word in text.split())


def _family(texts: Sequence[str]) -> set[str]:
    """The texts around the one that has the most others like it."""
    of = {text: features(text) for text in texts}
    size = int(len(texts) * _FAMILY)

    def near(one: str) -> list[str]:
        return sorted(texts, key=lambda other: (-likeness(of[one], of[other]), other))[:size]

    middle = max(texts, key=lambda one: sum(likeness(of[one], of[o]) for o in near(one)))
    return set(near(middle))


def _dialect(texts: Sequence[str], chance: random.Random) -> dict[str, str]:
    """Other words for the most frequent long ones: the letters of each in another order."""
    counts = Counter(word for text in texts for word in set(text.split()) if len(word) > 3)
    found = {}
    for word, _ in counts.most_common(_WORDS):
        letters = list(word)
        chance.shuffle(letters)
        found[word] = "".join(letters)
    return found


def weights(rows: Sequence[Said], mix: dict[Kind, float]) -> npt.NDArray[np.float64]:
    """How likely each row is said next: shares by kind, and in each some far more often."""
    found = np.zeros(len(rows))
    for kind, share in mix.items():
        places = [place for place, one in enumerate(rows) if one.kind == kind]
        places.sort(key=lambda place: _side(rows[place].text, "rank"))
        if places:
            each = 1 / (np.arange(len(places)) + 20)
            found[places] = share * each / each.sum()
    return found / found.sum()


def before(rows: Sequence[Said]) -> npt.NDArray[np.float64]:
    """The same before the shift."""
    return weights(rows, {"known": 1.0})


def after(rows: Sequence[Said], site: str) -> npt.NDArray[np.float64]:
    """The same at a site after it."""
    return weights(rows, DIALECT_MIX if site == DIALECT_SITE else MIX)


def everywhere(rows: Sequence[Said]) -> npt.NDArray[np.float64]:
    """The same over all sites, of equal size."""
    return np.mean([after(rows, site) for site in SITES], axis=0)
