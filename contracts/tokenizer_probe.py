"""Probes a tokenizer in a process with limits: ``python -m contracts.tokenizer_probe < FILE``."""

from __future__ import annotations

import resource
import subprocess
import sys
from typing import Final

from contracts import limits
from contracts.errors import RefusedError, ShoalError
from contracts.tokenizer import check_tokenizer, load, probe

SECONDS: Final = 30
"""Of processor time, for loading and all probes; a known large one takes two."""

MEMORY_BYTES: Final = 2048 * limits.MIB
_WALL_S: Final = 600.0


def probe_apart(data: bytes, what: str, *, seconds: int | None = None) -> None:
    """Refuses a tokenizer that takes long, or much memory, for texts of a few thousand characters.

    Args:
        data: the ``tokenizer.json``.
        what: its name in an error.
        seconds: of processor time; None: :data:`SECONDS`.

    Raises:
        RefusedError: ``bad-tokenizer``.
    """
    check_tokenizer(data, what)
    seconds = SECONDS if seconds is None else seconds
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "contracts.tokenizer_probe", str(seconds)],
            input=data,
            capture_output=True,
            timeout=_WALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        done = None
    if done is not None and done.returncode == 0:
        return
    if done is not None and done.returncode == 1:
        said = done.stdout.decode(errors="replace").strip().splitlines() or ["no message"]
        raise RefusedError("bad-tokenizer", f"{what}: {said[-1][:300]}")
    raise RefusedError(
        "bad-tokenizer",
        f"{what} takes over {seconds} s of processor time, or over {MEMORY_BYTES >> 20} MB, for "
        "texts of some thousand characters: its expressions go back and forth for too long",
    )


def main() -> int:
    """The process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]), int(sys.argv[1]) + 1))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        probe(load(sys.stdin.buffer.read(), "it"), "it")
    except ShoalError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    except MemoryError:
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
