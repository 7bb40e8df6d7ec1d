"""How devices leave: revoked, retired, replaced, or with another name.

Each reads as the list of its steps. First the controller's own word counts (ingest drops, queries
and blocks pass over the device, no renewal); then the device is told, and says that it has read it;
then the broker's files are written and read; then its open connection is ended, and what the
broker retains of it is removed. What cannot be done now, because the broker is away or may not be
signalled, is said, and done by the controller later (:mod:`fleet.membership.watch`).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import structlog

from contracts.errors import InputError, UnavailableError
from contracts.messages import Leave, LeaveReason
from contracts.topics import check_name
from fleet import durable
from fleet import enforcement as access
from fleet.folder import Fleet
from fleet.identity import Identity, provisioning
from fleet.membership.farewell import Visit
from fleet.store import Store, audit, departures, devices
from fleet.store.entries import Actor

_LOG: Final = structlog.get_logger("leaving")
_MESSAGES: Final[dict[LeaveReason, str]] = {
    "revoked": "its certificate counts no more; enrol it again to bring it back",
    "retired": "its name is free for another device; enrol it again to bring it back",
    "renamed": "it needs its new agent.yaml",
    "replaced": "another board has its name; enrol it under another to bring it back",
}


class Departure(msgspec.Struct, frozen=True):
    """What was done, and what is left to do.

    Attributes:
        device: who left.
        certificates: how many were revoked.
        told: the broker took the last word to it.
        applied: the broker has read who is revoked, or is away and will when it starts.
        ended: its open connections were ended.
        cleared: the broker retains nothing of it (retired, renamed).
        todo: what a person must do; empty: nothing.
        history: under which id its history is; empty: as before.
    """

    device: str
    certificates: int
    told: bool
    applied: bool
    ended: bool
    cleared: bool = False
    todo: str = ""
    history: str = ""


class Renamed(msgspec.Struct, frozen=True):
    """A device with another name.

    Attributes:
        departure: what became of the old name.
        name: the new one.
        path: where its new ``agent.yaml`` is; empty: it enrols itself with `token`.
        token: one-time, for a day.
    """

    departure: Departure
    name: str
    path: str = ""
    token: str = ""


def revoke(fleet: Fleet, device: str, actor: Actor) -> Departure:
    """Revokes a device: its certificates, and everything it may do. It stays in the list.

    Raises:
        InputError: ``no-such-device``.
    """
    check_name(device, "device")
    identity, now = fleet.open_identity(), time.time()
    with _store(fleet) as store, store.write() as connection:
        listed = devices.revoke(connection, device, now)
        audit.note_by(connection, actor, "device.revoke", device, now)
        count = _known(lambda: identity.revoke(device, listed=False), needed=not listed)
    return _say_goodbye(fleet, identity, device, "revoked", Departure(device, count, *_NOT_YET))


def retire(fleet: Fleet, device: str, actor: Actor) -> Departure:
    """Takes a device out of the fleet: its history stays, its name is free.

    Raises:
        InputError: ``no-such-device``.
    """
    check_name(device, "device")
    identity, now = fleet.open_identity(), time.time()
    with _store(fleet) as store, store.write() as connection:
        history = departures.retire(store, connection, device, actor.name, now)
        audit.note_by(connection, actor, "device.retire", device, now, history=history or "")
        count = _known(lambda: identity.retire(device), needed=history is None)
    _forget_files(fleet, device)
    departure = Departure(device, count, *_NOT_YET, history=history or "")
    return _say_goodbye(fleet, identity, device, "retired", departure)


def rename(
    fleet: Fleet, device: str, name: str, actor: Actor, *, out: Path | None = None
) -> Renamed:
    """Gives a device another name, by a certificate for it; its history goes with it.

    Args:
        fleet: whose.
        device: its name.
        name: the new one.
        actor: who does it.
        out: where its new ``agent.yaml`` goes; None: into the fleet's folder.

    Raises:
        InputError: ``no-such-device``, ``bad-name``, ``reserved-name``, ``already-enrolled``,
            ``file-exists``.
        RefusedError: ``name-taken``.
    """
    path = out or fleet.folder / "devices" / check_name(name, "device") / "agent.yaml"
    if path.exists():
        raise InputError("file-exists", f"{path} exists: name another file with --out")
    where = fleet.enrolment()
    durable.make_folder(path.parent, 0o700)
    with durable.staged(path, mode=0o600) as file:

        def write(identity: Identity) -> None:
            mine = identity.profile(device)
            with identity.enrolling(
                name, mine.board, where, labels=mine.labels, groups=mine.groups, instead_of=device
            ) as config:
                file.write(provisioning.to_yaml(config))
            file.swap(overwrite=False)

        departure = _rename(fleet, device, name, actor, write)
    return Renamed(departure, name, path=str(path))


def rename_by_token(fleet: Fleet, device: str, name: str, actor: Actor) -> Renamed:
    """As :func:`rename`; the device makes its key and enrols itself with a one-time token."""
    made: list[str] = []
    departure = _rename(
        fleet,
        device,
        name,
        actor,
        lambda identity: made.append(identity.token_instead_of(device, name)),
    )
    return Renamed(departure, name, token=made[0])


def _rename(
    fleet: Fleet, device: str, name: str, actor: Actor, give: Callable[[Identity], None]
) -> Departure:
    check_name(device, "device")
    free(fleet, check_name(name, "device"))
    identity, now = fleet.open_identity(), time.time()
    count = sum(one.revoked is None for one in identity.certificates(device))
    with _store(fleet) as store, store.write() as connection:
        departures.rename(store, connection, device, name, actor.name, now)
        audit.note_by(connection, actor, "device.rename", device, now, name=name)
        give(identity)
    _forget_files(fleet, device)
    departure = Departure(device, count, *_NOT_YET, history=name)
    return _say_goodbye(fleet, identity, device, "renamed", departure)


def replaced(fleet: Fleet, device: str) -> Departure:
    """Says goodbye to the board whose place another has taken, before that one connects."""
    departure = Departure(device, 0, *_NOT_YET)
    return _say_goodbye(fleet, fleet.open_identity(), device, "replaced", departure)


def free(fleet: Fleet, name: str) -> None:
    """Makes sure that the broker retains nothing of who had a name before.

    Raises:
        UnavailableError: ``name-not-free``; it may, and cannot be reached.
    """
    with _store(fleet) as store:
        with store.read() as connection:
            if not departures.uncleared(connection, name):
                return
        try:
            with Visit(fleet.topics, fleet.controller_mqtt(), store) as visit:
                cleared = visit.clear(name)
        except UnavailableError as error:
            if error.code == "not-owner":
                raise
            cleared = False
        if not cleared:
            raise UnavailableError(
                "name-not-free",
                f"the broker may retain documents of the device that was called {name}, and "
                "cannot be reached: start it, and try again",
            )
        with store.write() as connection:
            departures.note_cleared(connection, name)


# Parts --------------------------------------------------------------------------------------

_NOT_YET: Final = (False, False, False)
_FREES: Final[frozenset[LeaveReason]] = frozenset({"retired", "renamed"})
"""The name is free then: nothing of who had it may stay at the broker."""


def _known(act: Callable[[], int], *, needed: bool) -> int:
    """How many certificates were revoked; none of a device that the database alone knows."""
    try:
        return act()
    except InputError:
        if needed:
            raise
        return 0


@contextmanager
def _store(fleet: Fleet) -> Iterator[Store]:
    store = fleet.open_store()
    try:
        yield store
    finally:
        store.close()


def _forget_files(fleet: Fleet, device: str) -> None:
    """What was made for a name that is free: its keys count no more, and no device has them."""
    shutil.rmtree(fleet.folder / "devices" / device, ignore_errors=True)


def _say_goodbye(
    fleet: Fleet, identity: Identity, device: str, reason: LeaveReason, departure: Departure
) -> Departure:
    """Everything at the broker, as far as it can be done now."""
    mqtt = fleet.controller_mqtt()
    told = ended = cleared = False
    try:
        with _store(fleet) as store, Visit(fleet.topics, mqtt, store, device) as visit:
            told = visit.say(device, Leave(reason, _MESSAGES[reason]))
            reloaded = access.apply(fleet, identity, revoked=True)
            applied = access.wait_until_read(fleet, mqtt)
            # A connection that is ended before the broker has read it comes back at once.
            ended = applied and visit.end([device])
            cleared = reason in _FREES and visit.clear(device)
    except UnavailableError as error:
        _LOG.warning("nothing said at the broker", device=device, reason=str(error))
        reloaded = access.apply(fleet, identity, revoked=True)
        applied = access.wait_until_read(fleet, mqtt)
    if cleared:
        with _store(fleet) as store, store.write() as connection:
            departures.note_cleared(connection, device)
    todo = "" if applied else reloaded.todo or "restart the broker, or look at its log"
    return msgspec.structs.replace(
        departure, told=told, applied=applied, ended=ended, cleared=cleared, todo=todo
    )
