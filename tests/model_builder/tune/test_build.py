"""Pairs and a pretrained base to an adapter, a bundle and a report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.runtime.model import Options
from agent.runtime.model import load as load_model
from contracts.bundle import Bundle
from contracts.errors import InputError
from model_builder.generate.adapter_texts import AdapterTexts, read_texts
from model_builder.generate.pairs import Pair, Split
from model_builder.generate.peft import Sizes, read_adapter
from model_builder.generate.source import Pretrained, load_pretrained
from model_builder.recipes.tune import TuneRecipe, parse
from model_builder.writing.pairs import WrittenPairs
from tests.support.tiny_decoder import tiny_tokenizer, tiny_weights, write_gguf

PAIRS = [(f"{a} {b}", b) for a in ("the", "over", "brown", "lazy") for b in ("fox", "dog", "quick")]


def _written(folder: Path, pairs: list[tuple[str, str]] = PAIRS, **student: object) -> Path:
    """A base, pairs, and the recipe's file; the same each time."""
    weights = tiny_weights()
    weights.config = replace(weights.config, trained_context=128)
    write_gguf(folder / "base.gguf", weights, tiny_tokenizer())
    rows = [json.dumps({"prompt": p, "completion": c}) for p, c in pairs]
    (folder / "pairs.jsonl").write_text("\n".join(rows) + "\n")
    keys = {"base": "base.gguf", "half": False, "context": 128, **student}
    recipe = {"name": "tuned", "version": "1.0.0", "task": "generate", "test": 2,
              "data": {"path": "pairs.jsonl"}, "student": keys}  # fmt: skip
    path = folder / "recipe.json"
    path.write_text(json.dumps(recipe))
    return path


def _recipe(path: Path) -> tuple[TuneRecipe, bytes]:
    return parse(json.loads(path.read_text()), path)


def test_pairs_and_a_base_become_an_adapter_and_a_bundle_that_answers(tmp_path: Path) -> None:
    """The loss falls; PEFT's folder holds what the bundle's matrices hold; a device runs it."""
    from model_builder.tune.build import build
    from model_builder.tune.peft_folder import merged, read_factors

    recipe, data = _recipe(_written(tmp_path, epochs=12, rate=0.02, looks=2, targets=["q", "down"]))
    told: list[str] = []
    made = build(recipe, data, tmp_path, tmp_path / "out", lambda what, *_: told.append(what))
    losses = made.document["validation_losses"]
    assert min(loss for _, loss in losses[1:]) < losses[0][1]
    assert {"loading the base", "training", "measuring"} <= set(told)
    assert set(made.document["scores"]) == {"base", "base with examples", "lora"}
    pretrained = load_pretrained(str(tmp_path / "base.gguf"))
    c = pretrained.weights.config
    sizes = Sizes(c.layers, c.width, c.hidden, c.heads * c.head_size, c.kv_heads * c.head_size)
    assert made.adapter is not None
    read = read_adapter(made.adapter, sizes)
    assert read.rank == 8
    saved = np.load(next((tmp_path / "out" / "cache").glob("training-*.npz")))
    count = int(saved["count"]) // 4
    names = [f"{i}.{t}.{s}" for i in range(2) for t in recipe.student.targets for s in "ab"]
    best = {name: saved[f"a{3 * count + at}"] for at, name in enumerate(names)}
    whole = merged(pretrained.weights, best, recipe.student.scale)
    for (layer, target), part in read.parts.items():
        before = getattr(pretrained.weights.layers[layer], target)
        after = getattr(whole.layers[layer], target)
        assert np.abs(before + part.b @ part.a - after).max() < 1e-5
    factors = read_factors(made.adapter, recipe.student, pretrained)
    assert all(np.abs(value - best[name]).max() < 1e-6 for name, value in factors.items())
    assert set(factors) == set(best)
    other = msgspec.structs.replace(recipe.student, rank=4)
    with pytest.raises(InputError, match="factors of rank 4"):
        read_factors(made.adapter, other, pretrained)
    bundle = Bundle.open(made.bundle)
    assert bundle.manifest.provenance.teacher_sha256 == pretrained.sha256
    assert bundle.manifest.generator is not None
    assert bundle.manifest.generator.prompt_prefix == "<user>"
    assert read_texts(made.adapter) == AdapterTexts("<user>", "\n<assistant>", None)
    load_model(bundle, Options())


