"""The models that are loaded: one a slot, within a memory budget, swapped while in use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from agent.runtime import model as models
from agent.system.log import logger
from contracts.bundle import Bundle
from contracts.errors import RefusedError, UnavailableError
from contracts.manifest import Manifest
from contracts.messages import BundleRef

log = logger(__name__)


def memory_need(manifest: Manifest) -> int:
    """Bytes that a loaded model takes: measured by the builder, else twice its file."""
    if manifest.model.peak_rss_bytes is not None:
        return manifest.model.peak_rss_bytes
    size = next((f.size for f in manifest.files if f.path == manifest.model.file), 0)
    return 2 * size


class _Loaded(msgspec.Struct):
    model: Any
    need: int
    users: int = 0
    last_use: int = 0
    retired: bool = False


class Models:
    """Loaded models by slot (and ``slot/shadow``).

    A slot knows the folder of its bundle. The model is loaded by :meth:`activate`; when the
    budget is full, the one used longest ago that nobody uses is dropped and comes back at its
    next use.

    Args:
        options: how models are loaded.
        budget_bytes: that all loaded models may take; 0: no limit.
        open_bundle: opens a bundle's folder.
        load: loads a bundle.
    """

    def __init__(
        self,
        options: models.Options,
        budget_bytes: int = 0,
        *,
        open_bundle: Callable[[Path], Bundle] = Bundle.open,
        load: models.Load | None = None,
    ) -> None:
        self._options = options
        self._open = open_bundle
        self._load_model = load
        self._budget = budget_bytes
        self._folders: dict[str, Path] = {}
        self._refs: dict[str, BundleRef] = {}
        self._loaded: dict[str, _Loaded] = {}
        self._uses = 0
        self._lock = threading.RLock()

    @property
    def slots(self) -> list[str]:
        """Slots that have a bundle."""
        with self._lock:
            return sorted(self._folders)

    def ref(self, slot: str) -> BundleRef | None:
        """The bundle that serves a slot. Never waits for a model that is being loaded."""
        return self._refs.get(slot)

    def activate(self, slot: str, folder: Path | None) -> None:
        """Serves the bundle in `folder` from now on; None: the slot is empty.

        The new model is loaded and warm before the old one goes, unless the budget cannot
        hold both. Requests in flight finish on the old one.

        Raises:
            ShoalError: the new model cannot be loaded; the old one stays.
        """
        if folder is None:
            with self._lock:
                self._folders.pop(slot, None)
                self._refs.pop(slot, None)
                self._retire(slot)
            return
        bundle = self._open(folder)
        with self._lock:
            old = self._loaded.get(slot)
            need = memory_need(bundle.manifest)
            if old is not None and not self._make_room(need, keep=slot):
                self._retire(slot)
        loaded = self._load(bundle, slot)
        with self._lock:
            self._retire(slot)
            self._folders[slot] = folder
            self._refs[slot] = bundle.ref
            self._loaded[slot] = loaded

    @contextmanager
    def use(self, slot: str) -> Iterator[Any]:
        """The slot's model, loaded when needed; it is not freed while in use.

        Raises:
            UnavailableError: ``no-model``.
            ShoalError: it cannot be loaded.
        """
        with self._lock:
            folder = self._folders.get(slot)
            if folder is None:
                have = ", ".join(s for s in self.slots if "/" not in s) or "none"
                raise UnavailableError(
                    "no-model", f"no model serves {slot[:64]!r} here; slots with one: {have}"
                )
            loaded = self._loaded.get(slot)
            if loaded is None:
                loaded = self._loaded[slot] = self._load(self._open(folder), slot)
            self._uses += 1
            loaded.last_use = self._uses
            loaded.users += 1
        try:
            yield loaded.model
        finally:
            with self._lock:
                loaded.users -= 1
                if loaded.retired and not loaded.users:
                    loaded.model.close()

    def bundle(self, slot: str) -> Bundle:
        """The slot's bundle, opened.

        Raises:
            UnavailableError: ``no-model``.
            InputError: it is damaged.
        """
        with self._lock:
            folder = self._folders.get(slot)
        if folder is None:
            raise UnavailableError("no-model", f"no model serves {slot[:64]!r} here")
        return self._open(folder)

    def close(self) -> None:
        """Frees every model."""
        with self._lock:
            for slot in list(self._loaded):
                self._retire(slot)

    def _load(self, bundle: Bundle, slot: str) -> _Loaded:
        need = memory_need(bundle.manifest)
        if not self._make_room(need, keep=slot):
            raise RefusedError(
                "no-memory",
                f"{bundle.ref} needs {need} bytes; models may take {self._budget} together",
            )
        load = self._load_model or models.load
        model = load(bundle, self._options)
        try:
            with models.refusing("warming up"):
                model.warm_up()
        except BaseException:
            model.close()
            raise
        return _Loaded(model, need)

    def _make_room(self, need: int, keep: str) -> bool:
        """Drops idle models until `need` more bytes fit; False when they cannot."""
        if not self._budget:
            return True
        with self._lock:
            stays = [r.need for slot, r in self._loaded.items() if r.users or slot == keep]
            if sum(stays) + need > self._budget:
                return False  # nobody else has to go for what cannot come
            while sum(row.need for row in self._loaded.values()) + need > self._budget:
                idle = [
                    (row.last_use, slot)
                    for slot, row in self._loaded.items()
                    if not row.users and slot != keep
                ]
                if not idle:
                    return False
                slot = min(idle)[1]
                log.info("model dropped for memory", slot=slot)
                self._retire(slot)
            return True

    def _retire(self, slot: str) -> None:
        loaded = self._loaded.pop(slot, None)
        if loaded is not None:
            loaded.retired = True
            if not loaded.users:
                loaded.model.close()
