"""Pairs of one's own: what cannot be used is one error with its row, and nothing is written."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.errors import InputError
from model_builder.generate import data as pair_data
from model_builder.generate.answers import as_answer
from model_builder.generate.data import load_data
from model_builder.generate.pairs import Pair, read_pairs
from model_builder.generate.value_grammar import output_grammar
from model_builder.recipes.generate import load
from tests.model_builder.generate.test_value_grammar import can_write

RECIPE = """
name: mine
version: 1.0.0
task: generate
data: {kind: pairs, path: pairs.jsonl}
student: {vocabulary: 300, layers: 1, width: 32, hidden: 48, heads: 2, context: 64}
train: {steps: 4, batch: 4, evaluate_every: 2, warmup: 1}
"""
PROMPT = "turn on the lamp in the attic"


def line(prompt: str, completion: object) -> str:
    """A row of JSONL."""
    return json.dumps({"prompt": prompt, "completion": completion}) + "\n"


def answer(intent: object = "TurnOn", **slots: object) -> str:
    """A completion as one would write it."""
    return json.dumps({"intent": intent, "slots": slots})


GOOD = "".join(line(f"say {i}", f"it is {i}") for i in range(12))


@pytest.mark.parametrize(
    "completion",
    ["on", "[]", "{}", '{"intent": "a"}', '{"intent": "a", "slots": []}', answer(1), answer(x=7),
     '{"intent": "a", "slots": {}, "more": 1}', answer('a"b'), answer(""), '{"slots": {}}',
     answer(**{'a"b': "lamp"}), answer(area="tic"), answer(area="cellar"), answer(area=""),
     answer(area=" attic"), "[" * 100_000],
)  # fmt: skip
def test_a_completion_that_the_grammar_cannot_write_names_its_row(
    tmp_path: Path, completion: str
) -> None:
    """Not an answer, or a value that is not in the prompt: before anything is trained."""
    (tmp_path / "r.yaml").write_text(RECIPE + "constrain: prompt-values\n")
    good = line(PROMPT, answer(area="attic"))
    (tmp_path / "pairs.jsonl").write_text(
        good + "\n" + line("the lamp in the attic", completion[:9000])
    )
    recipe, _ = load(tmp_path / "r.yaml", [])
    with pytest.raises(InputError, match=r"pairs\.jsonl, row 3: ") as raised:
        load_data(recipe, tmp_path)
    assert raised.value.code == "bad-data"
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(
    ("prompt", "value"),
    [(PROMPT, "lamp"), (PROMPT, "the lamp in"), (PROMPT, "tic"), (PROMPT, "lamp  in"),
     ("set it to 20.5°", "20.5"), ("set it to 20%", "20"), ("set it to 9400k", "9400"),
     ("set it to 9400k", "94"), ("das größte licht", "größte"), ("das größte licht", "öß"),
     ('say "hi" now', "hi"), ('say "hi" now', '"hi"'), ("a_b c", "a_b"), ("a_b c", "a"),
     ("don't go", "don't"), ("don't go", "don"), ("a\nb", "a\nb"), ("a\tb", "a b")],
)  # fmt: skip
def test_a_value_passes_if_the_grammar_can_write_it(prompt: str, value: str) -> None:
    """The builder and the agent cut a prompt alike."""
    pair = Pair(prompt, answer(area=value))
    try:
        checked = as_answer(pair)
    except InputError:
        written = json.dumps(json.loads(pair.completion), separators=(",", ":"), ensure_ascii=False)
        known = as_answer(Pair(PROMPT, answer(area="lamp")))
        assert not can_write(output_grammar([known]), written, prompt)
    else:
        assert can_write(output_grammar([checked]), checked.completion, prompt)


def test_completions_are_learnt_as_the_grammar_writes_them() -> None:
    """Spaces and another order would be forbidden when it answers."""
    pair = Pair(PROMPT, '{ "slots": {"name": "lamp", "area": "attic"}, "intent": "TurnOn" }')
    expected = '{"intent":"TurnOn","slots":{"area":"attic","name":"lamp"}}'
    assert as_answer(pair) == Pair(PROMPT, expected)


def test_what_a_teacher_writes_otherwise_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad answer of a thousand does not end a build; its number is told."""
    (tmp_path / "r.yaml").write_text(
        RECIPE + "constrain: prompt-values\nteacher: {kind: self, source: x}\n"
    )
    (tmp_path / "pairs.jsonl").write_text("".join(line(f"lamp {i}", "") for i in range(30)))
    written = [Pair(f"lamp {i}", answer(name="lamp") if i else "Sorry!") for i in range(30)]
    monkeypatch.setattr(pair_data, "complete", lambda *_: written)
    recipe, _ = load(tmp_path / "r.yaml", [])
    told: list[str] = []
    split = load_data(recipe, tmp_path, told.append)
    assert len(split.train + split.validation + split.test) == 29
    assert "left out 1 " in told[-1]


