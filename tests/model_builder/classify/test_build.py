"""A whole build on small real data: bundle, report, reproducibility, refusals."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.runtime.classifier import Classifier
from contracts.bundle import Bundle
from contracts.errors import InputError, RefusedError, ShoalError
from model_builder.classify.build import build
from model_builder.classify.deliver import BuildResult
from model_builder.convert import Runner, to_int8
from model_builder.recipes import classify as recipes
from model_builder.rounding import Graph
from model_builder.students.ids import encode
from tests.model_builder.support import sentences, write_encoder, write_recipe, write_rows


def run(folder: Path, out: Path, **sections: Any) -> BuildResult:
    """Builds a small recipe."""
    loaded = recipes.load(write_recipe(folder, **sections))
    return build(loaded, out, lambda what, done, total: None)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    """One build that several tests look at."""
    folder = tmp_path_factory.mktemp("build")
    outside = folder / "outside.jsonl"
    texts = [f"what is {n} plus {n + 3} times seven" for n in range(40)]
    outside.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    data = {
        "train": str(write_rows(folder / "rows.jsonl")),
        "out_of_scope": str(outside),
        "out_of_scope_test": str(outside),
    }
    return run(folder, folder / "out", data=data)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    """A build of the small recipe as it stands."""
    folder = tmp_path_factory.mktemp("plain")
    return run(folder, folder / "out")


def test_the_bundle_is_whole_learned_and_small(built: BuildResult) -> None:
    """Its files match the manifest, and it knows its three labels."""
    bundle = Bundle.open(built.bundle)
    bundle.verify()
    assert bundle.manifest.classifier is not None
    assert bundle.manifest.classifier.labels == ["heat", "off", "on"]
    assert built.report["accuracy"]["int8"] >= 0.8
    assert bundle.entry("model.tflite").size < 40_000
    assert bundle.manifest.model.arena_bytes
    assert "tflm" in bundle.manifest.model.runtimes
    assert Bundle.open(built.archive).ref == bundle.ref


def test_the_report_says_what_is_needed_and_loads_nothing_from_elsewhere(
    built: BuildResult,
) -> None:
    """One page with its plots inside."""
    page = built.report_html.read_text(encoding="utf-8")
    assert page.count("<svg") >= 3
    assert "http" not in page
    report = json.loads(built.report_json.read_bytes())
    for key in ("accuracy", "per_class", "confusion", "calibration", "out_of_scope", "layers"):
        assert report[key], key
    assert sum(sum(row) for row in report["confusion"]["matrix"]) == report["data"]["test"]
    assert set(report["boards"]) >= {"raspberry-pi-5", "jetson-orin-nano"}


def test_the_threshold_tells_text_of_no_label_apart(built: BuildResult) -> None:
    """Sums are not about the house."""
    outside = built.report["out_of_scope"]
    assert outside["auroc"] > 0.8
    assert 0 < outside["threshold"] < 1
    assert outside["refused_out_of_scope"] > outside["refused_in_scope"]


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(
    plain: BuildResult, tmp_path: Path
) -> None:
    """Model and golden vectors; the manifest's memory figure is measured anew."""
    again = run(tmp_path, tmp_path / "a")
    other = run(tmp_path, tmp_path / "b", seed=4)
    for name in ("model.tflite", "golden.json"):
        data = (plain.bundle / name).read_bytes()
        assert data == (again.bundle / name).read_bytes()
        assert data != (other.bundle / name).read_bytes()


def test_a_resumed_build_gives_the_bytes_of_an_uninterrupted_one(
    plain: BuildResult, tmp_path: Path
) -> None:
    """Killed in the middle of the student's training, then started again."""

    class Killed(BaseException):
        """As SIGKILL would, nothing catches it."""

    def kill(what: str, done: int, total: int) -> None:
        if what == "student learns" and done > total // 2:
            raise Killed

    loaded = recipes.load(write_recipe(tmp_path))
    with pytest.raises(Killed):
        build(loaded, tmp_path / "cut", kill)
    assert not (tmp_path / "cut" / "small-1.0.0").exists()
    steps: list[int] = []
    result = build(
        loaded,
        tmp_path / "cut",
        lambda what, done, total: steps.append(done) if what == "student learns" else None,
    )
    assert steps[0] > 1, "training started over"
    model = (result.bundle / "model.tflite").read_bytes()
    assert model == (plain.bundle / "model.tflite").read_bytes()


def test_a_broken_checkpoint_is_trained_again(plain: BuildResult, tmp_path: Path) -> None:
    """A truncated file is no checkpoint."""
    (saved,) = (plain.bundle.parent / "cache").glob("training-*.npz")
    (tmp_path / "out" / "cache").mkdir(parents=True)
    (tmp_path / "out" / "cache" / saved.name).write_bytes(saved.read_bytes()[:1000])
    second = run(tmp_path, tmp_path / "out")
    assert second.report["accuracy"] == plain.report["accuracy"]


