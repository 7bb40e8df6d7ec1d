"""``shoal generate BUNDLE PROMPT``: text from a bundle, here and now, as it comes."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from agent.cli import output
from agent.generate.adapted import AdaptedModel, load
from agent.generate.model import GenerativeModel
from agent.runtime.model import Options
from contracts import codec, files, limits, wording
from contracts.answers import CallPiece, Generated
from contracts.bundle import Bundle
from contracts.errors import InputError, ShoalError
from contracts.requests import ChatMessage, GenerateRequest, Tool


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = argparse.ArgumentParser(
        prog="shoal generate", description="Generates text with a bundle, here and now."
    )
    made.add_argument("bundle", type=Path, help="bundle folder or .shoal file")
    made.add_argument(
        "--base", type=Path, help="of an adapter: its base, if it is not beside it by its digest"
    )
    made.add_argument("prompt", nargs="?", help="default: standard input")
    made.add_argument("--max-tokens", type=int, default=256, metavar="N")
    made.add_argument("--max-time", type=float, metavar="SECONDS")
    made.add_argument("--temperature", type=float, default=0.0, help="0: the most likely token")
    made.add_argument("--top-k", type=int, default=0)
    made.add_argument("--top-p", type=float, default=1.0)
    made.add_argument("--min-p", type=float, default=0.0)
    made.add_argument("--repetition-penalty", type=float, default=1.0)
    made.add_argument("--seed", type=int)
    made.add_argument("--stop", action="append", default=[], help="ends the output; repeatable")
    made.add_argument("--json-schema", type=Path, metavar="FILE", help="the output must validate")
    made.add_argument("--regex", help="the output must match")
    made.add_argument("--logprobs", type=int, default=0, metavar="N", help="of the N best tokens")
    made.add_argument(
        "--min-confidence", type=float, metavar="P", help="say unknown where the model is less sure"
    )
    made.add_argument("--system", help="system message; the prompt is then a chat's")
    made.add_argument("--chat", action="store_true", help="put the prompt into the chat template")
    made.add_argument(
        "--chat-template-kwargs",
        metavar="JSON",
        help="variables of the chat template: '{\"enable_thinking\": false}'",
    )
    made.add_argument(
        "--tools", type=Path, metavar="FILE", help="JSON list of functions that may be called"
    )
    made.add_argument("--tool-choice", choices=["auto", "none", "required"], default="auto")
    made.add_argument(
        "--batch",
        type=Path,
        metavar="FILE",
        help="JSONL with 'prompt', or 'messages' and 'tools'; one JSON line an answer",
    )
    made.add_argument("--runtime", choices=["litert", "litert-interpreter", "tflite-runtime"])
    made.add_argument("--threads", type=int, default=1, choices=range(1, 65), metavar="N")
    made.add_argument("--cache", type=Path, metavar="FILE", help="packed weights, for a fast start")
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


def _document(path: Path | None, what: str = "the schema", code: str = "bad-constraint") -> Any:
    if path is None:
        return None
    try:
        return json.loads(files.read_small(path, what=what, code=code))
    except (ValueError, RecursionError) as error:
        raise InputError(code, f"cannot read {what} {path}: {error}") from None


def _template_arguments(text: str | None) -> Any:
    try:
        return {} if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError("bad-request", f"--chat-template-kwargs: no JSON: {error}") from None


def _tools(path: Path | None) -> Any:
    """Functions as they are, or in the form that OpenAI's clients send."""
    rows = _document(path, "the tools", "bad-request") or []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError("bad-request", f"{path}: expected a list of functions")
    return [row.get("function") if row.get("type") == "function" else row for row in rows]


def _request(options: argparse.Namespace, prompt: str) -> GenerateRequest:
    """A request with the caps that one off the network has."""
    fields: dict[str, Any] = {
        "max_tokens": options.max_tokens,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "min_p": options.min_p,
        "repetition_penalty": options.repetition_penalty,
        "seed": options.seed,
        "stop": options.stop,
        "json_schema": _document(options.json_schema),
        "regex": options.regex,
        "logprobs": options.logprobs,
        "min_confidence": options.min_confidence,
        "tools": _tools(options.tools),
        "tool_choice": options.tool_choice,
        "chat_template_kwargs": _template_arguments(options.chat_template_kwargs),
    }
    if options.max_time is not None:
        milliseconds = options.max_time * 1000
        if not math.isfinite(milliseconds):
            raise InputError("bad-request", f"--max-time {options.max_time}: expected seconds")
        fields["max_time_ms"] = int(milliseconds)
    of_a_chat = (options.system, options.tools, options.chat_template_kwargs)
    if options.chat or any(given is not None for given in of_a_chat):
        turns = [ChatMessage("system", options.system)] if options.system is not None else []
        fields["messages"] = [msgspec.to_builtins(m) for m in (*turns, ChatMessage("user", prompt))]
    else:
        fields["prompt"] = prompt
    try:
        request = msgspec.convert(fields, GenerateRequest)
    except msgspec.ValidationError as error:
        raise InputError(
            "bad-request", f"the options cannot be used: {wording.of(error)}"
        ) from None
    codec.encode_given(request, what="an option")  # bytes of a shell need not be UTF-8
    return request


