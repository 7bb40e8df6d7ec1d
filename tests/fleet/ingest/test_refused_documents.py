"""A device that holds another's document, or was sent one, gets the owner's again."""

from __future__ import annotations

import pytest

from contracts import codec, limits
from contracts.desired import Desired, DesiredBundle
from contracts.errors import ErrorInfo
from contracts.messages import BundleRef, Reported, Wait
from contracts.topics import Topics
from fleet.ingest.decode import decode
from fleet.ingest.writer import Writer
from fleet.store import Store, desired, devices
from fleet.store.documents import load

OWN = Desired(6, {"classify": DesiredBundle(BundleRef("m", "1.0.0", "1" * 64))})


@pytest.fixture
def sent(store: Store) -> Store:
    """A store with a device whose document the broker has."""
    with store.write() as connection:
        devices.enroll(store, connection, "d", "raspberry-pi-5", {}, [], 1.0)
        desired.write(store, connection, [("d", OWN, None)])
        desired.mark_sent(connection, [("d", OWN.revision)])
    return store


def say(store: Store, revision: int, *refusals: ErrorInfo) -> list[Desired]:
    """The device reports; returns what is to be sent then."""
    waits = [Wait(reason, 1.0) for reason in refusals]
    reported = Reported("d", "b", "1", "pi", "litert", 1.0, desired_revision=revision, waits=waits)
    topic = Topics("f").of_device("d", "reported")
    Writer(store).write([decode("f", topic, codec.encode(reported))], 10.0)
    with store.read() as connection:
        return [load(text, Desired) for _, _, text in desired.unsent(connection, 10)]


def refused(code: str, known: object) -> ErrorInfo:
    """What a device says of a document that it refused."""
    return ErrorInfo(code, "why", {"known_revision": known})


def test_a_device_that_has_what_it_was_sent_gets_nothing(sent: Store) -> None:
    """Nor one that is behind: it has it, or will."""
    for revision in (0, 5, 6):
        assert say(sent, revision) == []


@pytest.mark.parametrize("code", ["revision-jump", "fence-jump", "bad-desired", "old-fence"])
def test_what_a_device_refused_is_written_over_at_the_broker(sent: Store, code: str) -> None:
    """The same document, under the same revision."""
    assert say(sent, 6, refused(code, 6)) == [OWN]


def test_a_device_that_took_anothers_document_gets_ours_above_it(sent: Store) -> None:
    """It says so by the revision that it reached, or by refusing ours."""
    (again,) = say(sent, 9000)
    assert (again.revision, again.slots) == (9001, OWN.slots)
    (again,) = say(sent, 9001, refused("old-revision", 9500))
    assert (again.revision, again.slots) == (9501, OWN.slots)


def test_other_content_under_our_revision_gives_way_to_ours(sent: Store) -> None:
    """Nobody can tell which of the two the device has but by its word."""
    (again,) = say(sent, 6, refused("other-content", 6))
    assert (again.revision, again.slots) == (7, OWN.slots)


@pytest.mark.parametrize(
    "known", [2**53 - 1, 2**70, 7 + limits.MAX_REVISION_STEP, -1, "9", None, True, 7.5]
)
def test_a_device_cannot_use_up_its_revisions(sent: Store, known: object) -> None:
    """Whatever it claims; it gets its document again, as it was."""
    assert say(sent, 6, refused("old-revision", known)) == [OWN]


def test_a_device_for_which_nothing_is_desired_gets_nothing(store: Store) -> None:
    """It keeps what it has until somebody wants something of it."""
    with store.write() as connection:
        devices.enroll(store, connection, "d", "raspberry-pi-5", {}, [], 1.0)
    assert say(store, 9000, refused("revision-jump", 9000)) == []
