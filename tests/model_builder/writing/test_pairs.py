"""A model writes prompts and answers them, for a fine-tuning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from contracts.errors import InputError, RefusedError, ShoalError, UnavailableError
from model_builder import cli
from model_builder.generate.pairs import Pair, Split
from model_builder.recipes.tune import TuneRecipe, parse
from model_builder.teachers.base import silent
from model_builder.tune.data import load
from model_builder.writing.pairs import WrittenPairs
from tests.model_builder.writing.endpoint import THINGS, Writer, said, serving

SECRET = "sk-never-to-be-seen"
EXAMPLES = [
    {"prompt": "put a saw on the list", "completion": '{"add": "saw"}'},
    {"prompt": "i also need nails", "completion": '{"add": "nails"}'},
]
WAYS = ("please buy a {}", "{} goes on the list", "we are out of every {}", "do not forget my {}")


class Pairs(Writer):
    """Writes prompts about a shopping list, and answers each in JSON."""

    def _content(self, prompt: str) -> Any:
        count = int(prompt.rpartition("Write ")[2].split()[0])
        return {"texts": [self._prompt() for _ in range(count)]}

    def _prompt(self) -> str:
        number = self._given[""] = self._given.get("", -1) + 1
        return WAYS[number % 4].format(THINGS[number // 4 % len(THINGS)])

    def reply(self, body: dict[str, Any]) -> Any:
        """Prompts are asked for as JSON, answers as they are."""
        if "response_format" in body:
            return super().reply(body)
        with self._lock:
            self.asked.append(body)
            fixed = self.always(body)
        if fixed is not None:
            return fixed
        return said(json.dumps({"add": body["messages"][1]["content"].split()[-1]}))

    @property
    def answered(self) -> list[str]:
        """The prompts that were answered."""
        return [b["messages"][1]["content"] for b in self.asked if "response_format" not in b]


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pairs]:
    """A served writer, and the key in the environment."""
    monkeypatch.setenv("TEST_KEY", SECRET)
    with serving(Pairs()) as served:
        assert isinstance(served, Pairs)
        yield served


def recipe_of(writer: Pairs, written: Any = None, data: Any = None) -> TuneRecipe:
    """A recipe whose pairs are written."""
    document = {
        "name": "list",
        "version": "1.0.0",
        "task": "generate",
        "student": {"base": "base.gguf"},
        "data": {
            "written": {
                "by": "openai:some-model",
                "about": "turns what is said about a shopping list into JSON",
                "examples": EXAMPLES,
                "count": 40,
                "alike": 0.97,
                "endpoint": {"base_url": writer.base_url, "api_key_env": "TEST_KEY",
                             "concurrency": 1, "retries": 1},
                **(written or {}),
            },
            **(data or {}),
        },
    }  # fmt: skip
    return parse(document, Path("recipe.yaml"))[0]


def run(recipe: TuneRecipe, folder: Path) -> tuple[list[Pair], WrittenPairs]:
    """All pairs, and what the writing says of itself."""
    split, made = load(recipe, folder, folder / "cache", silent)
    assert made is not None
    return everything(split), made


def everything(split: Split) -> list[Pair]:
    """Pairs of all splits."""
    return [*split.train, *split.validation, *split.test]


def code_of(recipe: TuneRecipe, folder: Path, kind: type[ShoalError]) -> str:
    """Of the error that writing ends with."""
    with pytest.raises(kind) as caught:
        run(recipe, folder)
    assert SECRET not in str(caught.value)
    return caught.value.code


def test_prompts_are_written_and_answered(writer: Pairs, tmp_path: Path) -> None:
    """The teacher is told what to do and sees the examples; the student has the prompt alone."""
    pairs, made = run(recipe_of(writer), tmp_path)
    assert len(pairs) == 42, "the examples are learned too"
    assert len({pair.prompt for pair in pairs}) == 42
    for pair in pairs:
        assert set(json.loads(pair.completion)) == {"add"}
    asked = next(body for body in writer.asked if "response_format" not in body)
    assert "shopping list" in asked["messages"][0]["content"]
    assert "i also need nails" in asked["messages"][0]["content"]
    assert asked["temperature"] == 0
    assert made.facts["pairs"] == 40
    assert any("no pair by hand" in warning for warning in made.warnings)


def test_a_second_run_asks_nothing_and_gives_the_same_pairs(writer: Pairs, tmp_path: Path) -> None:
    """Prompts and answers are kept as they come, without the key."""
    first = run(recipe_of(writer), tmp_path)[0]
    asked = len(writer.asked)
    assert run(recipe_of(writer), tmp_path)[0] == first
    assert len(writer.asked) == asked
    kept = b"".join(path.read_bytes() for path in (tmp_path / "cache").iterdir())
    assert SECRET.encode() not in kept


def test_prompts_of_a_person_are_answered_and_their_answers_kept(
    writer: Pairs, tmp_path: Path
) -> None:
    """Distillation of one's own prompts: nothing else is written, no answer is asked for twice."""
    rows = [{"prompt": f"bring the {thing}"} for thing in THINGS]
    rows.append({"prompt": "what is there", "completion": '{"show": true}'})
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs, made = run(recipe_of(writer, {"count": 0}, {"path": "own.jsonl"}), tmp_path)
    answers = {pair.prompt: pair.completion for pair in pairs}
    assert answers["bring the lamp"] == '{"add": "lamp"}'
    assert answers["what is there"] == '{"show": true}'
    assert len(pairs) == len(THINGS) + 1 + 2
    assert sorted(writer.answered) == sorted(row["prompt"] for row in rows[:-1])
    assert made.facts["asked_for"] == len(THINGS)


