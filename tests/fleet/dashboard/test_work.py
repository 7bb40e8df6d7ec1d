"""What pages do is checked against the role where it is done, and in the audit log."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from contracts.config import MqttConfig
from contracts.errors import InputError, RefusedError
from fleet.controller import Controller
from fleet.dashboard.work import MAX_OFFERS, Work, pairs, words
from fleet.folder import ApiConfig, Fleet, FleetConfig
from fleet.store import audit
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
