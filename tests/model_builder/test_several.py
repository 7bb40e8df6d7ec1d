"""A table whose texts have several labels: init, build, classify, eval."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.__main__ import main as agent
from agent.runtime.classifier import Classifier
from contracts.bundle import Bundle
from contracts.errors import InputError
from contracts.labelled.rows import Row
from model_builder.classify.deliver import BuildResult
from model_builder.classify.initial import write
from model_builder.classify.plans import Plan
from model_builder.data.clean import CleanReport
from model_builder.data.several import joined, prepare
from model_builder.recipes import classify as recipes
from model_builder.recipes.students import NgramStudentConfig
from model_builder.several import figures
from model_builder.several.build import build
from model_builder.several.learn import _strengths
from model_builder.students.bag import BagFit
from model_builder.students.linear import LinearFit
from tests.model_builder.support import PLACES, sentences


def table(path: Path) -> Path:
    """The sentences with what is wanted and where, in one cell."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["text", "labels"])
        for text, label in sentences():
            place = next(word for word in PLACES if word in text)
            rows.writerow([text, f"{label}; {place}"])
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    """What `shoal init` writes for the table, built small."""
    folder = tmp_path_factory.mktemp("several")
    recipe = folder / "recipe.yaml"
    write(table(folder / "wishes.csv"), recipe)
    changes = ["budget.model_bytes=16000", "evaluation.golden=16", "teacher.source=none"]
    return build(recipes.load(recipe, changes), folder / "out", lambda what, done, total: None)


def test_init_sees_several_labels_and_writes_that_with_a_comment(tmp_path: Path) -> None:
    """And how they are joined, so that a small test file is read alike."""
    recipe = tmp_path / "recipe.yaml"
    notes = write(table(tmp_path / "wishes.csv"), recipe)
    loaded = recipes.load(recipe)
    assert loaded.data.labels == "several"
    assert loaded.data.columns.separator == ";"
    assert "labels: one would make each combination" in recipe.read_text()
    assert any("96 of 96 texts have several labels" in note for note in notes)


def test_a_column_of_0_and_1_for_each_label_is_several_labels(tmp_path: Path) -> None:
    """A row of zeros has no label, and is learned as that."""
    path = tmp_path / "marks.csv"
    rows = [f"some words of row {i},{i % 2},{int(i % 3 == 0)}" for i in range(60)]
    path.write_text("\n".join(["text,odd,third", *rows]) + "\n")
    recipe = tmp_path / "recipe.yaml"
    write(path, recipe)
    loaded = recipes.load(recipe)
    assert loaded.data.columns.labels == ("odd", "third")
    dataset = prepare(loaded)
    assert dataset.labels == ["odd", "third"]
    assert dataset.summary()["texts_without_label"] > 0


def test_the_bundle_holds_no_text_of_the_user(built: BuildResult) -> None:
    """It goes to every device: its golden vectors are of the product's own texts."""
    golden = [vector.text for vector in Bundle.open(built.bundle).golden()]
    assert len(golden) == 16
    assert not set(golden) & {text for text, _ in sentences()}


def test_the_bundle_gives_what_is_wanted_and_where(built: BuildResult) -> None:
    """A new sentence with words of both gets both labels."""
    bundle = Bundle.open(built.bundle)
    bundle.verify()
    assert bundle.manifest.schema == 2
    model = Classifier(bundle)
    found = model.classify("turn off the garage light")
    model.close()
    assert {"off", "garage"} <= {one.label for one in found.labels or []}
    assert built.report["headline"]["micro_f1"] >= 0.8


def test_the_report_has_each_label_and_the_figures_of_one_model_a_label(
    built: BuildResult,
) -> None:
    """Precision, recall, F1, support and threshold; the peer's at the same test rows."""
    rows = built.report["per_class"]
    assert {row["label"] for row in rows} == {"on", "off", "heat", *PLACES}
    assert all(0 <= row["threshold"] <= 1 for row in rows)
    assert set(built.report["peer"]) == {"name", "from_one_half", "with_thresholds"}
    page = built.report_html.read_text()
    assert "one logistic regression a label" in page
    assert built.report["runtimes"]["equal"] == 1.0
    tried = [row["plan"] for row in built.report["auto"]["rounds"][0]]
    assert any(name.endswith("penalty 1/10") for name in tried)


