"""A MicroPython device of 256 KB joins a fleet, serves, updates, refuses and rolls back."""

from __future__ import annotations

from contracts.bundle import Bundle
from contracts.messages import ClassifyRequest
from tests.micro.conftest import DATA


def _ref(version: str):
    return Bundle.open(DATA / f"tiny-classifier-{version}").ref


def test_a_device_joins_updates_answers_and_reports(controller, devices):
    """From enrolment to two updates: status, update events, answers and the reported document."""
    folder = devices.enrol("chip")
    devices.start(folder)
    status = controller.wait("online", lambda _, k, m: k == "status" and m.state == "online")
    assert status.session == 1
    controller.desire("chip", 1, _ref("1.0.0"))
    controller.wait_update("committed", 1)
    states = [m.state for _, k, m in controller.heard if k == "update" and m.revision == 1]
    assert states == [
        "downloading", "verified", "fits", "self-tested", "trial", "committed",
    ]  # fmt: skip
    golden = Bundle.open(DATA / "tiny-classifier-1.0.0").golden()
    for vector in golden[:8]:
        (answer,) = controller.ask("chip", "classify", ClassifyRequest(text=vector.text))
        assert answer.classified is not None
        assert answer.classified.top[0].label == vector.label
        assert answer.classified.bundle == _ref("1.0.0")
    controller.desire("chip", 2, _ref("1.1.0"))
    controller.wait_update("committed", 2)
    reported = controller.wait(
        "the report",
        lambda _, k, m: k == "reported" and m.desired_revision == 2,
    )
    slot = reported.slots["classify"]
    assert slot.active == _ref("1.1.0")
    assert slot.previous == _ref("1.0.0")
    assert not slot.trial
    assert reported.last_update.state == "committed"
    assert reported.runtime == "micropython"
