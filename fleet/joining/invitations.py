"""Invitations: one-time tokens for devices that join by one line, one at a time or many."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import msgspec

from contracts.board import load, load_for_agent
from contracts.errors import InputError
from contracts.messages import DeviceLabels
from fleet.folder import Fleet
from fleet.identity.enrolment import make_profile
from fleet.identity.registry import Invitation, Profile
from fleet.store import audit, devices
from fleet.store.entries import Actor

MANY = 20
"""Devices up to which an entry of the audit log names each."""


class Wanted(msgspec.Struct, frozen=True):
    """A device that is to join.

    Attributes:
        device: its name.
        board: a board profile's name.
        labels, groups: None: a device that is replaced keeps what it has.
        serial: of the board, where it is known by that.
    """

    device: str
    board: str
    labels: DeviceLabels | None = None
    groups: list[str] | None = None
    serial: str = ""


def check_board(name: str) -> None:
    """Whether a board can join by a line.

    Raises:
        InputError: ``unknown-board``, ``wrong-board``.
    """
    load_for_agent(name)
    if load(name).kind != "linux":
        raise InputError(
            "wrong-board",
            f"{name} runs no Linux: `shoal fleet enroll NAME --board {name}` writes its files",
        )


def invite(
    fleet: Fleet,
    wanted: Sequence[Wanted],
    *,
    seconds: float,
    replace: bool = False,
    actor: Actor | None = None,
) -> list[str]:
    """Tokens in the order of the devices; all of them, or none.

    Raises:
        InputError: ``unknown-board``, ``wrong-board``, ``bad-name``, ``reserved-name``,
            ``already-enrolled``, ``bad-duration``.
        UnavailableError: ``name-not-free``.
    """
    store = fleet.open_store()
    target = wanted[0].device if len(wanted) == 1 else f"{len(wanted)} devices"
    with (
        contextlib.closing(store),
        audit.acting(
            store, actor or audit.local(), "device.token", target,
            seconds=seconds, replace=replace, devices=[one.device for one in wanted[:MANY]],
            boards=sorted({one.board for one in wanted})[:MANY],
        ),
    ):  # fmt: skip
        for one in wanted:
            check_board(one.board)
        with store.read() as connection:
            known = devices.some(connection, [one.device for one in wanted]) if replace else {}
        profiles = [_profile(one, known.get(one.device)) for one in wanted]
        return fleet.open_identity().invite(profiles, seconds=seconds, replace=replace)


def _profile(wanted: Wanted, known: devices.Device | None) -> Profile:
    labels, groups = wanted.labels, wanted.groups
    if known is not None:
        labels = known.labels if labels is None else labels
        groups = list(known.groups) if groups is None else groups
    return make_profile(wanted.device, wanted.board, labels or {}, groups or [])


def every(fleet: Fleet) -> list[Invitation]:
    """All tokens that are remembered, without their secrets."""
    with fleet.open_identity().registry.transaction() as transaction:
        return transaction.tokens()


def revoke(fleet: Fleet, which: str, actor: Actor | None = None) -> int:
    """Takes tokens back that were not used, by their id or their device; how many it were.

    Raises:
        InputError: ``no-such-token``.
    """
    store = fleet.open_store()
    with (
        contextlib.closing(store),
        audit.acting(store, actor or audit.local(), "device.token-revoke", which[:200]),
        fleet.open_identity().registry.transaction() as transaction,
    ):
        mine = [one.id for one in transaction.tokens() if which in (one.id, one.profile.device)]
        count = transaction.revoke_tokens(mine, time.time())
        if not count:
            raise InputError(
                "no-such-token",
                f"no token that could still be used has the id, or is of the device, "
                f"{which[:64]!r}: see `shoal fleet tokens list`",
            )
        return count
