"""What ``family: auto`` tries, and how long: from what the data looks like.

A text gives a few hundred features; a table of few rows mixes them up, a narrow one cannot tell
many labels apart. So few labels get many narrow rows, many labels fewer wide ones.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from contracts import board
from contracts.errors import RefusedError
from contracts.text import NgramConfig, ngram_ids
from model_builder.data.language import Writing, piece_lengths, writing
from model_builder.recipes.classify import BudgetConfig
from model_builder.recipes.students import NgramStudentConfig
from model_builder.rounding import common_length
from model_builder.students.bag import BagFit
from model_builder.students.linear import LinearFit

DEFAULT_BYTES: Final = 512 * 1024
"""Of the model file, where the recipe has no budget."""

_OVERHEAD: Final = 7_000
"""Bytes of a model file beside its weights, and a little room."""

_CHANNEL: Final = 32
"""Bytes of an output beside its weights: its bias, and scales and zero points of both."""

_LOOKED_AT: Final = 1000
"""Texts whose features are counted."""

MANY: Final = 30
"""Labels beyond which a table is wide, and learns for longer."""

_LONGEST: Final = 1024
"""Ids that a student reads."""

_PIECES: Final = 11
"""Ids of a word of usual length, with its pair and pieces of 3 to 5 characters."""

_FEWEST: Final = 64
"""Rows of a table that are worth training."""

_PASSES: Final = 9
"""Over the rows, of a linear student that learns for a short time: as TF-IDF's weights are kept
small, so is what it learns of rare pieces."""

_MOST_BUCKETS: Final = 2**19
"""What a budget of 512 KB holds of one byte each: in fewer, features of two labels share rows."""

_COLUMNS: Final = 24
"""Of the table of a fitted student, at most: more labels share them."""

_MOST_TRAINED: Final = 8
"""Plans that are trained in steps."""

_TURNS: Final = (100, 250)
"""Of the optimiser that fits one, at most: with a column for each label but one, with fewer."""

_WORDS: Final = {Writing.UNPARTED: 0.3, Writing.HANGUL: 0.7, Writing.ETHIOPIC: 0.7}
"""How much words count beside their pieces, where that is less than in alphabets.

