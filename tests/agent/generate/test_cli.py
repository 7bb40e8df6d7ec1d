"""``shoal generate`` as somebody uses it who means no good, or mistypes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.__main__ import main

WRONG: dict[str, tuple[list[str], str]] = {
    "empty prompt": ([""], "empty"),
    "prompt beyond the context": (["fox " * 400], "tokens"),
    "prompt beyond the cap": (["x" * 16385], "16384"),
    "prompt that is no UTF-8": (["\udcff"], "UTF-8"),
    "system message that is no UTF-8": (["a", "--system", "\udcff"], "UTF-8"),
    "stop that is no UTF-8": (["a", "--stop", "\udcff"], "UTF-8"),
    "regex that is no UTF-8": (["a", "--regex", "\udcff"], "UTF-8"),
    "stops without end": (["a", *["--stop=x"] * 1_000], "16"),
    "temperature nan": (["a", "--temperature", "nan"], "temperature"),
    "temperature inf": (["a", "--temperature", "inf"], "temperature"),
    "temperature 1e308": (["a", "--temperature", "1e308"], "temperature"),
    "temperature -1": (["a", "--temperature", "-1"], "temperature"),
    "top-p nan": (["a", "--top-p", "nan"], "top_p"),
    "top-k 1e30": (["a", "--top-k", str(10**30)], "top_k"),
    "penalty nan": (["a", "--repetition-penalty", "nan"], "repetition_penalty"),
    "seed 1e30": (["a", "--seed", str(10**30)], "seed"),
    "seed -1": (["a", "--seed", "-1"], "seed"),
    "no tokens": (["a", "--max-tokens", "0"], "max_tokens"),
    "tokens 1e30": (["a", "--max-tokens", str(10**30)], "max_tokens"),
    "time nan": (["a", "--max-time", "nan"], "--max-time"),
    "time inf": (["a", "--max-time", "inf"], "--max-time"),
    "time 1e308": (["a", "--max-time", "1e308"], "--max-time"),
    "time -1": (["a", "--max-time", "-1"], "max_time_ms"),
    "logprobs 21": (["a", "--logprobs", "21"], "logprobs"),
    "logprobs -1": (["a", "--logprobs", "-1"], "logprobs"),
    "schema without end": (["a", "--json-schema", "/dev/zero"], "bytes"),
    "schema that is a folder": (["a", "--json-schema", "/"], "schema"),
    "tools without end": (["a", "--tools", "/dev/zero"], "bytes"),
    "tools that are a folder": (["a", "--tools", "/"], "tools"),
    "tools that are no list": (["a", "--tools", "{number}"], "list of functions"),
    "tools that are no functions": (["a", "--tools", "{texts}"], "list of functions"),
    "tools without functions": (["a", "--tools", "{empty}"], "tools[0]"),
    "template arguments that are no JSON": (["a", "--chat-template-kwargs", "{"], "no JSON"),
    "template arguments that are deep": (
        ["a", "--chat-template-kwargs", "[" * 100_000],
        "--chat-template-kwargs",
    ),
    "template arguments without names": (
        ["a", "--chat-template-kwargs", "[1]"],
        "chat_template_kwargs",
    ),
    "a template argument that is not taken": (
        ["a", "--chat-template-kwargs", '{"mood": 1}'],
        "takes no argument mood",
    ),
    "batch without end": (["--batch", "/dev/zero"], "bytes"),
    "batch that is not there": (["--batch", "/none"], "/none"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_option_is_one_line_and_exit_code_2(
    case: str, bundle_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """No traceback; the line names what was wrong."""
    arguments, says = WRONG[case]
    contents = {"number": "3", "texts": '["f"]', "empty": '[{"type":"function"}]'}
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    arguments = [str(tmp_path / a[1:-1]) if a[1:-1] in contents else a for a in arguments]
    assert main(["generate", str(bundle_path), *arguments]) == 2
    captured = capfd.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith(("INFO", "WARN"))]
    assert len(lines) == 1 and lines[0].startswith("error: ") and says in lines[0], captured.err
    assert captured.out == ""


SCHEMAS = {
    "not JSON": b"\xff",
    "a list": b"[1]",
    "deep": b"[" * 100_000,
    "half a surrogate pair": b'{"enum": ["\\ud800"]}',
    "infinite": b'{"type": "number", "multipleOf": 1e999}',
    "a long number": b'{"enum": [' + b"1" * 4000 + b"]}",
    "nothing": b"",
}


@pytest.mark.parametrize("case", SCHEMAS)
def test_a_schema_file_that_is_none_is_refused(
    case: str, bundle_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever the file holds."""
    path = tmp_path / "schema.json"
    path.write_bytes(SCHEMAS[case])
    assert main(["generate", str(bundle_path), "a", "--json-schema", str(path)]) == 2
    assert "error: " in capfd.readouterr().err


@pytest.mark.parametrize(
    "line", [b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}', b"[" * 100_000, b'{"prompt": 7}', b""]
)
def test_a_broken_line_of_a_batch_is_named(
    line: bytes, bundle_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What came before it was answered."""
    path = tmp_path / "batch.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n' + line + b'\n{"prompt": "a"}\n')
    assert main(["generate", str(bundle_path), "--batch", str(path), "--max-tokens", "2"]) == 2
    captured = capfd.readouterr()
    assert "line 2" in captured.err
    assert [json.loads(row)["generated"]["tokens"] for row in captured.out.splitlines()] == [2]


def test_a_prompt_that_cannot_be_answered_does_not_end_a_batch(
    bundle_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its error stands in its line; the next prompt is answered."""
    path = tmp_path / "batch.jsonl"
    rows = ["", "fox " * 400, "x" * 20_000, "a"]
    path.write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))
    assert main(["generate", str(bundle_path), "--batch", str(path), "--max-tokens", "2"]) == 0
    answers = [json.loads(row) for row in capfd.readouterr().out.splitlines()]
    codes = [answer.get("error", {}).get("code") for answer in answers]
    assert codes == ["empty-prompt", "prompt-too-long", "bad-request", None]


def test_bytes_of_a_shell_and_a_prompt_after_the_options(bundle_path: Path) -> None:
    """Through the program: raw bytes are refused, and options may stand first."""

    def program(*arguments: bytes) -> subprocess.CompletedProcess[bytes]:
        command = [os.fsencode(sys.executable), b"-m", b"agent", b"generate"]
        return subprocess.run(
            [*command, os.fsencode(bundle_path), *arguments],
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip

    bad = program(b"--regex", b"\xff", b"a")
    assert bad.returncode == 2 and b"UTF-8" in bad.stderr and b"Traceback" not in bad.stderr
    good = program(b"--max-tokens", b"2", b"the")
    assert good.returncode == 0 and good.stdout, good.stderr


def test_a_batch_may_hold_chats(
    bundle_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Messages in place of a prompt; a line with both, or neither, is named."""
    path = tmp_path / "batch.jsonl"
    chat = json.dumps({"messages": [{"role": "user", "content": "the quick"}]})
    path.write_text(f'{chat}\n{{"prompt": "a", "messages": []}}\n')
    assert main(["generate", str(bundle_path), "--batch", str(path), "--max-tokens", "2"]) == 2
    captured = capfd.readouterr()
    (row,) = [json.loads(line) for line in captured.out.splitlines()]
    assert row["messages"][0]["content"] == "the quick"
    assert row["generated"]["tokens"] == 2
    assert "line 2 has no 'prompt', or 'messages' beside it" in captured.err
