"""What an agent, its helper and their children say to one another."""

from __future__ import annotations

import traceback
from io import BufferedRWPair
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from contracts import codec, limits
from contracts.errors import ShoalError

Name = Literal["selftest", "accelerator", "trust", "certificate"]

MAX_LINE_BYTES: Final = (
    2 * max(limits.MAX_METADATA_BYTES, limits.MAX_MANIFEST_BYTES) + 64 * limits.KIB
)
"""Bytes of a line: the largest metadata file or manifest in base64, and what is around it."""

MAX_REQUEST_BYTES: Final = 256

MAX_TRACEBACK_CHARS: Final = 8000

BROKE: Final = b"!"
"""How a line begins that says what went wrong in a child; all others begin as JSON does."""

T = TypeVar("T")


class Request(msgspec.Struct, frozen=True):
    """To the helper, with the sockets ``line`` and ``end`` of a new child.

    Attributes:
        job: what it does.
        seconds: of the wall clock, after which the child dies of ``SIGALRM``; for each job.
    """

    job: Name
    seconds: int


class Ended(msgspec.Struct, frozen=True):
    """From the helper: how a child ended.

    Attributes:
        code: its exit code, or minus the signal that killed it.
        errno: why there was no child; 0: there was one.
    """

    code: int
    errno: int = 0


class Broke(msgspec.Struct, frozen=True):
    """From the child, before its answer or instead of it: an error that nobody expected.

    Attributes:
        error: its class; the message of one of ours or of the system alone: others hold texts.
        where: the places that it passed, the last part.
    """

    error: Annotated[str, msgspec.Meta(max_length=MAX_TRACEBACK_CHARS)]
    where: Annotated[str, msgspec.Meta(max_length=MAX_TRACEBACK_CHARS)]


def send(line: BufferedRWPair, message: Any) -> None:
    """Writes one message."""
    line.write(codec.encode(message) + b"\n")
    line.flush()


def tell(line: BufferedRWPair, error: BaseException) -> None:
    """Writes what went wrong in this child, for the agent's log: a child has none."""
    own = isinstance(error, ShoalError | OSError)
    said = f"{type(error).__name__}: {error}"[:300] if own else type(error).__name__
    passed = traceback.extract_tb(error.__traceback__)
    texts = said, "\n".join(f"{one.filename}:{one.lineno} {one.name}" for one in passed)
    broke = Broke(*(t[-MAX_TRACEBACK_CHARS:].encode(errors="replace").decode() for t in texts))
    line.write(BROKE + codec.encode(broke) + b"\n")
    line.flush()


def receive(line: BufferedRWPair, kind: type[T]) -> T:
    """Reads one message; what went wrong before it in the child, once, goes to the log.

    Raises:
        EOFError: the other side ended; its text is the error that ended it, where that is known.
        ShoalError: it wrote something else.
    """
    data, error = _line(line), ""
    if data.startswith(BROKE):
        broke = codec.decode(data[len(BROKE) :], Broke, what="a line", cap=MAX_LINE_BYTES)
        from agent.system.log import logger  # which the helper does without

        logger(__name__).error("error in a child", reason=broke.error, traceback=broke.where)
        data, error = _line(line), broke.error
    if not data.endswith(b"\n"):
        raise EOFError(error)
    return codec.decode(data, kind, what="a line", cap=MAX_LINE_BYTES)


def _line(line: BufferedRWPair) -> bytes:
    try:
        return line.readline(MAX_LINE_BYTES)
    except ConnectionError:  # it ended with a message unread
        return b""