def test_a_spreadsheet_is_read(tmp_path: Path) -> None:
    """With the byte order mark that some put first."""
    (tmp_path / "p.csv").write_bytes(b"\xef\xbb\xbfprompt,completion\na,b\n")
    assert read_pairs(tmp_path / "p.csv") == [Pair("a", "b")]


WRONG: dict[str, tuple[str, str | bytes, str, str]] = {
    "an empty file": ("pairs.jsonl", "", "", "has no rows"),
    "no completion": ("pairs.jsonl", GOOD + '{"prompt": "x"}\n', "", "row 13: no completion"),
    "not UTF-8": ("pairs.jsonl", b'{"prompt": "\xff"}\n', "", "can't decode byte 0xff"),
    "half a character": ("pairs.jsonl", GOOD + line("x", "\ud800"), "", "row 13: the completion"),
    "two answers": ("pairs.jsonl", GOOD + line("say 3", "no"), "", "row 13: the prompt of row 4"),
    "a long pair": ("pairs.jsonl", GOOD + line("long " * 99, "x"), "", "student.context is 64"),
    "a very long completion": ("pairs.jsonl", GOOD + line("x", "y" * 99_999), "", "row 13: the"),
    "no steps": ("pairs.jsonl", GOOD, "train.steps=0", "train.steps: expected"),
    "two pairs": ("pairs.jsonl", line("a", "b") + line("c", "d"), "", "too few to split"),
    "a split that is not for pairs": ("pairs.jsonl", GOOD, "data.test=100", "data.test is for"),
    "an unknown key": ("pairs.jsonl", GOOD, "colour=red", "unknown key colour; known here: name"),
    "a folder": ("pairs.jsonl/x", GOOD, "", "no such data file"),
    "CSV with other columns": ("p.csv", "a,b\n1,2\n", "data.path=p.csv", "no column 'prompt'"),
    "CSV with a field too many": (
        "p.csv", "prompt,completion\na,b,c\n", "data.path=p.csv", "row 1: more fields"
    ),
    "CSV with an open quote": ("p.csv", 'prompt,completion\n"a,b\n', "data.path=p.csv", "row 1"),
    "a broken line": ("pairs.jsonl", GOOD + "{\n", "", "row 13: broken"),
    "an output that is a file": ("pairs.jsonl", GOOD, "OUT", "is no folder"),
}  # fmt: skip

_BUILD = """
import sys
from model_builder.cli import main
try:
    main()
finally:
    print("tensorflow" in sys.modules)
"""


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_input_is_one_line_and_leaves_nothing(tmp_path: Path, fault: str) -> None:
    """Exit code 2, no traceback, no file, and no wait for TensorFlow."""
    name, content, change, said = WRONG[fault]
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "r.yaml").write_text(RECIPE)
    out = file if change == "OUT" else tmp_path / "out"
    arguments = ["build", "r.yaml", "--out", str(out)]
    arguments += ["--set", change] if "=" in change else []
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert said in done.stderr
    assert done.stdout == "False\n"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("row", "pair"),
    [
        (
            {"instruction": "translate", "input": "cat", "output": "chat"},
            ("translate\n\ncat", "chat"),
        ),
        ({"instruction": "say hello", "input": "", "output": "hello"}, ("say hello", "hello")),
        (
            {"instruction": "who", "context": "Ada wrote it", "response": "Ada", "category": "qa"},
            ("who\n\nAda wrote it", "Ada"),
        ),
        ({"Question": "how far", "Answer": "a mile"}, ("how far", "a mile")),
        ({"prompt": "a", "response": "b", "input": "c"}, ("a", "b")),
        ({"input": "a", "output": "b"}, ("a", "b")),
    ],
)
def test_pairs_are_read_as_public_sets_name_them(
    row: dict[str, str], pair: tuple[str, str], tmp_path: Path
) -> None:
    """Alpaca's, Dolly's, questions with answers; an input belongs to its instruction."""
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "p.json").write_text(json.dumps([row]))
    with (tmp_path / "p.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, row)
        table.writeheader()
        table.writerow(row)
    for suffix in ("jsonl", "json", "csv"):
        assert read_pairs(tmp_path / f"p.{suffix}") == [Pair(*pair)]


def test_a_row_without_a_prompt_by_any_name_is_refused(tmp_path: Path) -> None:
    """Whatever else it has."""
    (tmp_path / "p.jsonl").write_text('{"text": "a", "answer": "b"}\n')
    with pytest.raises(InputError, match=r"row 1: .*prompt"):
        read_pairs(tmp_path / "p.jsonl")
