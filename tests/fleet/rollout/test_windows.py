"""Maintenance windows: the controller's zones, a device's arithmetic, and what they stop."""

from __future__ import annotations

import datetime as dt
import random
from zoneinfo import ZoneInfo

import pytest

from contracts import codec
from contracts import windows as arithmetic
from contracts.desired import Window as OnWire
from contracts.errors import ErrorInfo
from fleet.rollout.windows import Window, is_open, later, next_open
from tests.fleet.rollout.world import NEW, OLD, FakeFleet, spec_of

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ZONES = [
    "UTC", "Europe/Paris", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu",
    "Pacific/Apia", "Africa/Casablanca",
]  # fmt: skip
HOUR = 3600.0
NIGHT = [{"start": "02:00", "end": "04:00"}]
CLOSED = ErrorInfo("window-closed", "the update waits for its maintenance window")


def by_the_clock_on_the_wall(window: Window, now: float) -> bool:
    """Whether a window holds, by what clocks there show: no arithmetic of offsets."""
    local = dt.datetime.fromtimestamp(now, ZoneInfo(window.timezone))
    clock = local.strftime("%H:%M")
    today, yesterday = DAYS[local.weekday()], DAYS[(local.weekday() - 1) % 7]
    if window.start < window.end:
        return today in window.days and window.start <= clock < window.end
    return (today in window.days and clock >= window.start) or (
        yesterday in window.days and clock < window.end
    )


def some_window(rng: random.Random, zone: str) -> Window:
    """Any window, those that wrap over midnight and those of a whole day too."""
    start, end = (f"{rng.randrange(24):02}:{rng.choice([0, 1, 30, 59]):02}" for _ in range(2))
    days = tuple(rng.sample(DAYS, rng.randint(1, 7)))
    return Window(start=start, end=end, days=days, timezone=zone)  # type: ignore[arg-type]


def changes_of(zone: str, year: int) -> list[float]:
    """Moments of a year at which the zone's offset changes, to the hour."""
    begin = dt.datetime(year, 1, 1, tzinfo=dt.timezone.utc)
    hours = [begin + dt.timedelta(hours=hour) for hour in range(366 * 24)]
    offsets = [hour.astimezone(ZoneInfo(zone)).utcoffset() for hour in hours]
    return [hours[at].timestamp() for at in range(1, len(hours)) if offsets[at] != offsets[at - 1]]


@pytest.mark.parametrize("zone", ZONES)
def test_a_device_reads_a_window_as_clocks_on_the_wall_there_do(zone: str) -> None:
    """For two years after it was told, at every hour around each change of the zone."""
    rng = random.Random(zone)
    told = dt.datetime(2026, 3, 1, tzinfo=dt.timezone.utc).timestamp() + rng.uniform(0, 30 * 86400)
    changes = [at for year in (2026, 2027) for at in changes_of(zone, year) if at > told]
    for _ in range(60):
        window = some_window(rng, zone)
        wire = codec.decode(codec.encode(window.on_wire(told)), OnWire, what="a window")
        moments = [told + rng.uniform(0, 2 * 365 * 86400) for _ in range(20)]
        moments += [at + minutes * 60 for at in changes for minutes in range(-180, 181, 17)]
        for now in moments:
            assert arithmetic.holds(wire, now) == by_the_clock_on_the_wall(window, now), (
                window, dt.datetime.fromtimestamp(now, dt.timezone.utc),
            )  # fmt: skip


@pytest.mark.parametrize("zone", ZONES)
def test_a_window_opens_and_closes_at_the_moment_that_is_named_and_not_before(zone: str) -> None:
    """Also where clocks are put forward or back, and with several windows."""
    rng = random.Random(zone)
    changes = changes_of(zone, 2026) or [
        dt.datetime(2026, 5, 1, tzinfo=dt.timezone.utc).timestamp()
    ]
    for _ in range(40):
        windows = [some_window(rng, zone) for _ in range(rng.randint(1, 2))]
        now = rng.choice(changes) + rng.uniform(-5, 2) * 86400
        wire = [window.on_wire(now) for window in windows]
        moment = arithmetic.next_change(wire, now)
        if moment is None:
            assert all(is_open(windows, now + hours * HOUR) for hours in range(14 * 24))
            continue
        assert moment > now
        assert is_open(windows, moment) != is_open(windows, now)
        for early in [moment - 1, *(rng.uniform(now, moment) for _ in range(20))]:
            assert early < now or is_open(windows, early) == is_open(windows, now)
        if not is_open(windows, now):
            assert next_open(windows, now) == moment


def test_an_hour_that_a_zone_leaves_out_has_no_window_and_one_that_it_has_twice_two() -> None:
    """In Paris clocks went from 2 to 3 on 2026-03-29 and from 3 to 2 on 2026-10-25."""
    window = Window(start="02:00", end="03:00", timezone="Europe/Paris")
    spring = dt.datetime(2026, 3, 28, 22, tzinfo=dt.timezone.utc).timestamp()
    wire = [window.on_wire(spring)]
    opens = arithmetic.next_change(wire, spring)
    assert opens == dt.datetime(2026, 3, 30, 0, tzinfo=dt.timezone.utc).timestamp()
    autumn = dt.datetime(2026, 10, 24, 23, tzinfo=dt.timezone.utc).timestamp()
    opens = arithmetic.next_change(wire, autumn)
    assert opens == dt.datetime(2026, 10, 25, 0, tzinfo=dt.timezone.utc).timestamp()
    assert arithmetic.next_change(wire, opens) == opens + 2 * HOUR


