"""``family: auto``: what is tried, what is chosen, and that every small set gives a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from contracts.bundle import Bundle
from contracts.errors import RefusedError
from contracts.text import NgramConfig
from model_builder.classify.assess import check
from model_builder.classify.auto import fitted
from model_builder.classify.build import build
from model_builder.classify.choice import Score, best, score
from model_builder.classify.distil import untrained
from model_builder.classify.folded import folds_of
from model_builder.classify.lessons import about_tokens
from model_builder.classify.plans import Facts, Limits, limits, plans
from model_builder.classify.variations import variations
from model_builder.convert import Runner, to_int8
from model_builder.data.dataset import Split, prepare
from model_builder.data.shipped import drawn
from model_builder.recipes.classify import BudgetConfig, QuantisationConfig, Recipe, load
from model_builder.recipes.students import NgramStudentConfig
from model_builder.schedule import passes, seconds_for
from model_builder.students.bag import Bag, BagFit, train_bag
from model_builder.students.ids import encode, predict
from model_builder.teachers.base import silent
from model_builder.teachers.counted import CountedTeacher
from model_builder.tflm import measure
from tests.model_builder.support import sentences, write_encoder, write_recipe, write_rows

TEXTS = [text for text, _ in sentences()]


def test_few_labels_get_more_rows_than_many() -> None:
    """A sentiment table is narrow and long, one of 150 intents wide and short."""
    rows = {}
    for labels in (2, 150):
        facts = Facts(3000, labels, 20.0, 300.0)
        tried = plans(TEXTS, facts, Limits(), 10_000)
        assert 5 <= len(tried) <= 10
        rows[labels] = tried[0].shape.features.buckets
    assert rows[2] > 4 * rows[150]


def test_of_text_that_is_too_long_for_its_pieces_the_words_are_tried() -> None:
    """Pieces of 200 words are more than a student reads; their words and pairs are not."""
    long = [" ".join(TEXTS[i : i + 40]) for i in range(50)]
    tried = plans(long, Facts(60, 2, 300.0, 60.0), Limits(), 100, briefly=True)
    words = next(plan for plan in tried if "words and pairs" in plan.name)
    assert (encode(long, words.shape.features)[:, -1] == 0).all()
    assert not [p for p in plans(TEXTS, Facts(60, 2, 9, 60), Limits(), 1) if "pairs" in p.name]


def test_a_plan_for_long_text_reads_all_of_it() -> None:
    """The ids of nearly every text fit the student's length."""
    long = [" ".join(TEXTS[i : i + 8]) for i in range(60)]
    plan = plans(long, Facts(60, 2, 60.0, 60.0), Limits(), 100)[0]
    ids = encode(long, plan.shape.features)
    assert (ids[:, -1] == 0).mean() > 0.95


@pytest.mark.parametrize("size", [64 * 1024, 256 * 1024, 512 * 1024])
@pytest.mark.parametrize("labels", [2, 20, 150])
def test_every_plan_keeps_the_budget(size: int, labels: int) -> None:
    """The file that a plan will give, from what is known before training."""
    for plan in plans(TEXTS, Facts(3000, labels, 20.0, 300.0), Limits(size), 100):
        own = plan.shape
        first = own.hidden or labels
        weights = own.features.buckets * own.dim + own.dim * first * (2 if own.max_pool else 1)
        weights += own.hidden * labels
        assert weights < size


@pytest.mark.parametrize("fitted_at_once", [False, True])
@pytest.mark.parametrize(
    ("labels", "size"), [(2, 65_536), (2, 524_288), (77, 524_288), (400, 262_144)]
)
def test_the_file_of_a_plan_keeps_the_budget(labels: int, size: int, fitted_at_once: bool) -> None:
    """Converted, with all that the file holds beside the weights."""
    tried = plans(TEXTS, Facts(3000, labels, 20.0, 300.0), Limits(size), 100)
    plan = next(plan for plan in tried if bool(plan.linear) == fitted_at_once)
    bag = Bag(plan.shape, labels, 1)
    for name in {"first_bias", "out_bias"} & bag.weights.keys():
        bag.weights[name][:] = np.linspace(-0.1, 0.1, len(bag.weights[name]))
    student = bag.student(labels)
    student.freeze()
    model = to_int8(
        student, student, plan.shape.features.length, encode(TEXTS[:8], plan.shape.features)
    )
    assert 0.85 * size < len(model) <= size