def test_eval_of_the_test_rows_gives_the_figures_of_the_report(
    built: BuildResult, capsys: pytest.CaptureFixture[str]
) -> None:
    """The agent's answers to the rows that the build wrote are those that it counted."""
    data = built.bundle.with_name(f"{built.bundle.name}-test.jsonl")
    assert agent(["eval", str(built.bundle), "--data", str(data), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["micro_f1"] == pytest.approx(built.report["headline"]["micro_f1"], abs=1e-4)
    assert found["macro_f1"] == pytest.approx(built.report["headline"]["macro_f1"], abs=1e-4)
    assert found["accuracy"] == pytest.approx(built.report["headline"]["exact"], abs=1e-4)


def test_classify_prints_all_labels_of_a_text(
    built: BuildResult, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each with its confidence."""
    assert agent(["classify", str(built.bundle), "turn off the garage light"]) == 0
    line = capsys.readouterr().out
    assert "off 0." in line
    assert "garage 0." in line


def test_the_same_text_in_two_rows_has_the_labels_of_both() -> None:
    """They are joined and said, and with `error` refused by their places."""
    rows = [
        Row("Lights out", place="line 2", labels=("off",)),
        Row("lights out", place="line 3", labels=("hall", "off")),
        Row("other", place="line 4", labels=("on",)),
        Row("other", place="line 5", labels=("on",)),
    ]
    report = CleanReport()
    kept, torn = joined(rows, "drop", report)
    assert [row.labels for row in kept] == [("hall", "off"), ("on",)]
    assert torn == 1
    assert any("1 texts stand in several rows" in line for line in report.warnings)
    with pytest.raises(InputError, match="line 2: off; line 3: hall, off"):
        joined(rows, "error", CleanReport())


@pytest.mark.parametrize("change", ["student.family=ngram", "budget.floor=0.5", "data.field=x"])
def test_what_a_recipe_of_several_labels_cannot_have_is_refused(
    tmp_path: Path, change: str
) -> None:
    """Before anything is trained."""
    recipe = tmp_path / "recipe.yaml"
    write(table(tmp_path / "wishes.csv"), recipe)
    with pytest.raises(InputError, match="several") as caught:
        build(recipes.load(recipe, [change]), tmp_path / "out", lambda what, done, total: None)
    assert caught.value.code == "bad-recipe"


def test_a_cut_has_the_highest_f1_of_all_and_needs_evidence() -> None:
    """By trying every cut, on random scores with ties."""
    rng = np.random.default_rng(4)
    for _ in range(50):
        scores = rng.integers(-20, 20, 60).astype(np.float64)
        targets = rng.random(60) < 1 / (1 + np.exp(-scores / 8))
        cut = figures.best_cut(scores, targets, 0.0)
        assert cut is not None

        def f1(bar: float, scores: Any = scores, targets: Any = targets) -> float:
            said = scores >= bar
            return float(2 * (said & targets).sum() / (said.sum() + targets.sum()))

        assert f1(cut) == pytest.approx(max(f1(bar) for bar in range(-21, 22)))
    few = np.zeros(60, np.bool_)
    few[: figures.LEAST_EVIDENCE - 1] = True
    assert figures.best_cut(scores, few, 0.0) is None


def test_labels_share_a_cut_but_those_with_many_texts() -> None:
    """A rare label has the cut of all, a frequent one its own, and few labels in all one half."""
    rng = np.random.default_rng(5)
    targets = rng.random((300, 3)) < np.array([0.6, 0.05, 0.05])
    outputs = np.where(targets, 30, -30) + rng.integers(-20, 20, targets.shape)
    outputs[:, 1:] -= 40
    found, how = figures.cuts(outputs.astype(np.int8), targets, 0)
    assert how == [figures.OWN, figures.SHARED, figures.SHARED]
    assert found[1] == found[2] < found[0]
    few = np.zeros_like(targets)
    few[:2, 0] = True
    assert figures.cuts(outputs.astype(np.int8), few, 3) == ([3] * 3, [figures.HALF] * 3)


def test_figures_are_those_of_scikit_learn() -> None:
    """Micro and macro F1, and the share of texts whose labels are all right."""
    from sklearn.metrics import accuracy_score, f1_score

    rng = np.random.default_rng(2)
    targets = rng.random((80, 6)) < 0.3
    said = targets ^ (rng.random((80, 6)) < 0.2)
    found = figures.figures(said, targets)
    assert found["micro_f1"] == pytest.approx(f1_score(targets, said, average="micro"), abs=1e-4)
    assert found["macro_f1"] == pytest.approx(f1_score(targets, said, average="macro"), abs=1e-4)
    assert found["exact"] == pytest.approx(accuracy_score(targets, said), abs=1e-4)


@pytest.mark.parametrize(
    ("peak", "expected"),
    [
        (3.3, [10.0, 3.33, 1.11]),
        (300.0, [10.0, 90.0, 270.0, 810.0]),
        (30.0, [10.0, 90.0]),
        (1e9, [10.0, 90.0, 270.0, 810.0]),
        (0.0, [10.0, 3.33, 1.11]),
    ],
)
def test_a_penalty_is_followed_as_long_as_it_gets_better(
    peak: float, expected: list[float]
) -> None:
    """One way, and the other only where the first step of it is worse."""
    shape = NgramStudentConfig()
    plan = Plan("x", shape, 1.0, BagFit(steps=1), LinearFit())
    seen: list[float] = []

    def tried(other: Plan) -> float:
        assert other.linear is not None
        seen.append(other.linear.strength)
        return -abs(math.log(max(other.linear.strength, 1e-9) / max(peak, 1e-9)))

    found = _strengths(plan, tried(plan), tried)
    assert [round(one, 2) for one in seen[1:]] == expected
    assert [one.linear.strength for one in found if one.linear] == seen[1:]
    assert len({one.name for one in found}) == len(found)