class _Asked(msgspec.Struct):
    """A line of a batch: a prompt, or messages with the tools that go with them."""

    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    tools: list[Tool] = []


def _asked(path: Path) -> Iterator[_Asked]:
    try:
        with path.open("rb") as stream:
            lines = iter(partial(stream.readline, limits.MAX_MESSAGE_BYTES + 1), b"")
            for number, line in enumerate(lines, 1):
                what = f"{path}, line {number}"
                row = codec.decode(line, _Asked, what=what)
                if (row.prompt is None) == (row.messages is None):
                    raise InputError("bad-data", f"{what} has no 'prompt', or 'messages' beside it")
                yield row
    except OSError as error:
        raise InputError("no-such-file", f"cannot read {path}: {error}") from None


def _standard_input() -> str:
    data = sys.stdin.buffer.read(limits.MAX_TEXT_BYTES + 1)
    try:
        return data.decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise InputError("bad-text", "standard input is not UTF-8") from None


def _batch(model: GenerativeModel | AdaptedModel, options: argparse.Namespace) -> int:
    """One JSON line a prompt: the result, or the error; the exit code is 0 all the same."""
    for row in _asked(options.batch):
        asked = {"prompt": row.prompt} if row.messages is None else {"messages": row.messages}
        try:
            if row.messages is None:
                request = _request(options, row.prompt or "")
            else:
                request = msgspec.structs.replace(
                    _request(options, ""), prompt=None, messages=row.messages, tools=row.tools
                )
            line: Any = {**asked, "generated": model.generate(request)}
        except ShoalError as error:
            line = {**asked, "error": error.info}
        sys.stdout.write(codec.encode(line).decode() + "\n")
    return 0


class _Shown:
    """Standard output: text as it comes, then a line a call, ``name arguments``."""

    def __init__(self) -> None:
        self._begun = False

    def text(self, piece: str) -> None:
        """A piece of text."""
        sys.stdout.write(piece)
        sys.stdout.flush()
        self._begun = True

    def call(self, piece: CallPiece) -> None:
        """A piece of a call."""
        if piece.name:
            self.end()
            self.text(f"{piece.name} ")
        self.text(piece.arguments)

    def end(self) -> None:
        """Ends the line."""
        sys.stdout.write("\n" if self._begun else "")
        self._begun = False


def _totals(result: Generated) -> str:
    return (
        f"[{result.prompt_tokens} + {result.tokens} tokens, first after "
        f"{result.first_token_ms:.0f} ms, {result.tokens_per_s:.1f} tokens/s, "
        f"{result.finish_reason}]"
    )


def run(options: argparse.Namespace) -> int:
    """Runs the command on parsed options."""
    model = load(
        Bundle.open(options.bundle),
        Options(runtime=options.runtime, threads=options.threads, cache=options.cache),
        options.base,
    )
    try:
        if options.batch is not None:
            return _batch(model, options)
        prompt = _standard_input() if options.prompt is None else options.prompt
        request = _request(options, prompt)
        if options.json:
            output.document(model.generate(request))
            return 0

        shown = _Shown()
        try:
            result = model.generate(request, shown.text, tell=shown.call)
            if result.unknown:
                shown.text(f"unknown ({result.confidence:.2f})")
            elif not result.text and not result.tool_calls:
                shown.text("")
        finally:
            shown.end()
        if sys.stderr.isatty():
            sys.stderr.write(_totals(result) + "\n")
        return 0
    finally:
        model.close()


def main(arguments: list[str]) -> int:
    """Parses and runs; raises :class:`ShoalError` for what is wrong."""
    # Intermixed: the prompt may stand after options, though it is optional itself.
    return run(parser().parse_intermixed_args(arguments))
