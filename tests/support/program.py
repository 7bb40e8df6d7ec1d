"""A device that replaces its own program, in one process: the real engine and the real starter.

An environment is a folder with two files; whether its program runs is what the test says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.release import starter
from agent.release.home import Home
from agent.system.filesystem import FileSystem
from agent.trust.client import Signed
from agent.update.program import Own
from contracts import codec, program, release
from contracts.bundle import sha256_of
from contracts.desired import Desired, DesiredBundle, TrialRules
from contracts.errors import RefusedError
from contracts.messages import BundleRef
from tests.support.engine import MemoryRepository, Rig

TARGET = ("x86-64", "cp311")
BASE = "1.0.0"


class Releases(MemoryRepository):
    """A repository with archives of releases; their bytes are of no meaning."""

    def __init__(self, *versions: str) -> None:
        super().__init__()
        self.targets: dict[str, Signed] = {}
        for version in versions:
            self.publish(version)

    def publish(self, version: str) -> None:
        """Signs an archive of a version."""
        data = f"archive of {version} ".encode() * 600
        name = release.target(version, *TARGET)
        signed = Signed(sha256_of(data), len(data))
        self.targets[name] = signed
        self.files[f"blobs/{signed.sha256}"] = data

    def signed(self, name: str) -> Signed:
        """A signed target."""
        try:
            return self.targets[name]
        except KeyError:
            raise RefusedError("not-published", f"{name} is not published") from None


class Folders:
    """Makes environments on a disk.

    Args:
        fs: the disk.
        failing: versions whose self-test fails.
    """

    target = TARGET

    def __init__(self, fs: FileSystem, failing: Sequence[str] = ()) -> None:
        self.fs = fs
        self.failing = failing

    def build(self, archive: Path, folder: Path, version: str) -> None:
        """Two files, durable before it returns."""
        assert version.encode() in self.fs.read(archive)
        self.remove(folder)
        for made in (folder, folder / "bin"):
            self.fs.make_folder(made)
        self.fs.write(folder / "bin/python", version.encode())
        self.fs.sync(folder / "bin/python")
        for made in (folder / "bin", folder, folder.parent):
            self.fs.sync_folder(made)

    def selftest(self, folder: Path, version: str, serves: Sequence[str]) -> None:
        """As the test says."""
        assert (folder / "bin/python").read_bytes() == version.encode()
        if version in self.failing:
            raise RefusedError("release-selftest", "the test says so")

    def remove(self, folder: Path) -> None:
        """The mark first."""
        for name in ("ready.json", "ready.json.new", "bin/python", "bin", ""):
            self.fs.remove(folder / name)


class ProgramDevice:
    """A device with a starter, from start to start.

    Args:
        root: its state folder.
        releases: the repository.
        crashing: versions that crash when they are imported.
        failing: versions whose self-test fails.
        deaf: versions that never reach the broker.
    """

    def __init__(
        self,
        root: Path,
        releases: Releases,
        *,
        crashing: Sequence[str] = (),
        failing: Sequence[str] = (),
        deaf: Sequence[str] = (),
    ) -> None:
        self.root = root
        self.home = root / "program"
        self.base = root / "base"
        self.releases = releases
        self.crashing, self.failing, self.deaf = crashing, failing, deaf
        self.started: list[str] = []
        self.rig: Rig | None = None

    def install(self) -> None:
        """As the installer leaves it."""
        (self.base / "bin").mkdir(parents=True)
        (self.base / "bin/python").write_text(BASE)
        self.home.mkdir()

    def start(self, fs: FileSystem, **options: Any) -> Rig | None:
        """One start: the starter chooses, and what it chose comes up; None: it crashed."""
        folder, name, _ = starter.choose(fs, self.home, self.base)
        version = (folder / "bin/python").read_text()
        if name:
            ready = codec.decode((folder / "ready.json").read_bytes(), dict[str, str], what="")
            assert ready["version"] == version
        self.started.append(version)
        if version in self.crashing:
            return None
        self.again = False
        own = Own(
            version=version,
            home=Home(fs, self.home, name),
            environments=Folders(fs, self.failing),
            restart=self._restart,
            connected=lambda: version not in self.deaf,
        )
        rig = self.rig = Rig(fs, self.root, self.releases, own=own, **options)
        rig.engine.recover()
        return rig

    def _restart(self) -> None:
        self.again = True

    def run(self, fs: FileSystem, desired: Desired, starts: int = 12) -> Rig:
        """Starts and steps until there is nothing to do any more."""
        for _ in range(starts):
            rig = self.start(fs)
            if rig is None:
                continue
            rig.engine.offer(desired)
            for _ in range(600):
                pause = rig.engine.step()
                if self.again:
                    break
                if pause is None:
                    return rig
                rig.clock.now += pause
            else:
                raise AssertionError(f"not settled: {rig.engine.journal.update}")
        raise AssertionError(f"started {self.started}")


def want(version: str, revision: int, trial: TrialRules | None = None) -> Desired:
    """A desired document that names a release."""
    wish = DesiredBundle(ref(version), trial=trial or TrialRules(seconds=1.0))
    return Desired(revision, {program.SLOT: wish})


def ref(version: str) -> BundleRef:
    """A release as a reference."""
    return program.ref(version)


__all__ = ["BASE", "ProgramDevice", "Releases", "ref", "want"]