@pytest.mark.parametrize(
    ("start", "end", "now", "seconds", "may"),
    [
        (120, 240, 2 * HOUR - 1, 60, False),
        (120, 240, 2 * HOUR, 60, True),
        (120, 240, 4 * HOUR - 60, 60, True),
        (120, 240, 4 * HOUR - 59, 60, False),
        (120, 240, 4 * HOUR - 59, 3 * HOUR, True),  # as long as none: in the window is all
        (120, 240, 4 * HOUR, 0, False),
        (1320, 120, 23 * HOUR, 3 * HOUR, True),  # over midnight
        (1320, 120, 23 * HOUR + 1, 3 * HOUR, False),
        (0, 0, 5 * HOUR, 23 * HOUR, True),  # every day, all day: it never closes
    ],
)
def test_what_begins_in_a_window_ends_in_it(
    start: int, end: int, now: float, seconds: float, may: bool
) -> None:
    """Unless it takes longer than any window is open."""
    assert arithmetic.fits([OnWire(start, end, list(range(7)))], now, seconds) == may


def test_no_windows_are_always_open() -> None:
    """What has to wait for nothing does not."""
    assert arithmetic.fits([], 5.0, 1e9)
    assert later([], 5.0, 100.0, 60.0) == 105.0


def test_a_moment_of_open_time_leaves_out_what_is_closed_and_too_late() -> None:
    """Of the window from 2 to 4, the last half hour is no time in which one may begin."""
    windows = (Window(start="02:00", end="04:00"),)
    assert later(windows, 3 * HOUR, 1800, 1800) == 3.5 * HOUR
    assert later(windows, 3 * HOUR, 1801, 1800) == 26 * HOUR + 1
    assert later(windows, 5 * HOUR, 1.5 * HOUR, 1800) == 27.5 * HOUR
    assert later(windows, 5 * HOUR, 2 * HOUR, 3 * HOUR) == 28 * HOUR, "a trial longer than it"


def held(**fields: object) -> FakeFleet:
    """A rollout whose device was told at 3:50, and holds at 3:58 with half a minute's trial."""
    fleet = FakeFleet("a")
    fleet.now = 3 * HOUR + 50 * 60
    fleet.create(spec_of(waves=[{"percent": 100}], windows=NIGHT, deadline_s=900) if not fields
                 else spec_of(waves=[{"percent": 100}], windows=NIGHT, **fields))  # fmt: skip
    fleet.step()
    fleet.now += 8 * 60
    fleet.event("a", "self-tested", CLOSED)
    fleet.step()
    return fleet


def test_the_windows_go_to_the_device_with_the_version() -> None:
    """It holds by itself what it was told, however long its download takes."""
    fleet = held()
    wish = fleet.facts["a"].desired
    assert wish is not None and wish.windows == [OnWire(120, 240, list(range(7)))]


def test_a_deadline_stands_still_while_the_windows_are_closed() -> None:
    """And goes on in the next one; the rollout says what it waits for."""
    fleet = held()
    assert "a waits: the update waits for its maintenance window" in fleet.state().header.waiting
    fleet.now = 26 * HOUR
    fleet.step()
    assert fleet.phases() == {"a": "updating"}
    fleet.now = 26 * HOUR + 900 - 61  # of yesterday's two minutes, the trial left one to begin in
    fleet.step()
    assert fleet.phases() == {"a": "updating"}
    fleet.now += 2
    fleet.step()
    assert fleet.phases() == {"a": "failed"}
    reason = fleet.state().members["a"].reason
    assert reason is not None
    assert "no progress within 900 s of open maintenance windows" in reason.message


def test_a_trial_that_began_has_its_deadline_outside_the_windows_too() -> None:
    """A device that dies in its trial is not waited for until the next night."""
    fleet = held(deadline_s=100, trial={"seconds": 60})
    fleet.event("a", "trial")
    fleet.step()
    fleet.now += 159
    fleet.step()
    assert fleet.phases() == {"a": "trial"}
    fleet.now += 2
    fleet.step()
    assert fleet.phases() == {"a": "failed"}


def test_going_back_waits_for_no_window() -> None:
    """An abort takes the windows from what devices have to go back to, whoever set them."""
    fleet = FakeFleet("a")
    fleet.now = 2.5 * HOUR
    fleet.create(spec_of(waves=[{"percent": 100}], windows=NIGHT, bake_s=0))
    fleet.settle(steps=3, seconds=1)
    assert fleet.state().header.status == "succeeded"
    newer = OLD
    second = fleet.create(spec_of(waves=[{"percent": 100}], windows=NIGHT, bake_s=600), newer)
    fleet.step(second)
    fleet.obey("a")
    fleet.step(second)
    fleet.now = 5 * HOUR
    fleet.abort(second)
    wish = fleet.facts["a"].desired
    assert wish is not None and wish.bundle == NEW
    assert wish.windows == [] and wish.trial.seconds == 0


def test_a_document_of_many_windows_is_not_larger_than_a_message_may_be() -> None:
    """Fifty windows of a zone that changes four times a year."""
    from contracts import limits

    rng = random.Random(5)
    now = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc).timestamp()
    windows = [some_window(rng, "Africa/Casablanca").on_wire(now) for _ in range(50)]
    assert len(codec.encode(windows)) < limits.MAX_MESSAGE_BYTES / 8