@pytest.mark.parametrize(
    ("sections", "code"),
    [
        ({"evaluation": {"floor": 1.0}, "distillation": {"fit": {"epochs": 1}}}, "below-floor"),
        ({"budget": {"model_bytes": 1000}}, "over-budget"),
        ({"budget": {"boards": ["no-such-board"]}}, "unknown-board"),
        ({"data": {"train": "/nowhere.csv"}}, "no-such-file"),
        ({"data": {}}, "bad-recipe"),
        ({"teacher": {"source": "magic:x"}}, "bad-teacher"),
        ({"teacher": {"source": "path:/nowhere"}}, "bad-teacher"),
        ({"student": {"family": "encoder"}}, "bad-recipe"),
    ],
)
def test_a_build_that_cannot_hold_its_bars_leaves_no_bundle(
    tmp_path: Path, sections: dict[str, Any], code: str
) -> None:
    """One known error, and nothing half-written."""
    with pytest.raises(ShoalError) as caught:
        run(tmp_path, tmp_path / "out", **sections)
    assert caught.value.code == code
    assert not list((tmp_path / "out").glob("small*")) if (tmp_path / "out").exists() else True


def test_a_student_over_its_budget_is_refused_before_anything_is_learned(
    tmp_path: Path, plain: BuildResult
) -> None:
    """The error says by how much, and which setting would fit; with it the build goes through."""
    seen: list[str] = []
    size = plain.report["size"]["model_bytes"]
    loaded = recipes.load(write_recipe(tmp_path, budget={"model_bytes": size - 100}))
    with pytest.raises(RefusedError, match=rf"would be {size}, 100 over .*buckets: \d+ would fit"):
        build(loaded, tmp_path / "out", lambda what, done, total: seen.append(what))
    assert not seen


def test_the_report_compares_the_runtimes(plain: BuildResult) -> None:
    """LiteRT and TensorFlow Lite Micro, on test texts."""
    found = plain.report["runtimes"]
    assert found["texts"] > 10
    assert found["steps"] <= 1
    assert found["equal"] > 0.9
    assert "step(s) apart" in plain.report_html.read_text(encoding="utf-8")


def test_a_quantisation_that_costs_too_much_fails_with_the_layers_that_hurt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The representative set is empty texts, which fix ranges that no real text fits."""
    from model_builder.classify import distil

    def spoilt(module: Any, call: Any, length: int, samples: Any) -> bytes:
        return to_int8(module, call, length, samples * 0)

    monkeypatch.setattr(distil, "to_int8", spoilt)
    with pytest.raises(RefusedError, match=r"layers that hurt most: \w+ \(") as caught:
        run(tmp_path, tmp_path / "out", quantisation={"max_loss": 0.01})
    assert caught.value.code == "quantisation-loss"


def test_the_search_takes_the_smallest_student_that_reaches_the_floor(tmp_path: Path) -> None:
    """And says why; a floor that nobody reaches is refused with the best one's figure."""
    budget = {"floor": 0.7, "boards": ["raspberry-pi-zero-2w"]}
    fit = {"fit": {"epochs": 12, "batch": 16, "rate": 0.02}}
    result = run(tmp_path, tmp_path / "out", budget=budget, distillation=fit)
    search = result.report["search"]
    good = [row for row in search["tried"] if not row["reasons"]]
    assert search["chosen"] == good[0]["student"]
    assert good[0]["model_bytes"] == min(row["model_bytes"] for row in good)
    assert good[0]["validation_int8"] >= 0.7
    assert "smallest" in search["why"]
    assert html.escape(search["why"]) in result.report_html.read_text(encoding="utf-8")
    budget = {"floor": 0.9, "model_bytes": 100}
    with pytest.raises(RefusedError, match="no student reaches") as caught:
        run(tmp_path, tmp_path / "out", budget=budget, distillation=fit)
    assert len(caught.value.info.detail["tried"]) == len(search["tried"])


@pytest.mark.parametrize("family", ["encoder", "transformer"])
def test_an_encoder_becomes_a_dynamic_int8_bundle(tmp_path: Path, family: str) -> None:
    """Fine-tuned, one signature a length, as good as its float self; a device runs it."""
    teacher = {
        "source": f"path:{write_encoder(tmp_path / 'encoder')}",
        "mode": "finetune",
        "epochs": 12,
        "batch": 8,
        "rate": 0.003,
        "precision": "float32",
    }
    student = {
        "family": family,
        "lengths": [8, 16],
        "transformer": {"layers": 1, "epochs": 8, "rate": 0.003, "batch": 8},
    }
    result = run(tmp_path, tmp_path / "out", teacher=teacher, student=student)
    manifest = Bundle.open(result.bundle).manifest
    assert manifest.model.quantization == "dynamic-int8"
    assert {s.name for s in manifest.model.signatures} == {"classify_8", "classify_16"}
    assert {entry.path for entry in manifest.files} >= {"tokenizer.json", "card.md"}
    accuracy = result.report["accuracy"]
    assert accuracy["int8"] >= 0.8
    assert abs(accuracy["int8_minus_float"]) <= 0.05
    bundle = Bundle.open(result.bundle)
    model = Classifier(bundle)
    replayed = model.selftest(bundle)
    assert replayed.passed == replayed.vectors > 0
    assert sum(v * v for v in model.embed("turn on the hall light").embedding) == pytest.approx(1)


