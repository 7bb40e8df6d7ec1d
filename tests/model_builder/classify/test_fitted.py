"""The student that is fitted at once: TF-IDF with logistic regression in int8."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from contracts.text import NgramConfig
from model_builder.classify.lessons import Lesson, train_plan
from model_builder.classify.plans import BESIDE, Facts, Limits, plans
from model_builder.convert import Runner, to_int8
from model_builder.data.shipped import drawn
from model_builder.recipes.classify import load
from model_builder.recipes.students import NgramStudentConfig
from model_builder.students.bag import Bag
from model_builder.students.ids import encode
from model_builder.students.linear import LinearFit, blend, fit_linear
from model_builder.teachers.counted import CountedTeacher
from model_builder.tflm import measure
from tests.model_builder.support import sentences, write_recipe

TEXTS = [text for text, _ in sentences()]
LABELS = np.array([("on", "off", "heat").index(label) for _, label in sentences()])


def _bag(labels: int, dim: int, buckets: int = 8192) -> Bag:
    features = NgramConfig(buckets=buckets, length=128, char_min=3, char_max=5, marks=True)
    config = NgramStudentConfig(features=features, dim=dim, hidden=0, max_pool=False)
    return Bag(config, labels, 1)


def _fit(bag: Bag, texts: list[str], targets: np.ndarray, turns: int = 100) -> Bag:
    features = bag.config.features
    words = NgramConfig(features.buckets, features.length, 1, 0, marks=True)
    soft = np.eye(bag.weights["from_mean"].shape[1], dtype=np.float32)[targets]
    fit_linear(
        bag,
        encode(texts, features),
        encode(texts, words),
        soft,
        np.ones(len(texts)),
        LinearFit(),
        turns,
    )
    return bag


@pytest.mark.parametrize(("labels", "dim"), [(2, 1), (3, 2), (3, 4)])
def test_it_is_the_same_on_every_runtime(labels: int, dim: int) -> None:
    """Of one column, of one fewer than labels, of more: LiteRT and TFLM give equal integers."""
    bag = _fit(_bag(labels, dim), TEXTS, LABELS % labels)
    ids = encode(TEXTS, bag.config.features)
    student = bag.student(labels)
    student.freeze()
    runner = Runner(to_int8(student, student, 128, ids))
    assert (runner.logits(ids).argmax(1) == bag.logits(ids).argmax(1)).mean() > 0.97
    assert (runner.logits(ids).argmax(1) == LABELS % labels).mean() > 0.95
    others = encode(drawn(300, np.random.default_rng(1)), bag.config.features)
    _, micro = measure(to_int8(student, student, 128, ids), others)
    assert np.array_equal(micro, runner.quantised(others))


def test_it_answers_what_it_did_not_learn_as_well_as_tfidf() -> None:
    """Every other sentence is held back."""
    bag = _fit(_bag(3, 2), TEXTS[::2], LABELS[::2])
    counted = CountedTeacher(3)
    counted.train(TEXTS[::2], LABELS[::2])
    own = bag.logits(encode(TEXTS[1::2], bag.config.features)).argmax(1)
    theirs = counted.shares(TEXTS[1::2]).argmax(1)
    assert (own == LABELS[1::2]).mean() >= (theirs == LABELS[1::2]).mean() - 0.05
    assert (own == theirs).mean() > 0.85


def test_a_long_text_is_answered_as_a_short_one() -> None:
    """The bias does not outweigh a word, nor a page the bias: the rarer label is still found."""
    rng = np.random.default_rng(1)
    texts = [f"fine weather today {i}" for i in range(95)] + [f"fire here {i}" for i in range(5)]
    bag = _fit(_bag(2, 1), texts, np.array([0] * 95 + [1] * 5))
    asked = ["fire", "fire fire here", " ".join(["fire here"] * 20), "weather"]
    found = bag.logits(encode(asked, bag.config.features)).argmax(1)
    assert found.tolist() == [1, 1, 1, 0]
    unknown = [" ".join(rng.choice(list("qxzjkv"), 5)) for _ in range(5)]
    assert bag.logits(encode(["", *unknown], bag.config.features)).argmax(1)[0] == 0


@pytest.mark.parametrize("labels", [2, 3])
def test_a_text_without_the_words_of_any_label_has_the_label_that_has_none(labels: int) -> None:
    """One label is told by a word, the other by its absence: that is what the bias is for."""
    rng = np.random.default_rng(1)
    names = [f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in "prstvz"]
    marks = ["", "#not", "#yes"]
    targets = np.arange(300) % labels
    texts = [" ".join([*rng.choice(names[:120], 4), marks[at]]) for at in targets]
    bag = _fit(_bag(labels, labels - 1), texts, targets)
    unseen = [" ".join(rng.choice(names[120:], 4)) for _ in range(60)]
    found = bag.logits(encode(unseen, bag.config.features)).argmax(1)
    assert (found == 0).mean() > 0.9
    marked = [f"{text} #not" for text in unseen]
    found = bag.logits(encode(marked, bag.config.features)).argmax(1)
    assert (found == 1).mean() > 0.9


def test_more_labels_than_columns_share_them() -> None:
    """Twelve labels in five columns: most answers stay what they were."""
    texts = [f"{name} number {i}" for name in "abcdefghijkl" for i in range(12)]
    targets = np.repeat(np.arange(12), 12)
    bag = _fit(_bag(12, 5), texts, targets)
    assert (bag.logits(encode(texts, bag.config.features)).argmax(1) == targets).mean() > 0.8


@pytest.mark.parametrize("texts", [["", "", ""], ["...", "a", ""], ["same", "same", "same"]])
def test_text_that_says_nothing_gives_a_student(texts: list[str]) -> None:
    """No word at all, or no difference: finite weights."""
    bag = _fit(_bag(3, 2), texts, np.array([0, 1, 2]))
    assert all(np.isfinite(value).all() for value in bag.weights.values())


@pytest.mark.parametrize(("labels", "dim"), [(2, 1), (3, 2), (3, 4)])
def test_two_that_are_blended_answer_with_the_logits_of_both(labels: int, dim: int) -> None:
    """Whatever the sizes of their columns; also where one of them learned nothing."""
    targets = LABELS % labels
    first, second = _fit(_bag(labels, dim), TEXTS, targets), _fit(_bag(labels, dim), TEXTS, targets)
    empty = _fit(_bag(labels, dim), [""] * 9, targets[:9])
    other = _fit(_bag(labels, dim), TEXTS[::3], targets[::3], turns=9)
    ids = encode(TEXTS, first.config.features)
    own, theirs, nothing = first.logits(ids), other.logits(ids), empty.logits(ids)
    assert abs(own - theirs).max() > 1
    for bag, beside, expected in (
        (first, other, 0.8 * own + 0.2 * theirs),
        (second, empty, 0.8 * own + 0.2 * nothing),
        (empty, other, 0.8 * nothing + 0.2 * theirs),
    ):
        blend(bag, beside, 0.2)
        found = bag.logits(ids)
        assert abs(found - expected).mean() < 0.02 * abs(expected).mean()
        assert (found.argmax(1) == expected.argmax(1)).mean() > 0.98
        assert abs(bag.weights["table"]).max() <= bag.limit


def test_the_fit_to_the_teacher_has_a_part_of_that_to_the_labels(tmp_path: Path) -> None:
    """From the cache, too. Made text is labelled otherwise here, so that the two differ."""
    recipe = load(write_recipe(tmp_path, student={"family": "auto"}))
    soft = np.eye(3, dtype=np.float32)
    lesson = Lesson(
        TEXTS + [f"{text} now" for text in TEXTS],
        np.concatenate([soft[LABELS], soft[(LABELS + 1) % 3]]),
        len(TEXTS),
    )
    taught = plans(TEXTS, Facts(len(TEXTS), 3, 20.0, 300.0), Limits(), len(TEXTS))[0]
    assert taught.beside is not None
    parts = (taught, msgspec.structs.replace(taught, beside=None), taught.beside, taught)
    ids = encode(TEXTS, taught.shape.features)
    found, alone, labels, again = (
        train_plan(recipe, lesson, plan, 100, tmp_path / "cache", lambda *_: None).logits(ids)
        for plan in parts
    )
    expected = (1 - BESIDE) * alone + BESIDE * labels
    assert abs(found - alone).mean() > 0.1 * abs(alone).mean()
    assert abs(found - expected).mean() < 0.2 * abs(found - alone).mean()
    assert np.array_equal(found, again)


def test_every_search_begins_with_what_a_person_would_have_used() -> None:
    """With any number of labels, in a budget that is usual; the rows' labels alone teach it."""
    for labels in (2, 6, 25, 26, 77, 150):
        for briefly in (False, True):
            tried = plans(TEXTS, Facts(3000, labels, 20.0, 300.0), Limits(), 10_000, briefly)
            assert [bool(plan.linear) for plan in tried] == [True, True] + [False] * len(tried[2:])
            taught, alone = sorted(tried[:2], key=lambda plan: plan.labels)
            assert alone.labels and alone.natural == 1.0 and not taught.labels
            assert not alone.shape.hidden and not alone.shape.max_pool
            size = alone.shape.features.buckets * alone.shape.dim
            assert 200_000 < size < 512 * 1024
            # Beside as many texts as are made, weights are held smaller than beside the rows.
            # The one that is first is taken where chance may explain the difference.
            assert taught.linear and alone.linear
            assert (taught.linear.strength < alone.linear.strength) == (labels <= 25)
            assert (tried[0] is taught) == (labels <= 25)
            assert (taught.beside == alone) == (2 < labels <= 25) and alone.beside is None
            (only,) = [
                p
                for p in plans(TEXTS, Facts(3000, labels, 20.0, 300.0), Limits(), 0, briefly)
                if p.linear
            ]
            assert only.labels


def test_a_lesson_tells_the_labels_of_its_rows() -> None:
    """Half of a row's target is its label: it is the most likely, whatever the teacher says."""
    soft = (np.eye(3, dtype=np.float32)[[0, 1]] + np.eye(3, dtype=np.float32)[[2, 1]] * 0.99) / 2
    assert Lesson(["a", "b"], soft, 2).targets.argmax(1).tolist() == [0, 1]


def test_a_fit_of_two_labels_has_all_rows_that_the_budget_holds() -> None:
    """Each is one byte, and features that share one are learned as one."""
    taught = plans(TEXTS, Facts(3000, 2, 20.0, 300.0), Limits(), 10_000)[0]
    assert taught.shape.dim == 1
    assert 500_000 < taught.shape.features.buckets < 512 * 1024
