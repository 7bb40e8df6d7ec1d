"""Files that come in parts from a browser: bounded, in order, on disk, gone when nobody goes on.

Each part is a request of its own, so that neither its size nor its time is without a bound. What
came is hostile until the caller has checked it; here its bytes are only counted and written.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from contracts import limits
from contracts.errors import InputError, UnavailableError

MAX_PART_BYTES: Final = 768 * 1024
MAX_OPEN: Final = 4
IDLE_S: Final = 600.0
"""Seconds after which an upload that does not go on is dropped."""

SPARE_BYTES: Final = 64 * limits.MIB
"""What stays free on the disk: the upload, and its copy among the signed files, are more."""

LEFT_S: Final = 3600.0
"""Seconds after which what another process left is removed; it may be at work until then."""

PREFIX: Final = ".upload."
MAX_BYTES: Final = limits.MAX_BUNDLE_BYTES + limits.MAX_MANIFEST_BYTES
MAX_REPORT_BYTES: Final = 8 * limits.MIB
REPORT: Final = ".json"


class Upload(msgspec.Struct):
    """One file on its way.

    Attributes:
        id: random; who has it, and signed in as the same token, goes on.
        owner: the id of the token that began it.
        path: where it is written.
        size: of all of it, bytes.
        done: bytes that came.
        at: when the newest did.
    """

    id: str
    owner: str
    path: Path
    size: int
    done: int
    at: float

    @property
    def whole(self) -> bool:
        """Whether all of it is there."""
        return self.done == self.size


class Uploads:
    """The uploads of one controller process.

    Args:
        folder: of the fleet: uploads are beside what they become.
        monotonic: seconds that only grow.
    """

    def __init__(self, folder: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._open: dict[str, Upload] = {}
        self._drop_left()

    def begin(self, name: str, size: int, owner: str) -> Upload:
        """Makes room for a file.

        Args:
            name: what the person's file is called; of it plain characters stay.
            size: bytes.
            owner: the id of a token.

        Raises:
            InputError: ``too-large``, ``disk-full``.
            UnavailableError: ``busy``; too many are on their way.
        """
        plain = re.sub(r"[^A-Za-z0-9._-]", "-", name)[-80:].lstrip(".") or "bundle"
        most = MAX_REPORT_BYTES if plain.endswith(REPORT) else MAX_BYTES
        if not 0 < size <= most:
            raise InputError("too-large", f"{plain} has {size} bytes; 1 to {most} are taken")
        with self._lock:
            self._drop_idle()
            self._drop_left()
            if len(self._open) >= MAX_OPEN:
                raise UnavailableError("busy", f"{MAX_OPEN} files are on their way already: wait")
            claimed = sum(2 * one.size - one.done for one in self._open.values())
            free = shutil.disk_usage(self._folder).free
            if free - claimed < 2 * size + SPARE_BYTES:
                raise InputError(
                    "disk-full",
                    f"the file and its signed copy need {2 * size} bytes beside {SPARE_BYTES} that "
                    f"stay free; the controller's disk has {max(0, free - claimed)}",
                )
            identifier = secrets.token_hex(16)
            folder = self._folder / f"{PREFIX}{identifier}"
            folder.mkdir(mode=0o700)
            upload = Upload(identifier, owner, folder / plain, size, 0, self._monotonic())
            self._open[identifier] = upload
            upload.path.touch(mode=0o600)
        return upload

    def find(self, identifier: str, owner: str) -> Upload:
        """An upload that is on its way, or came.

        Raises:
            InputError: ``no-such-upload``; also when it is somebody else's.
        """
        with self._lock:
            return self._find(identifier, owner)

    def add(self, identifier: str, offset: int, data: bytes, owner: str) -> Upload:
        """Appends a part.

        Raises:
            InputError: ``no-such-upload``, ``bad-range``, ``too-large``.
        """
        with self._lock:
            upload = self._find(identifier, owner)
            if offset != upload.done:
                raise InputError(
                    "bad-range", f"expected what follows byte {upload.done}", done=upload.done
                )
            if len(data) > MAX_PART_BYTES or upload.done + len(data) > upload.size:
                raise InputError("too-large", "the part goes beyond the file, or is too large")
            if not data:
                raise InputError("bad-range", "the part is empty", done=upload.done)
            try:
                # Where the disk was full, a piece of this part may stand there already.
                with upload.path.open("r+b") as stream:
                    stream.seek(upload.done)
                    stream.write(data)
            except OSError as error:
                self._remove(identifier)
                raise UnavailableError("disk-error", f"cannot write the upload: {error}") from None
            upload.done += len(data)
            upload.at = self._monotonic()
        return upload

    def drop(self, identifier: str) -> None:
        """Removes an upload: it was taken, or refused."""
        with self._lock:
            self._remove(identifier)

    def _find(self, identifier: str, owner: str) -> Upload:
        self._drop_idle()
        upload = self._open.get(identifier)
        if upload is None or upload.owner != owner:
            raise InputError("no-such-upload", "this upload is not known: begin again")
        return upload

    def _drop_left(self) -> None:
        """Removes what processes left that ended in the middle of an upload."""
        for left in self._folder.glob(f"{PREFIX}*"):
            if left.name.removeprefix(PREFIX) in self._open:
                continue
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > LEFT_S:
                    shutil.rmtree(left, ignore_errors=True)

    def _drop_idle(self) -> None:
        now = self._monotonic()
        for one in [one.id for one in self._open.values() if now - one.at > IDLE_S]:
            self._remove(one)

    def _remove(self, identifier: str) -> None:
        upload = self._open.pop(identifier, None)
        if upload is not None:
            shutil.rmtree(upload.path.parent, ignore_errors=True)
