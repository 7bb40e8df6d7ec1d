"""The golden self-test in a child.

A model that crashes the runtime, eats the memory or never ends takes its process with it, and
not the agent. The child limits itself before it opens the bundle, and answers one line.
"""

from __future__ import annotations

import errno
import resource
import signal
import time
from contextlib import suppress
from io import BufferedRWPair
from pathlib import Path
from typing import Final

import msgspec

from agent.children import helper, wire
from agent.children.limits import Failure, limit_child, silence
from contracts import codec
from contracts.answers import Selftested
from contracts.bundle import Bundle
from contracts.errors import ErrorInfo, RefusedError, ShoalError, UnavailableError
from contracts.manifest import GoldenVector, Manifest

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
    failure: Failure | None = None


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

    What is the device's fault refuses no bundle at the first try: the disk's errors, no process,
    the end of the helper, an error that nobody expected. Nor does a child that was killed by
    SIGKILL. No model does that to itself; it is how the kernel ends what it has no memory for.
    It may be the model that wants too much for this device, or something else that runs here
    for a while, and nothing tells which. All these are errors that count as local, which the
    update engine tries again a few times before it refuses the bundle with the last of them.

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
            ``selftest-memory``, ``selftest-timeout``, or what the bundle's error was.
        ShoalError: ``selftest-interrupted``, ``disk-error``, ``no-runtime``, ``no-memory``; not
            the bundle's fault, as far as one can tell.
    """
    limit = memory_bytes + BASE_MEMORY_BYTES if memory_bytes else 0
    question = Question(str(folder.absolute()), runtime, threads, limit, seconds)
    work = digest and f"{digest} {runtime} {threads} {limit}"
    try:
        return helper.ask("selftest", seconds, lambda child: _converse(child, question), work=work)
    except OSError as error:
        raise _interrupted(f"there is no process for it: {error.strerror or error}") from None


def _converse(child: helper.Child, question: Question) -> Selftested:
    try:
        with suppress(ConnectionError):  # what it said before it ended is read all the same
            wire.send(child.line, question)
        answer = wire.receive(child.line, Answer)
    except EOFError as error:
        raise _without_answer(child, question, str(error)) from None
    except OSError:
        raise _without_answer(child, question) from None
    except ShoalError as error:
        raise _crashed(f"wrote what is no answer ({error})") from None
    if answer.failure is not None:
        raise answer.failure.raised()
    if answer.result is None:
        raise _crashed("wrote an empty answer")
    return answer.result


def _without_answer(child: helper.Child, question: Question, broke: str = "") -> ShoalError:
    """Why a child that gave no answer did not; `broke`: the error that ended it."""
    try:
        code = child.end()
    except OSError as error:
        return _interrupted(error.strerror or str(error))
    if code == -signal.SIGALRM:
        return RefusedError(
            "selftest-timeout",
            f"the self-test did not end within {question.seconds} s and was killed",
        )
    if code == -signal.SIGKILL:
        return _interrupted("its process was killed, as the kernel does when memory is short")
    if broke:
        return _interrupted(broke)
    return _crashed(helper.how_ended(code))


def _crashed(how: str) -> RefusedError:
    return RefusedError(
        "selftest-crashed", f"the self-test's process {how}: the model breaks the runtime"
    )


def _interrupted(why: str) -> ShoalError:
    return ShoalError("selftest-interrupted", f"the self-test came to no verdict: {why}")


def preload() -> None:
    """What the child of every classifier needs."""
    from agent.runtime import classifier, engine, golden  # noqa: F401  # loaded before the fork

    engine.preload()
    for kind in (Question, Manifest, list[GoldenVector]):
        codec.decoder(kind)


def main(line: BufferedRWPair) -> int:
    """The child: limits itself, self-tests, answers."""
    silence()
    asked = wire.receive(line, Question)
    limit_child(asked.memory_bytes)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    until = int(time.process_time()) + asked.seconds * 4  # what it did before does not count
    resource.setrlimit(resource.RLIMIT_CPU, (until, hard))
    from agent.runtime import model

    options = model.Options(asked.runtime, asked.threads, lean=True)
    try:
        answer = Answer(model.selftest(Bundle.open(Path(asked.folder)), options))
    except ShoalError as error:
        if error.__cause__ is not None:  # what a library raised, or a fault of ours
            wire.tell(line, error)
        # What is not there counts as a try, too: a device may lack it for good.
        lacking = isinstance(error, UnavailableError)
        answer = Answer(failure=Failure("other", error.info) if lacking else Failure.of(error))
    except (MemoryError, OSError) as error:
        wire.tell(line, error)
        answer = Answer(failure=_environment(error, asked.memory_bytes))
    wire.send(line, answer)
    return 0


def _environment(error: MemoryError | OSError, memory_bytes: int) -> Failure:
    """What the system refused: memory, over the child's own limit where it has one, or files."""
    if isinstance(error, OSError) and error.errno != errno.ENOMEM:
        return Failure("other", ErrorInfo("disk-error", f"the bundle cannot be read: {error}"))
    if memory_bytes:
        info = ErrorInfo("selftest-memory", f"the model needs more than {memory_bytes} bytes")
        return Failure("refused", info)
    return Failure("other", ErrorInfo("no-memory", "there is no memory for the self-test"))
