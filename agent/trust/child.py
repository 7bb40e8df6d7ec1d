"""The fleet's signatures checked in a child.

python-tuf and its cryptography take about 10 MB that Python does not give back. An update is
rare and an agent runs for months, so the check runs in a child that ends with it. The child
has no connection: it asks its parent for repository files, one line of JSON each way, and ends
when the parent does. What it accepts it stores itself, as :class:`agent.trust.client.Trust` does.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from io import BufferedRWPair
from pathlib import Path
from types import ModuleType
from typing import Final

import msgspec

from agent.children import helper, wire
from agent.children.limits import Failure, limit_child, silence, why
from agent.system.filesystem import is_full
from agent.trust.client import REFRESH_SECONDS, Fetch, Signed, Trust
from contracts import codec
from contracts.bundle import sha256_of
from contracts.errors import ErrorInfo, RefusedError, ShoalError, UnavailableError
from contracts.messages import BundleRef

SECONDS: Final = int(REFRESH_SECONDS) + 60
"""Seconds after which a child is killed."""


class Start(msgspec.Struct, frozen=True):
    """To the child: what to find out.

    Attributes:
        folder: of the trusted metadata.
        root: the fleet's ``root.json`` from enrolment.
        bundle: whose manifest is wanted; None: `target` is.
        now: seconds since the epoch.
    """

    folder: str
    root: bytes
    bundle: BundleRef | None
    now: float
    target: str = ""


class File(msgspec.Struct, frozen=True, omit_defaults=True):
    """To the child: a file that it asked for, or why not."""

    data: bytes = b""
    failure: Failure | None = None


class Said(msgspec.Struct, frozen=True, omit_defaults=True):
    """From the child: a file that it needs, or how it ended.

    Attributes:
        path, cap: the file, and the most bytes of it; empty: this is the end.
        manifest: as signed.
        signed: of the target.
        failure: why there is none.
    """

    path: str = ""
    cap: int = 0
    manifest: bytes = b""
    signed: Signed | None = None
    failure: Failure | None = None


class TrustApart:
    """As :class:`agent.trust.client.Trust`, for the update engine: the newest signed manifests.

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
        """As :meth:`agent.trust.client.Trust.newest`.

        Raises:
            UnavailableError: also ``trust-failed``; the child ended without an answer.
                ``disk-full``; metadata cannot be stored now.
        ShoalError: ``disk-error``; metadata cannot be stored.
        """
        return self._ask(ref).manifest

    def signed(self, name: str) -> Signed:
        """As :meth:`agent.trust.client.Trust.signed`; raises as :meth:`newest`."""
        signed = self._ask(None, name).signed
        assert signed is not None
        return signed

    def _ask(self, ref: BundleRef | None, target: str = "") -> Said:
        start = Start(str(self._folder.absolute()), self._root, ref, self._clock(), target)
        # One child goes on from device to device of a fleet: whose metadata could do it harm,
        # could send the same to each of them.
        return helper.ask(
            "trust",
            SECONDS,
            lambda child: self._converse(child.line, start),
            work=sha256_of(self._root),
        )

    def _converse(self, line: BufferedRWPair, start: Start) -> Said:
        try:
            wire.send(line, start)
            while True:
                said = wire.receive(line, Said)
                if said.failure is not None:
                    raise said.failure.raised()
                if not said.path:
                    return said
                try:
                    answer = File(self._fetch(said.path, said.cap))
                except ShoalError as error:
                    answer = File(failure=Failure.of(error))
                wire.send(line, answer)
        except (OSError, EOFError) as error:
            raise UnavailableError(
                "trust-failed",
                f"the check of the fleet's signatures ended without an answer{why(error)}",
            ) from None


def preload() -> None:
    """What every child needs."""
    # tuf.ngclient brings its own way to fetch, over urllib3: half of its time to load, and no
    # child fetches anything.
    fetcher = "tuf.ngclient.urllib3_fetcher"
    sys.modules.setdefault(fetcher, ModuleType(fetcher)).__dict__.setdefault(
        "Urllib3Fetcher", object
    )
    for module in (
        "tuf.ngclient._internal.trusted_metadata_set",
        "cryptography.hazmat.primitives.asymmetric.ed25519",
    ):
        importlib.import_module(module)
    for kind in (Start, File):
        codec.decoder(kind)


def main(line: BufferedRWPair) -> int:
    """The child: reads the question, asks for files, answers.

    Args:
        line: to the parent and from it.
    """
    silence()
    limit_child()

    def fetch(path: str, cap: int) -> bytes:
        wire.send(line, Said(path, cap))
        answer = wire.receive(line, File)
        if answer.failure is not None:
            raise answer.failure.raised()
        return answer.data

    try:
        start = wire.receive(line, Start)
        trust = Trust(Path(start.folder), start.root, fetch, clock=lambda: start.now)
        if start.bundle is None:
            answer = Said(signed=trust.signed(start.target))
        else:
            answer = Said(manifest=trust.newest(start.bundle))
    except ShoalError as error:
        answer = Said(failure=Failure.of(error))
    except MemoryError:
        refused = RefusedError("bad-metadata", "the metadata needs too much memory to check")
        answer = Said(failure=Failure.of(refused))
    except (ConnectionError, EOFError):
        return 1  # the parent ended
    except OSError as error:
        full = is_full(error)
        code = "disk-full" if full else "disk-error"
        info = ErrorInfo(code, f"signed metadata cannot be stored: {error.strerror or error}")
        answer = Said(failure=Failure("unavailable" if full else "other", info))
    wire.send(line, answer)
    return 0