Without blanks between them, what stands between two marks is no word."""

_TAUGHT: Final = LinearFit(strength=5.0)
"""A fit to the teacher, which has many times as many texts as there are rows, all made of their
words: with the strength of a fit to the rows it learns what those share by chance."""

BESIDE: Final = 0.2
"""Part that the fit to the labels has in that to the teacher of more than two labels: its mistakes
are others."""


class Limits(msgspec.Struct, frozen=True):
    """What a student must fit.

    Attributes:
        model_bytes: of the model file.
        arena_bytes: of the microcontroller's memory; 0: no bound.
    """

    model_bytes: int = DEFAULT_BYTES
    arena_bytes: int = 0


def limits(budget: BudgetConfig, labels: int) -> Limits:
    """The limits of a recipe and of the boards that it names.

    Args:
        budget: of the recipe.
        labels: how many: golden vectors and figures of each are in the bundle too.

    Raises:
        InputError: ``unknown-board``.
    """
    boards = [board.load(name) for name in budget.boards]
    beside = 24_000 + 450 * labels
    flash = [found.model_flash_bytes - beside for found in boards]
    memory = [found.model_ram_bytes for found in boards if found.kind != "linux"]
    if budget.arena_bytes:
        memory.append(budget.arena_bytes)
    return Limits(min([budget.model_bytes or DEFAULT_BYTES, *flash]), min(memory) if memory else 0)


class Facts(msgspec.Struct, frozen=True):
    """What the search goes by.

    Attributes:
        rows: of the training split.
        labels: how many.
        tokens: of the teacher in a text, on average, before any are cut off.
        seconds: that the build may take on two quiet cores.
    """

    rows: int
    labels: int
    tokens: float
    seconds: float


class Plan(msgspec.Struct, frozen=True):
    """One way to make the student.

    Attributes:
        name: for people.
        shape: of the student.
        natural: share of the steps' texts that are training rows; 1: no made text is used.
        fit: of the training; of a linear fit its steps are the optimiser's turns, at most.
        linear: fitted at once instead of trained in steps.
        labels: learns the rows' labels alone and nothing of what the teacher says of them.
        beside: a fit whose answers count for `BESIDE` of this one's.
    """

    name: str
    shape: NgramStudentConfig
    natural: float
    fit: BagFit
    linear: LinearFit | None = None
    labels: bool = False
    beside: Plan | None = None


def shape(
    texts: list[str],
    labels: int,
    bounds: Limits,
    dim: int,
    hidden: int,
    *,
    chars: tuple[int, int] = (3, 4),
    pairs: bool = True,
    marks: bool = True,
    max_pool: bool = False,
) -> NgramStudentConfig:
    """A student with as many rows as the budget holds, long enough for nearly every text.

    Raises:
        RefusedError: ``over-budget``; what is beside the table alone is too large.
    """
    first = hidden or labels
    pools = 2 if max_pool else 1
    spent = pools * (dim + _CHANNEL) * first + ((hidden + _CHANNEL) * labels if hidden else 0)
    room = (bounds.model_bytes - _OVERHEAD - spent) // dim
    if room < _FEWEST:
        raise RefusedError(
            "over-budget",
            f"a student of {labels} labels needs {_OVERHEAD + spent + _FEWEST * dim} bytes; "
            f"the budget is {bounds.model_bytes}",
        )
    features = NgramConfig(
        buckets=min(_MOST_BUCKETS, room),
        length=4096,
        char_min=chars[0],
        char_max=chars[1],
        pairs=pairs,
        marks=marks,
    )
    step = max(1, len(texts) // _LOOKED_AT)
    counts = [int(np.count_nonzero(ngram_ids(text, features)[0])) for text in texts[::step]]
    usual = int(np.quantile(counts, 0.98)) if counts else 64
    length = 64
    while length < usual and length < _LONGEST:
        length *= 2
    while bounds.arena_bytes and length > 32 and _arena(length, dim) > bounds.arena_bytes:
        length //= 2
    features = msgspec.structs.replace(features, length=common_length(length))
    return NgramStudentConfig(features=features, dim=dim, hidden=hidden, max_pool=max_pool)


def _arena(length: int, dim: int) -> int:
    """About what TensorFlow Lite Micro needs: the gathered rows, the ids, and its own."""
    return length * (dim + 4) + 6000


_Size = tuple[int, int, bool, tuple[int, int]]
"""Width, hidden width, whether the maximum is pooled too, lengths of character n-grams."""


def _long(texts: list[str]) -> bool:
    """Whether more than a tenth have more pieces than a student reads: only words fit then."""
    step = max(1, len(texts) // _LOOKED_AT)
    words = [len(text.split()) for text in texts[::step]]
    return bool(words) and float(np.quantile(words, 0.9)) * _PIECES > _LONGEST


def _sizes_for(texts: list[str], labels: int) -> list[_Size]:
    """What is tried; of long texts also fewer pieces of a word, so that more of them is read."""
    sizes = _sizes(labels)
    written = writing(texts)
    if written in (Writing.UNPARTED, Writing.HANGUL):  # a word has a letter or two, or some more
        return [(*size[:3], (1, 2 if size[3] == (3, 4) else 3)) for size in sizes]
    if written is Writing.ETHIOPIC and not _long(texts):
        return list(dict.fromkeys((*size[:3], piece_lengths(texts, size[3])) for size in sizes))
    if not _long(texts):
        return sizes
    dim, hidden, largest, _ = sizes[0]
    first: list[_Size] = [(dim, hidden, largest, (3, 3)), (dim, hidden, largest, (1, 0))]
    linear: list[_Size] = [(*size[:3], (3, 3)) for size in sizes if not size[1]]
    return [*first, *(sizes[:2] if linear else sizes), *linear]


def _sizes(labels: int) -> list[_Size]:
    """For text of any length; a linear one is what fastText and TF-IDF are."""
    if labels <= 8:
        return [
            (8, 32, False, (3, 5)),
            (16, 64, False, (3, 5)),
            (4, 16, False, (3, 5)),
            (16, 64, True, (3, 5)),
            (8, 0, False, (3, 5)),
        ]
    if labels <= MANY:
        return [
            (24, 96, True, (3, 4)),
            (16, 64, False, (3, 5)),
            (24, 96, True, (3, 5)),
            (16, 64, True, (3, 5)),
            (16, 0, False, (3, 5)),
        ]
    return [
        (48, 128, True, (3, 4)),
        (32, 128, True, (3, 4)),
        (24, 128, True, (3, 4)),
        (32, 128, False, (3, 4)),
    ]


def plans(
    texts: list[str], facts: Facts, bounds: Limits, made: int, briefly: bool = False
) -> list[Plan]:
    """What is tried, the likeliest first.

    Args:
        texts: of the training split.
        facts: of the data.
        bounds: what the student must fit.
        made: texts that were made and labelled.
        briefly: as few as tell what kind is best; each will be trained several times.

    Raises:
        RefusedError: ``over-budget``; no student fits.
    """
    labels = facts.labels
    pace = 120 if labels > MANY else 40
    steps = int(np.clip(pace * facts.seconds**0.75, 1200, 18_000))
    steps = min(steps, max(300, (15 if labels > MANY else 8) * facts.rows))  # few teach little
    natural = 0.15 if briefly and labels > MANY else 0.3
    many = BagFit(steps=steps)
    few = BagFit(steps=max(300, steps // 3), feature_dropout=0.3, dropout=0.2)
    passes = _PASSES * facts.rows // few.batch
    brief = msgspec.structs.replace(few, steps=min(few.steps, max(300, passes)))
    found: list[Plan] = []
    refused: RefusedError | None = None
    sizes = _sizes_for(texts, labels)
    if briefly:
        sizes = sizes[:2] if labels > MANY else [*sizes[:3], sizes[-1]]
    for dim, hidden, largest, chars in sizes:
        try:
            own = shape(texts, labels, bounds, dim, hidden, chars=chars, max_pool=largest)
        except RefusedError as error:
            refused = error
            continue
        name = named(own)
        if made and (hidden or not briefly):
            found.append(Plan(name, own, natural, many))
        if not made or len(found) == 1 or not hidden:
            found.append(Plan(f"{name}, the rows alone", own, 1.0, few))
        if not hidden and brief.steps < few.steps:
            found.append(Plan(f"{name}, the rows alone and few times", own, 1.0, brief))
    if not found and refused is not None:
        raise refused
    return [*_fitted_plans(texts, labels, bounds, made), *found[:_MOST_TRAINED]]


def named(own: NgramStudentConfig) -> str:
    """What a student reads and how large it is, for people."""
    features = own.features
    pieces = "words and pairs"
    if features.char_max:
        pieces = f"characters {features.char_min}-{features.char_max}"
    name = f"{features.buckets} x {own.dim}, {pieces}"
    name += f", hidden {own.hidden}" if own.hidden else ", linear"
    return name + (", maximum" if own.max_pool else "")


def fit_for(texts: list[str], fit: LinearFit) -> LinearFit:
    """A fit in which words count as much as they tell in how `texts` are written."""
    return msgspec.structs.replace(fit, words=_WORDS.get(writing(texts), fit.words))


def _fitted_plans(texts: list[str], labels: int, bounds: Limits, made: int) -> list[Plan]:
    """What TF-IDF with logistic regression is, with as many rows of the table as the budget holds.

    They come first: whatever else is chosen has shown that it is better than that. What the
    teacher says comes before the labels alone, which know less.
    """
    found = []
    usual, taught_by = LinearFit(), _TAUGHT
    words = _WORDS.get(writing(texts))
    if words is not None:
        usual, taught_by = (msgspec.structs.replace(fit, words=words) for fit in (usual, taught_by))
    long = _long(texts)
    for chars in [*([(1, 0)] if long else []), piece_lengths(texts, (3, 4) if long else (3, 5))]:
        try:
            columns = max(1, min(labels - 1, _COLUMNS))
            own = shape(texts, labels, bounds, columns, 0, chars=chars)
        except RefusedError:
            return []
        name, fit = f"{named(own)}, fitted", BagFit(steps=_TURNS[labels - 1 > _COLUMNS])
        alone = Plan(f"{name} to the labels", own, 1.0, fit, usual, labels=True)
        if not made:
            found.append(alone)
        elif columns < labels - 1:  # for those neither the strength nor the order was measured
            found += [alone, Plan(f"{name} to the teacher", own, 0.3, fit, usual)]
        else:
            beside = alone if labels > 2 else None  # two labels are answered better without it
            taught = Plan(f"{name} to the teacher", own, 0.3, fit, taught_by, beside=beside)
            found += [taught, alone]
    return found
