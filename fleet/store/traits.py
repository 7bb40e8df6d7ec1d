"""What selectors ask for, as rows that the database searches, and whose word each of them is.

================ ========================= ====================================================
key              whose word                value
================ ========================= ====================================================
a label          the operator's            its value
``group``        the operator's            a group
``task``         the operator's            a slot of the desired document that was given
``own:`` label   the device's              its value
``own:board``    the device's              its board profile
``own:group``    the device's              a group
``own:task``     the device's              a slot that serves
``own:bundle``   the device's              ``NAME/VERSION`` of a bundle that serves
``own:waits``    the device's              the code of a reason for which it waits
================ ========================= ====================================================

``own:agent-release`` is the archive of the agent that a device takes. A label with the name of a
key that is built in is not searched: the built-in one is meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import sqlalchemy as sa

from contracts import program
from contracts.desired import Desired
from contracts.messages import Reported
from fleet.rollout.selector import BUILT_IN, OWN, OWN_BUILT_IN
from fleet.store import Store
from fleet.store.schema import TRAIT

Source = Literal["given", "wanted", "own"]
"""Who says so: ``given`` by an operator or at enrolment, ``wanted`` in desired, or the device."""

Trait = tuple[str, str]
"""Key and value."""

_CHUNK: Final = 500


def given(labels: Mapping[str, str], groups: Sequence[str]) -> set[Trait]:
    """Traits from what enrolment and operators gave."""
    found = [(key, value) for key, value in labels.items() if key not in BUILT_IN]
    return _searched([*found, *(("group", group) for group in groups)])


def wanted(desired: Desired | None) -> set[Trait]:
    """Traits from what is desired of a device: not from what it merely may keep."""
    if desired is None:
        return set()
    return {("task", slot) for slot, wish in desired.slots.items() if not wish.kept}


def own(reported: Reported | None) -> set[Trait]:
    """Traits from what a device says of itself."""
    if reported is None:
        return set()
    found = [(key, value) for key, value in reported.labels.items() if key not in OWN_BUILT_IN]
    found.append(("board", reported.board))
    found += [("group", group) for group in reported.groups]
    found += [("waits", wait.reason.code[:64]) for wait in reported.waits]
    if tag := reported.platform.get(program.TAG):
        found.append(("agent-release", tag[:64]))
    for slot, report in reported.slots.items():
        if report.active is not None:
            found += [("task", slot), ("bundle", f"{report.active.name}/{report.active.version}")]
    return _searched((f"{OWN}{key}", value) for key, value in found)


def _searched(traits: Iterable[Trait]) -> set[Trait]:
    # No database keeps a zero byte in a text, and no selector can ask for one.
    return {(key, value) for key, value in traits if "\0" not in value}


def replace(
    store: Store, connection: sa.Connection, source: Source, traits: Mapping[str, set[Trait]]
) -> None:
    """Makes the traits of one source what they are now, by device; writes what differs alone."""
    devices = sorted(traits)
    gone: list[dict[str, Any]] = []
    new: list[dict[str, Any]] = []
    for start in range(0, len(devices), _CHUNK):
        chunk = devices[start : start + _CHUNK]
        rows = connection.execute(
            sa.select(TRAIT.c.device, TRAIT.c.key, TRAIT.c.value).where(
                TRAIT.c.device.in_(chunk), TRAIT.c.source == source
            )
        )
        before: dict[str, set[Trait]] = {device: set() for device in chunk}
        for row in rows:
            before[row.device].add((row.key, row.value))
        for device in chunk:
            for key, value in sorted(before[device] - traits[device]):
                gone.append({"b_device": device, "b_key": key, "b_value": value})
            for key, value in sorted(traits[device] - before[device]):
                new.append({"device": device, "key": key, "value": value, "source": source})
    if gone:
        connection.execute(
            TRAIT.delete().where(
                TRAIT.c.device == sa.bindparam("b_device"),
                TRAIT.c.key == sa.bindparam("b_key"),
                TRAIT.c.value == sa.bindparam("b_value"),
            ),
            gone,
        )
    if new:
        connection.execute(store.insert(TRAIT).on_conflict_do_nothing(), new)
