"""What pages do is checked against the role where it is done, and in the audit log."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from contracts.config import MqttConfig
from contracts.errors import InputError, RefusedError
from fleet.controller import Controller
from fleet.dashboard.work import MAX_OFFERS, Work, pairs, words
from fleet.folder import ApiConfig, Fleet, FleetConfig
from fleet.membership.labelling import Relabelling
from fleet.rollout import selector
from fleet.store import audit, devices, listing
from fleet.store.listing import Listing
from fleet.store.tokens import Role, Token

PI = "raspberry-pi-5"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """A fleet that devices find under a name with TLS."""
    config = FleetConfig(
        "f", mqtt=MqttConfig(port=1), api=ApiConfig(url="https://fleet.example.org")
    )
    return Fleet.init(tmp_path_factory.mktemp("work") / "fleet", config)


@pytest.fixture
def controller(fleet: Fleet) -> Iterator[Controller]:
    """A controller that is not connected."""
    made = Controller(fleet)
    yield made
    made.store.close()


def as_role(role: Role) -> Token:
    """Somebody's token."""
    return Token("t", f"the {role}", role, 0.0, None, None)


def newest(controller: Controller) -> audit.Entry:
    """The newest entry of the audit log."""
    controller.attempts.write()
    with controller.store.read() as connection:
        return audit.page(connection, None, 1)[0][0]


Act = Callable[[Work, Token], object]
FOR_ADMINS: list[tuple[str, Act]] = [
    ("device.token", lambda work, token: work.offer("a", 1, PI, None, None, 1, token)),
    ("device.token-revoke", lambda work, token: work.take_back("a", token)),
    ("device.token-list", lambda work, token: work.open_offers(token)),
    ("device.revoke", lambda work, token: work.revoke(["a"], token)),
    ("bundle.publish", lambda work, token: work.receive("", "a.shoal", 9, 0, b"x", token)),
    ("alert.add", lambda work, token: work.add_rule("disk", "", "all", None, None, [], token)),
    ("alert.remove", lambda work, token: work.remove_rule("offline", token)),
    ("webhook.create", lambda work, token: work.add_webhook("http://127.0.0.1/", ["*"], token)),
    ("webhook.delete", lambda work, token: work.remove_webhook("w1", token)),
    ("webhook.list", lambda work, token: work.webhooks(token)),
    ("token.list", lambda work, token: work.tokens(token)),
    ("token.create", lambda work, token: work.new_token("a", "admin", 1, token)),
    ("token.revoke", lambda work, token: work.revoke_token("a", token)),
    ("bundle.withdraw", lambda work, token: work.withdraw("a", "1.0.0", token)),
]


@pytest.mark.parametrize(("action", "act"), FOR_ADMINS)
def test_an_operator_is_refused_what_is_for_admins(
    controller: Controller, action: str, act: Act
) -> None:
    """Whatever the page shows; and the log says that it was tried."""
    with pytest.raises(RefusedError, match="role admin"):
        act(Work(controller), as_role("operator"))
    entry = newest(controller)
    assert (entry.action, entry.outcome, entry.actor) == (action, "forbidden", "the operator")


def test_many_lines_are_made_at_once_or_none(controller: Controller) -> None:
    """Numbered names; a number out of bounds makes nothing."""
    work, admin = Work(controller), as_role("admin")
    before = len(work.open_offers(admin))
    made = work.offer("sensor", 3, PI, {"site": "lyon"}, ["night"], 2, admin)
    assert [one.device for one in made] == ["sensor-001", "sensor-002", "sensor-003"]
    assert len({one.token for one in made}) == 3
    assert newest(controller).action == "device.token"
    assert len(work.open_offers(admin)) == before + 3
    for count in (0, MAX_OFFERS + 1):
        with pytest.raises(InputError, match="devices at once"):
            work.offer("x", count, PI, None, None, 1, admin)
    for hours in (0, 10_000):
        with pytest.raises(InputError, match="hours"):
            work.offer("x", 1, PI, None, None, hours, admin)
    assert len(work.open_offers(admin)) == before + 3


