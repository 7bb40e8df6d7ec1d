"""An update engine in one process: real store, real models, no network, no sleep."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

from agent.runtime import model as models
from agent.serving.models import Models
from agent.system.filesystem import FileSystem
from agent.telemetry.recorder import Recorder
from agent.update.engine import Engine
from agent.update.fetch import NO_SUCH_FILE, Transfer
from agent.update.fit import Device
from contracts import board as boards
from contracts.answers import Selftested
from contracts.bundle import Bundle
from contracts.desired import Desired, DesiredBundle, TrialRules
from contracts.errors import RefusedError, UnavailableError
from contracts.messages import BundleRef, UpdateEvent


class FakeClock:
    """Time that passes when somebody waits."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def time(self) -> float:
        """Seconds since the epoch."""
        return self.now

    def monotonic(self) -> float:
        """The same seconds."""
        return self.now

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Waits no time, but lets it pass."""
        self.now += seconds
        return event.is_set()


class MemoryRepository:
    """Trust and files of bundles in memory: the interfaces of production."""

    def __init__(self, *folders: Path) -> None:
        self.manifests: dict[BundleRef, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.reads: list[tuple[str, int]] = []
        self.sent = 0
        for folder in folders:
            self.add(folder)

    def add(self, folder: Path) -> BundleRef:
        """Publishes a bundle folder."""
        bundle = Bundle.open(folder)
        self.manifests[bundle.ref] = bundle.manifest_bytes
        for entry in bundle.manifest.files:
            self.files[f"blobs/{entry.sha256}"] = bundle.read(entry.path)
        return bundle.ref

    def newest(self, ref: BundleRef) -> bytes:
        """The signed manifest."""
        try:
            return self.manifests[ref]
        except KeyError:
            raise RefusedError("not-published", f"{ref} is not published") from None

    def open(self, path: str, offset: int = 0) -> Transfer:
        """A file from an offset on, in small pieces."""
        self.reads.append((path, offset))
        try:
            data = self.files[path]
        except KeyError:
            raise UnavailableError(NO_SUCH_FILE, f"no {path}") from None

        def pieces() -> Any:
            for start in range(offset, len(data), 4096):
                piece = data[start : start + 4096]
                self.sent += len(piece)
                yield piece

        return Transfer(len(data), pieces())


def selftest_here(folder: Path) -> Selftested:
    """The self-test without a process of its own."""
    return models.selftest(Bundle.open(folder))


class Rig:
    """One start of a device's engine on a state folder."""

    def __init__(self, fs: FileSystem, root: Path, repository: Any, **options: Any) -> None:
        self.clock = options.pop("clock", None) or FakeClock()
        self.events: list[UpdateEvent] = []
        self.stop = threading.Event()
        self.recorder = Recorder(options.pop("rss", lambda: 0))
        self.models = Models(models.Options())
        self.repository = repository
        settings: dict[str, Any] = {
            "board": boards.load("raspberry-pi-5"),
            "trust": repository,
            "fetcher": repository,
            "selftest": selftest_here,
            "device": lambda: Device(["litert"], 1 << 30),
        }
        self.engine = Engine(
            fs=fs,
            root=root,
            models=self.models,
            health=self.recorder,
            clock=self.clock,
            stop=self.stop,
            boot="boot",
            emit=self.events.append,
            **(settings | options),
        )

    def want(
        self, ref: BundleRef, revision: int, mode: str = "active", trial: TrialRules | None = None
    ) -> None:
        """Offers a desired document for the slot ``classify``."""
        wish = DesiredBundle(ref, mode, trial or TrialRules(seconds=1.0))  # type: ignore[arg-type]
        self.engine.offer(Desired(revision, {"classify": wish}))

    def settle(self, steps: int = 300) -> None:
        """Steps until there is nothing to do."""
        for _ in range(steps):
            pause = self.engine.step()
            if pause is None:
                return
            self.clock.now += pause
        raise AssertionError(f"not settled after {steps} steps: {self.engine.journal.update}")

    def active(self) -> BundleRef | None:
        """The active bundle by the links."""
        report = self.engine.store.reports().get("classify")
        return report.active if report else None

    def answer(self, text: str = "turn on the lights") -> Any:
        """What the device answers now."""
        with self.models.use("classify") as model:
            return model.classify(text)

    def close(self) -> None:
        """Frees the models."""
        self.models.close()


def copy_state(source: Path, target: Path) -> Path:
    """A fresh copy of a state folder."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target, symlinks=True)
    return target
