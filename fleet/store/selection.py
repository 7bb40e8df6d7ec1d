"""Selectors as conditions of the database: it finds the devices, nobody reads them all."""

from __future__ import annotations

import sqlalchemy as sa

from fleet.rollout.selector import ANY, OWN, Selector, Term
from fleet.store.schema import DEVICE, TRAIT


def means(selector: Selector) -> sa.ColumnElement[bool]:
    """The condition on the device table that a selector is."""
    return sa.and_(sa.true(), *(_condition(term) for term in selector.terms))


def has(key: str, *values: str) -> sa.ColumnElement[bool]:
    """The condition that a device has a trait: one of the values, or any when there is none."""
    found = (TRAIT.c.device == DEVICE.c.id) & (TRAIT.c.key == key)
    if values:
        found &= TRAIT.c.value.in_(values)
    return sa.exists().where(found).correlate(DEVICE)


def _condition(term: Term) -> sa.ColumnElement[bool]:
    # No device has a zero byte in anything, and PostgreSQL refuses to look for one.
    values = [value for value in term.values if "\0" not in value]
    condition = sa.false() if not values else _holds(term.key, values)
    return sa.not_(condition) if term.negated else condition


def _holds(key: str, values: list[str]) -> sa.ColumnElement[bool]:
    wild = ANY in values
    match key:
        case "device":
            return sa.true() if wild else DEVICE.c.id.in_(values)
        case "board":
            return DEVICE.c.board != "" if wild else DEVICE.c.board.in_(values)
        case "state":
            return sa.true() if wild else DEVICE.c.state.in_(values)
        case _:
            return has(key) if wild else has(key, *values)


def shares(connection: sa.Connection, key: str) -> list[tuple[str, int]]:
    """How many devices that are not revoked have each value of a key, most first."""
    revoked = sa.select(DEVICE.c.id).where(DEVICE.c.revoked_at.is_not(None))
    query = (
        sa.select(TRAIT.c.value, sa.func.count())
        .where(TRAIT.c.key == key, TRAIT.c.device.not_in(revoked))
        .group_by(TRAIT.c.value)
    )
    found = [(str(value), int(count)) for value, count in connection.execute(query)]
    return sorted(found, key=lambda one: (-one[1], one[0]))


def values(connection: sa.Connection, key: str, *conditions: sa.ColumnElement[bool]) -> list[str]:
    """The values of a key among devices for which conditions on the device table hold."""
    query = sa.select(TRAIT.c.value).join(DEVICE, DEVICE.c.id == TRAIT.c.device)
    rows = connection.scalars(query.where(TRAIT.c.key == key, *conditions).distinct())
    return sorted(rows)


def hint(connection: sa.Connection, selector: Selector) -> str:
    """What to add to an error when a selector means no device; empty when there is nothing."""
    terms = [t for t in selector.terms if not t.negated and t.key not in ("device", "state")]
    for term in terms:
        claim = Term(OWN + term.key, term.values)
        if term.key.startswith(OWN) or not connection.scalar(
            sa.select(sa.exists().where(DEVICE.c.id != "", _condition(claim)))
        ):
            continue
        return (
            f"; what is {term} is only so by the devices' own word: ask for that with '{claim}', "
            "or give devices the label with `shoal fleet label`"
        )
    return ""
