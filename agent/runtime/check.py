"""The golden self-test in a child.

A model that crashes the runtime, eats the memory or never ends takes its process with it, and
not the agent. The child limits itself before it opens the bundle, and answers one line.
"""

from __future__ import annotations

import resource
import signal
import time
from io import BufferedRWPair
from pathlib import Path
from typing import Final

import msgspec

from agent import helper
from agent.apart import limit_child, silence
from contracts import codec
from contracts.bundle import Bundle
from contracts.errors import ErrorInfo, RefusedError, ShoalError
from contracts.manifest import GoldenVector, Manifest
from contracts.messages import Selftested

BASE_MEMORY_BYTES: Final = 512 * 1024 * 1024
"""Bytes of private memory that Python and a runtime map before any model."""


class Question(msgspec.Struct, frozen=True):
    """To the child: which bundle to test, and how.

    Attributes:
        folder: of the bundle.
        runtime: which runtime; None: the best.
        threads: of inference.
        memory_bytes: of private memory that the child may map; 0: no limit.
        seconds: of processor time that a thread may take.
    """

    folder: str
    runtime: str | None
    threads: int
    memory_bytes: int
    seconds: int


class Answer(msgspec.Struct, frozen=True):
    """From the child: the result, or why there is none."""

    result: Selftested | None = None
    error: ErrorInfo | None = None


def run(
    folder: Path,
    *,
    runtime: str | None = None,
    threads: int = 1,
    memory_bytes: int = 0,
    seconds: int = 300,
    digest: str = "",
) -> Selftested:
    """Self-tests a bundle folder in a child process.

    A child that a model has run in is never trusted with another one, which it could pass or
    refuse. It goes on with the same bundle of another agent alone: what that bundle can do to
    the verdict on itself, it could do in a child of its own.

    Args:
        folder: of the bundle.
        runtime: which runtime; None: the best.
        threads: of inference.
        memory_bytes: that the model may take beside Python's own; 0: no limit.
        seconds: of processor time and of the wall clock.
        digest: sha256 of the bundle's manifest, where that is known to be in the folder; empty:
            a child of its own.

    Raises:
        RefusedError: ``golden-mismatch``, ``model-failed``, ``selftest-crashed``,
            ``selftest-timeout``, or what the bundle's error was.
        OSError: there was no memory or process for the child.
    """
    limit = memory_bytes + BASE_MEMORY_BYTES if memory_bytes else 0
    question = Question(str(folder.absolute()), runtime, threads, limit, seconds)
    work = digest and f"{digest} {runtime} {threads} {limit}"
    return helper.ask("selftest", seconds, lambda child: _converse(child, question), work=work)


def _converse(child: helper.Child, question: Question) -> Selftested:
    try:
        helper.send(child.line, question)
        answer = helper.receive(child.line, Answer)
    except (EOFError, ConnectionError, TimeoutError, ShoalError):
        code = child.end()
    else:
        if answer.result is not None:
            return answer.result
        assert answer.error is not None
        raise RefusedError(answer.error.code, answer.error.message, **answer.error.detail)
    if code == -signal.SIGALRM:
        raise RefusedError(
            "selftest-timeout",
            f"the self-test did not end within {question.seconds} s and was killed",
        )
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    raise RefusedError(
        "selftest-crashed", f"the self-test's process {how}: the model breaks the runtime"
    )


def preload() -> None:
    """What the child of every classifier needs."""
    from agent.runtime import classifier, engine, golden  # noqa: F401  # loaded before the fork

    engine.preload()
    for kind in (Question, Manifest, list[GoldenVector]):
        codec.decoder(kind)


def main(line: BufferedRWPair) -> int:
    """The child: limits itself, self-tests, answers."""
    silence()
    asked = helper.receive(line, Question)
    limit_child(asked.memory_bytes)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    until = int(time.process_time()) + asked.seconds * 4  # what it did before does not count
    resource.setrlimit(resource.RLIMIT_CPU, (until, hard))
    from agent.runtime import model

    options = model.Options(asked.runtime, asked.threads)
    try:
        answer = Answer(model.selftest(Bundle.open(Path(asked.folder)), options))
    except ShoalError as error:
        answer = Answer(error=error.info)
    except MemoryError:
        answer = Answer(
            error=ErrorInfo(
                "selftest-memory", f"the model needs more than {asked.memory_bytes} bytes"
            )
        )
    helper.send(line, answer)
    return 0