def test_answers_of_another_kind_than_the_examples_are_left_out(
    writer: Pairs, tmp_path: Path
) -> None:
    """No JSON where all examples are, empty ones, and those that were cut off."""

    def odd(body: dict[str, Any]) -> Any:
        if "response_format" in body:
            return None
        prompt = body["messages"][1]["content"]
        if "chair" in prompt:
            return said("Sure, a chair!")
        if "kettle" in prompt:
            return said('{"add": "kettle"}', finish_reason="length")
        return None

    writer.always = odd
    pairs, made = run(recipe_of(writer), tmp_path)
    assert not any("chair" in pair.prompt or "kettle" in pair.prompt for pair in pairs)
    reasons = {one["why"]: one["texts"] for one in made.facts["left_out"]}
    assert reasons["an answer that is no JSON"] >= 1
    assert reasons["no answer, or one that is too long"] >= 1
    assert any("pairs were written" in warning for warning in made.warnings)


def test_pairs_go_on_where_an_endpoint_failed_or_a_budget_ended(
    writer: Pairs, tmp_path: Path
) -> None:
    """Nothing that was answered is asked again."""
    writer.always = lambda _: (500, b"oops", {}) if len(writer.asked) > 20 else None
    assert code_of(recipe_of(writer), tmp_path, UnavailableError) == "endpoint-failed"
    writer.always = lambda _: None
    there = set(writer.answered[:-2])
    writer.asked.clear()
    bound = recipe_of(writer, {"max_requests": 23})
    assert code_of(bound, tmp_path, RefusedError) == "over-budget"
    assert len(writer.asked) == 3
    pairs, _ = run(recipe_of(writer), tmp_path)
    assert len(pairs) == 42
    assert not there & set(writer.answered)


@pytest.mark.parametrize(
    ("written", "data", "says"),
    [
        ({"by": "gpt"}, {}, "openai:MODEL"),
        ({"answered_by": "somebody"}, {}, "answered_by"),
        ({"about": " "}, {}, "about"),
        ({}, {"kind": "home-commands"}, "kind: pairs"),
        ({"examples": "none.csv"}, {}, "none.csv"),
        ({"answered_by": "bundle:none"}, {}, "no bundle"),
        ({"endpoint": {}}, {}, "base_url"),
    ],
)
def test_a_recipe_that_cannot_be_written_for_says_what_to_change(
    writer: Pairs, tmp_path: Path, written: Any, data: Any, says: str
) -> None:
    """Before a prompt is asked for."""
    with pytest.raises(InputError, match=says):
        run(recipe_of(writer, written, data), tmp_path)
    assert not writer.asked


def test_the_command_wants_pairs_or_somebody_who_writes_them(tmp_path: Path) -> None:
    """One of the two, and what goes with it."""
    for words, says in (
        (["tune"], "--by"),
        (["tune", "--about", "a list"], "--by"),
        (["tune", "--by", "openai:m", "--url", "http://h/v1", "--out", str(tmp_path)], "about"),
    ):
        failed = CliRunner().invoke(cli.app, words)
        assert isinstance(failed.exception, InputError)
        assert says in str(failed.exception)
