"""Which bundles an accelerator serves on this device: what was tried, what passed, what broke.

A bundle is tried in a child (:mod:`agent.runtime.acceleration`). One that passed there is loaded
with the accelerator in the agent, under a mark on the disk: an agent that ends without removing
it, while the system goes on, was ended by the accelerator as far as anybody knows. Then the
processor serves until something changes: the setting, the runtime, the library, the kernel.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.runtime import acceleration
from agent.runtime import model as runtimes
from agent.runtime.engine import available, installed_version
from agent.serving.models import Models
from agent.system.filesystem import FileSystem, write_durably
from agent.system.log import logger
from contracts import codec
from contracts.bundle import Bundle
from contracts.errors import ErrorInfo, InputError, ShoalError
from contracts.messages import Acceleration, BundleRef

log = logger(__name__)

NAME: Final = "accelerator.json"

MAX_KEPT: Final = 32
"""Bundles that are remembered to have passed."""

KERNEL_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")

UNSUPPORTED: Final = ErrorInfo(
    "accelerator-unsupported", "text is generated on the processor; accelerators run classifiers"
)

Attempt = Callable[..., Acceleration]
"""As :func:`agent.runtime.acceleration.attempt`."""


class Passed(msgspec.Struct, frozen=True):
    """A bundle that passed: with which accelerator, and how."""

    accelerator: str
    found: Acceleration


class Kept(msgspec.Struct):
    """The file.

    Attributes:
        identity: of all that the rest depends on.
        passed: by sha256 of the manifest, the oldest first.
        serving: id of the system's run in which an accelerator serves; empty: none does.
        died: why none is used any more.
    """

    identity: str = ""
    passed: dict[str, Passed] = {}
    serving: str = ""
    died: ErrorInfo | None = None


class Accelerators:
    """The accelerators of one device. Safe from any thread.

    Args:
        setting: ``serving.accelerator``.
        fs: the disk.
        root: the state folder.
        options: how models are loaded.
        memory_bytes: that a model may take.
        changed: told when what a slot reports has changed.
        attempt: tries one.
        kernel_boot: a file with an id of the system's run.
    """

    def __init__(
        self,
        setting: str,
        *,
        fs: FileSystem,
        root: Path,
        options: runtimes.Options,
        memory_bytes: int = 0,
        changed: Callable[[], None] = lambda: None,
        attempt: Attempt = acceleration.attempt,
        kernel_boot: Path = KERNEL_BOOT,
    ) -> None:
        self._choices = acceleration.choices(setting)
        self._fs = fs
        self._path = root / NAME
        self._options = options
        self._memory_bytes = memory_bytes
        self.changed = changed
        self._attempt = attempt
        self._lock = threading.Lock()
        self._found: dict[str, Acceleration] = {}
        self._kernel_boot = ""
        self._kept = Kept()
        if self._choices:
            self._kernel_boot = _read(kernel_boot)
            self._kept = self._recall(_identity(setting))

    def _recall(self, identity: str) -> Kept:
        try:
            there = self._fs.size(self._path) is not None
            kept = codec.decode(self._fs.read(self._path), Kept, what=NAME) if there else Kept()
        except (InputError, OSError) as error:
            log.warning("accelerators not read", reason=str(error))
            kept = Kept()
        if kept.identity != identity:
            return Kept(identity)
        if kept.serving and kept.serving == self._kernel_boot:
            kept.died = ErrorInfo(
                "accelerator-died", "the agent ended while it served: the processor does now"
            )
            log.error("accelerator given up", reason=kept.died.message)
            kept.passed, kept.serving = {}, ""
            self._write(kept)
        kept.serving = ""
        for digest, one in kept.passed.items():
            self._found[digest] = one.found
        return kept

    def of(self, bundle: BundleRef | None) -> Acceleration | None:
        """What came of a bundle; None: nothing was tried."""
        if not self._choices or bundle is None:
            return None
        if self._kept.died is not None:
            name = acceleration.name_of(self._choices[-1])
            return Acceleration(name, reason=self._kept.died)
        return self._found.get(bundle.manifest_sha256)

    def consider(self, folder: Path, digest: str) -> None:
        """Tries what is set with a bundle that has passed its self-test, unless it passed before.

        Takes up to minutes. Whatever comes of it, the bundle can serve.

        Args:
            folder: of the bundle.
            digest: sha256 of its manifest.

        Raises:
            InputError: the bundle cannot be read.
        """
        if not self._choices or self._kept.died is not None:
            return
        with self._lock:
            if digest in self._kept.passed:
                return
            found = Acceleration("none", reason=UNSUPPORTED)
            if Bundle.open(folder).manifest.task == "classify":
                found = self._try(folder, digest)
            self._found[digest] = found
        log.info("accelerator tried", bundle=digest, **_said(found))
        self.changed()

    def _try(self, folder: Path, digest: str) -> Acceleration:
        tried = []
        for accelerator in self._choices:
            found = self._attempt(
                folder,
                accelerator,
                runtime=self._options.runtime,
                threads=self._options.threads,
                memory_bytes=self._memory_bytes,
            )
            if found.used:
                self._kept.passed[digest] = Passed(accelerator, found)
                while len(self._kept.passed) > MAX_KEPT:
                    del self._kept.passed[next(iter(self._kept.passed))]
                self._write()
                return found
            tried.append(found)
        there = [one for one in tried if one.reason and one.reason.code != "accelerator-absent"]
        return (there or tried)[-1]

    def look(self, models: Models, stopped: Callable[[], bool]) -> None:
        """Tries what is set with every bundle that serves, and loads it anew where that passes."""
        for slot in models.slots if self._choices else []:
            try:
                bundle = models.bundle(slot)
                digest = bundle.ref.manifest_sha256
                if stopped() or digest in self._found:
                    continue
                self.consider(bundle.path, digest)
                if digest in self._kept.passed:
                    models.reload(slot, bundle.ref)
            except (ShoalError, OSError) as error:  # it serves as it did
                log.warning("accelerator not tried", slot=slot, reason=str(error))

    def load(self, bundle: Bundle, options: runtimes.Options) -> Any:
        """Loads a bundle with what it passed with; the result is a loaded model.

        Raises:
            ShoalError, OSError: as :func:`agent.runtime.model.load`.
        """
        digest = bundle.ref.manifest_sha256
        with self._lock:
            passed = self._kept.passed.get(digest)
            if passed is None or not self._mark():
                return runtimes.load(bundle, options)
        try:
            chosen = msgspec.structs.replace(options, accelerator=passed.accelerator)
            model = runtimes.load(bundle, chosen)
        except (ShoalError, OSError) as error:
            self._broke(digest, str(error))
            return runtimes.load(bundle, options)
        model.fall_back(lambda error: self._broke(digest, str(error)))
        return model

    def _mark(self) -> bool:
        """Notes that an accelerator serves; False: the disk refuses, and nothing can be noted."""
        if not self._kept.serving:
            self._kept.serving = self._kernel_boot
            if not self._write():
                self._kept.serving = ""
                return False
        return True

    def _broke(self, digest: str, why: str) -> None:
        with self._lock:
            passed = self._kept.passed.pop(digest, None)
            if passed is None:
                return
            reason = ErrorInfo("accelerator-failed", why[:500])
            self._found[digest] = Acceleration(passed.found.name, reason=reason)
            self._write()
        log.error("accelerator broke: the processor serves", bundle=digest, reason=why)
        self.changed()

    def close(self) -> None:
        """The agent ends well, and its models are closed."""
        with self._lock:
            if self._kept.serving:
                self._kept.serving = ""
                self._write()

    def _write(self, kept: Kept | None = None) -> bool:
        try:
            write_durably(self._fs, self._path, codec.encode(kept or self._kept))
        except OSError as error:
            log.warning("accelerators not written", reason=str(error))
            return False
        return True


def _identity(setting: str) -> str:
    """All that a result depends on and that can be seen."""
    seen = [setting, platform.release()]
    seen += [f"{name} {installed_version(name)}" for name in available()]
    if setting.startswith("/"):
        try:
            facts = Path(setting).stat()
            seen.append(f"{facts.st_size} {facts.st_mtime_ns}")
        except OSError:
            seen.append("not there")
    return "; ".join(seen)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip() or "unknown"
    except OSError:
        return "unknown"  # then a power cut counts as a crash: the processor serves


def _said(found: Acceleration) -> dict[str, Any]:
    said: dict[str, Any] = {"accelerator": found.name, "used": found.used}
    if found.speedup:
        said["speedup"] = found.speedup
    if found.reason is not None:
        said |= {"code": found.reason.code, "reason": found.reason.message}
    return said
