"""Whether a bundle fits this very device: its board profile, and what is measured now."""

from __future__ import annotations

from typing import Final

import msgspec

from agent.runtime.engine import available
from agent.serving.models import memory_need, no_base
from agent.telemetry.gauges import available_memory
from agent.update.machine import BASE
from agent.update.store import Store
from contracts import limits
from contracts.board import Board, misfits
from contracts.errors import RefusedError, ShoalError, UnavailableError
from contracts.manifest import Manifest
from contracts.messages import SlotReport
from contracts.progress import megabytes

SPACE_MARGIN_BYTES: Final = 8 * limits.MIB
"""Bytes that must stay free for the journal, the spool and the logs."""


class Device(msgspec.Struct, frozen=True):
    """What was measured of this device.

    Attributes:
        runtimes: that are installed.
        available_bytes: of memory that can still be used.
    """

    runtimes: list[str]
    available_bytes: int

    @classmethod
    def measure(cls) -> Device:
        """This device, now."""
        return cls(available(), available_memory())


def check_fit(manifest: Manifest, board: Board, device: Device) -> None:
    """Holds a bundle against the board and the device.

    Raises:
        RefusedError: ``does-not-fit`` with every reason.
    """
    here = [name for name in board.runtimes if name in device.runtimes]
    memory = min(board.model_ram_bytes, device.available_bytes)
    problems = [
        str(misfit)
        for misfit in misfits(
            manifest, msgspec.structs.replace(board, runtimes=here, model_ram_bytes=memory)
        )
    ]
    if not here:
        problems.append(
            f"runtime: the board may use {', '.join(board.runtimes)}; "
            f"installed: {', '.join(device.runtimes) or 'none'}"
        )
    need = memory_need(manifest)
    if manifest.model.peak_rss_bytes is None and need > memory:
        problems.append(f"memory: needs about {need} bytes, there are {memory} bytes")
    if problems:
        raise RefusedError("does-not-fit", "; ".join(problems))


def check_base(manifest: Manifest, slot: str, slots: dict[str, SlotReport]) -> None:
    """Whether the base of an adapter is active in another slot.

    Raises:
        RefusedError: ``no-base``, ``wrong-base``.
    """
    if manifest.adapter is None:
        return
    base = manifest.adapter.base
    there = [row.active for other, row in slots.items() if other != slot and row.active]
    if base not in there:
        why = no_base(f"{manifest.name} {manifest.version}", base, there)
        raise RefusedError(why.code, why.message, **{BASE: base.manifest_sha256})


def check_space(manifest: Manifest, store: Store, board: Board) -> None:
    """Whether the missing files fit on the disk, before the first byte is fetched.

    Raises:
        RefusedError: ``no-space``: the board's share of the disk is too small for the bundle
            beside those that are kept.
        UnavailableError: ``disk-full``: there is no room now.
    """
    missing = store.missing_bytes(manifest)
    kept = store.kept_bytes()
    if kept + missing > board.model_flash_bytes:
        raise RefusedError(
            "no-space",
            f"the bundle adds {missing} bytes to the {kept} bytes of kept bundles; "
            f"the board gives them {board.model_flash_bytes} bytes",
        )
    free = store.fs.free_bytes(store.root)
    if missing and free < missing + SPACE_MARGIN_BYTES:
        raise disk_full(manifest, store)


def is_short(manifest: Manifest, store: Store, board: Board) -> bool:
    """Whether there is no room for the missing files, for any reason."""
    try:
        check_space(manifest, store, board)
    except ShoalError:
        return True
    return False


def disk_full(manifest: Manifest, store: Store) -> UnavailableError:
    """There is no room for a bundle now; there may be later."""
    needs = store.missing_bytes(manifest) + SPACE_MARGIN_BYTES
    free = store.fs.free_bytes(store.root)
    return UnavailableError(
        "disk-full",
        f"the disk is full: the bundle needs {megabytes(needs)}, {megabytes(free)} are free: "
        "make room on the device",
        needs_bytes=needs,
        free_bytes=free,
    )