def test_a_plan_that_is_a_few_bytes_too_large_is_made_smaller_before_it_is_trained(
    tmp_path: Path,
) -> None:
    """The file itself is measured, with a table that the estimate would have let through."""
    recipe = load(_document(tmp_path))
    dataset = prepare(recipe)
    plan = plans(dataset.train.texts, Facts(60, 3, 20.0, 100.0), Limits(90_000), 0)[0]
    found = fitted(recipe, dataset, plan, Limits(65_536))
    own = msgspec.structs.replace(recipe.student, family="ngram", ngram=found.shape)
    size = len(untrained(msgspec.structs.replace(recipe, student=own), dataset).model)
    assert 64_000 < size <= 65_536
    assert fitted(recipe, dataset, found, Limits(65_536)) is found


def test_a_board_bounds_the_plans() -> None:
    """Its memory shortens what is read of a text, its storage the table."""
    bounds = limits(BudgetConfig(boards=["nucleo-f446re"]), 150)
    long = [" ".join(TEXTS[i : i + 30]) for i in range(60)]
    for plan in plans(long, Facts(60, 150, 60.0, 60.0), bounds, 100):
        assert plan.shape.features.length * plan.shape.dim < 32_768
        assert plan.shape.features.buckets * plan.shape.dim < 262_144


def test_a_budget_that_holds_no_student_is_refused_before_training() -> None:
    """The message says how many bytes it takes."""
    with pytest.raises(RefusedError, match=r"needs \d+ bytes"):
        plans(TEXTS, Facts(3000, 2000, 20.0, 300.0), Limits(20_000), 100)


def test_time_follows_the_data() -> None:
    """Three minutes for 300 rows, 15 for 15,000, 60 for 120,000."""
    assert seconds_for(300) <= 180
    assert seconds_for(15_000) <= 900
    assert seconds_for(120_000) <= 3600
    assert 10 < passes(300, 6000) < 20
    assert passes(15_000, 165_000) == 4
    assert passes(120_000, 120_000 * 50) < 1


def test_the_time_of_other_scripts_is_foreseen() -> None:
    """Text without spaces is no single word to the teacher."""
    assert 10 < about_tokens("where is my parcel, it should be here") < 14
    assert about_tokens("我的包裹在哪里我想退货并且拿回我的钱") > 14
    assert about_tokens("где моя посылка") > 10


@pytest.mark.parametrize(("hidden", "largest"), [(0, False), (16, False), (16, True), (0, True)])
def test_the_quick_training_makes_the_same_student(hidden: int, largest: bool) -> None:
    """It learns, TensorFlow gives the same answers, and all runtimes the same integers."""
    config = NgramStudentConfig(
        features=NgramConfig(buckets=2048, length=128, char_max=5),
        dim=8,
        hidden=hidden,
        max_pool=largest,
    )
    labels = sorted({label for _, label in sentences()})
    targets = np.eye(3, dtype=np.float32)[[labels.index(label) for _, label in sentences()]]
    ids = encode(TEXTS, config.features)
    bag = Bag(config, 3, 1)
    train_bag(bag, ids, targets, np.ones(len(ids)), BagFit(steps=300, batch=32), 1)
    logits = bag.logits(ids)
    assert (logits.argmax(1) == targets.argmax(1)).mean() > 0.95
    student = bag.student(3)
    assert np.abs(predict(student, ids, quantise=True) - logits).max() < 0.05 * np.abs(logits).max()
    student.freeze()
    model = to_int8(student, student, 128, ids)
    runner = Runner(model)
    assert (runner.logits(ids).argmax(1) == logits.argmax(1)).mean() > 0.97
    _, micro = measure(model, ids)
    assert np.array_equal(micro, runner.quantised(ids))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_table_that_learned_for_a_moment_rounds_alike_everywhere(seed: int) -> None:
    """Its values are small and lie to one side; its zero point must be 0 all the same."""
    config = NgramStudentConfig(
        features=NgramConfig(buckets=3000, length=64, char_max=5),
        dim=8,
        hidden=0,
        max_pool=False,
    )
    ids = encode(TEXTS[::30], config.features)
    bag = Bag(config, 2, seed)
    targets = np.eye(2, dtype=np.float32)[np.arange(len(ids)) % 2]
    train_bag(bag, ids, targets, np.ones(len(ids)), BagFit(steps=100), seed)
    student = bag.student(2)
    student.freeze()
    model = to_int8(student, student, 64, ids)
    others = encode(drawn(300, np.random.default_rng(1)), config.features)
    _, micro = measure(model, others)
    assert np.array_equal(micro, Runner(model).quantised(others))


