"""Distilled generators: data without leaks, and a whole build that keeps its constraint."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from contracts.bundle import Bundle
from contracts.errors import InputError, RefusedError
from model_builder.generate.evaluate import f1, is_json
from model_builder.generate.home_commands import sample_commands
from model_builder.generate.pairs import Pair, Split, read_pairs, split_pairs
from model_builder.generate.teachers import complete
from model_builder.recipes.generate import TeacherSource, load
from tests.support.tiny_decoder import tiny_bundle

RECIPE = """
name: tiny-commands
version: 1.0.0
task: generate
data: {kind: home-commands, sentences: 400, test: 12, seed: 1}
student: {vocabulary: 400, layers: 1, width: 32, hidden: 48, heads: 2, context: 192}
train: {steps: 12, batch: 8, evaluate_every: 6, warmup: 2, quantize_aware: 0.5}
constrain: prompt-values
"""


def test_home_commands_test_what_training_never_saw() -> None:
    """No template, no free value and no sentence of the test split is in the training split."""
    split = sample_commands("en", 4000, 120, 2, rephrased=0.5)
    assert len(split.train) > 5000 and len(split.test) > 60
    seen = split.train + split.validation
    assert not {p.group for p in seen} & {p.group for p in split.test}
    assert not {p.prompt for p in seen} & {p.prompt for p in split.test}

    def values(pairs: list[Pair], slot: str) -> set[str]:
        slots = [json.loads(pair.completion)["slots"] for pair in pairs]
        return {s[slot] for s in slots if slot in s}

    assert values(split.test, "area") and not values(seen, "area") & values(split.test, "area")

    def slots(pairs: list[Pair]) -> set[tuple[str, ...]]:
        answers = [json.loads(pair.completion) for pair in pairs]
        return {(answer["intent"], *sorted(answer["slots"])) for answer in answers}

    assert slots(split.test) <= slots(split.train)  # else the grammar forbids the answer


@pytest.fixture(scope="module")
def sampled() -> Split:
    """A sample that several tests look at: each takes seconds to make."""
    return sample_commands("en", 400, 40, 5)


def test_home_commands_slots_stand_in_the_sentence(sampled: Split) -> None:
    """Every value can be copied; the intent is one of Home Assistant's."""
    for pair in sampled.train:
        answer = json.loads(pair.completion)
        assert answer["intent"].startswith("Hass")
        assert all(value in pair.prompt for value in answer["slots"].values())


def test_the_same_seed_gives_the_same_pairs(sampled: Split) -> None:
    """A sample can be made again."""
    assert sample_commands("en", 400, 40, 5) == sampled


def test_groups_stay_together() -> None:
    """Pairs of one group are in one split."""
    pairs = [Pair(f"p{i}", "c", f"g{i % 20}") for i in range(200)]
    split = split_pairs(pairs, 0)
    groups = [{p.group for p in part} for part in (split.train, split.validation, split.test)]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert sum(map(len, (split.train, split.validation, split.test))) == 200


@pytest.mark.parametrize(
    "line", ["{", '{"completion": "x"}', '{"prompt": 7}', '{"prompt": ""}', "\udcff"]
)
def test_bad_pairs_name_their_row(tmp_path: Path, line: str) -> None:
    """One broken row is one clear error."""
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n' + line.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(InputError) as raised:
        read_pairs(path)
    assert raised.value.code == "bad-data"


@pytest.mark.parametrize(
    ("found", "expected", "score"),
    [("a b", "a b", 1.0), ("a", "b", 0.0), ("a b", "a c", 0.5), ("", "", 1.0), ('{"a"', "a", 0.4)],
)
def test_token_f1(found: str, expected: str, score: float) -> None:
    """Words and punctuation count, order does not."""
    assert f1(found, expected) == pytest.approx(score)


def test_json_is_recognised() -> None:
    """Half a document is none."""
    assert is_json('{"a":1}') and not is_json('{"a":') and not is_json("")


@pytest.mark.parametrize(
    "change", ["student.heads=3", "train.steps=0", "constrain=x", "data.kind=pairs", "nonsense=1"]
)
def test_a_recipe_that_cannot_be_built_is_refused(tmp_path: Path, change: str) -> None:
    """The error comes before any work."""
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    with pytest.raises(InputError) as raised:
        load(path, [change])
    assert raised.value.code in ("bad-recipe", "unknown-key")


def test_a_recipe_becomes_a_bundle_whose_output_is_always_valid(tmp_path: Path) -> None:
    """Even after twelve steps the constraint gives valid JSON with values out of the prompt."""
    from model_builder.cli import app

    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    result = CliRunner().invoke(app, ["build", str(path), "--out", str(tmp_path), "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    summary = json.loads(result.stdout.splitlines()[-1])
    quality = summary["quality"]
    assert quality["pairs"] == 12
    assert quality["valid_json"] == 1 - quality["errors"] / 12
    bundle = Bundle.open(Path(summary["archive"]))
    bundle.verify()
    assert bundle.manifest.generator is not None
    report = json.loads(Path(summary["report_json"]).read_text())
    told = report["confidence"]
    assert told["knots"] == bundle.manifest.generator.calibration  # none: too few pairs
    assert told["pairs"] == 12 - quality["errors"]
    assert sum(row["pairs"] for row in told["bins"]) == told["pairs"]
    assert report["steps"] == 12 and report["parameters"] == bundle.manifest.model.parameters
    for row in report["wrong"]:
        if is_json(row["found"]):
            slots = json.loads(row["found"])["slots"]
            assert all(value in row["prompt"] for value in slots.values())


def test_a_bundle_of_ours_teaches(tmp_path: Path) -> None:
    """Prompts without a completion get the teacher's; a broken teacher is an error."""
    teacher = TeacherSource("self", str(tiny_bundle(tmp_path / "t")), max_tokens=4)
    pairs = [Pair("the quick", "kept"), Pair("the lazy dog")]
    made = complete(pairs, teacher, tmp_path)
    assert made[0] == pairs[0]
    assert len(made) == 2 and made[1].completion
    broken = msgspec.structs.replace(teacher, source=str(tmp_path / "none"))
    with pytest.raises(RefusedError):
        complete(pairs, broken, tmp_path)
