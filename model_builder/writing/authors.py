"""Who writes: a model at an endpoint, or a generative bundle that is run here."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from contracts import codec, limits
from contracts.answers import Generated
from contracts.errors import InputError, RefusedError
from model_builder.recipes.teachers import EndpointConfig
from model_builder.teachers.endpoint import Answer, ChatEndpoint, Meter
from model_builder.writing.lines import texts_of, tidy
from model_builder.writing.plan import SYSTEM, Ask

Keep = Callable[[Ask, list[str]], None]
"""Called with a request and the texts that came of it, as soon as they came; from any thread."""

_USELESS: Final = 3
"""Answers without a text, and none with one, after which nothing more is asked."""

_SHOWN: Final = 80


class Author(Protocol):
    """Who writes."""

    name: str

    def write(self, asks: Sequence[Ask], keep: Keep) -> None:
        """Answers requests, in any order.

        Raises:
            RefusedError, UnavailableError: it cannot; what was kept before stays.
            BudgetSpentError: not for all of them.
        """


class EndpointAuthor:
    """``openai:MODEL``.

    Args:
        model: its name there.
        config: where it is.
        meter: counts and bounds what is asked.
        pause: sleeps some seconds; tests pass their own.
        system: what it is told to do.
        answers: a request is for one answer as it is, not for a list of texts.
    """

    def __init__(
        self,
        model: str,
        config: EndpointConfig,
        meter: Meter,
        pause: Callable[[float], None] = time.sleep,
        system: str = SYSTEM,
        answers: bool = False,
    ) -> None:
        self._endpoint = ChatEndpoint(model, config, "data.written.endpoint", meter, pause)
        self.name = self._endpoint.name
        self._system, self._answers = system, answers
        self._lock = threading.Lock()
        self._useless = 0
        self._useful = False
        self._failed = threading.Event()

    def write(self, asks: Sequence[Ask], keep: Keep) -> None:
        """See :class:`Author`."""
        self._failed.clear()
        with (
            self._endpoint.opened() as endpoint,
            ThreadPoolExecutor(endpoint.config.concurrency) as pool,
        ):
            tasks = [pool.submit(self._one, endpoint, ask, keep) for ask in asks]
            try:
                for task in tasks:
                    task.result()
            except BaseException:
                self._failed.set()
                endpoint.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _one(self, endpoint: ChatEndpoint, ask: Ask, keep: Keep) -> None:
        if self._failed.is_set():
            return  # nothing more is paid for
        try:
            self._asked(endpoint, ask, keep)
        except BaseException:
            self._failed.set()
            raise

    def _asked(self, endpoint: ChatEndpoint, ask: Ask, keep: Keep) -> None:
        answer: Answer = endpoint.ask(
            self._system,
            ask.prompt,
            lambda answer: answer,
            temperature=ask.temperature,
            max_tokens=ask.max_tokens,
            as_json=not self._answers,
        )
        texts = self._texts(answer)
        with self._lock:
            self._useful = self._useful or bool(texts)
            self._useless += not texts
            hopeless = self._useless >= _USELESS and not self._useful
        if hopeless:
            raise RefusedError(
                "bad-answer",
                f"{self.name} wrote nothing of use in {_USELESS} answers, but "
                f"{' '.join(answer.text.split())[:_SHOWN]!r}; a larger model may",
            )
        if texts:  # an answer of no use is asked for again by the next run
            keep(ask, texts)

    def _texts(self, answer: Answer) -> list[str]:
        if not self._answers:
            return texts_of(answer.text)
        text = answer.text.encode("utf-8", "ignore").decode().strip()
        return [text] if text and not answer.cut else []


class _Line(msgspec.Struct):
    generated: Generated | None = None


class BundleAuthor:
    """``bundle:FOLDER``: one text a request, since small models lose the thread in lists.

    Args:
        folder: of the bundle.
        longest: characters of a text.
        seed: of the sampling.
        system: what it is told to do; empty: nothing.
        answers: a request is for one answer as it is, of any number of lines.

    Raises:
        InputError: ``no-such-file``.
    """

    def __init__(
        self, folder: Path, longest: int, seed: int, system: str = "", answers: bool = False
    ) -> None:
        if not folder.exists():
            raise InputError("no-such-file", f"data.written.by: there is no bundle at {folder}")
        self.name = f"bundle:{folder.name}"
        self._folder, self._longest, self._seed = folder, longest, seed
        self._system, self._answers = system, answers

    def write(self, asks: Sequence[Ask], keep: Keep) -> None:
        """See :class:`Author`."""
        if not asks:
            return
        with tempfile.TemporaryDirectory(prefix="shoal-writing-") as name:
            prompts = Path(name) / "prompts.jsonl"
            prompts.write_bytes(b"".join(codec.encode({"prompt": a.prompt}) + b"\n" for a in asks))
            with (Path(name) / "errors").open("w+b") as errors:
                done = self._run(prompts, asks, keep, errors)
                if done != len(asks):
                    errors.seek(0)
                    said = errors.read().decode("utf-8", "replace").strip()[-400:]
                    raise RefusedError(
                        "model-failed",
                        f"the agent could not write with {self._folder}: "
                        f"{said or f'{done} of {len(asks)} answers came'}",
                    )

    def _run(self, prompts: Path, asks: Sequence[Ask], keep: Keep, errors: Any) -> int:
        first = asks[0]
        longest = first.max_tokens if self._answers else max(24, self._longest // 3)
        command = [sys.executable, "-m", "agent", "generate", str(self._folder), "--chat"]
        command += ["--batch", str(prompts), "--threads", "2"]
        command += ["--system", self._system] if self._system else []
        command += [] if self._answers else ["--stop", "\n"]
        command += ["--max-tokens", str(longest), "--max-time", "60", "--top-p", "0.95"]
        command += ["--temperature", str(min(first.temperature, 0.9))]
        command += ["--seed", str((self._seed + first.round) % 2**31)]
        done = 0
        unbuffered = {**os.environ, "PYTHONUNBUFFERED": "1"}  # each answer is kept as it comes
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env=unbuffered
        ) as process:
            assert process.stdout is not None
            try:
                for ask, line in zip(asks, process.stdout, strict=False):
                    cap = 4 * limits.MAX_MESSAGE_BYTES
                    found = codec.decode(line, _Line, what="an answer", cap=cap).generated
                    text = self._text(found) if found is not None else ""
                    keep(ask, [text] if text else [])
                    done += 1
            finally:
                process.kill()
        return done

    def _text(self, found: Generated) -> str:
        if not self._answers:
            return tidy(_whole(found))
        return "" if found.finish_reason == "length" else found.text.strip()


def _whole(found: Generated) -> str:
    """An answer; one that ran out of tokens up to its last whole sentence, or its last word."""
    if found.finish_reason != "length":
        return found.text
    end = max(found.text.rfind(mark) for mark in ".!?")
    return found.text[: end + 1] or found.text.rpartition(" ")[0] or found.text
