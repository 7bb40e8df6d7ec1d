"""Selectors in the database: it finds what the grammar means, whatever changed before."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

import msgspec
import sqlalchemy as sa
from alembic import command

from contracts.desired import Desired, DesiredBundle
from contracts.messages import BundleRef, Reported, SlotReport
from fleet.ingest.decode import Message
from fleet.ingest.writer import Writer
from fleet.rollout.selector import Selector, Term, parse
from fleet.store import Store, desired, devices, selection
from fleet.store.documents import dump
from fleet.store.schema import DEVICE, TRAIT

NOW = 1_800_000_000.0
REF = BundleRef("m", "1.0.0", "a" * 64)
_WORDS = ("a", "b", "lyon", "2nd floor", "classify", "generate", "pi", "m/1.0.0", "d3", "online")
_KEYS = ("site", "floor", "device", "board", "group", "state", "task", "bundle")


def _report(name: str, **fields: object) -> Reported:
    return msgspec.structs.replace(Reported(name, "boot", "1", "pi", "litert", NOW), **fields)


def _say(store: Store, reported: Reported) -> None:
    message = Message(reported.device, reported, b"")
    Writer(store, admit_unknown=True).write([message], NOW)


def _found(store: Store, text: str) -> list[str]:
    with store.read() as connection:
        return devices.ids(connection, selection.means(parse(text)))


def _some(rng: random.Random, words: Sequence[str], most: int = 2) -> list[str]:
    return rng.sample(words, rng.randint(0, most))


def _labels(rng: random.Random) -> dict[str, str]:
    return {key: rng.choice(_WORDS) for key in _some(rng, _KEYS, 3)}


def _change(store: Store, rng: random.Random, name: str) -> None:
    """Something that happens to a device."""
    what = rng.choice(["enroll", "relabel", "desire", "report", "report", "come", "revoke"])
    if what == "report":
        slots = {
            slot: SlotReport(active=rng.choice([REF, None])) for slot in _some(rng, _WORDS[4:6])
        }
        groups = _some(rng, _WORDS[:3])
        _say(store, _report(name, labels=_labels(rng), groups=groups, slots=slots))
        return
    with store.write() as connection:
        if what == "enroll":
            board, groups = rng.choice(["pi", "jetson"]), _some(rng, _WORDS[:3])
            devices.enroll(store, connection, name, board, _labels(rng), groups, NOW)
        elif what == "come":
            state = rng.choice(["online", "offline"])
            connection.execute(DEVICE.update().where(DEVICE.c.id == name).values(state=state))
        elif name not in devices.some(connection, [name]):
            return
        elif what == "relabel":
            labels, groups = rng.choice([None, _labels(rng)]), rng.choice([None, ["a"], []])
            devices.relabel(store, connection, name, labels=labels, groups=groups)
        elif what == "revoke":
            devices.revoke(connection, name, NOW)
        else:
            slots = {slot: DesiredBundle(REF) for slot in _some(rng, _WORDS[4:6])}
            revision = devices.get(connection, name).desired_revision + 1
            assert desired.write(store, connection, [(name, Desired(revision, slots), None)])


def test_the_database_finds_the_devices_that_the_grammar_means(store: Store) -> None:
    """Whatever happened to devices, and for any selector: the same as looking at each of them."""
    rng = random.Random(5)
    names = [f"d{index}" for index in range(12)]
    hits = 0
    for _ in range(25):
        for name in rng.sample(names, 5):
            _change(store, rng, name)
        with store.read() as connection:
            everybody = devices.every(connection)
            for _ in range(30):
                terms = [
                    Term(
                        rng.choice(["", "own:"]) + rng.choice(_KEYS),
                        tuple(rng.sample((*_WORDS, "*", "zero\0byte"), rng.randint(1, 3))),
                        rng.random() < 0.3,
                    )
                    for _ in range(rng.randint(0, 2))
                ]
                wanted = Selector(tuple(terms))
                meant = [device.id for device in everybody if device.matches(wanted)]
                assert devices.ids(connection, selection.means(wanted)) == meant, str(wanted)
                assert [d.id for d in devices.select(connection, wanted)] == meant
                hits += len(meant)
    assert hits > 500, "the selectors mean something"


def test_what_a_device_says_is_found_by_own_alone(store: Store) -> None:
    """Labels, groups, slots and the board of its own make it no member of anything."""
    slots = {"generate": SlotReport(active=REF), "classify": SlotReport()}
    said = _report("liar", labels={"clearance": "secret"}, groups=["staff"], slots=slots)
    _say(store, said)
    for claim in ("clearance=secret", "group=staff", "task=generate", "board=pi", "clearance=*"):
        assert _found(store, claim) == []
        assert _found(store, f"own:{claim}") == ["liar"]
    assert _found(store, "own:task=classify") == [], "an empty slot serves nobody"
    assert _found(store, "own:bundle=m/1.0.0") == ["liar"]
    with store.read() as connection:
        assert "'own:board=pi'" in selection.hint(connection, parse("board=pi"))
        assert selection.hint(connection, parse("board=jetson,clearance!=secret")) == ""
    _say(store, _report("liar"))
    assert _found(store, "own:clearance=*") == [], "it says so no more"


def test_a_label_that_no_database_can_keep_stops_nothing(store: Store) -> None:
    """A zero byte in what one device says: it is stored as a document, and not searched."""
    _say(store, _report("odd", labels={"site": "a\0b", "floor": "2"}))
    assert _found(store, "own:floor=2") == ["odd"]
    assert _found(store, 'own:site="a\0b"') == []
    with store.read() as connection:
        assert devices.get(connection, "odd").own_labels == {"site": "a\0b", "floor": "2"}
    with store.write() as connection:
        devices.enroll(store, connection, "odd", "pi", {"site": "c\0d"}, [], NOW)
    assert _found(store, "site=*") == []


def test_an_upgrade_finds_what_was_there_before(bare_database_url: str) -> None:
    """The rows that the migration writes are those that the code writes."""
    store = Store(bare_database_url)
    with store.engine.connect() as connection, connection.begin():
        config = store._alembic()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    said = _report(
        "d1", labels={"site": "x", "task": "y", "zero": "\0"}, groups=["g"],
        slots={"classify": SlotReport(active=REF), "generate": SlotReport()},
    )  # fmt: skip
    wish = Desired(3, {"generate": DesiredBundle(REF)})
    with store.write() as connection:
        old = {"board": "pi", "labels": dump({"site": "lyon", "state": "z"}), "groups": '["g","h"]'}
        columns = {"reported": dump(said), "desired": dump(wish)}
        for name, row in (("d1", old | columns), ("d2", {}), ("d3", old)):
            names = ", ".join(("id", *row))
            marks = ", ".join(f":{column}" for column in ("id", *row))
            statement = f"INSERT INTO device ({names}) VALUES ({marks})"
            connection.execute(sa.text(statement), {"id": name, **row})
    store.migrate()

    def rows() -> list[tuple[str, ...]]:
        with store.read() as connection:
            return sorted(tuple(row) for row in connection.execute(sa.select(TRAIT)))

    migrated = rows()
    with store.write() as connection:
        connection.execute(TRAIT.delete())
        connection.execute(DEVICE.update().values(reported=None))
        for name in ("d1", "d3"):
            labels = json.loads(old["labels"])
            devices.enroll(store, connection, name, "pi", labels, ["g", "h"], NOW)
        desired.write(store, connection, [("d1", wish, None)])
    _say(store, said)
    assert migrated == rows()
    assert len(migrated) > 10
    store.close()