def test_a_gradient_is_the_slope_of_the_loss() -> None:
    """One plain step along it lowers the loss of the rows it was taken on."""
    config = NgramStudentConfig(features=NgramConfig(buckets=512, length=64), dim=4, hidden=8)
    ids = encode(TEXTS, config.features)
    targets = np.eye(3, dtype=np.float32)[np.arange(len(ids)) % 3]

    def loss(bag: Bag) -> float:
        logits = bag.logits(ids)
        top = logits - logits.max(1, keepdims=True)
        return float(-(targets * (top - np.log(np.exp(top).sum(1, keepdims=True)))).sum(1).mean())

    bag = Bag(config, 3, 1)
    before = loss(bag)
    train_bag(
        bag, ids, targets, np.ones(len(ids)), BagFit(steps=20, dropout=0, feature_dropout=0), 1
    )
    assert loss(bag) < before


def test_a_gain_that_chance_may_give_changes_no_choice() -> None:
    """The plan that comes first is kept unless another is better by more; then that is taken."""
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 2, 400)

    def answers(wrong: int) -> Score:
        logits = np.where(np.arange(2) == targets[:, None], 4.0, 0.0).astype(np.float32)
        logits[rng.permutation(400)[:wrong]] *= -1
        return score(logits, targets)

    assert best([answers(41), answers(40)]) == 0
    assert best([answers(80), answers(30), answers(31)]) == 1
    assert best([answers(30)]) == 0
    apart = rng.normal(size=400)
    apart = (apart - apart.mean()) / apart.std() / 20  # a standard error is 0.05 / 20

    def two(errors: float) -> list[Score]:
        return [Score(-errors * apart.std() / 20 - apart, 0.9, 0.3), Score(apart * 0, 0.9, 0.3)]

    assert (best(two(0.9)), best(two(1.1))) == (0, 1)


def test_no_fold_holds_all_that_a_label_has() -> None:
    """A label of two groups is learned in every fold; one of a single group is always learned."""
    targets = np.array([0] * 7 + [1, 1, 2, 2, 2, 3])
    texts = [f"text {i}" for i in range(13)]
    groups = ["", "", "", "", "", "", "", "", "", "one", "one", "one", ""]
    folds = folds_of(Split(texts, targets, groups), 1)
    for fold in range(3):
        assert set(targets[folds != fold]) == {0, 1, 2, 3}
    assert set(folds[targets == 0]) == {0, 1, 2}
    assert set(folds[9:]) == {-1}
    assert (folds_of(Split(texts, targets, groups), 1) == folds).all()


def test_a_row_in_a_hundred_lost_to_int8_on_a_handful_is_no_reason_for_no_model() -> None:
    """It is a warning where chance may be the cause, and a refusal where not."""
    recipe = Recipe("small", quantisation=QuantisationConfig(max_loss=0.02))

    def report(low: float, high: float) -> dict[str, Any]:
        return {
            "accuracy": {
                "int8": 0.9,
                "int8_minus_float": (low + high) / 2,
                "int8_minus_float_interval": [low, high],
            },
            "size": {"model_bytes": 1, "arena_bytes": 1},
            "cost": {"latency_p50_us": 1.0},
            "layers": [{"layer": "mean", "error": 0.1}],
            "data": {"warnings": []},
        }

    by_chance = report(-0.1, 0.04)
    check(recipe, by_chance)
    assert "may be chance" in by_chance["data"]["warnings"][0]
    with pytest.raises(RefusedError, match="int8 loses"):
        check(recipe, report(-0.05, -0.03))


def test_variations_are_new_and_the_same_for_a_seed() -> None:
    """Made text repeats no row, and none of itself."""
    made = variations(TEXTS, {"kitchen": ["pantry"]}, 200, 1)
    assert made == variations(TEXTS, {"kitchen": ["pantry"]}, 200, 1)
    assert len(set(made)) == len(made) > 100
    assert not set(made) & set(TEXTS)
    assert any("pantry" in text for text in made)


@pytest.mark.parametrize("texts", [["..."], [""], ["a"], ["a", "a"]])
def test_text_that_gives_nothing_to_vary_gives_nothing(texts: list[str]) -> None:
    """No words, or one: the search ends."""
    assert len(variations(texts, {}, 10, 1)) <= 1


def test_counting_survives_text_without_words() -> None:
    """Punctuation alone, and an empty text."""
    teacher = CountedTeacher(2)
    teacher.train(["!!", "??", "!", "?"], np.array([0, 1, 0, 1]))
    assert teacher.shares(["!!!", ""]).shape == (2, 2)


