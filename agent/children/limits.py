"""What the agent's children have in common: how an error crosses a line, and their limits.

Work that needs large libraries and is rare runs in a process of its own, so that the memory
goes with it: signatures (:mod:`agent.trust.child`), certificates
(:mod:`agent.certificates.child`). :mod:`agent.children.helper` starts them.
"""

from __future__ import annotations

import os
import resource
from typing import Final, Literal

import msgspec

from contracts.errors import ErrorInfo, InputError, RefusedError, ShoalError, UnavailableError

MEMORY_BYTES: Final = 512 * 1024 * 1024
"""Bytes of private memory that a child may map, Python's own included."""


class Failure(msgspec.Struct, frozen=True):
    """An error with its class: whether to try again depends on it.

    Attributes:
        kind: of :mod:`contracts.errors`.
        info: code, message, detail.
    """

    kind: Literal["refused", "unavailable", "other"]
    info: ErrorInfo

    @classmethod
    def of(cls, error: ShoalError) -> Failure:
        """The error as it crosses the line."""
        if isinstance(error, (RefusedError, InputError)):
            return cls("refused", error.info)
        return cls("unavailable" if isinstance(error, UnavailableError) else "other", error.info)

    def raised(self) -> ShoalError:
        """The error on the other side, to be raised."""
        classes = {"refused": RefusedError, "unavailable": UnavailableError}
        made = classes.get(self.kind, ShoalError)(self.info.code, self.info.message)
        made.info = self.info  # a detail may have any name
        return made


def why(error: OSError | EOFError) -> str:
    """The end of a sentence: what ended a child or its line, where that is known."""
    return f": {error}" if str(error) else ""


def limit_child(memory_bytes: int = MEMORY_BYTES) -> None:
    """Limits the process that calls this: no core file, bounded memory.

    Args:
        memory_bytes: of private memory that it may map; 0: no limit.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


def silence() -> None:
    """Drops what the process that calls this writes to standard error."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    os.close(sink)
