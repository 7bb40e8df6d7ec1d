"""The tiny generator's step is the same in TFLite Micro and MicroPython; its data is disjoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from contracts.bundle import Bundle
from contracts.errors import InputError, RefusedError
from model_builder import cli
from model_builder.export_c.graph import read
from model_builder.generate_tiny import build, task
from model_builder.generate_tiny.cell import Cell
from model_builder.generate_tiny.flatfile import write
from model_builder.recipes import status_lines as recipes
from tests.micro import device

PROMPTS = ["t=23.4 h=61 b=88 m=1>", "t=-4.0>", "t=30.9 b=5>"]


@pytest.fixture(scope="module")
def model() -> bytes:
    """A cell with random weights, as a file."""
    return write(Cell(len(task.alphabet()), 24, 64, seed=3))


def test_continuations_are_equal_in_micropython_and_tflite_micro(model, tmp_path, monkeypatch):
    """Gates, state and logits are bit-exact: greedy ids are equal over many steps."""
    alphabet = task.alphabet()
    (tmp_path / "model.tflite").write_bytes(model)
    (tmp_path / "prompts.json").write_text(json.dumps([alphabet, PROMPTS]))
    found = device.run("continue.py", str(tmp_path), str(tmp_path / "prompts.json"), "40")
    monkeypatch.setattr(build, "MAX_TOKENS", 40)
    stepper = build.Stepper(model, alphabet)
    assert found == [stepper.tokens(prompt) for prompt in PROMPTS]


def test_the_state_has_one_scale_on_both_sides(model):
    """What comes out may go in again, without a conversion."""
    graph = read(model)
    before, after = graph.tensors[graph.inputs[1]], graph.tensors[graph.outputs[1]]
    assert before.scales == after.scales
    assert before.zero_point == after.zero_point
    assert before.shape == after.shape


def test_no_prompt_is_in_both_splits():
    """The test lines are held out, and lines say what the readings say."""
    train = {prompt for prompt, _ in task.lines(3000, seed=1, test=False)}
    assert not train & {prompt for prompt, _ in task.lines(500, seed=2, test=True)}
    for prompt, status in task.lines(200, seed=4, test=True):
        celsius = float(prompt[2:].split(" ")[0].rstrip(">"))
        assert f" {prompt[2:].split('.')[0]}C" in status
        assert status.startswith("freezing") == (celsius < 0)


def test_an_untrained_model_is_not_packed(model, tmp_path):
    """A bundle is written only when enough held-out lines are right."""
    recipe = recipes.Recipe(kind="status-lines", name="bad", version="1.0.0", test_lines=10)
    with pytest.raises(RefusedError, match="held-out lines"):
        build.package(recipe, model, task.alphabet(), 1000, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_recipe_takes_changes_and_refuses_what_it_does_not_know(tmp_path):
    """``--set`` works as for the other recipes; a wrong key is named, with the nearest one."""
    recipe = recipes.load(
        Path("examples/status-lines.yaml"), ["settings.state=32", "test_lines=20"]
    )
    assert (recipe.settings.state, recipe.test_lines) == (32, 20)
    with pytest.raises(InputError, match="min_exact"):
        recipes.load(Path("examples/status-lines.yaml"), ["min_exat=0.5"])
    with pytest.raises(InputError, match="state"):
        recipes.load(Path("examples/status-lines.yaml"), ["settings.state=much"])
    (tmp_path / "list.yaml").write_text("- kind: status-lines\n")
    with pytest.raises(InputError, match="keys and values"):
        recipes.load(tmp_path / "list.yaml", ["a=1"])


def test_options_of_classifiers_are_refused_for_a_generator(tmp_path):
    """``--export c`` and ``--floor`` are not passed over in silence."""
    words = ["build", "examples/status-lines.yaml", "--out", str(tmp_path), "--export", "c"]
    done = CliRunner().invoke(cli.app, words)
    assert isinstance(done.exception, InputError)
    assert "--export" in str(done.exception)


def test_quality_counts_whole_lines_and_their_parts():
    """A line with one wrong word is not exact, but its other parts count."""

    class Fixed:
        def text(self, prompt):
            return {"a>": "mild 2C, dry 3%", "b>": "mild 2C, dry 4%", "c>": "mild 2C"}[prompt]

    quality = build.score(Fixed(), [(p, "mild 2C, dry 3%") for p in ("a>", "b>", "c>")])
    assert quality.exact_match == pytest.approx(1 / 3)
    assert quality.parts_right == pytest.approx(4 / 6)
    assert quality.wrong[0] == ("b>", "mild 2C, dry 3%", "mild 2C, dry 4%")


def test_the_shipped_bundle_is_what_its_manifest_says():
    """Golden vectors hold in TFLite Micro, and unseen lines are as often right as stated."""
    bundle = Bundle.open(Path("tests/data/status-lines-1.0.0"))
    bundle.verify()
    manifest = bundle.manifest
    assert manifest.model.parameters <= build.MAX_PARAMETERS
    stepper = build.Stepper(bundle.read(manifest.model.file), task.alphabet())
    assert [stepper.tokens(v.text) for v in bundle.golden()] == [v.tokens for v in bundle.golden()]
    quality = build.score(stepper, task.lines(100, seed=12, test=True))
    assert quality.exact_match >= manifest.metrics["exact_match"] - 0.02
