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
from contracts.errors import ErrorInfo, RefusedError, UnavailableError
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
    """A loaded model. `adapted`: by their slots, the adapters that were loaded with it.

    `need` is of both.
    """

    model: Any
    need: int
    users: int = 0
    last_use: int = 0
    retired: bool = False
    adapted: dict[str, Any] = {}

    def forget(self, slot: str) -> None:
        """Lets go of an adapter."""
        model = self.adapted.pop(slot, None)
        if model is not None:
            self.need -= memory_need(model.manifest)


class Models:
    """Loaded models by slot (and ``slot/shadow``).

    A slot knows the folder of its bundle. The model is loaded by :meth:`activate`; when the
    budget is full, the one used longest ago that nobody uses is dropped and comes back at its
    next use.

    An adapter is loaded with the model of the slot that has its base, and goes with it. While no
    slot has that, it serves nothing.

    Args:
        options: how models are loaded.
        budget_bytes: that all loaded models may take; 0: no limit.
        open_bundle: opens a bundle's folder.
        load: loads a bundle.
        adapt: loads an adapter's bundle with the model of its base.
    """

    def __init__(
        self,
        options: models.Options,
        budget_bytes: int = 0,
        *,
        open_bundle: Callable[[Path], Bundle] = Bundle.open,
        load: models.Load | None = None,
        adapt: models.Adapt | None = None,
    ) -> None:
        self._options = options
        self._open = open_bundle
        self._load_model = load
        self._adapt = adapt or models.adapt
        self._budget = budget_bytes
        self._folders: dict[str, Path] = {}
        self._refs: dict[str, BundleRef] = {}
        self._bases: dict[str, BundleRef] = {}
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

    def problem(self, slot: str) -> ErrorInfo | None:
        """Why a slot that has an adapter serves nothing. Never waits."""
        base = self._bases.get(slot)
        if base is None or self._slot_of(base, slot) is not None:
            return None
        return no_base(self._refs.get(slot), base, list(dict(self._refs).values()))

    def _slot_of(self, base: BundleRef, adapter: str) -> str | None:
        """A slot whose bundle is `base`, but the adapter's own."""
        refs = sorted(dict(self._refs).items())
        return next((s for s, ref in refs if ref == base and "/" not in s and s != adapter), None)

    def adapter(self, slot: str, name: str) -> str:
        """The slot of an adapter of the bundle in `slot`, by its own slot or its bundle's name.

        Raises:
            UnavailableError: ``no-adapter``.
        """
        base = self._refs.get(slot)
        mine = {
            own: self._refs[own].name
            for own, of in sorted(dict(self._bases).items())
            if of == base and own in self._refs and "/" not in own
        }
        if name in mine:
            return name
        found = next((own for own, bundle in mine.items() if bundle == name), None)
        if found is None:
            raise UnavailableError(
                "no-adapter",
                f"{slot[:64]!r} has no adapter {name[:64]!r} here; it has: "
                f"{', '.join(mine) or 'none'}",
            )
        return found

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
                self._bases.pop(slot, None)
                self._retire(slot)
            return
        bundle = self._open(folder)
        if bundle.manifest.adapter is not None:
            self._activate_adapter(slot, folder, bundle, bundle.manifest.adapter.base)
            return
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
            self._bases.pop(slot, None)
            self._loaded[slot] = loaded

    def _activate_adapter(self, slot: str, folder: Path, bundle: Bundle, base: BundleRef) -> None:
        where = self._slot_of(base, slot)
        if where is None:
            why = no_base(bundle.ref, base, list(dict(self._refs).values()))
            raise RefusedError(why.code, why.message)
        with self._lock, self._used(where) as loaded:
            model = self._load_adapter(loaded, where, bundle)
            self._retire(slot)
            loaded.adapted[slot] = model
            self._folders[slot], self._refs[slot], self._bases[slot] = folder, bundle.ref, base

    def reload(self, slot: str, bundle: BundleRef) -> None:
        """Loads a slot's bundle anew, if it is still this one; requests in flight are finished.

        Raises:
            ShoalError: it cannot be loaded.
        """
        with self._lock:
            if self._refs.get(slot) != bundle or slot in self._bases:
                return
            self._retire(slot)
            with self._used(slot):
                pass

    @contextmanager
    def use(self, slot: str) -> Iterator[Any]:
        """The slot's model, loaded when needed; it is not freed while in use.

        Raises:
            UnavailableError: ``no-model``; ``no-base``, ``wrong-base``, of an adapter whose base
                does not serve here.
            ShoalError: it cannot be loaded.
        """
        base = self._bases.get(slot)
        if base is None:
            with self._used(slot) as loaded:
                yield loaded.model
            return
        where = self._slot_of(base, slot)
        if where is None:
            why = no_base(self._refs.get(slot), base, list(dict(self._refs).values()))
            raise UnavailableError(why.code, why.message)
        with self._used(where) as loaded:
            with self._lock:
                model = loaded.adapted.get(slot)
                if model is None:
                    model = self._load_adapter(loaded, where, self.bundle(slot))
                    loaded.adapted[slot] = model
            yield model

    @contextmanager
    def _used(self, slot: str) -> Iterator[_Loaded]:
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
            yield loaded
        finally:
            with self._lock:
                loaded.users -= 1
                if loaded.retired and not loaded.users:
                    loaded.model.close()

    def _load_adapter(self, loaded: _Loaded, where: str, bundle: Bundle) -> Any:
        """Loads an adapter with the model of its base, within the budget.

        It is not warmed up: another thread may be using the base.
        """
        need = memory_need(bundle.manifest)
        if not self._make_room(need, keep=where):
            raise RefusedError(
                "no-memory",
                f"{bundle.ref} needs {need} bytes beside its base; models may take "
                f"{self._budget} together",
            )
        model = self._adapt(loaded.model, bundle)
        loaded.need += need
        return model

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
        for other in self._loaded.values():
            other.forget(slot)
        loaded = self._loaded.pop(slot, None)
        if loaded is not None:
            loaded.retired = True
            if not loaded.users:
                loaded.model.close()


def no_base(adapter: BundleRef | str | None, base: BundleRef, there: list[BundleRef]) -> ErrorInfo:
    """Why an adapter cannot serve: its base is not what serves here."""
    other = next((ref for ref in there if ref.name == base.name), None)
    digest = base.manifest_sha256[:12]
    if other is None:
        return ErrorInfo(
            "no-base", f"{adapter} is an adapter of {base} ({digest}...), which does not serve here"
        )
    return ErrorInfo(
        "wrong-base",
        f"{adapter} is an adapter of {base} ({digest}...); here serves {other} "
        f"({other.manifest_sha256[:12]}...): send the adapter that was made for it",
    )
