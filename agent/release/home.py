"""The folder of the agent's releases on a device: what runs, what is on trial, what failed.

::

    current           link to releases/{name}: what runs without a trial; none: as installed
    previous          link to what was current before; none: as installed
    trial.json        the release on trial (agent.release.starter counts its starts)
    failed.json       the last one that was given up, and why
    fetched.json      the archive that was downloaded for the running update
    releases/{name}/  an environment, whole when it has ready.json
    blobs/ partial/   archives, as of bundles (agent.update.store)

`name` is the sha256 of a release's reference. The starter reads trial.json and current, and
writes trial.json and failed.json; while it does, no agent runs, or the one on trial.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, TypeVar

import msgspec

from agent.system.filesystem import (
    FileSystem,
    link_durably,
    make_folders,
    read_if_given,
    write_durably,
)
from agent.system.log import logger
from contracts import codec, limits
from contracts.errors import ErrorInfo, InputError
from contracts.messages import Count, Sha256, Version

log = logger(__name__)

AGAIN: Final = 75
"""Exit code that asks the starter to choose again; as :data:`agent.release.starter.AGAIN`."""

VARIABLE: Final = "SHOAL_STARTER"
"""What the starter tells the agent, as JSON: :class:`Started`."""

_MAX_BYTES: Final = 64 * limits.KIB
T = TypeVar("T")


class Started(msgspec.Struct, frozen=True):
    """How the starter started this agent.

    Attributes:
        home: the folder of the releases.
        base: the environment that was installed, which no update changes.
        release: name of the one that runs; empty: the base.
        argv: the starter's own command line.
        watched: the starter waits for the end of this process.
    """

    home: str
    base: str
    release: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$")]
    argv: list[str]
    watched: bool

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> Started | None:
        """What the starter told; None: this agent was not started by one."""
        text = environment.get(VARIABLE)
        if not text:
            return None
        try:
            return codec.decode(text.encode(), cls, what=VARIABLE)
        except InputError as error:
            log.error("the starter is not understood", reason=str(error))
            return None


class Trial(msgspec.Struct, frozen=True):
    """``trial.json``.

    Attributes:
        release: its name.
        version: of the agent in it.
        starts: that the starter has counted.
        max_starts: that it may have.
        deadline_s: seconds after a start within which the trial has to end.
        serves: slots that served before, and have to on trial.
    """

    release: Sha256
    version: Version
    starts: Count
    max_starts: Count
    deadline_s: float
    serves: list[str] = []


class Failed(msgspec.Struct, frozen=True):
    """``failed.json``: a release that was given up."""

    release: Sha256
    code: str
    message: str

    @property
    def reason(self) -> ErrorInfo:
        """Why."""
        return ErrorInfo(self.code, self.message[: limits.MAX_REASON_CHARS], {})


class Ready(msgspec.Struct, frozen=True):
    """``ready.json``: an environment that is whole; `sha256` of the archive that it is from."""

    version: Version
    sha256: Sha256


class Fetched(msgspec.Struct, frozen=True):
    """``fetched.json``: the archive on the disk, and which release it is."""

    release: Sha256
    sha256: Sha256
    size: Count


class Home:
    """The releases below one folder. For one thread.

    Args:
        fs: the disk.
        path: the folder; made when something is written.
        running: name of the release that runs; empty: the base.
    """

    def __init__(self, fs: FileSystem, path: Path, running: str = "") -> None:
        self.fs = fs
        self.path = path
        self.running = running

    def prepare(self) -> None:
        """Makes the folders."""
        for name in ("blobs", "partial", "releases"):
            make_folders(self.fs, self.path / name)

    def folder(self, release: str) -> Path:
        """Where the environment of a release is."""
        return self.path / "releases" / release

    def blob(self, sha256: str) -> Path:
        """Where an archive is."""
        return self.path / "blobs" / sha256

    # What is written down. -----------------------------------------------------------------

    @property
    def current(self) -> str:
        """The release that runs when none is on trial; empty: the base."""
        return self._linked("current")

    def _linked(self, link: str) -> str:
        return (self.fs.link_target(self.path / link) or "").rpartition("/")[2]

    def _link(self, link: str, release: str) -> None:
        if release:
            link_durably(self.fs, f"releases/{release}", self.path / link)
        elif self.fs.link_target(self.path / link) is not None:
            self.fs.remove(self.path / link)
            self.fs.sync_folder(self.path)

    def trial(self) -> Trial | None:
        """The release on trial."""
        return self._read(self.path / "trial.json", Trial)

    def failed(self) -> Failed | None:
        """The last one that was given up."""
        return self._read(self.path / "failed.json", Failed)

    def fetched(self) -> Fetched | None:
        """The archive that was downloaded last."""
        return self._read(self.path / "fetched.json", Fetched)

    def ready(self, release: str) -> Ready | None:
        """An environment that is whole."""
        return self._read(self.folder(release) / "ready.json", Ready)

    def _read(self, path: Path, kind: type[T]) -> T | None:
        """A small file; None where there is none, or none that says anything."""
        size = self.fs.size(path)
        if size is None or size > _MAX_BYTES:
            return None
        data = read_if_given(self.fs, path)
        try:
            return None if data is None else codec.decode(data, kind, what=path.name)
        except InputError as error:
            log.error("a file of the releases is damaged", file=path.name, reason=str(error))
            return None

    # Changes: each is durable, and can be done again from its start. --------------------------

    def note(self, fetched: Fetched) -> None:
        """Notes which archive is there."""
        write_durably(self.fs, self.path / "fetched.json", codec.encode(fetched))

    def finish(self, release: str, ready: Ready) -> None:
        """Marks an environment as whole; everything of it must be on the disk."""
        write_durably(self.fs, self.folder(release) / "ready.json", codec.encode(ready))

    def try_next(self, trial: Trial) -> None:
        """From the next start on, the starter tries this release."""
        self._drop("failed.json")
        write_durably(self.fs, self.path / "trial.json", codec.encode(trial))

    def commit(self, release: str) -> None:
        """What is on trial is what runs from now on."""
        if self.current != release:
            self._link("previous", self.current)
        self._link("current", release)
        self._drop("trial.json")

    def go_back(self, release: str) -> None:
        """Undoes :meth:`commit`, whose end was not written down."""
        if self.current == release:
            self._link("current", self._linked("previous"))

    def withdraw(self) -> None:
        """There is no trial any more: what is current runs at the next start."""
        self._drop("trial.json")

    def forget(self, release: str) -> None:
        """A release that was given up is tried once more."""
        failed = self.failed()
        if failed is not None and failed.release == release:
            self._drop("failed.json")

    def _drop(self, name: str) -> None:
        if self.fs.size(self.path / name) is not None:
            self.fs.remove(self.path / name)
            self.fs.sync_folder(self.path)

    # Space. ----------------------------------------------------------------------------------

    def unneeded(self, wanted: str = "") -> list[str]:
        """Environments that nothing needs: not what runs, is current, on trial, or `wanted`."""
        trial = self.trial()
        keep = {self.running, self.current, wanted, trial.release if trial else ""}
        return [name for name in self.fs.names(self.path / "releases") if name not in keep]

    def drop_archives(self, keep: set[str]) -> None:
        """Removes archives, whole and partial, but for some by their sha256."""
        for folder in ("blobs", "partial"):
            for name in self.fs.names(self.path / folder):
                if name.partition(".")[0] not in keep:
                    self.fs.remove(self.path / folder / name)
