"""The golden self-test as a program of its own: ``python -m agent.runtime.check``.

A model that crashes the runtime, eats the memory or never ends takes this process with it,
and not the agent. It limits itself before it opens the bundle, and prints one line of JSON:
a :class:`contracts.messages.Selftested`, or the error shape with exit code 1.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Final

from contracts import codec
from contracts.errors import ErrorBody, RefusedError, ShoalError, from_info
from contracts.messages import Selftested

MAX_OUTPUT_BYTES: Final = 64 * 1024
"""Bytes of the child's line."""

BASE_MEMORY_BYTES: Final = 512 * 1024 * 1024
"""Bytes of private memory that Python and a runtime map before any model."""


def run(
    folder: Path,
    *,
    runtime: str | None = None,
    threads: int = 1,
    memory_bytes: int = 0,
    seconds: int = 300,
) -> Selftested:
    """Self-tests a bundle folder in a child process.

    Args:
        folder: of the bundle.
        runtime: which runtime; None: the best.
        threads: of inference.
        memory_bytes: that the model may take beside Python's own; 0: no limit.
        seconds: of processor time and of the wall clock.

    Raises:
        RefusedError: ``golden-mismatch``, ``model-failed``, ``selftest-crashed``,
            ``selftest-timeout``, or what the bundle's error was.
    """
    limit = memory_bytes + BASE_MEMORY_BYTES if memory_bytes else 0
    arguments = [str(folder), runtime or "-", str(threads), str(limit), str(seconds)]
    try:
        child = subprocess.run(
            [sys.executable, "-m", "agent.runtime.check", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RefusedError(
            "selftest-timeout", f"the self-test did not end within {seconds} s and was killed"
        ) from None
    if child.returncode == 0:
        return codec.decode(
            child.stdout, Selftested, what="the self-test's result", cap=MAX_OUTPUT_BYTES
        )
    try:
        info = codec.decode(
            child.stdout, ErrorBody, what="the self-test's error", cap=MAX_OUTPUT_BYTES
        ).error
    except ShoalError:
        how = (
            f"was killed by signal {-child.returncode}"
            if child.returncode < 0
            else f"ended with code {child.returncode}"
        )
        raise RefusedError(
            "selftest-crashed", f"the self-test's process {how}: the model breaks the runtime"
        ) from None
    error = from_info(info)
    raise RefusedError(error.code, str(error), **info.detail)


def main(arguments: list[str]) -> int:
    """The child: limits itself, self-tests, prints."""
    folder, runtime, threads, limit, seconds = arguments
    os.nice(5)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) * 4, int(seconds) * 4))
    if int(limit):
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))
    from agent.runtime import model
    from contracts.bundle import Bundle

    options = model.Options(None if runtime == "-" else runtime, int(threads))
    try:
        line = codec.encode(model.selftest(Bundle.open(Path(folder)), options))
        code = 0
    except ShoalError as error:
        line, code = codec.encode(error.body()), 1
    except MemoryError:
        refused = RefusedError("selftest-memory", f"the model needs more than {limit} bytes")
        line, code = codec.encode(refused.body()), 1
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
