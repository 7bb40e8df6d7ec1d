"""Maintenance windows with the real controller and a real agent: what is activated, and when."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from contracts.config import MqttConfig
from fleet.client import Client
from fleet.rollout.spec import RolloutSpec
from tests.support.controller import TINY, TINY_NEXT, AgentProcess
from tests.support.served import ServedFleet

DEVICE = "kitchen"
ENDED = ("succeeded", "stopped", "aborted")


class Home:
    """A controller and one agent."""

    def __init__(self, served: ServedFleet, client: Client, agent: AgentProcess) -> None:
        self.served = served
        self.client = client
        self.agent = agent

    def roll_out(self, version: str, **fields: object) -> str:
        """Creates a rollout of the tiny bundle; returns its id."""
        spec = {
            "bundle": "tiny-classifier", "version": version, "waves": [{"percent": 100}],
            "bake_s": 0, "trial": {"seconds": 0}, **fields,
        }  # fmt: skip
        return self.client.create_rollout(RolloutSpec.model_validate(spec)).id

    def last(self, field: str) -> Any:
        """A field of the newest event of the device's update."""
        return (self.client.device(DEVICE).last_update or {}).get(field)

    def active(self) -> str | None:
        """The version that the device says it runs."""
        slot = self.client.device(DEVICE).slots.get("classify")
        return slot.active.version if slot and slot.active else None


@pytest.fixture
def home(mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path) -> Iterator[Home]:
    """An agent that runs the first version."""
    served = ServedFleet(tmp_path / "fleet", mosquitto_broker, name=fleet_name)
    with served, served.client() as client, ExitStack() as stack:
        for folder in (TINY, TINY_NEXT):
            served.fleet.publish(folder)
        agent = stack.enter_context(
            AgentProcess(
                tmp_path / DEVICE, mosquitto_broker, fleet_name, served.fleet.open_repository(),
                device=DEVICE, repository_url=f"{served.fleet.api_url}/repo/",
            )
        )  # fmt: skip
        home = Home(served, client, agent)
        served.until(lambda: [one for one in client.devices() if one.state == "online"])
        first = home.roll_out("1.0.0")
        served.until(lambda: client.rollout(first).status == "succeeded")
        yield home


def _window(closes_in_s: float, length_min: int) -> dict[str, str]:
    """A window that closes in so many seconds or up to a minute before, by Kathmandu's clocks."""
    zone = dt.timezone(dt.timedelta(hours=5, minutes=45))
    end = dt.datetime.now(zone) + dt.timedelta(seconds=closes_in_s)
    end = end.replace(second=0, microsecond=0)
    start = end - dt.timedelta(minutes=length_min)
    return {
        "start": f"{start:%H:%M}", "end": f"{end:%H:%M}", "timezone": "Asia/Kathmandu",
    }  # fmt: skip


@pytest.mark.timeout(240)
def test_an_update_that_began_in_a_window_is_not_activated_when_it_closes_too_soon(
    home: Home,
) -> None:
    """It is downloaded and tested, holds through a kill, says why, and goes back at once."""
    client, until = home.client, home.served.until
    # It is open for 60 to 120 seconds more, of ten minutes; a trial takes five.
    windows = [_window(120, 10)]
    rollout = home.roll_out("1.1.0", windows=windows, trial={"seconds": 300})
    until(lambda: client.device(DEVICE).waits, 60)
    (wait,) = client.device(DEVICE).waits
    assert (wait.code, wait.slot) == ("window-closed", "classify")
    assert "waits for its maintenance window, which opens at" in wait.message
    until(lambda: "maintenance window" in client.rollout(rollout).waiting, 30)
    (member,) = client.members(rollout, "updating")
    assert [one.code for one in member.waits] == ["window-closed"]
    boot = home.last("boot")
    home.agent.kill()
    home.agent.start()
    until(lambda: home.last("boot") != boot and home.last("reason"), 60)
    assert (home.last("state"), home.last("reason")["code"]) == ("self-tested", "window-closed")
    assert home.active() == "1.0.0"
    client.command_rollout(rollout, "abort")
    until(lambda: client.rollout(rollout).status == "aborted", 60)
    until(lambda: client.device(DEVICE).waits == [] and home.active() == "1.0.0", 60)


@pytest.mark.timeout(240)
def test_an_update_is_activated_in_its_window(home: Home) -> None:
    """By the zone of the window, which is not that of the device."""
    rollout = home.roll_out("1.1.0", windows=[_window(3600, 120)])
    home.served.until(lambda: home.client.rollout(rollout).status in ENDED, 90)
    assert home.client.rollout(rollout).status == "succeeded"
    assert home.active() == "1.1.0"
