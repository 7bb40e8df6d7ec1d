"""The parts of writing: what is asked, what is read out of an answer, who writes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from contracts.errors import InputError, RefusedError
from model_builder import cli
from model_builder.data.written import described
from model_builder.recipes.classify import load
from model_builder.recipes.written import WrittenConfig
from model_builder.teachers.kept import Kept
from model_builder.writing.authors import BundleAuthor
from model_builder.writing.checks import EncoderCheck
from model_builder.writing.lines import texts_of
from model_builder.writing.plan import Ask, nearest_labels, plan
from model_builder.writing.sift import (
    ALIKE,
    BLANK,
    EMPTY,
    LONG,
    NAMED,
    REPEATED,
    TWICE,
    Sieve,
    told,
)
from tests.model_builder.writing.endpoint import MEANINGS, THINGS
from tests.support.tiny_decoder import tiny_bundle

ROOT = Path(__file__).parents[3]
TWO = ["send it back", "my money, please"]


@pytest.mark.parametrize(
    "answer",
    [
        '{"texts": ["send it back", "my money, please"]}',
        '```json\n{"texts": ["send it back", "my money, please"]}\n```',
        'Sure, here they are: ["send it back", "my money, please"] Good luck!',
        '{"refund": {"note": "x"}, "texts": ["send it back", "my money, please"]}',
        '[{"text": "send it back"}, {"text": "my money, please"}]',
        '{"1": "send it back", "2": "my money, please"}',
        '{"texts": ["send it back", "my money, please", "and this was cut o',
        '{"texts": ["send it back",\n "my money, please",\n]}',
        "1. send it back\n2) my money, please",
        '- "send it back"\n* “my money, please”\n',
        '{"texts": ["1. send it  back", "\\"my money, please\\"", "", "  "]}',
    ],
)
def test_texts_are_read_out_of_whatever_a_model_wraps_them_in(answer: str) -> None:
    """JSON in any shape, cut off, with a fault, or a list with marks."""
    assert texts_of(answer) == TWO


@pytest.mark.parametrize(
    "answer",
    ["", "I cannot help with that.", "Here is one: refund", "{}", "[]", "[[[[", "{" * 9000, '"x"'],
)
def test_no_text_is_read_out_of_prose(answer: str) -> None:
    """An apology is no training text."""
    assert texts_of(answer) == []


def test_half_a_surrogate_pair_is_no_letter() -> None:
    """JSON can name one; UTF-8 cannot write it."""
    assert texts_of('["caf\\u00e9 \\ud83d now", "line\\none"]') == ["café now", "line one"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hello [Your Name], where is it", BLANK),
        ("i am from [location1]", BLANK),
        ("order {number} is late", BLANK),
        ("card <last four digits> is lost", BLANK),
        ("send it to ____ please", BLANK),
        ("it said [1] of 2", ""),
        ("Refund!", NAMED),
        ("the customer wants his money back", REPEATED),
        ("?! 12", EMPTY),
        ("money " * 60, LONG),
        ("my money, please", ""),
    ],
)
def test_a_text_of_no_use_is_left_out_for_what_it_is(text: str, why: str) -> None:
    """And the report can say so."""
    meanings = {**MEANINGS, "refund": "the customer wants his money back"}
    sieve = Sieve(meanings, {}, 300, 0.8)
    assert sieve.take("refund", text) == (not why)
    assert [one.why for one in told(sieve)] == ([why] if why else [])


class Nearness:
    """Nearness to labels that a text names by their numbers, the nearest first."""

    def __init__(self, count: int) -> None:
        self.labels = [str(number) for number in range(count)]

    def scores(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Less with each place."""
        rows = np.full((len(texts), len(self.labels)), -99, np.float32)
        for row, text in zip(rows, texts, strict=True):
            for place, number in enumerate(text.split()):
                row[int(number)] = -place
        return rows


@pytest.mark.parametrize(("count", "found"), [(8, [True, False]), (40, [True, True, False])])
def test_the_encoder_wants_the_label_to_be_the_nearest_or_of_many_near(
    count: int, found: list[bool]
) -> None:
    """With 40 labels it may be the second."""
    labels = ["3", "5", "7"][: len(found)]
    assert EncoderCheck(Nearness(count)).agrees(["3 5 7"] * len(found), labels) == found


def test_the_same_and_nearly_the_same_are_taken_once() -> None:
    """The same whatever its label; nearly the same within its label."""
    sieve = Sieve(MEANINGS, {"refund": ["give me the money back for this chair"]}, 300, 0.8)
    assert sieve.take("refund", "i would like to have my money back for the broken kettle")
    assert not sieve.take("delivery", "I would like to have my money back for the broken kettle!")
    assert not sieve.take("refund", "i would like to have my money back for that broken kettle")
    assert not sieve.take("refund", "give me the money back for this chair!")
    assert {one.why for one in told(sieve)} == {TWICE, ALIKE, REPEATED}


def config(**changes: object) -> WrittenConfig:
    """Of three labels."""
    fields = {"by": "openai:m", "labels": MEANINGS, "per_label": 30, **changes}
    return WrittenConfig(**fields)  # type: ignore[arg-type]


