"""What came of an accelerator is told where people look at a device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts import codec
from contracts.config import MqttConfig
from contracts.errors import ErrorInfo
from contracts.messages import Acceleration, BundleRef, Reported, SlotReport
from fleet.api import views
from fleet.controller import Controller
from fleet.dashboard.data import Data
from fleet.dashboard.render import render
from fleet.folder import Fleet, FleetConfig
from fleet.ingest.decode import Message
from fleet.ingest.writer import Writer
from fleet.store import delivery, devices

REF = BundleRef("tiny-classifier", "1.0.0", "0" * 64)


@pytest.fixture
def controller(tmp_path: Path, database_url: str) -> Iterator[Controller]:
    """A controller that is not connected: pages need its store alone."""
    config = FleetConfig(fleet="f", mqtt=MqttConfig(port=1), database=database_url)
    made = Controller(Fleet.init(tmp_path / "fleet", config))
    yield made
    made.store.close()


def test_what_came_of_an_accelerator_is_on_the_devices_page(controller: Controller) -> None:
    """How fast it is, or why the processor serves; a device of which none was asked says none."""
    slow = Acceleration("gpu", speedup=0.5, reason=ErrorInfo("accelerator-slow", "0.5 <times>"))
    slots = {
        "fast": SlotReport(REF, acceleration=Acceleration("lib<x>.so", used=True, speedup=3.14)),
        "slow": SlotReport(REF, acceleration=slow),
        "none": SlotReport(REF),
    }
    reported = Reported(
        device="d0000", boot="b", agent_version="1", board="jetson-orin-nano", runtime="litert",
        at=time.time(), slots=slots,
    )  # fmt: skip
    said = [Message("d0000", reported, codec.encode(reported))]
    Writer(controller.store, admit_unknown=True).write(said, time.time())
    page = render("device.html", d=Data(controller).device("d0000"))
    assert "lib&lt;x&gt;.so: 3.1 times as fast as the processor" in page
    assert "faster than the processor (accelerator-slow: 0.5 &lt;times&gt;)" in page
    assert page.count("Accelerator:") == 2
    with controller.store.read() as connection:
        known = devices.get(connection, "d0000")
        account = delivery.books(connection, ["d0000"], time.time())["d0000"]
    told = views.device(known, account).slots
    assert told["none"].acceleration is None
    assert told["fast"].acceleration is not None and told["fast"].acceleration.used
    assert told["slow"].acceleration is not None
    assert told["slow"].acceleration.reason is not None
    assert told["slow"].acceleration.reason.code == "accelerator-slow"