def test_an_encoder_teaches_a_bag(tmp_path: Path) -> None:
    """Soft labels, made text and embedding matching together; the report names the teacher."""
    teacher = {"source": f"path:{write_encoder(tmp_path / 'encoder')}", "mode": "probe"}
    distillation = {
        "embedding": 0.5,
        "hard": 0.3,
        "augment": {"dropout": 1, "swap": 1, "substitute": 1, "mixed": 1, "recombine": 1},
        "fit": {"epochs": 8, "batch": 32, "rate": 0.02, "patience": 5},
    }
    result = run(tmp_path, tmp_path / "out", teacher=teacher, distillation=distillation)
    assert result.report["teacher"]["name"].startswith("path:")
    assert result.report["students"][0]["texts"] > 200
    assert result.report["accuracy"]["int8"] >= 0.7


def test_where_made_text_harms_the_rows_alone_win(tmp_path: Path) -> None:
    """Labels that hang on the order of words: swaps and mixtures teach the wrong thing."""
    teacher = {"source": f"path:{write_encoder(tmp_path / 'encoder')}", "mode": "probe"}
    distillation = {
        "plain": True,
        "augment": {"dropout": 2, "swap": 2, "recombine": 2},
        "fit": {"steps": 1, "batch": 32, "rate": 0.02},  # as good as untrained; the other has 300
    }
    result = run(tmp_path, tmp_path / "out", teacher=teacher, distillation=distillation)
    made, plain = result.report["students"]
    assert (made["plan"], plain["plan"]) == ("all text", "the rows alone")
    assert plain["texts"] < made["texts"] / 3
    assert plain["validation"] > made["validation"]
    assert result.report["accuracy"]["int8"] >= 0.7  # the better one is what was built


def test_the_float_weights_on_the_grid_are_what_the_model_file_computes(
    built: BuildResult,
) -> None:
    """The int8 answers follow the report's figures: an independent count agrees."""
    bundle = Bundle.open(built.bundle)
    runner = Runner(bundle.read("model.tflite"))
    front_end: Any = bundle.manifest.front_end
    classifier = bundle.manifest.classifier
    assert classifier is not None
    texts = [text for text, _ in sentences()]
    answers = runner.logits(encode(texts, front_end.config)).argmax(axis=1)
    right = [
        classifier.labels[a] == label for a, (_, label) in zip(answers, sentences(), strict=True)
    ]
    assert np.mean(right) >= built.report["accuracy"]["int8"] - 0.05


def test_an_encoder_with_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    """Also a truncated file, and a folder that lacks one."""
    folder = write_encoder(tmp_path / "encoder")
    teacher = {"source": f"path:{folder}"}
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(InputError, match="path:"):
        run(tmp_path, tmp_path / "out", teacher=teacher)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"has no tokenizer\.json"):
        run(tmp_path, tmp_path / "out", teacher=teacher)


def test_a_pinned_digest_that_differs_is_refused(tmp_path: Path) -> None:
    """The weights are not what the recipe's author used."""
    teacher = {"source": f"path:{write_encoder(tmp_path / 'encoder')}", "sha256": "0" * 64}
    with pytest.raises(RefusedError) as caught:
        run(tmp_path, tmp_path / "out", teacher=teacher)
    assert caught.value.code == "wrong-digest"


def test_no_file_of_a_bundle_holds_a_text_of_the_user(tmp_path: Path) -> None:
    """A bundle goes to every device and to whoever mirrors the repository."""
    result = run(tmp_path, tmp_path / "out")
    leaving = [*Path(result.bundle).iterdir(), Path(result.archive)]
    for file in leaving:
        held = file.read_bytes().lower()
        for text, _ in sentences():
            assert text.encode() not in held, f"{text!r} is in {file.name}"
    vectors = Bundle.open(result.bundle).golden()
    assert len({tuple(vector.output) for vector in vectors}) > len(vectors) // 2
    own = run(tmp_path, tmp_path / "own", evaluation={"golden_texts": "test"})
    assert {v.text for v in Bundle.open(own.bundle).golden()} <= {t for t, _ in sentences()}


def test_golden_vectors_of_foreign_texts_notice_a_changed_weight(built: BuildResult) -> None:
    """Any row of the table, moved by a few steps, shows in some vector."""
    bundle = Bundle.open(built.bundle)
    model = bundle.read("model.tflite")
    front_end: Any = bundle.manifest.front_end
    ids = encode([vector.text for vector in bundle.golden()], front_end.config)
    exact = Runner(model).quantised(ids)
    used = sorted(set(ids.ravel().tolist()) - {0})
    noticed = 0
    for row in np.random.default_rng(0).choice(used, 20, replace=False):
        graph = Graph(model)
        gather = next(op for op in graph.operators if op.name == "GATHER")
        graph.values(gather.inputs[0], np.int8)[row] += np.int8(64)
        noticed += not np.array_equal(Runner(bytes(graph.data)).quantised(ids), exact)
    assert noticed >= 18
    assert len(used) > front_end.config.buckets // 2