def test_requests_differ_in_how_to_write_and_are_the_same_for_the_same_seed() -> None:
    """Labels in turn, so that writing that ends early has some of each."""
    asks = plan(config(), MEANINGS, {}, 0, 7)
    assert asks == plan(config(), MEANINGS, {}, 0, 7)
    assert asks != plan(config(), MEANINGS, {}, 0, 8)
    assert [ask.label for ask in asks[:3]] == list(MEANINGS)
    assert len({ask.prompt for ask in asks}) == len(asks)
    assert sum(ask.lines for ask in asks if ask.label == "refund") >= 30


def test_what_is_there_is_not_asked_for_again() -> None:
    """It is shown, so that something else is written."""
    have = {"refund": ["send it back"] * 30, "praise": ["very nice"] * 29}
    asks = plan(config(), MEANINGS, have, 1, 7)
    assert "refund" not in {ask.label for ask in asks}
    (praise,) = (ask for ask in asks if ask.label == "praise")
    assert praise.lines == 2
    assert "- very nice" in praise.prompt


def test_a_request_keeps_away_from_the_labels_that_are_near() -> None:
    """Of many, those whose names and meanings share most."""
    many = {f"label_{n}": f"something about {word}" for n, word in enumerate("abcdefghijklm")}
    many |= {"card_lost": "the card was lost", "card_stolen": "the card was stolen"}
    near = nearest_labels(many, "card_lost")
    assert near[0] == "card_stolen"
    assert len(near) < len(many) - 1


def test_a_line_that_was_cut_short_costs_that_line_alone(tmp_path: Path) -> None:
    """What is added after a crash does not become a part of it."""
    file = tmp_path / "below" / "answers.jsonl"
    kept = Kept(file)
    kept.add({"key": "a"}, {"key": "b"})
    file.write_bytes(file.read_bytes()[:-4])
    kept.add({"key": "c"})
    assert [record["key"] for record in kept.records()] == ["a", "c"]


def test_a_bundle_of_ours_writes(tmp_path: Path) -> None:
    """Each answer as it comes; what cannot write says why."""
    author = BundleAuthor(tiny_bundle(tmp_path / "t"), 30, 1)
    asks = [Ask("a", prompt, n, 0, 1, 0.9) for n, prompt in enumerate(["the quick", "lazy dog"])]
    found: dict[str, list[str]] = {}
    author.write(asks, lambda ask, texts: found.update({ask.key: texts}))
    assert set(found) == {ask.key for ask in asks}
    assert any(itertools.chain(*found.values()))
    (tmp_path / "none").mkdir()
    with pytest.raises(RefusedError, match="could not write"):
        BundleAuthor(tmp_path / "none", 30, 1).write(asks, lambda ask, texts: None)


def test_init_writes_a_recipe_for_labels_with_descriptions(tmp_path: Path) -> None:
    """From the command line, or from a table; the recipe is one that a build reads."""
    recipe = tmp_path / "shop.yaml"
    given = ["--describe", "refund=wants money: back", "--describe", 'praise=says "good"']
    run = CliRunner().invoke
    done = run(
        cli.app,
        ["init", *given, "--by", "openai:m", "--url", "http://h/v1", "--about", "notes: to a shop",
         "--out", str(recipe)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    written = load(recipe).data.written
    assert written is not None
    assert written.labels == {"refund": "wants money: back", "praise": 'says "good"'}
    assert (written.about, written.endpoint.base_url) == ("notes: to a shop", "http://h/v1")
    table = tmp_path / "labels.csv"
    table.write_text("label,description\nrefund,wants money back\npraise,is pleased\n")
    assert described(table)
    recipe = tmp_path / "other.yaml"
    done = run(cli.app, ["init", str(table), "--by", "bundle:b", "--out", str(recipe)])
    assert done.exit_code == 0, done.output
    assert "labels.csv" in recipe.read_text("utf-8")
    for words, says in (
        (["init", str(table)], "--by openai:MODEL"),
        (["init", str(table), *given], "--describe"),
        (["init", "--describe", "refund"], "LABEL="),
        (["build", str(table), "--out", str(tmp_path / "out")], "shoal init"),
    ):
        failed = run(cli.app, words)
        assert isinstance(failed.exception, InputError)
        assert says in str(failed.exception)


def test_a_table_whose_texts_are_descriptions_is_one_of_texts(tmp_path: Path) -> None:
    """Tickets have a description each; their labels come again."""
    table = tmp_path / "tickets.csv"
    rows = [f"{'ab'[n % 2]},the {thing} is broken\n" for n, thing in enumerate(THINGS)]
    table.write_text("category,description\n" + "".join(rows))
    assert not described(table)
    recipe = tmp_path / "tickets.yaml"
    done = CliRunner().invoke(cli.app, ["init", str(table), "--out", str(recipe)])
    assert done.exit_code == 0, done.output
    assert load(recipe).data.columns.text == "description"


def test_the_example_of_descriptions_is_a_recipe() -> None:
    """It names its own settings right."""
    written = load(ROOT / "examples" / "from-descriptions.yaml").data.written
    assert written is not None
    assert written.checked_by == "writer"
