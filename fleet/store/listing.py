"""Lists of devices for people: any words, any order, any page, with totals.

The database searches, sorts and counts; documents are read of one page's devices alone.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import msgspec
import sqlalchemy as sa

from fleet.rollout.selector import Selector
from fleet.store import devices, selection
from fleet.store.devices import Device
from fleet.store.schema import DEVICE, TRAIT

Sort = Literal["device", "state", "board", "heard", "enrolled"]
SORTS: Final[tuple[Sort, ...]] = get_args(Sort)
MAX_WORDS: Final = 8
MAX_TEXT: Final = 200

_ORDER: Final[dict[Sort, sa.ColumnElement[object]]] = {
    "device": DEVICE.c.id,
    "state": sa.case((DEVICE.c.revoked_at.is_not(None), "revoked"), else_=DEVICE.c.state),
    "board": DEVICE.c.board,
    "heard": sa.func.coalesce(DEVICE.c.seen_at, 0.0),
    "enrolled": sa.func.coalesce(DEVICE.c.enrolled_at, 0.0),
}


class Listing(msgspec.Struct, frozen=True):
    """Which devices, and in what order.

    Attributes:
        selector: which.
        text: words that each must be in the name, the board, or a label, group or bundle.
        sort: by what; devices that are equal in it by their name.
        down: the greatest first.
    """

    selector: Selector
    text: str = ""
    sort: Sort = "device"
    down: bool = False

    @property
    def all(self) -> bool:
        """Whether every device is meant."""
        return not self.selector.terms and not self.text.strip()


def means(listing: Listing) -> sa.ColumnElement[bool]:
    """The condition on the device table."""
    words = listing.text[:MAX_TEXT].replace("\0", " ").lower().split()[:MAX_WORDS]
    return sa.and_(selection.means(listing.selector), *(_has(word) for word in words))


def _has(word: str) -> sa.ColumnElement[bool]:
    def holds(column: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
        return sa.func.lower(column).contains(word, autoescape=True)

    said = (TRAIT.c.device == DEVICE.c.id) & holds(TRAIT.c.value)
    return sa.or_(
        holds(DEVICE.c.id), holds(DEVICE.c.board), sa.exists().where(said).correlate(DEVICE)
    )


def count(connection: sa.Connection, listing: Listing) -> int:
    """How many devices are meant."""
    query = sa.select(sa.func.count()).select_from(DEVICE).where(means(listing))
    return int(connection.scalar(query) or 0)


def names(connection: sa.Connection, listing: Listing, limit: int, start: int = 0) -> list[str]:
    """Names in the order of the list."""
    return list(connection.scalars(_names(listing, limit, start)))


def page(connection: sa.Connection, listing: Listing, limit: int, start: int = 0) -> list[Device]:
    """Devices of a page, in the order of the list."""
    chosen = _names(listing, limit, start).subquery()
    query = sa.select(*devices.COLUMNS).join(chosen, chosen.c.id == DEVICE.c.id)
    return [devices.read(row) for row in connection.execute(query.order_by(*_by(listing)))]


def _names(listing: Listing, limit: int, start: int) -> sa.Select[tuple[str]]:
    query = sa.select(DEVICE.c.id).where(means(listing)).order_by(*_by(listing))
    return query.limit(limit).offset(start)


def _by(listing: Listing) -> list[sa.ColumnElement[object]]:
    order = _ORDER[listing.sort]
    by: list[sa.ColumnElement[object]] = [order.desc() if listing.down else order.asc()]
    return by if listing.sort == "device" else [*by, DEVICE.c.id.asc()]
