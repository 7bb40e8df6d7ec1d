"""Receipts: what devices are told, how often, and what survives the process that tells it."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from contracts import codec
from contracts.messages import Ack, Status, Telemetry
from contracts.topics import Topics
from fleet.ingest.decode import Message, Number, decode
from fleet.ingest.quota import Accounts, Quota
from fleet.ingest.receipts import COUNT, EVERY_S, SOON_S, Receipts
from fleet.ingest.writer import Change
from fleet.store import Store, delivery
from fleet.store.delivery import BOOTS, Spent
from fleet.store.schema import DEVICE, MARK

TOPICS = Topics("f")
NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def enrolled(store: Store) -> None:
    """Two devices that are enrolled."""
    with store.write() as connection:
        connection.execute(store.insert(DEVICE), [{"id": "d1"}, {"id": "d2"}])


def message(seq: int, after: int | None = None, *, device: str = "d1", boot: str = "b") -> Message:
    """A batch as ingest decodes it."""
    payload = codec.encode(Telemetry(boot, seq, [], after=after))
    return decode("f", TOPICS.of_device(device, "telemetry"), payload)


class Process:
    """One ingest process's receipts, with a clock."""

    def __init__(self, store: Store, quota: Quota | None = None) -> None:
        self.running = 0.0
        self.news: list[Change] = []
        self.accounts = Accounts(quota or Quota())
        self.receipts = Receipts(store, self.accounts)

    def take(self, *messages: Message) -> None:
        """Messages are committed."""
        self.receipts.committed(messages, self.running)

    def tell(self, after_s: float = 0.0, **more: Any) -> dict[str, Ack]:
        """What devices are told after a while, if it is time."""
        self.running += after_s
        due = self.receipts.due(self.running)
        if not more and (due is None or due > 0):
            return {}
        acks, self.news = self.receipts.settle(NOW + self.running, self.running, **more)
        return dict(acks)


def test_one_acknowledgement_stands_for_many_messages(store: Store) -> None:
    """At once for the first, then after so many, or so long."""
    process = Process(store)
    process.take(message(0, -1))
    assert process.tell() == {}
    assert process.tell(SOON_S) == {"d1": Ack("b", 0)}
    process.take(*(message(seq) for seq in range(1, COUNT)))
    assert process.tell(EVERY_S / 2) == {}
    process.take(message(COUNT))
    assert process.tell() == {"d1": Ack("b", COUNT)}
    process.take(message(COUNT + 1))
    assert process.tell(EVERY_S - 1) == {}
    assert process.tell(1) == {"d1": Ack("b", COUNT + 1)}
    assert process.receipts.due(process.running) is None


def test_what_one_process_told_another_goes_on_from(store: Store) -> None:
    """Two that share a device's messages, and one that starts anew."""
    one, two = Process(store), Process(store)
    one.take(message(0, -1), message(2))
    two.take(message(1), message(3))
    assert one.tell(EVERY_S) == {"d1": Ack("b", 0, ahead=[(2, 2)])}
    assert two.tell(EVERY_S) == {"d1": Ack("b", 3)}
    again = Process(store)
    again.take(message(4))
    assert again.tell(EVERY_S) == {"d1": Ack("b", 4)}


def test_a_device_that_connects_is_told_what_is_there(store: Store) -> None:
    """Of its boot, all kinds; a device that never numbered anything is told nothing."""
    process = Process(store)
    process.take(message(0, -1), message(0, -1, device="d2"))
    process.tell(EVERY_S)
    status = codec.encode(Status("online", "b", 1, 1.0))
    for device in ("d1", "d2", "d3"):
        process.take(decode("f", TOPICS.of_device(device, "status"), status))
    assert process.tell(SOON_S) == {"d1": Ack("b", 0), "d2": Ack("b", 0)}


def test_a_boot_that_never_said_where_it_begins_is_asked_once(store: Store) -> None:
    """An agent of before ``ack`` never will; one whose mark is lost does."""
    process = Process(store)
    process.take(message(7), message(8))
    assert process.tell(EVERY_S) == {"d1": Ack("b", -1)}
    process.take(message(9))
    assert process.tell(EVERY_S) == {}
    process.take(message(7, -1), message(8))
    assert process.tell(SOON_S) == {"d1": Ack("b", 8)}


def test_a_message_that_is_refused_for_good_stands_in_no_way(store: Store) -> None:
    """It counts as there, and as dropped, of a device that is enrolled."""
    process = Process(store)
    process.take(message(0, -1), message(2))
    process.receipts.refused("d1", Number("telemetry", "b", 1), "ingest-refused", 0.0)
    process.receipts.refused("stranger", None, "ingest-refused", 0.0)
    assert process.tell(SOON_S) == {"d1": Ack("b", 2)}
    assert process.news == [Change("data-dropped", "d1", {"places": {"ingest-refused": 1}})]
    with store.read() as connection:
        assert delivery.losses(connection, 0) == {"d1": {"ingest-refused": 1}}
    process.receipts.refused("d1", None, "ingest-refused", 0.0)
    process.tell(SOON_S)
    assert process.news == [], "once a day"


def test_what_could_not_be_settled_is_settled_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database was away: nothing that was gathered is forgotten, nobody was told."""
    process = Process(store)
    process.take(message(0, -1))
    process.receipts.refused("d1", None, "retained", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(delivery, "add_losses", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            process.tell(SOON_S)
        assert process.tell() == {}, "not at once again"
    process.take(message(1))
    assert process.tell(SOON_S + 5) == {"d1": Ack("b", 1)}
    with store.read() as connection:
        assert delivery.losses(connection, 0) == {"d1": {"retained": 1}}


def test_a_device_that_makes_up_boots_and_gaps_fills_nothing(store: Store) -> None:
    """The newest are kept; others are untouched."""
    process = Process(store)
    process.take(message(0, -1, device="d2"))
    process.tell(EVERY_S)
    for number in range(3 * BOOTS):
        seqs = [message(seq, boot=f"b{number}") for seq in range(1, 200, 2)]
        process.take(message(0, -1, boot=f"b{number}"), *seqs)
        process.tell(EVERY_S)
    with store.read() as connection:
        count = sa.select(sa.func.count()).select_from(MARK)
        assert connection.scalar(count.where(MARK.c.device == "d1")) == BOOTS
        assert connection.scalar(count.where(MARK.c.device == "d2")) == 1
        assert connection.scalar(sa.select(sa.func.max(sa.func.length(MARK.c.ahead)))) < 1000


def test_what_devices_store_is_known_to_every_process_and_after_a_restart(store: Store) -> None:
    """And begins anew with the day."""
    quota = Quota(messages_per_day=100, bytes_per_day=0)
    one, two = Process(store, quota), Process(store, quota)
    for process, count in ((one, 60), (two, 39)):
        for _ in range(count):
            process.accounts.spend("d1", 10, NOW)
        process.tell(everything=True)
    assert not two.accounts.is_over("d1", NOW)
    two.accounts.spend("d1", 10, NOW)
    assert two.accounts.is_over("d1", NOW)
    assert not two.accounts.is_over("d2", NOW)
    two.tell(everything=True)
    again = Process(store, quota)
    again.accounts.spend("d1", 10, NOW)
    again.tell(everything=True)
    assert again.accounts.is_over("d1", NOW)
    assert not again.accounts.is_over("d1", NOW + delivery.DAY_S)
    with store.read() as connection:
        found = delivery.usage(connection, delivery.day_of(NOW), ["d1", "d2"])
    assert found == {"d1": Spent(messages=101, bytes=1010)}
