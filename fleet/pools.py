"""Pooled figures of whole weeks: made when first asked for, and the same from then on.

What is told of a week is kept as it was told. Telemetry that comes later, devices that move to
another group, and other bounds change nothing of it: the difference of two answers would tell of
whom they differ in.
"""

from __future__ import annotations

import datetime
import re
from typing import TYPE_CHECKING, Final

import msgspec

from contracts import codec
from contracts.errors import InputError
from contracts.messages import BundleRef
from fleet import pooled
from fleet.pooled import Release
from fleet.store import bundles, field

if TYPE_CHECKING:
    from fleet.controller import Controller

SETTLE_S: Final = 24 * 3600.0
"""Seconds after a week in which devices may still tell of it."""

_WEEK_S: Final = 7 * 24 * 3600.0
_WEEK: Final = re.compile(r"(\d{4})-W(\d{2})")
_CAP: Final = 64 * 1024 * 1024


class Pool(msgspec.Struct, frozen=True):
    """Pooled figures of a version in a week.

    Attributes:
        slot, ref: which.
        week: by ISO 8601, in UTC.
        release: what is told.
    """

    slot: str
    ref: BundleRef
    week: str
    release: Release


def last_week(now: float) -> str:
    """The newest week that is told of."""
    return _name(now - SETTLE_S - _WEEK_S)


def _name(at: float) -> str:
    year, week, _ = datetime.datetime.fromtimestamp(at, datetime.timezone.utc).isocalendar()
    return f"{year:04}-W{week:02}"


def span_of(week: str) -> tuple[float, float]:
    """When a week begins and ends, seconds since the epoch.

    Raises:
        InputError: ``bad-week``.
    """
    found = _WEEK.fullmatch(week)
    try:
        if found is None:
            raise ValueError
        day = datetime.date.fromisocalendar(int(found[1]), int(found[2]), 1)
    except ValueError:
        raise InputError("bad-week", f"{week[:20]!r} is no week: expected 2026-W48") from None
    first = datetime.datetime.combine(day, datetime.time(), datetime.timezone.utc).timestamp()
    return first, first + _WEEK_S


def pool(controller: Controller, name: str, version: str, week: str | None = None) -> Pool:
    """Pooled figures; `week`: None: the newest.

    Raises:
        InputError: ``no-such-bundle``, ``bad-week``; the week is not over.
    """
    now = controller.clock()
    week = week or last_week(now)
    first, end = span_of(week)
    if end + SETTLE_S > now:
        raise InputError(
            "bad-week", f"{week} is not over: the newest that is told of is {last_week(now)}"
        )
    with controller.store.read() as connection:
        published = bundles.find(connection, name, version)
        slot, sha256 = published.manifest.slot, published.ref.manifest_sha256
        kept = field.pool(connection, slot, sha256, week)
        if kept is None:
            rules = controller.fleet.config.pooled
            said = field.labels_by_device(connection, slot, sha256, first, end)
            of = {
                device: value
                for value, devices in field.values(connection, rules.by).items()
                for device in devices
            }
    if kept is None:
        secret = controller.fleet.pool_secret()
        made = pooled.release(said, of, rules, secret, f"{slot} {sha256} {week}")
        with controller.store.write() as connection:
            content = codec.encode(made).decode()
            field.add_pool(controller.store, connection, slot, sha256, week, content, now)
            kept = field.pool(connection, slot, sha256, week)  # another one may have been first
    assert kept is not None
    release = codec.decode(kept.encode(), Release, what="a pool", cap=_CAP)
    return Pool(slot, published.ref, week, release)