def _document(tmp_path: Path, **sections: object) -> Path:
    return write_recipe(
        tmp_path,
        **{"student": {"family": "auto"}, "budget": {"model_bytes": 65_536}, **sections},
    )


def test_auto_builds_a_bundle_and_says_why(tmp_path: Path) -> None:
    """With an encoder: made text, the teacher's share, folds, and a model in the budget."""
    encoder = write_encoder(tmp_path / "encoder")
    recipe = load(
        _document(
            tmp_path,
            teacher={"source": f"path:{encoder}", "mode": "finetune", "epochs": 0, "batch": 16},
            evaluation={"folds": 3},
        )
    )
    result = build(recipe, tmp_path / "out", silent)
    found = result.report["auto"]
    assert found["made_texts"] > 0
    assert found["tfidf_share"] in (0.0, 0.25, 0.5, 0.75, 1.0)
    assert len(found["rounds"]) == 1 and 5 <= len(found["rounds"][0]) <= 10
    assert found["chosen"] in found["why"]
    headline, rows = result.report["headline"], len(sentences())
    assert (headline["rows"], headline["folds"]) == (rows, 3)
    assert headline["how"].startswith("by cross-validation in 3 folds over ")
    assert result.report["accuracy"]["int8"] > 0.6
    assert Bundle.open(result.bundle).verify() is None
    page = result.report_html.read_text("utf-8")
    assert found["chosen"] in page
    assert result.report["size"]["model_bytes"] <= 65_536


def test_auto_needs_no_teacher(tmp_path: Path) -> None:
    """The rows alone give a model too."""
    result = build(load(_document(tmp_path)), tmp_path / "out", silent)
    assert result.report["accuracy"]["int8"] > 0.6


def test_a_second_build_takes_the_trainings_from_the_cache(tmp_path: Path) -> None:
    """A build that was killed goes on; here, with nothing left to train."""
    recipe = load(_document(tmp_path))
    told: list[str] = []
    first = build(recipe, tmp_path / "out", silent)
    second = build(recipe, tmp_path / "out", lambda what, done, total: told.append(what))
    assert first.report["bundle"]["files"] == second.report["bundle"]["files"]
    assert not [what for what in told if what.startswith(("tries", "student"))]


def test_labels_that_only_the_test_has_are_told(tmp_path: Path) -> None:
    """A model cannot answer them, and there is a model all the same."""
    rows = [*sentences()[::3], ("open the window", "never seen")]
    path = write_rows(tmp_path / "test.jsonl", rows)
    recipe = load(_document(tmp_path))
    data = msgspec.structs.replace(recipe.data, test=str(path))
    result = build(msgspec.structs.replace(recipe, data=data), tmp_path / "out", silent)
    assert any("training lacks" in warning for warning in result.report["data"]["warnings"])


@pytest.mark.parametrize("count", [2, 3])
def test_a_handful_of_rows_gives_a_model(tmp_path: Path, count: int) -> None:
    """Two rows a label leave none to hold back: a warning, not an error."""
    chosen = {label: [t for t, name in sentences() if name == label] for label in ("on", "off")}
    train = [(text, label) for label, texts in chosen.items() for text in texts[:count]]
    test = [(text, label) for label, texts in chosen.items() for text in texts[count : count + 8]]
    recipe = load(_document(tmp_path))
    data = msgspec.structs.replace(
        recipe.data,
        train=str(write_rows(tmp_path / "few.jsonl", train)),
        test=str(write_rows(tmp_path / "test.jsonl", test)),
    )
    result = build(msgspec.structs.replace(recipe, data=data), tmp_path / "out", silent)
    assert Bundle.open(result.bundle).verify() is None
    warned = any("too few rows to hold" in line for line in result.report["data"]["warnings"])
    assert warned == (count == 2)


@pytest.mark.parametrize("briefly", [False, True])
def test_a_linear_student_that_learns_for_a_short_time_is_tried(briefly: bool) -> None:
    """Long training on few rows is what lost to TF-IDF; its plan is kept whatever else is tried."""
    long = [" ".join(TEXTS[i : i + 40]) for i in range(50)]
    for texts in (TEXTS, long):
        tried = plans(texts, Facts(5000, 2, 20.0, 450.0), Limits(), 9000, briefly)
        short = [plan for plan in tried if "few times" in plan.name]
        assert len(short) == 1 and short[0].natural == 1.0 and not short[0].shape.hidden
        assert short[0].fit.steps < 8 * 5000 // short[0].fit.batch + 100
        assert all(plan.shape.features.marks for plan in tried)
