"""A model writes training text for labels that have none, and what goes wrong with that.

Over 400 lines: one scripted endpoint, and all that may go wrong with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import InputError, RefusedError, ShoalError, UnavailableError
from model_builder.classify.build import build
from model_builder.classify.described import how_measured
from model_builder.data.dataset import prepare
from model_builder.data.written import Written
from model_builder.recipes.classify import load
from model_builder.teachers.base import silent
from model_builder.writing.write import write
from tests.model_builder.writing.endpoint import (
    MEANINGS,
    Writer,
    labelled,
    said,
    serving,
    write_written,
)

ROOT = Path(__file__).parents[3]
SECRET = "sk-never-to-be-seen"


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    """A served writer, and the key in the environment."""
    monkeypatch.setenv("TEST_KEY", SECRET)
    with serving(Writer()) as served:
        yield served


def run(recipe: Path, pauses: list[float] | None = None) -> Written:
    """Writes for a recipe, and never really pauses."""
    waits = pauses if pauses is not None else []
    return write(load(recipe), recipe.parent / "cache", silent, waits.append)


def code_of(recipe: Path, kind: type[ShoalError]) -> tuple[str, str]:
    """Code and message of the error that writing ends with."""
    with pytest.raises(kind) as caught:
        run(recipe)
    return caught.value.code, str(caught.value)


def test_each_label_gets_as_many_texts_as_were_asked_for(writer: Writer, tmp_path: Path) -> None:
    """All different, each as its label means, by requests that differ in how to write."""
    made = run(write_written(tmp_path, writer))
    assert Counter(row.label for row in made.rows) == dict.fromkeys(MEANINGS, 24)
    assert len({row.text for row in made.rows}) == 72
    assert all(labelled(row.text) == row.label for row in made.rows)
    assert len({body["messages"][1]["content"] for body in writer.wrote}) == len(writer.wrote)
    for body in writer.wrote:
        prompt = body["messages"][1]["content"]
        assert "messages to a shop" in prompt
        assert "tone: " in prompt
        assert body["temperature"] == 1.0
    facts = made.facts
    assert (facts["texts"], facts["asked_for"]) == (72, 72)
    assert facts["agreed"] == facts["checked"] >= 72
    assert facts["requests"] == len(writer.asked)
    assert facts["tokens_read"] == 100 * len(writer.asked)


def test_a_second_run_asks_nothing_and_writes_the_same(writer: Writer, tmp_path: Path) -> None:
    """Every answer is kept, and no key is: not in what is kept, nor in what is told."""
    recipe = write_written(tmp_path, writer)
    first = run(recipe)
    asked = len(writer.asked)
    assert run(recipe) == first
    assert len(writer.asked) == asked
    assert set(writer.keys) == {f"Bearer {SECRET}"}
    kept = b"".join(path.read_bytes() for path in (tmp_path / "cache").iterdir())
    assert SECRET.encode() not in kept
    assert SECRET not in json.dumps(first.facts)


def test_figures_on_written_text_are_called_that(writer: Writer, tmp_path: Path) -> None:
    """Without real rows that is the first thing in the report, and in the headline."""
    recipe = load(write_written(tmp_path, writer))
    dataset = prepare(recipe, run(tmp_path / "recipe.yaml"))
    assert "no real text was measured" in dataset.summary()["warnings"][0]
    assert how_measured(recipe, "on the test split of 18 rows", 18) == (
        "on the test split of 18 rows, on text that openai:some-model wrote"
    )


def test_real_rows_are_what_a_build_from_descriptions_is_judged_by(
    writer: Writer, tmp_path: Path
) -> None:
    """They alone, however few; the page shows what was written, and no file has the key."""
    rows = [
        ("give me back my money for the kettle", "refund"),
        ("the lamp never arrived", "delivery"),
        ("thank you, a lovely tent", "praise"),
        ("has my parcel been sent", "delivery"),
    ]
    lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in rows]
    (tmp_path / "real.jsonl").write_text("".join(lines), encoding="utf-8")
    recipe = write_written(tmp_path, writer, data={"test": "real.jsonl"}, evaluation={"folds": 5})
    result = build(load(recipe), tmp_path / "out", silent)
    report = result.report
    assert report["headline"]["rows"] == 4
    assert report["headline"]["how"].startswith("on 4 real rows of real.jsonl")
    assert not any("no real text" in warning for warning in report["data"]["warnings"])
    assert report["data"]["written"]["by_label"] == dict.fromkeys(MEANINGS, 24)
    assert "What it was taught with" in result.report_html.read_text("utf-8")
    texts = (tmp_path / "out" / "shop-1.0.0-written.jsonl").read_text("utf-8").splitlines()
    assert Counter(json.loads(line)["label"] for line in texts) == dict.fromkeys(MEANINGS, 24)
    everything = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert all(SECRET.encode() not in path.read_bytes() for path in everything)


def test_texts_of_one_answer_stay_on_one_side_of_the_split(writer: Writer, tmp_path: Path) -> None:
    """They are kin, and on both sides they would flatter the figures."""
    recipe = write_written(tmp_path, writer, {"lines": 3})
    dataset = prepare(load(recipe), run(recipe))
    learned = set(dataset.train.groups)
    assert learned
    assert "" not in learned
    assert learned.isdisjoint(dataset.test.groups)


def test_examples_and_real_rows_are_learned_beside_what_is_written(
    writer: Writer, tmp_path: Path
) -> None:
    """Examples are shown to the writer; rows of a table are not."""
    lines = [
        json.dumps({"text": f"private sentence {n} of {label}", "label": label}) + "\n"
        for label in MEANINGS
        for n in ("one", "two", "three")
    ]
    (tmp_path / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    recipe = write_written(
        tmp_path,
        writer,
        {"examples": {"refund": ["my cash back, now"]}},
        data={"train": "rows.jsonl"},
    )
    dataset = prepare(load(recipe), run(recipe))
    texts = [*dataset.train.texts, *dataset.validation.texts, *dataset.test.texts]
    assert "my cash back, now" in texts
    assert sum("private sentence" in text for text in texts) == 9
    sent = json.dumps(writer.asked)
    assert "my cash back, now" in sent
    assert "private sentence" not in sent


def test_what_the_writer_itself_would_label_otherwise_is_left_out(
    writer: Writer, tmp_path: Path
) -> None:
    """Those texts are asked for again, and the report says which labels are torn."""

    def praise_for_refunds(body: dict[str, Any]) -> Any:
        prompt = body["messages"][1]["content"]
        if "Label: refund" in prompt and len(writer.wrote) < 9:
            return said(json.dumps({"texts": [f"the {n} is wonderful" for n in "abcdef"]}))
        return None

    writer.always = praise_for_refunds
    made = run(write_written(tmp_path, writer))
    assert all(labelled(row.text) == row.label for row in made.rows)
    assert made.facts["agreed"] < made.facts["checked"]
    assert "has another label by the check" in [one["why"] for one in made.facts["left_out"]]


def test_a_writer_that_repeats_itself_is_told_on(writer: Writer, tmp_path: Path) -> None:
    """Copies do not count, asking ends when nothing new comes, and the reason is named."""

    def same(body: dict[str, Any]) -> Any:
        if "Label: " in body["messages"][1]["content"]:
            return said('{"texts": ["i want my money back", "I want my money back!", "[Name]"]}')
        return None

    writer.always = same
    code, message = code_of(write_written(tmp_path, writer), RefusedError)
    assert code == "too-little-written"
    assert "written before" in message
    assert "has a blank to fill in" in message
    assert len(writer.wrote) < 40


@pytest.mark.parametrize(
    "content", ["Sure! I would love to help.", "", "I cannot do that.\nSorry.", '{"texts": []}']
)
def test_a_model_that_writes_no_list_is_given_up_after_three_answers(
    writer: Writer, tmp_path: Path, content: str
) -> None:
    """One error that shows what it said; nothing of it is kept as an answer."""
    writer.always = lambda body: said(content)
    recipe = write_written(
        tmp_path, writer, {"endpoint": {"base_url": writer.base_url, "api_key_env": "TEST_KEY",
                                        "concurrency": 1}},
    )  # fmt: skip
    code, message = code_of(recipe, RefusedError)
    assert code == "bad-answer"
    assert content[:12] in message
    assert len(writer.asked) == 3
    writer.always = lambda body: None
    assert len(run(recipe).rows) == 72


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (404, b'{"error": {"message": "The model does not exist"}}', "The model does not exist"),
        (401, f"wrong key {SECRET}".encode(), "wrong key"),
        (400, b"no such thing", "HTTP 400"),
    ],
)
def test_a_wrong_model_or_key_is_one_error_at_once(
    writer: Writer, tmp_path: Path, status: int, body: bytes, says: str
) -> None:
    """It would be as wrong again; the key that an endpoint repeats is not shown."""
    writer.always = lambda _: (status, body, {})
    code, message = code_of(write_written(tmp_path, writer), RefusedError)
    assert code == "endpoint-refused"
    assert says in message
    assert SECRET not in message
    assert len(writer.asked) <= 8


def test_an_endpoint_that_is_not_there_is_one_error_at_once(tmp_path: Path, writer: Writer) -> None:
    """Without waiting for it to come."""
    recipe = write_written(tmp_path, writer, {"endpoint": {"base_url": "http://127.0.0.1:9/v1",
                                                           "api_key_env": ""}})  # fmt: skip
    pauses: list[float] = []
    with pytest.raises(UnavailableError, match=r"data\.written\.endpoint\.base_url"):
        run(recipe, pauses)
    assert not pauses


def test_a_busy_endpoint_is_given_the_time_that_it_asks_for(writer: Writer, tmp_path: Path) -> None:
    """``Retry-After`` in seconds, and faults of the server in between."""
    writer.faults = [
        (429, b"slow down", {"Retry-After": "7"}),
        (500, b"oops", {}),
        (200, b'{"choices": [{"mess', {}),
    ]
    pauses: list[float] = []
    recipe = write_written(
        tmp_path, writer, {"endpoint": {"base_url": writer.base_url, "api_key_env": "TEST_KEY",
                                        "concurrency": 1}},
    )  # fmt: skip
    assert len(run(recipe, pauses).rows) == 72
    assert pauses == [7.0, 2.0, 4.0]


def test_an_endpoint_that_knows_fewer_settings_is_asked_without_them(
    writer: Writer, tmp_path: Path
) -> None:
    """A refusal that names a setting which is not needed is no refusal of the text."""

    def strict(body: dict[str, Any]) -> Any:
        if "response_format" in body:
            return 400, b'{"error": "response_format is not supported"}', {}
        return None

    writer.always = strict
    assert len(run(write_written(tmp_path, writer)).rows) == 72
    assert "response_format" not in writer.asked[-1]


def test_what_a_model_thinks_aloud_is_no_text(writer: Writer, tmp_path: Path) -> None:
    """It may hold lists of its own before the answer."""

    def thinking(body: dict[str, Any]) -> Any:
        status, data, headers = writer.answer(body)
        document = json.loads(data)
        message = document["choices"][0]["message"]
        message["content"] = f'<think>Maybe ["no", "this"]?</think>\n{message["content"]}'
        return status, json.dumps(document).encode(), headers

    writer.always = thinking
    made = run(write_written(tmp_path, writer))
    assert len(made.rows) == 72
    assert "no" not in {row.text for row in made.rows}


def test_an_endpoint_that_fails_half_way_keeps_what_it_wrote(
    writer: Writer, tmp_path: Path
) -> None:
    """The next run asks only for what is missing."""
    recipe = write_written(
        tmp_path, writer, {"endpoint": {"base_url": writer.base_url, "api_key_env": "TEST_KEY",
                                        "concurrency": 1, "retries": 1}},
    )  # fmt: skip
    writer.always = lambda _: (500, b"oops", {}) if len(writer.asked) > 5 else None
    code, message = code_of(recipe, UnavailableError)
    assert code == "endpoint-failed"
    assert "HTTP 500" in message
    writer.always = lambda _: None
    writer.asked.clear()
    whole = run(recipe)
    assert len(whole.rows) == 72
    assert len(writer.wrote) == 15 - 5, "five answers were there"


def test_a_budget_ends_the_writing_and_says_what_there_is(writer: Writer, tmp_path: Path) -> None:
    """Too little is an error that a larger budget goes on from; enough is a build with a note."""
    recipe = write_written(tmp_path, writer, {"max_requests": 3})
    code, message = code_of(recipe, RefusedError)
    assert code == "over-budget"
    assert "3 requests" in message
    assert len(writer.asked) == 3
    recipe = write_written(tmp_path, writer, {"max_requests": 12})
    made = run(recipe)
    assert len(writer.asked) == 12, "over all runs"
    assert all(10 <= n <= 24 for n in made.facts["by_label"].values())
    assert any("12 requests is spent" in warning for warning in made.warnings)


def test_a_budget_of_tokens_or_money_is_kept_too(writer: Writer, tmp_path: Path) -> None:
    """Of 150 tokens an answer, as the endpoint counts them."""
    one = {"base_url": writer.base_url, "api_key_env": "TEST_KEY", "concurrency": 1}
    code, message = code_of(
        write_written(tmp_path, writer, {"max_tokens": 300, "endpoint": one}), RefusedError
    )
    assert (code, len(writer.asked)) == ("over-budget", 2)
    assert "300 tokens" in message
    priced = {**one, "price_per_million": [1e6, 1e6], "max_cost": 600}
    recipe = write_written(tmp_path, writer, {"endpoint": priced})
    assert code_of(recipe, RefusedError)[0] == "over-budget"
    assert len(writer.asked) == 4


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ({"by": "gpt"}, "openai:MODEL or bundle:FOLDER"),
        ({"by": "bundle:nowhere", "check": "none"}, "no bundle"),
        ({"labels": {"refund": "money back"}}, "2 to"),
        ({"labels": {"a": "the same", "b": "The same"}}, "one description"),
        ({"examples": {"refnud": ["money"]}}, "refnud"),
        ({"attributes": {"tone": []}}, "tone"),
        ({"labels": "none.csv"}, "none.csv"),
        ({"endpoint": {"api_key_env": "TEST_KEY"}}, "data.written.endpoint.base_url"),
        ({"endpoint": {"base_url": "http://127.0.0.1:9/v1", "api_key_env": "UNSET"}}, "UNSET"),
        ({"check": "encoder"}, "teacher.source"),
    ],
)
def test_a_recipe_that_cannot_be_written_for_is_refused_before_anything_is_asked(
    writer: Writer, tmp_path: Path, written: Any, says: str
) -> None:
    """With what to change."""
    with pytest.raises(InputError, match=says):
        run(write_written(tmp_path, writer, written))
    assert not writer.asked


def test_labels_may_stand_in_a_table(writer: Writer, tmp_path: Path) -> None:
    """As a spreadsheet has them; a label without a description means its name."""
    (tmp_path / "labels.csv").write_text(
        "Label;Description\nrefund;the customer wants money back\ndelivery;\npraise;is pleased\n"
    )
    made = run(write_written(tmp_path, writer, {"labels": "labels.csv"}))
    assert made.meanings == {
        "refund": "the customer wants money back",
        "delivery": "delivery",
        "praise": "is pleased",
    }


def test_text_in_another_language_is_told(writer: Writer, tmp_path: Path) -> None:
    """The texts are kept: a guess at a language may be wrong."""
    made = run(write_written(tmp_path, writer, {"language": "de"}))
    assert any("were to be in 'de'" in warning for warning in made.warnings)


def test_a_build_that_is_killed_while_it_writes_asks_for_no_answer_twice(
    writer: Writer, tmp_path: Path
) -> None:
    """Killed without warning as an answer comes; the next run asks for those that are missing."""
    recipe = write_written(
        tmp_path, writer, {"endpoint": {"base_url": writer.base_url, "api_key_env": "TEST_KEY",
                                        "concurrency": 1}},
    )  # fmt: skip
    reached, free = threading.Event(), threading.Event()

    def held(body: dict[str, Any]) -> None:
        if len(writer.asked) == 7:
            reached.set()
            free.wait()

    writer.always = held
    script = (
        "import sys; from pathlib import Path\n"
        "from model_builder.recipes.classify import load\n"
        "from model_builder.writing.write import write\n"
        "write(load(Path(sys.argv[1])), Path(sys.argv[2]), lambda *_: None)\n"
    )
    arguments = [sys.executable, "-c", script, str(recipe), str(tmp_path / "cache")]
    with subprocess.Popen(arguments, cwd=ROOT) as process:
        try:
            while not reached.wait(1):
                assert process.poll() is None, "it ended before it was to be killed"
            os.kill(process.pid, signal.SIGKILL)
        finally:
            process.kill()
            free.set()
    before = [body["messages"][1]["content"] for body in writer.wrote[:6]]
    assert len(before) == 6
    writer.always = lambda body: None
    writer.asked.clear()
    made = run(recipe)
    assert len(made.rows) == 72
    asked = [body["messages"][1]["content"] for body in writer.wrote]
    assert not set(asked) & set(before)
    assert len(asked) == 15 - 6