def test_labels_are_read_as_they_are_typed() -> None:
    """With commas or lines; what is no label is told."""
    assert pairs(" site=lyon ,floor = 2\nnote=a=b") == {
        "site": "lyon", "floor": "2", "note": "a=b",
    }  # fmt: skip
    assert pairs("  ") is None
    assert words("a, b\nc,,") == ["a", "b", "c"]
    with pytest.raises(InputError, match="key=value"):
        pairs("site")


def _enrolled(controller: Controller, count: int) -> list[str]:
    """Devices as rows of the database alone."""
    names = [f"n{index:03}" for index in range(count)]
    with controller.store.write() as connection:
        for index, name in enumerate(names):
            label = {"site": "lyon" if index % 2 else "graz"}
            devices.enroll(controller.store, connection, name, PI, label, [], float(index))
    return names


def test_labels_and_groups_of_many_devices_are_changed_together(controller: Controller) -> None:
    """Given and taken away; devices that have it already are not counted; one entry for all."""
    names, work, operator = _enrolled(controller, 250), Work(controller), as_role("operator")
    change = Relabelling(labels={"floor": "2"}, unlabel=["site"], join=["night"])
    assert work.relabel(names, change, operator) == 250
    entry = newest(controller)
    assert (entry.action, entry.actor, entry.target) == (
        "device.change", "the operator", "50 devices",
    )  # fmt: skip
    with controller.store.read() as connection:
        one = devices.get(connection, "n249")
        assert (one.labels, one.groups) == ({"floor": "2"}, ["night"])
        assert listing.count(connection, Listing(selector.parse("group=night,floor=2"))) == 250
    assert work.relabel(names, change, operator) == 0
    assert work.relabel(names[:3], Relabelling(leave=["night"]), operator) == 3


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (Relabelling(), "bad-options"),
        (Relabelling(labels={"a b": "c"}), "bad-name"),
        (Relabelling(labels={"a": "x" * 65}), "bad-label"),
        (Relabelling(labels={f"k{n}": "v" for n in range(200)}), "bad-label"),
        (Relabelling(join=["#"]), "bad-name"),
    ],
)
def test_a_change_that_cannot_be_is_refused_whole(
    controller: Controller, change: Relabelling, code: str
) -> None:
    """Nothing of any device is changed."""
    names = _enrolled(controller, 3)
    with pytest.raises(InputError) as refused:
        Work(controller).relabel(names, change, as_role("operator"))
    assert refused.value.code == code
    with controller.store.read() as connection:
        assert devices.get(connection, "n000").labels == {"site": "graz"}


def test_a_device_that_is_not_there_is_told(controller: Controller) -> None:
    """And so is an empty choice; neither is done by a viewer."""
    work = Work(controller)
    for names, code in ((["ghost"], "no-such-device"), ([], "no-devices")):
        with pytest.raises(InputError) as refused:
            work.relabel(names, Relabelling(join=["night"]), as_role("operator"))
        assert refused.value.code == code
    with pytest.raises(RefusedError):
        work.relabel(["n000"], Relabelling(join=["night"]), as_role("viewer"))


@pytest.mark.parametrize(
    ("listed", "first"),
    [
        (Listing(selector.parse("all"), "N00 LYON"), "n001"),
        (Listing(selector.parse("all"), "n00", "enrolled", down=True), "n009"),
        (Listing(selector.parse("site=graz"), "", "heard"), "n000"),
        (Listing(selector.parse("all"), "%"), None),
    ],
)
def test_devices_are_found_by_words_in_any_order(
    controller: Controller, listed: Listing, first: str | None
) -> None:
    """Words mean themselves; the case of letters means nothing."""
    _enrolled(controller, 30)
    with controller.store.read() as connection:
        found = [one.id for one in listing.page(connection, listed, 50)]
        assert listing.count(connection, listed) == len(found)
        assert listing.names(connection, listed, 50) == found
    assert (found[0] if found else None) == first
