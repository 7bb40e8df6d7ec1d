"""The audit log: changes in their own transaction, failures counted within bounds."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from contracts.errors import InputError, UnavailableError
from fleet.store import Store, audit
from fleet.store.audit import Actor, Entry, Filter
from fleet.store.schema import AUDIT

NOW = 1_800_000_000.0
ANN = Actor("cli:ann@desk", "folder", "command line")


def _entries(store: Store, wanted: Filter = audit.ALL) -> list[Entry]:
    with store.read() as connection:
        return audit.page(connection, None, 1000, wanted)[0]


def _stranger(number: int) -> Actor:
    return Actor(f"10.0.{number // 250}.{number % 250}", audit.NOBODY)


def test_an_act_is_written_before_it_is_done_and_says_how_it_ended(store: Store) -> None:
    """A process that is killed in between leaves an entry that says `begun`."""
    with audit.acting(store, ANN, "bundle.publish", "?", clock=lambda: NOW) as act:
        (begun,) = _entries(store)
        act.target = "noise 1.0.0"
        act.detail["release"] = 7
    (ended,) = _entries(store)
    assert (begun.outcome, begun.target, begun.actor) == ("begun", "?", "cli:ann@desk")
    assert (ended.id, ended.outcome, ended.target) == (begun.id, "done", "noise 1.0.0")
    assert ended.detail == {"by": "command line", "release": 7}


def test_an_act_that_fails_says_why_and_raises_what_it_raised(store: Store) -> None:
    """Under the code of the error; a defect and an interruption are named as such."""
    for error, outcome in (
        (InputError("no-such-file", "x"), "no-such-file"),
        (ValueError("x"), "defect"),
        (OSError(28, "full"), "file-error"),
        (KeyboardInterrupt(), "interrupted"),
    ):
        with (
            pytest.raises(type(error)),
            audit.acting(store, ANN, "bundle.publish", outcome, clock=lambda: NOW),
        ):
            raise error
        assert _entries(store)[0].outcome == outcome
    assert len(_entries(store)) == 4


def test_an_act_that_is_rolled_back_is_not_done(store: Store) -> None:
    """Also where it was said to be, in the transaction that did not hold."""
    with (
        pytest.raises(RuntimeError),
        audit.acting(store, ANN, "bundle.publish", clock=lambda: NOW) as act,
        store.write() as connection,
    ):
        act.done(connection)
        raise RuntimeError
    (entry,) = _entries(store)
    assert entry.outcome == "defect"


def test_nothing_is_changed_that_cannot_be_noted(store: Store) -> None:
    """Without the entry the act does not begin; an older schema is named as that."""
    with store.write() as connection:
        connection.execute(sa.text("ALTER TABLE audit RENAME TO other"))
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0001'"))
    reached = False
    with (
        pytest.raises(UnavailableError, match="has schema 0001") as caught,
        audit.acting(store, ANN, "bundle.publish"),
    ):
        reached = True
    assert not reached and caught.value.code == "old-schema"


def test_a_flood_from_one_address_is_one_entry_a_minute(store: Store) -> None:
    """With how often, and when last."""
    for second in range(0, 120, 20):
        audit.count(store, _stranger(1), "login", "api", "unauthorized", NOW + second, times=50)
    found = _entries(store)
    assert [(one.times, one.until) for one in found] == [(150, NOW + 100), (150, NOW + 40)]


def test_a_flood_from_many_addresses_is_bounded_and_all_of_it_counted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By minute and by day: what is beyond is of others, and of each hour one entry."""
    monkeypatch.setattr(audit, "MAX_A_MINUTE", 3)
    monkeypatch.setattr(audit, "MAX_A_DAY", 12)
    number = 0
    for minute in range(0, 66, 6):
        for _ in range(5):
            number += 1
            at = NOW + minute * 60
            audit.count(store, _stranger(number), "login", "api", "unauthorized", at)
    found = _entries(store, Filter(failed=True))
    others = [one for one in found if one.actor == audit.OTHERS]
    assert len(found) - len(others) == 12
    # While the day has room an entry a minute, then one an hour, in the newest there is.
    assert [one.times for one in reversed(others)] == [2, 2, 2 + 2 + 6 * 5, 5]
    assert sum(one.times for one in found) == number


def test_strangers_do_not_crowd_out_the_failures_of_who_has_a_token(store: Store) -> None:
    """Else a flood of wrong tokens would hide whose change was refused."""
    for number in range(audit.MAX_A_MINUTE + 5):
        audit.count(store, _stranger(number), "login", "api", "unauthorized", NOW)
    audit.count(store, Actor("ann", "operator"), "token.create", "", "forbidden", NOW)
    assert _entries(store)[0].actor == "ann"


def test_what_was_changed_is_kept_and_old_failures_are_not(store: Store) -> None:
    """Ninety days of failures are enough to see what happened; changes stay for ever."""
    with store.write() as connection:
        audit.note_by(connection, ANN, "device.enroll", "kitchen", NOW)
    audit.count(store, _stranger(1), "login", "api", "unauthorized", NOW)
    with store.write() as connection:
        assert audit.forget(connection, NOW + audit.KEEP_FAILURES_S) == 0
        assert audit.forget(connection, NOW + audit.KEEP_FAILURES_S + 1) == 1
    assert [one.action for one in _entries(store)] == ["device.enroll"]


def test_entries_are_found_by_who_what_whom_and_when(store: Store) -> None:
    """The beginnings of names; a wildcard is a character like others."""
    with store.write() as connection:
        for index, action in enumerate(("device.enroll", "device.revoke", "keys.rotate")):
            audit.note_by(connection, ANN, action, f"d{index}_x", NOW + index)
        audit.note_by(connection, Actor("bob", "admin"), "token.create", "%", NOW + 3)
    audit.count(store, ANN, "bundle.publish", "x", "no-such-file", NOW + 4)

    def actions(wanted: Filter) -> list[str]:
        return [one.action for one in _entries(store, wanted)]

    assert actions(Filter(action="device.")) == ["device.revoke", "device.enroll"]
    assert actions(Filter(actor="bob")) == actions(Filter(target="%")) == ["token.create"]
    assert actions(Filter(target="d_")) == []
    assert actions(Filter(since=NOW + 3)) == ["bundle.publish", "token.create"]
    assert actions(Filter(until=NOW + 1)) == ["device.enroll"]
    assert actions(Filter(failed=True)) == ["bundle.publish"]
    assert "bundle.publish" not in actions(Filter(failed=False))


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "\u2028" * 500, "x" * 10_000, ""], ids=repr)
def test_hostile_text_is_noted_all_the_same(store: Store, text: str) -> None:
    """Cut to what a column holds: a name must not make a change unlogged."""
    with store.write() as connection:
        audit.note(
            connection, at=NOW, actor=text, role=text, action=text, target=text,
            detail={"text": text},
        )  # fmt: skip
    for _ in range(2):
        audit.count(store, Actor(text, "viewer"), text, text, text or "x", NOW)
    found = _entries(store)
    assert [one.times for one in found] == [2, 1]


def test_a_detail_without_bounds_is_left_out_and_said_to_be(store: Store) -> None:
    """The entry stays small."""
    with store.write() as connection:
        audit.note_by(connection, ANN, "x", "", NOW, labels={str(n): "v" * 50 for n in range(999)})
        size = connection.scalar(sa.select(sa.func.length(AUDIT.c.detail)))
    assert size is not None and size < 200
    assert "characters" in _entries(store)[0].detail["left_out"]
