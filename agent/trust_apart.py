"""The fleet's signatures checked in a process of its own: ``python -m agent.trust_apart``.

python-tuf and its cryptography take about 10 MB that Python does not give back. An update is
rare and an agent runs for months, so the check runs in a child that ends with it. The child
has no connection: it asks its parent for repository files, one line of JSON each way, and ends
when the parent does. What it accepts it stores itself, as :class:`agent.trust.Trust` does.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import msgspec

from agent.apart import Failure, limit_child
from agent.trust import REFRESH_SECONDS, Fetch, Trust
from contracts import codec, limits
from contracts.errors import ErrorInfo, RefusedError, ShoalError, UnavailableError
from contracts.messages import BundleRef

MAX_LINE_BYTES: Final = 2 * limits.MAX_METADATA_BYTES + 64 * limits.KIB
"""Bytes of a line: the largest file in base64, and what is around it."""

GRACE_S: Final = 60.0
"""Seconds beyond those of a refresh after which the child is killed."""

T = TypeVar("T")


class Start(msgspec.Struct, frozen=True):
    """To the child: what to find out.

    Attributes:
        folder: of the trusted metadata.
        root: the fleet's ``root.json`` from enrolment.
        bundle: whose manifest is wanted.
        now: seconds since the epoch.
    """

    folder: str
    root: bytes
    bundle: BundleRef
    now: float


class File(msgspec.Struct, frozen=True, omit_defaults=True):
    """To the child: a file that it asked for, or why not."""

    data: bytes = b""
    failure: Failure | None = None


class Said(msgspec.Struct, frozen=True, omit_defaults=True):
    """From the child: a file that it needs, or how it ended.

    Attributes:
        path, cap: the file, and the most bytes of it; empty: this is the end.
        manifest: as signed.
        failure: why there is none.
    """

    path: str = ""
    cap: int = 0
    manifest: bytes = b""
    failure: Failure | None = None


class TrustApart:
    """As :class:`agent.trust.Trust`, for the update engine: the newest signed manifests.

    Args:
        folder: where accepted metadata is stored; made when missing.
        root: the fleet's ``root.json`` from enrolment.
        fetch: reads repository files, in this process.
        clock: seconds since the epoch.
    """

    def __init__(
        self, folder: Path, root: bytes, fetch: Fetch, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._root = root
        self._fetch = fetch
        self._clock = clock

    def newest(self, ref: BundleRef) -> bytes:
        """As :meth:`agent.trust.Trust.newest`.

        Raises:
            UnavailableError: also ``trust-failed``; the child ended without an answer.
            ShoalError: ``disk-error``; metadata cannot be stored.
        """
        child = subprocess.Popen(
            [sys.executable, "-m", "agent.trust_apart"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert child.stdin is not None and child.stdout is not None
        late = threading.Timer(REFRESH_SECONDS + GRACE_S, child.kill)
        late.daemon = True
        late.start()
        try:
            start = Start(str(self._folder.absolute()), self._root, ref, self._clock())
            return self._converse(child.stdin, child.stdout, start)
        except (OSError, EOFError):
            raise UnavailableError(
                "trust-failed", "the check of the fleet's signatures ended without an answer"
            ) from None
        finally:
            late.cancel()
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()

    def _converse(self, to: IO[bytes], of: IO[bytes], start: Start) -> bytes:
        _send(to, start)
        while True:
            said = _receive(of, Said)
            if said.failure is not None:
                raise said.failure.raised()
            if not said.path:
                return said.manifest
            try:
                answer = File(self._fetch(said.path, said.cap))
            except ShoalError as error:
                answer = File(failure=Failure.of(error))
            _send(to, answer)


def _send(stream: IO[bytes], message: Any) -> None:
    stream.write(codec.encode(message) + b"\n")
    stream.flush()


def _receive(stream: IO[bytes], kind: type[T]) -> T:
    line = stream.readline(MAX_LINE_BYTES)
    if not line.endswith(b"\n"):
        raise EOFError
    return codec.decode(line, kind, what="a line", cap=MAX_LINE_BYTES)


def main(to: IO[bytes], of: IO[bytes]) -> int:
    """The child: reads the question, asks for files, answers.

    Args:
        to: lines for the parent.
        of: lines of the parent.
    """
    limit_child()

    def fetch(path: str, cap: int) -> bytes:
        _send(to, Said(path, cap))
        answer = _receive(of, File)
        if answer.failure is not None:
            raise answer.failure.raised()
        return answer.data

    try:
        start = _receive(of, Start)
        trust = Trust(Path(start.folder), start.root, fetch, clock=lambda: start.now)
        answer = Said(manifest=trust.newest(start.bundle))
    except ShoalError as error:
        answer = Said(failure=Failure.of(error))
    except MemoryError:
        refused = RefusedError("bad-metadata", "the metadata needs too much memory to check")
        answer = Said(failure=Failure.of(refused))
    except (BrokenPipeError, EOFError):
        return 1  # the parent ended
    except OSError as error:
        info = ErrorInfo("disk-error", f"signed metadata cannot be stored: {error}")
        answer = Said(failure=Failure("other", info))
    _send(to, answer)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.stdout.buffer, sys.stdin.buffer))
