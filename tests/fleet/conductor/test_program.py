"""Rollouts of the agent's own program: who gets it, who does not and why, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from contracts import program
from contracts.errors import InputError
from contracts.messages import Reported, SlotReport
from fleet.conductor.runner import Runner
from fleet.rollout.spec import RolloutSpec
from fleet.store.devices import Device
from tests.fleet.conductor.test_runner import Small

PI, JETSON = "aarch64-cp313", "aarch64-cp310"


class Boards(Small):
    """Devices that say which archive they take, and a fleet that signed two versions."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.signed = {"1.1.0": frozenset({PI}), "1.2.0": frozenset({PI, JETSON})}
        self.runner = Runner(self.store, clock=lambda: self.now, signed=lambda: self.signed)
        self.runs: dict[str, str] = {}
        self.platforms: dict[str, dict[str, str]] = {}

    def board(self, name: str, **platform: str) -> None:
        """A device that runs 1.0.0."""
        self.runs[name] = "1.0.0"
        self.platforms[name] = platform
        self.add(name)

    def _done(self, device: Device) -> Reported:
        """It installs what is desired of it, and says what runs."""
        name = device.id
        wished = device.desired.slots if device.desired else {}
        if program.SLOT in wished:
            self.runs[name] = wished[program.SLOT].bundle.version
        version = self.runs.get(name, "1.0.0")
        platform = self.platforms.get(name, {})
        slots = {slot: SlotReport(one.active) for slot, one in wished.items()}
        if program.TAG in platform:
            slots[program.SLOT] = SlotReport(program.ref(version))
        said = self._reported(device, slots)
        return msgspec.structs.replace(said, agent_version=version, platform=platform)

    def roll_out(self, version: str, **fields: object) -> str:
        """A rollout to all."""
        return self.create(version, bundle="shoal-agent", **fields)


@pytest.fixture
def boards(tmp_path: Path) -> Iterator[Boards]:
    """A Pi, a Jetson, a container, and a device with an old agent."""
    found = Boards(tmp_path)
    found.board("pi", release=PI)
    found.board("jetson", release=JETSON)
    found.board("container", release_fixed="no starter")
    found.board("old")
    yield found
    found.store.close()


def _spec(version: str, **fields: object) -> RolloutSpec:
    return RolloutSpec.model_validate({"bundle": "shoal-agent", "version": version} | fields)


def test_a_plan_names_each_device_for_which_there_is_no_archive(boards: Boards) -> None:
    """By its platform and Python, before anything happens."""
    found = boards.runner.plan(_spec("1.1.0"))
    assert found.moving == 1
    assert "no archive" in found.left_out["jetson"]
    assert JETSON in found.left_out["jetson"]
    assert "no starter" in found.left_out["container"]
    assert "cannot replace itself" in found.left_out["old"]


def test_each_device_is_asked_for_the_version_and_says_that_it_runs(boards: Boards) -> None:
    """Of every platform alike; the others are not touched."""
    rollout = boards.roll_out("1.2.0")
    boards.settle("pi", "jetson", "container", "old")
    assert boards.status(rollout) == "succeeded"
    assert boards.runs["pi"] == boards.runs["jetson"] == "1.2.0"
    assert boards.device("container").desired is None
    assert boards.device("old").desired is None


def test_an_archive_that_is_signed_later_brings_a_device_in(boards: Boards) -> None:
    """As a late joiner of the rollout."""
    boards.roll_out("1.1.0")
    boards.settle("pi", "jetson")
    assert boards.runs["jetson"] == "1.0.0"
    boards.signed["1.1.0"] = frozenset({PI, JETSON})
    boards.online("jetson", online=False)
    boards.online("jetson", online=True)
    boards.settle("jetson")
    assert boards.runs["jetson"] == "1.1.0"


def test_a_rollout_that_is_aborted_gives_the_release_before_back(boards: Boards) -> None:
    """By its name: the device goes back to it."""
    boards.roll_out("1.1.0")
    boards.settle("pi")
    rollout = boards.roll_out("1.2.0", bake_s=3600)
    boards.settle("pi", "jetson")
    assert boards.runs["pi"] == "1.2.0"
    boards.abort(rollout)
    boards.settle("pi", "jetson")
    assert boards.runs["pi"] == "1.1.0"
    assert boards.runs["jetson"] == "1.0.0"


def test_an_older_version_is_rolled_out_like_any_other(boards: Boards) -> None:
    """Going back on purpose."""
    boards.roll_out("1.2.0")
    boards.settle("pi", "jetson")
    boards.roll_out("1.1.0")
    boards.settle("pi")
    assert boards.runs["pi"] == "1.1.0"


def test_a_rollout_of_a_model_leaves_the_program_alone(boards: Boards) -> None:
    """What a device says that it runs is not what it has to keep running."""
    boards.create("1.0.0")
    boards.settle("pi")
    desired = boards.device("pi").desired
    assert desired is not None
    assert set(desired.slots) == {"classify"}


def test_a_version_that_nobody_signed_is_refused_with_what_to_do(boards: Boards) -> None:
    """At the plan already."""
    with pytest.raises(InputError, match="agent fetch"):
        boards.runner.plan(_spec("9.0.0"))
    with pytest.raises(InputError, match="agent fetch"):
        boards.roll_out("9.0.0")


@pytest.mark.parametrize("fields", [{"mode": "shadow"}, {"slot": "classify"}])
def test_a_program_is_no_model(boards: Boards, fields: dict[str, str]) -> None:
    """It has a slot of its own, and runs alone."""
    with pytest.raises(InputError, match="slot agent"):
        boards.runner.plan(_spec("1.1.0", **fields))


def test_a_release_that_is_withdrawn_does_not_stop_the_engine(boards: Boards) -> None:
    """Its rollout reaches nobody any more; others go on."""
    rollout = boards.roll_out("1.1.0", bake_s=3600)
    boards.settle("pi")
    boards.signed.pop("1.1.0")
    other = boards.create("1.0.0", selector="own:board=raspberry-pi-5", if_busy="queue")
    boards.settle("pi")
    assert boards.status(rollout) == "running"
    boards.abort(rollout)
    boards.settle("pi", "jetson", "container", "old", ticks=12)
    assert boards.status(other) == "succeeded"
