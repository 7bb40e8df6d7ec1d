"""What people say of answers, in the database: added up once, by version, device and group."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from contracts import codec
from contracts.errors import InputError
from contracts.judged import UNSAID, Judged
from contracts.messages import BundleRef, Sample, Telemetry
from fleet import field as fields
from fleet.ingest.decode import Batch, Message, decode
from fleet.ingest.writer import Writer
from fleet.store import Store, devices, field, telemetry
from fleet.store.schema import DEVICE

OLD = BundleRef("m", "1.0.0", "a" * 64)
NEW = BundleRef("m", "1.10.0", "b" * 64)
NOW = 1_800_000_000.0
HOUR = 3600.0


def judged(right: int, wrong: int, *, sampled: int = 0) -> Judged:
    """Verdicts on `on` and `off`, of which the first right ones were picked."""
    found = Judged()
    for number in range(right):
        found.note("on", None, right=True, sampled=number < sampled)
    for number in range(wrong):
        found.note("off", "on" if number % 2 else None, right=False, sampled=False)
    return found


def message(device: str, seq: int, ref: BundleRef | None, one: Judged, at: float = NOW) -> Message:
    """A batch with feedback alone."""
    slot = "classify" if ref else "device"
    body = Telemetry("b", seq, [Sample(at, 10.0, slot, ref, judged=one)])
    topic = f"shoal/v1/f/d/{device}/telemetry"
    return decode("f", topic, codec.encode(body))


def put(store: Store, messages: Sequence[Message]) -> None:
    """Ingests and rolls up."""
    Writer(store, admit_unknown=True).write(list(messages), NOW)
    while telemetry.roll_up(store, 3):
        pass


def test_feedback_is_added_up_by_device_and_version_however_often_it_comes(store: Store) -> None:
    """A batch that comes again counts once; minutes and hours are the same counts."""
    messages = [
        message("d1", 0, OLD, judged(3, 1, sampled=2)),
        message("d1", 1, OLD, judged(2, 0), NOW - 2 * HOUR),
        message("d2", 0, OLD, judged(0, 4)),
        message("d2", 1, NEW, judged(7, 0)),
        message("d3", 0, OLD, judged(9, 9), NOW - 20 * 24 * HOUR),
    ]
    put(store, messages)
    put(store, messages[:3])
    with store.read() as connection:
        assert field.by_device(connection, "classify", [OLD.manifest_sha256], NOW - 24 * HOUR) == {
            "d1": Judged(5, 1, 2), "d2": Judged(0, 4),
        }  # fmt: skip
        both = [OLD.manifest_sha256, NEW.manifest_sha256]
        assert field.by_device(connection, "classify", both, NOW - 24 * HOUR)["d2"] == Judged(7, 4)
        assert field.by_device(connection, "other", both, 0) == {}
        versions = fields.versions(connection, NOW - 24 * HOUR)
        assert {(v.bundle, v.judged.right, v.judged.wrong) for v in versions} == {
            (OLD.manifest_sha256, 5, 5), (NEW.manifest_sha256, 7, 0),
        }  # fmt: skip
        minute = telemetry.of_bundle(
            connection, "classify", OLD.manifest_sha256, {"d1": NOW - 3 * HOUR}
        )
        assert minute["d1"].judged is not None
        assert (minute["d1"].judged.right, minute["d1"].judged.wrong) == (5, 1)


def test_labels_and_confusions_of_a_version_are_added_up(store: Store) -> None:
    """Which label is right how often, and what it is taken for."""
    put(store, [message("d1", 0, OLD, judged(3, 1)), message("d2", 0, OLD, judged(1, 4))])
    with store.read() as connection:
        found = field.labels(connection, "classify", OLD.manifest_sha256, NOW - HOUR)
        only = field.labels(
            connection, "classify", OLD.manifest_sha256, NOW - HOUR, DEVICE.c.id == "d1"
        )
    assert found.labels == {"on": 4}
    assert found.confusions == {"off": {UNSAID: 3, "on": 2}}
    assert only.labels == {"on": 3}
    assert [(one.name, one.right, one.wrong) for one in fields.by_label(found)] == [
        ("off", 0, 5), ("on", 4, 0),
    ]  # fmt: skip
    assert fields.confusions(found) == [("off", UNSAID, 3), ("off", "on", 2)]


def test_accuracy_is_shown_by_the_values_of_a_label(store: Store) -> None:
    """A site at which a version does badly stands out; a device without the label is in none."""
    with store.write() as connection:
        for number in range(4):
            labels = {"site": "graz" if number < 2 else "lyon"} if number < 3 else {}
            devices.enroll(store, connection, f"d{number}", "raspberry-pi-5", labels, [], NOW)
    put(store, [message(f"d{n}", 0, NEW, judged(10, 15 if n == 2 else 0)) for n in range(4)])
    with store.read() as connection:
        found = fields.by_group(connection, "classify", NEW.manifest_sha256, NOW - HOUR, "site")
        chosen = fields.versions(connection, NOW - HOUR, DEVICE.c.id.in_(["d0", "d2"]))
    assert [(one.name, one.right, one.wrong) for one in found] == [
        ("lyon", 10, 15), ("graz", 20, 0),
    ]  # fmt: skip
    assert found[0].estimate.high < found[1].estimate.low
    assert [(one.judged.right, one.judged.wrong) for one in chosen] == [(20, 15)]


def test_feedback_that_did_not_count_is_told_by_its_code(store: Store) -> None:
    """Of all devices together; no version is judged by it."""
    for number, code in enumerate(("no-such-answer", "rate-limited", "no-such-answer")):
        one = Judged()
        one.refuse(code)
        put(store, [message(f"d{number}", 0, None, one)])
    with store.read() as connection:
        assert field.refused(connection, NOW - HOUR) == {"no-such-answer": 2, "rate-limited": 1}
        assert fields.versions(connection, 0) == []


@pytest.mark.parametrize(
    "bad",
    [
        {"right": 2**41},
        {"right": 1, "sampled_right": 2},
        {"wrong": 1, "sampled_wrong": 2},
        {"right": 1, "labels": {"a": 2}},
        {"wrong": 1, "confusions": {"a": {"b": 1, "c": 1}}},
        {"wrong": 9999, "confusions": {f"a{n}": {"b": 1} for n in range(400)}},
        {"confusions": {f"a{n}": {} for n in range(400)}},
        {"right": 9999, "labels": {f"a{n}": 1 for n in range(5000)}},
        {"refused": {f"c{n}": 1 for n in range(100)}},
        {"refused": {"c" * 65: 1}},
        {"right": -1},
        {"right": 1, "sure_right": [1, 1]},
        {"wrong": 1, "sure_wrong": [0, 2]},
        {"right": 99, "sure_right": [0] * 11},
        {"labels": {"a" * 257: 0}},
    ],
)
def test_counts_that_cannot_be_are_refused(bad: dict[str, object]) -> None:
    """A part that is more than the whole, sums that do not fit, labels without end."""
    sample = {"at": NOW, "window_s": 10.0, "judged": bad}
    document = codec.encode({"boot": "b", "seq": 0, "samples": [sample]})
    with pytest.raises(InputError):
        decode("f", "shoal/v1/f/d/d1/telemetry", document)
    assert isinstance(
        decode("f", "shoal/v1/f/d/d1/telemetry", codec.encode(Telemetry("b", 0, []))).body, Batch
    )