def test_what_a_step_needs_no_more_is_gone_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training's variables before the rounding, the base's matrices before the measuring."""
    from model_builder.tune import build, train

    there: dict[str, weakref.ref[object]] = {}

    class Run(train._Run):
        def __init__(self, *given: object) -> None:
            super().__init__(*given)
            there["training"] = weakref.ref(self)

    def loaded(source: str) -> Pretrained:
        pretrained = load_pretrained(source)
        there["base"] = weakref.ref(pretrained.weights.layers[0].q)
        return pretrained

    seen: dict[str, set[str]] = {}

    def told(what: str, *_: object) -> None:
        seen[what] = {name for name, each in there.items() if each() is not None}

    monkeypatch.setattr(train, "_Run", Run)
    monkeypatch.setattr(build, "load_pretrained", loaded)
    recipe, data = _recipe(_written(tmp_path, epochs=1, targets=["q"]))
    build.build(recipe, data, tmp_path, tmp_path / "out", told)
    assert seen["training"] == {"training", "base"}
    assert seen["quantising"] <= {"base"}
    assert seen["measuring"] == set()


_KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.model_builder.tune.test_build import _recipe
from model_builder.tune import train
from model_builder.tune.build import build
train._SAVE_S = 0.0
folder = Path(sys.argv[1])
def progress(what, done, total):
    if what == "training" and done == 7:
        os.kill(os.getpid(), 9)
recipe, data = _recipe(folder / "recipe.json")
build(recipe, data, folder, folder / "out", progress)
"""


def test_a_training_that_was_killed_goes_on_and_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """The state on disk is whole, and the same factors come out."""
    from model_builder.checkpoint import Checkpoint
    from model_builder.tune.build import _prepared
    from model_builder.tune.train import tune

    recipe, _ = _recipe(
        _written(tmp_path, epochs=12, batch_tokens=64, patience=99, targets=["q"], looks=2)
    )
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path), root],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-500:]
    (state,) = (tmp_path / "out" / "cache").glob("training-*.npz")
    ready = _prepared(recipe, tmp_path, lambda *_: None)

    def run(checkpoint: Checkpoint | None):
        return tune(ready.pretrained.weights, ready.train, ready.validation, recipe.student,
                    recipe.seed, checkpoint)  # fmt: skip

    resumed = run(_At(state))
    whole = run(None)
    assert 0 < resumed.resumed < resumed.steps == whole.steps
    for name, value in whole.arrays.items():
        assert np.abs(value - resumed.arrays[name]).max() < 1e-5, name


def _At(state: Path):  # a checkpoint of that file
    from model_builder.checkpoint import Checkpoint

    return Checkpoint(state.parent, state.stem.removeprefix("training-"))


