"""Gates over figures: what one device can and cannot do to the others'."""

from __future__ import annotations

from contracts.histogram import Histogram
from contracts.manifest import Baseline
from fleet.figures import Figures
from fleet.rollout.gates import readings
from fleet.rollout.spec import Gates
from fleet.rollout.state import Member, Reading

LIMIT = 0.1


def reading(by_device: dict[str, Figures], baseline: Baseline | None = None) -> Reading:
    """The reading of the gate behind the failure rate."""
    members = [Member(device, 0, "confirmed", 1, 0.0, 0.0) for device in by_device]
    gates = (
        Gates(max_error_rate=LIMIT, min_requests=50)
        if baseline is None
        else Gates(max_label_drift=LIMIT, min_requests=50)
    )
    return readings(gates, 0, members, by_device, baseline, 1)[1]


def errors(requests: int, wrong: int) -> Figures:
    """Figures of a device."""
    return Figures(requests=requests, errors=wrong)


def test_a_device_that_claims_a_great_deal_does_not_hide_the_others() -> None:
    """Most devices fail half of their requests."""
    found = reading({"liar": errors(2**40, 0), "a": errors(100, 50), "b": errors(100, 60)})
    assert (found.holds, found.value) == (False, 0.5)
    assert [device for device, _ in found.devices] == ["b", "a"]


def test_a_few_requests_of_a_device_decide_nothing() -> None:
    """By themselves they are no evidence."""
    found = reading({"busy": errors(1000, 10), "a": errors(3, 3), "b": errors(2, 2)})
    assert found.holds


def test_all_together_still_count() -> None:
    """A minority of devices that is very bad."""
    found = reading({"a": errors(100, 0), "b": errors(100, 0), "c": errors(100, 90)})
    assert (found.holds, found.value) == (False, 0.3)


def test_devices_that_hear_different_things_are_no_drift() -> None:
    """Each is far from the baseline; together they are it."""
    baseline = Baseline(labels={"a": 0.5, "b": 0.5}, confidence=Histogram("unit20"))
    found = reading(
        {
            "kitchen": Figures(requests=1000, labels={"a": 1000}),
            "garden": Figures(requests=1000, labels={"b": 1000}),
        },
        baseline,
    )
    assert found.holds, found
