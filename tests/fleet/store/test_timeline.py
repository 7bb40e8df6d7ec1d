"""What happened to a device comes in order, whole, a page at a time, from every record of it."""

from __future__ import annotations

import pytest

from contracts import codec
from contracts.answers import FieldSample
from contracts.errors import InputError
from contracts.messages import BundleRef, ErrorInfo, Status, UpdateEvent
from fleet.alerts.judge import Change, Reading
from fleet.ingest.decode import Message
from fleet.ingest.writer import Writer
from fleet.rollout.state import Header, Member
from fleet.store import Store, alerts, audit, departures, devices, samples, timeline
from fleet.store.documents import dump
from fleet.store.entries import Actor
from fleet.store.schema import MEMBER, ROLLOUT, UPDATE_EVENT
from fleet.store.timeline import Happened

NOW = 1_800_000_000.0
REF = BundleRef("m", "1.0.0", "a" * 64)
ANN = Actor("ann", "operator")


def live_through(store: Store) -> None:
    """Something of every kind, much of it in the same moment; and the same of another device."""
    with store.write() as connection:
        for name in ("d1", "d2"):
            devices.enroll(store, connection, name, "pi", {}, [], NOW)
            audit.note_by(connection, ANN, "device.enroll", name, NOW)
            audit.note_by(connection, ANN, "device.change", name, NOW + 50)
            for seq, (state, reason) in enumerate(
                (("downloading", None), ("trial", None), ("committed", None),
                 ("refused", ErrorInfo("golden-mismatch", "its answers did not match")))
            ):  # fmt: skip
                event = UpdateEvent("b", seq, 1, "classify", REF, state, NOW, reason=reason)  # type: ignore[arg-type]
                connection.execute(
                    UPDATE_EVENT.insert().values(
                        device=name, boot="b", seq=seq, received_at=NOW + 20, state=state,
                        event=dump(event),
                    )
                )  # fmt: skip
            rule = next(one for one in alerts.rules(connection) if one.kind == "offline")
            wrong = Reading(True, 1.0, "away", name)
            alerts.change(
                store, connection, rule, [Change(None, name, "open", 1.0, reading=wrong)], NOW + 20
            )
            known = alerts.going_on(connection)[rule.id][name]
            over = Change(known.id, name, "resolved", 1.0)
            alerts.change(store, connection, rule, [over], NOW + 40)
            ask = samples.Ask("ask-1", "m", "all", 5, "", "ann", NOW)
            given = [
                FieldSample(f"{number:032}", NOW, f"text {number}", "x", 0.3, REF, [])
                for number in range(3)
            ]
            samples.add(store, connection, ask, name, given, NOW + 30)
        header = Header("succeeded", REF, "classify")
        connection.execute(
            ROLLOUT.insert().values(
                id="r-1", number=1, status="succeeded", slot="classify", spec="{}",
                header=dump(header), created_at=NOW, created_by="ann", updated_at=NOW,
            )
        )  # fmt: skip
        member = Member("d1", 0, "confirmed", 1, NOW + 20, NOW + 25)
        connection.execute(
            MEMBER.insert().values(
                rollout="r-1", device="d1", wave=0, phase="confirmed", content=dump(member)
            )
        )
    writer = Writer(store)
    states = ("online", NOW + 10), ("offline", NOW + 20), ("online", NOW + 35)
    for session, (state, at) in enumerate(states):
        status = Status(state=state, boot="boot", session=session, since=at)  # type: ignore[arg-type]
        writer.write([Message("d1", status, codec.encode(status))], at)


def whole(store: Store, limit: int, *, audited: bool = True) -> list[Happened]:
    """All pages of a size, one after the other."""
    found: list[Happened] = []
    cursor = ""
    for _ in range(100):  # pages that never end are a failure, not a wait
        with store.read() as connection:
            page, following = timeline.page(connection, "d1", cursor, limit, audited=audited)
        assert len(page) <= limit
        found += page
        if following is None:
            return found
        cursor = following
    raise AssertionError(f"a hundred pages of {limit} and no end")


def test_all_that_happened_comes_once_and_in_order_whatever_the_page(store: Store) -> None:
    """Also what happened in the same moment; and nothing of another device."""
    live_through(store)
    found = whole(store, 100)
    assert [(one.kind, one.what) for one in found if one.kind != "update"] == [
        ("audit", "device.change"),
        ("resolved", "offline"),
        ("presence", "online"),
        ("samples", "ask-1"),
        ("wanted", "m 1.0.0"),
        ("presence", "offline"),
        ("alert", "offline"),
        ("presence", "online"),
        ("audit", "device.enroll"),
    ]
    assert [one.what for one in found if one.kind == "update"] == [
        "refused", "committed", "trial", "downloading",
    ]  # fmt: skip
    assert "its answers did not match" in next(o.text for o in found if o.what == "refused")
    assert "3 hard examples" in next(one.text for one in found if one.kind == "samples")
    assert next(one.by for one in found if one.kind == "audit") == "ann"
    for limit in (1, 2, 3, 5, 12, 13):
        assert whole(store, limit) == found
    assert whole(store, 4, audited=False) == [one for one in found if one.kind != "audit"]


def test_the_history_of_who_left_stays(store: Store) -> None:
    """Under the id that it has then."""
    live_through(store)
    with store.write() as connection:
        archive = departures.retire(store, connection, "d1", "ann", NOW + 60)
        assert archive is not None
        kinds = {one.kind for one in timeline.page(connection, archive, "", 100)[0]}
        assert {"presence", "update", "alert", "samples"} <= kinds
        assert timeline.page(connection, "d1", "", 100)[0][0].kind == "audit"


@pytest.mark.parametrize("cursor", ["x", "1_audit_1", "1.0_audit_x", "1.0_AUDIT_1", "-1.0_audit_1"])
def test_a_cursor_of_something_else_is_refused(store: Store, cursor: str) -> None:
    """By its form."""
    with store.read() as connection, pytest.raises(InputError, match="cursor"):
        timeline.page(connection, "d1", cursor, 5)


def test_a_timeline_is_narrowed_to_kinds_whatever_the_page(store: Store) -> None:
    """Each kind is what the whole has of it."""
    live_through(store)
    every = whole(store, 100)
    for kinds in [("alert",), ("presence", "update"), *((kind,) for kind in timeline.KINDS)]:
        found: list[Happened] = []
        cursor: str | None = ""
        while cursor is not None:
            with store.read() as connection:
                page, cursor = timeline.page(connection, "d1", cursor, 1, kinds=kinds)
            found += page
        assert found == [one for one in every if one.kind in kinds], kinds
