"""What runs out is warned of in time, once, wherever somebody looks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from contracts.config import MqttConfig
from fleet import expiry
from fleet.api import models_admin
from fleet.api.prometheus import render
from fleet.cli.app import app
from fleet.controller import Controller
from fleet.dashboard.data import Data
from fleet.expiry import DAY_S, Item
from fleet.folder import Fleet, FleetConfig
from fleet.store import tokens, webhooks
from tests.support.tools import free_port

YEAR = 365 * DAY_S


def item(days_left: float, lasts_days: float = 365.0) -> int | None:
    """The warning that is due for something with so many days left."""
    return Item("role", "x", days_left * DAY_S, lasts_days * DAY_S, "do it").days(0.0)


@pytest.mark.parametrize(
    ("left", "warning"),
    [(31, None), (30, 30), (8, 30), (7, 7), (2, 7), (1, 1), (0.1, 1), (0, 0), (-400, 0)],
)
def test_a_warning_is_due_30_7_and_1_days_before_and_at_the_end(left: float, warning: int) -> None:
    """The last that is due counts."""
    assert item(left) == warning


@pytest.mark.parametrize(
    ("lasts", "warnings"), [(1, [0]), (7, [1, 0]), (30, [7, 1, 0]), (119, [7, 1, 0])]
)
def test_what_lasts_a_short_time_is_not_warned_of_all_its_life(
    lasts: float, warnings: list[int]
) -> None:
    """The timestamp lasts a week, a token a day: a warning is less than a quarter of that."""
    found = [item(left / 10, lasts) for left in range(int(lasts * 10), -1, -1)]
    said = [one for one in dict.fromkeys(found) if one is not None]
    assert said == warnings
    assert found[0] is None, "not at its beginning"


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        """Seconds since the epoch."""
        return self.now


class Home:
    """A fleet with certificates, a device of each kind, a token of each kind, and a webhook."""

    def __init__(self, folder: Path) -> None:
        config = FleetConfig("home", mqtt=MqttConfig(port=free_port()), mutual_tls=True)
        self.fleet = Fleet.init(folder / "fleet", config)
        self.fleet.enroll("pi", "raspberry-pi-5")
        self.fleet.enroll("chip", "esp32-s3")
        self.fleet.open_identity().new_token("next", "raspberry-pi-5")
        self.clock = Clock()
        self.controller = Controller(self.fleet, self.clock)
        with self.controller.store.write() as connection:
            ends = self.clock.now + 100 * DAY_S
            tokens.create(connection, "ci", "viewer", self.clock.now, ends)
            hook = webhooks.Webhook("w1", "http://127.0.0.1:9/", "s" * 20, ["expiring"], 1.0, 1)
            webhooks.add(connection, hook)

    def sent(self) -> list[dict[str, Any]]:
        """What the webhook is told, without what it was told before."""
        with self.controller.store.write() as connection:
            due = webhooks.due(connection, 4e9, 100)
            for one in due:
                webhooks.note_delivered(connection, one.id, self.clock.now)
        return [json.loads(one.payload)["data"] for one in due]

    def warned(self) -> list[tuple[str, int]]:
        """What the log says now: names and days."""
        with capture_logs() as logs:
            self.controller._warn_of_ends()
        # Threads of tests before this one may log meanwhile.
        warnings = [log for log in logs if "names" in log]
        return sorted((name, log["days"]) for log in warnings for name in log["names"])


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """One for each test."""
    home = Home(tmp_path)
    yield home
    home.controller.store.close()


def test_everything_that_runs_out_is_in_the_one_list(home: Home) -> None:
    """Roles, certificates, the list, devices, tokens; each with a date and what to do."""
    with home.controller.store.read() as connection:
        found = expiry.every(home.fleet, home.controller.repository, connection, home.clock.now)
    days = {one.key: round((one.expires - home.clock.now) / DAY_S) for one in found}
    token = next(one.name for one in found if one.kind == "token")
    assert days == {
        "role root": 3 * 365, "role targets": 365, "role snapshot": 30, "role timestamp": 7,
        "certificate authority": 20 * 365, "certificate broker": 730,
        "certificate controller": 730, "list revocation list": 400,
        "device pi": 365, "device chip": 365, f"token {token}": 100, "enrolment next": 1,
    }  # fmt: skip
    assert [one.expires for one in found] == sorted(one.expires for one in found)
    todo = {one.name: one.todo for one in found}
    assert "resign --targets" in todo["targets"] and "rotate root" in todo["root"]
    assert "agent renews it" in todo["pi"] and "agent renews it" not in todo["chip"]
    assert "enroll chip --board esp32-s3 --replace" in todo["chip"]


def test_each_warning_is_given_once_whoever_gives_it(home: Home) -> None:
    """In the log and to webhooks; a second controller, or a restart, does not repeat it."""
    assert home.warned() == []
    began, known = home.clock.now, len(home.sent())
    assert known == 0
    home.clock.now = began + 336 * DAY_S  # 29 days before the year is over
    said = home.warned()
    assert ("targets", 30) in said and ("chip", 30) in said and ("pi", 30) in said
    facts = {tuple(one["names"]): one for one in home.sent()}
    assert facts["targets",]["days"] == 30
    assert facts["chip", "pi"]["count"] == 2, "devices are told of together"
    assert home.warned() == []
    again = Controller(home.fleet, home.clock)
    with capture_logs() as logs:
        again._warn_of_ends()
    assert [log for log in logs if "names" in log] == []
    again.store.close()
    for days, left in ((7, 6.9), (1, 0.9), (0, -0.1)):
        home.clock.now = began + YEAR - left * DAY_S
        assert ("targets", days) in home.warned()
    home.controller.repository.metadata.clock = home.clock
    home.controller.repository.resign_targets()
    home.clock.now += 61
    assert ("targets", 0) not in home.warned()
    home.clock.now += 336 * DAY_S
    assert ("targets", 30) in home.warned(), "the new one is warned of like the first"


def test_what_the_controller_renews_is_not_warned_of(home: Home) -> None:
    """While it runs and has the keys; a week without it, and the timestamp is urgent."""
    home.controller.repository.metadata.clock = home.clock
    for _ in range(60):
        home.clock.now += DAY_S
        home.controller.repository.resign()
        assert not {"snapshot", "timestamp"} & {name for name, _ in home.warned()}
    home.clock.now += 6.5 * DAY_S
    assert ("timestamp", 1) in home.warned() or ("timestamp", 0) in home.warned()


def test_dashboard_and_metrics_show_what_runs_out(home: Home) -> None:
    """As an alert that says what to do, and as seconds."""
    assert "Nothing" not in str(Data(home.controller).overview().alerts)
    home.clock.now += YEAR + DAY_S
    home.controller._warn_of_ends()
    texts = {alert.text: alert.level for alert in Data(home.controller).overview().alerts}
    (targets,) = [text for text in texts if "role targets" in text]
    assert "ran out 24 hours ago" in targets and "resign --targets" in targets
    assert texts[targets] == "bad"
    page = render(home.controller).decode()
    figures = dict(line.rsplit(" ", 1) for line in page.splitlines() if "expir" in line)
    left = float(figures['shoal_expires_seconds{kind="role",name="targets"}'])
    assert left == pytest.approx(-DAY_S, abs=5)
    assert float(figures["shoal_device_certificates_expiring"]) == 2


def test_the_command_lists_it_and_says_by_its_exit_code_that_something_is_urgent(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a person, and for a cron job."""
    command = ["fleet", "expiry", "--dir", str(home.fleet.folder)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "targets" in done.stdout and "chip" not in done.stdout
    assert "chip" in CliRunner().invoke(app, [*command, "--all"]).stdout
    monkeypatch.setattr(time, "time", lambda: home.clock.now + 340 * DAY_S)
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 1
    found = {one["name"]: one["warning"] for one in json.loads(done.stdout)}
    assert (found["targets"], found["chip"], found["root"]) == (30, 30, None)


def test_a_certificate_that_cannot_be_read_hides_no_other(home: Home) -> None:
    """Whoever uses it says what is wrong with it."""
    (home.fleet.folder / "ca/broker.pem").write_bytes(b"noise")
    (home.fleet.folder / "ca/crl.pem").unlink()
    names = {one.name for one in home.controller.expiring()}
    assert {"authority", "controller", "targets", "pi"} <= names
    assert not {"broker", "revocation list"} & names


def test_the_api_knows_every_kind_of_what_runs_out() -> None:
    """One that it does not know would fail the whole list."""
    known = get_args(models_admin.ExpiryModel.model_fields["kind"].annotation)
    assert set(known) == set(get_args(expiry.Kind))