@pytest.mark.parametrize(
    ("pairs", "student", "words"),
    [
        ([*PAIRS, ("a", "")], {}, "row 13: no completion"),
        ([*PAIRS, ("the fox", "dog")], {}, "row 13: the prompt of row 1 with another"),
        ([*PAIRS, ("x" * 400, "y")], {}, "the model holds 128"),
        (PAIRS, {"base": "pairs.jsonl"}, "pairs.jsonl"),
        (PAIRS, {"base": "none.gguf"}, "expected a .gguf file"),
        (PAIRS, {"start": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_tuned_is_one_clear_error_before_training(
    tmp_path: Path, pairs: list[tuple[str, str]], student: dict[str, object], words: str
) -> None:
    """Pairs without completion, with two answers, too long; a base that is none."""
    from model_builder.tune.build import build

    recipe, data = _recipe(_written(tmp_path, pairs, **student))
    with pytest.raises(InputError, match=words):
        build(recipe, data, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out" / "tuned-1.0.0").exists()


def test_what_a_model_wrote_too_long_is_left_out_and_counted_and_what_a_person_did_is_told(
    tmp_path: Path,
) -> None:
    """Wherever the split puts it: one of the test would be found after the training."""
    from model_builder.tune.build import HELD, SHIFTED, _prepared, _test_sets
    from model_builder.tune.fits import fitting, longer

    recipe, _ = _recipe(_written(tmp_path, context=32, targets=["q"]))
    ready = _prepared(recipe, tmp_path, lambda *_: None)
    long = Pair("x" * 400, "y")
    pairs = [*ready.split.train, *ready.split.validation, *ready.split.test]
    for at in range(3):
        splits = [pairs[:6], pairs[6:8], pairs[8:]]
        splits[at] = [long, *splits[at]]
        split = Split(*splits)
        told = WrittenPairs([(long.prompt, long.completion, "")], {}, [])
        found = fitting(split, told, ready.frame, ready.tokenizer, 32, 0)
        left = [*found.train, *found.validation, *found.test]
        assert sorted(p.prompt for p in left) == sorted(p.prompt for p in pairs)
        assert told.facts["left_out"][0]["texts"] == 1
        assert "1 written pairs have more than the 32 tokens" in told.warnings[0]
        with pytest.raises(InputError, match=r"'xxx.*the model holds 32: shorten it"):
            fitting(split, None, ready.frame, ready.tokenizer, 32, 0)
    # In other words a pair is longer; those that do not fit are not asked.
    size = max(len(c.prompt) + len(c.answer) for c in ready.train)
    tight, _ = _recipe(_written(tmp_path, context=max(32, size + 2), targets=["q"]))
    sets = _test_sets(tight, _prepared(tight, tmp_path, lambda *_: None))
    assert not longer(
        ready.frame, ready.tokenizer, [*sets[HELD], *sets[SHIFTED]], max(32, size + 2)
    )
    (tmp_path / "hand.csv").write_text(f"prompt,completion\n{'x' * 400},y\n")
    by_hand = msgspec.structs.replace(recipe, handwritten="hand.csv")
    with pytest.raises(InputError, match="the model holds 32"):
        _prepared(by_hand, tmp_path, lambda *_: None)


def test_a_base_with_values_that_are_no_numbers_is_refused(tmp_path: Path) -> None:
    """NaN in the weights is told before training."""
    from model_builder.tune.build import build

    path = _written(tmp_path)
    weights = tiny_weights()
    weights.layers[1].up[3, 4] = np.nan
    write_gguf(tmp_path / "base.gguf", weights, tiny_tokenizer())
    recipe, data = _recipe(path)
    with pytest.raises(InputError, match="not finite"):
        build(recipe, data, tmp_path, tmp_path / "out")


def test_a_full_disk_is_told_and_the_state_before_it_is_kept(tmp_path: Path) -> None:
    """The last whole state stays where it is."""
    from model_builder.checkpoint import Checkpoint, Saved
    from model_builder.tune.build import _prepared
    from model_builder.tune.train import tune

    class Full(Checkpoint):
        def save(self, state: Saved) -> None:
            raise OSError(28, "No space left on device")

    recipe, _ = _recipe(_written(tmp_path, epochs=1, targets=["q"]))
    ready = _prepared(recipe, tmp_path, lambda *_: None)
    with pytest.raises(InputError, match="No space left") as found:
        tune(ready.pretrained.weights, ready.train, ready.validation, recipe.student, 0,
             Full(tmp_path, "ab" * 32))  # fmt: skip
    assert found.value.code == "disk-full"


def test_whole_matrices_at_int4_are_compared_with_another_bundle_on_pairs_by_hand(
    tmp_path: Path,
) -> None:
    """`adapt: full`, `weights: int4`, `compare`, `handwritten`; other figures, no new training."""
    from model_builder.tune.build import BY_HAND, build

    pairs = [(f"wüßte {a} zäh", a) for a in ("qzx", "vjk", "wgp", "ymb", "hcu")]
    path = _written(tmp_path, pairs, epochs=1, targets=["q"], adapt="full", weights="int4")
    (tmp_path / "hand.csv").write_text("prompt,completion\nquick fox,fox\n")
    document = json.loads(path.read_text())
    recipe, data = parse({**document, "handwritten": "hand.csv"}, path)
    first = build(recipe, data, tmp_path, tmp_path / "out")
    assert first.adapter is None
    assert first.document["scores"]["full"][BY_HAND]["pairs"] == 1
    assert set(first.document["rounding"]) == {"pairs", "float", "int4"}
    # A tokenizer of a few English words spells what it does not know.
    assert any("letter by letter" in text for text in first.document["warnings"])
    other = os.path.relpath(first.bundle, tmp_path)
    recipe, data = parse({**document, "compare": [other], "version": "1.0.1"}, path)
    second = build(recipe, data, tmp_path, tmp_path / "out")
    assert first.bundle.name in second.document["scores"]
    assert second.document["resumed_at_step"] == second.document["steps"] > 0
    recipe, data = parse({**document, "compare": ["nothing"]}, path)
    with pytest.raises(InputError, match="nothing is no bundle's folder"):
        build(recipe, data, tmp_path, tmp_path / "out")


def test_what_is_delivered_may_be_the_mean_of_several_trainings(tmp_path: Path) -> None:
    """Their factors' mean, of the rank that they have; what was trained is not trained again."""
    from model_builder.tune.build import build
    from model_builder.tune.peft_folder import read_factors

    out, keys = tmp_path / "out", {"epochs": 1, "targets": ["q"]}
    recipe, data = _recipe(_written(tmp_path, **keys))
    first = build(recipe, data, tmp_path, out)
    assert first.adapter is not None
    more = {"seed": 1, "student": {**json.loads(msgspec.json.encode(recipe.student)),
                                   "start": "out/tuned-1.0.0-adapter"}}  # fmt: skip
    made = []
    for version, average in (("1.1.0", []), ("1.2.0", ["out/tuned-1.0.0-adapter"])):
        document = json.loads((tmp_path / "recipe.json").read_text()) | more
        document |= {"version": version, "student": more["student"] | {"average": average}}
        made.append(build(*parse(document, tmp_path), tmp_path, out))
    assert made[1].document["resumed_at_step"] == made[1].document["steps"] > 0
    base = load_pretrained(str(tmp_path / "base.gguf"))
    a, b, mean = (read_factors(m.adapter, recipe.student, base) for m in (first, *made))
    assert any(np.abs(a[name] - b[name]).max() > 1e-4 for name in a)
    for name in a:
        np.testing.assert_allclose(mean[name], (a[name] + b[name]) / 2, atol=1e-6)
    assert Bundle.open(made[0].bundle).manifest != Bundle.open(made[1].bundle).manifest
    with pytest.raises(InputError, match="start and average are adapters"):
        parse(
            document | {"student": document["student"] | {"adapt": "full", "start": ""}}, tmp_path
        )
    document["student"]["average"] = ["nowhere"]
    with pytest.raises(InputError, match="nowhere"):
        build(*parse(document, tmp_path), tmp_path, out)


def test_float_answers_are_those_of_greedy_decoding() -> None:
    """A pair is right exactly when the reference's likeliest tokens are its answer."""
    from model_builder.generate import reference
    from model_builder.tune.float_answers import answers_right
    from model_builder.tune.packing import Coded

    weights = tiny_weights()
    prompts = [[5, 9, 31], [7, 100], [44, 2, 8, 19, 120]]
    pairs = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(4):
            ids.append(int(reference.logits(weights, np.array(ids))[-1].argmax()))
        answer = ids[len(prompt) :]
        pairs += [Coded(prompt, answer), Coded(prompt, [*answer[:-1], (answer[-1] + 1) % 300])]
    assert answers_right(weights, pairs) == [True, False] * 3


def test_a_training_ends_when_its_minutes_are_over(tmp_path: Path) -> None:
    """The rate falls by the time that is left, and what was best is kept."""
    from model_builder.tune.build import _prepared
    from model_builder.tune.train import tune

    path = _written(tmp_path, epochs=50, batch_tokens=64, targets=["q"], minutes=1)
    recipe, _ = _recipe(path)
    ready = _prepared(recipe, tmp_path, lambda *_: None)
    seconds = iter(range(0, 100_000, 5))
    told: list[tuple[int, int]] = []
    tuned = tune(ready.pretrained.weights, ready.train, ready.validation, recipe.student, 0,
                 progress=lambda _, done, total: told.append((done, total)),
                 clock=lambda: float(next(seconds)))  # fmt: skip
    assert 0 < tuned.steps < 20
    assert tuned.losses[-1][0] == tuned.steps
    assert told[-1] == (tuned.steps, tuned.steps)
    assert abs(told[len(told) // 2][1] - tuned.steps) <= 2  # the time left is by the minutes, too
