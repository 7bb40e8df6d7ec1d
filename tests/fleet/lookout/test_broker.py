"""A controller that loses its broker tells people, by all that needs none."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleet import controller as controller_module
from fleet.alerts import rule as rules
from fleet.lookout import lookout
from fleet.smtp import MailConfig
from fleet.store import alerts, webhooks
from fleet.store.webhooks import Webhook
from tests.fleet.lookout.test_lookout import NOW, Told, device, found_by
from tests.fleet.membership.test_leaving import Reef, until
from tests.support.mail_server import mail_server
from tests.support.receiver import receiver


def test_a_broker_that_is_gone_is_told_and_devices_are_not_judged(told: Told) -> None:
    """Of devices nothing is known meanwhile: what was open stays, and nothing new opens."""
    device(told.store, "d1", state="offline", state_at=NOW - 1000)
    with told.store.write() as connection:
        alerts.add_rule(connection, rules.new("away", "offline", now=NOW, by="ann"))
    for at, silent_s, events in (
        (0.0, 30.0, []),
        (30.0, 60.5, ["alert-opened"]),
        (60.0, 90.0, ["alert-opened"]),
    ):
        told.now = NOW + at
        told.lookout.look(silent_s)
        assert told.events() == events
    (alert,) = told.alerts("open")
    assert (alert.subject, alert.device) == ("broker", None)
    assert "no connection to the broker for 60 seconds" in alert.message
    assert "No broker: broker" in told.mails()[0].subject
    assert told.at(120) == ["alert-opened", "alert-opened"], "the device, which is known again"
    told.at(190)
    assert told.at(400)[-1] == "alert-resolved"


@pytest.fixture
def told(store: object) -> Told:
    """A rule on the broker alone."""
    return Told(store, "broker")  # type: ignore[arg-type]


def test_a_controller_that_hears_its_broker_finds_nothing(told: Told) -> None:
    """Whatever the rule's selector says: it is of no device."""
    assert found_by(told.store, "broker") == {}


def test_people_are_told_by_webhook_and_mail_while_the_broker_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real broker is killed, and comes back; the alert ends by itself."""
    monkeypatch.setattr(controller_module, "_LEASE_S", 4.0)
    monkeypatch.setattr(controller_module, "_ALERTS_S", 0.5)
    monkeypatch.setattr(lookout, "GATHER_S", 1.0)
    with mail_server(None) as mails, receiver() as (url, came):
        post = MailConfig("127.0.0.1", "reef@example.org", mails.port, "none", ["ops@example.org"])
        with Reef(tmp_path, webhook_hosts=["127.0.0.1"], mail=post) as reef:
            with reef.store.write() as connection:
                for one in alerts.rules(connection):
                    alerts.remove_rule(connection, one.id, 0.0)
                quick = rules.new(
                    "broker", "broker", now=1.0, by="ann", threshold=10.0, clear_s=0.0
                )
                alerts.add_rule(connection, quick)
                webhooks.add(
                    connection,
                    Webhook("w", url, "s" * 32, ["alert-opened", "alert-resolved"], 1.0, 1),
                )
            controller = reef.controller
            assert controller is not None
            until(lambda: controller.leading, "it leads")
            reef.broker.kill()
            assert came.get(timeout=120) == "alert-opened"
            mail = mails.messages.get(timeout=120)
            assert mail["to"] == ["ops@example.org"]
            until(lambda: controller.open_alerts == {"broker": 1}, "the dashboard shows it")
            assert "The controller has no connection to the broker." in controller.problems
            reef.broker.start()
            assert came.get(timeout=120) == "alert-resolved"
            until(lambda: not controller.open_alerts, "the dashboard shows its end")
