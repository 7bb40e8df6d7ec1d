"""What pages show comes in few statements, escaped, and only to those who may see it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from contracts import codec
from contracts.config import MqttConfig
from contracts.errors import RefusedError
from contracts.histogram import Histogram
from contracts.messages import (
    BundleRef,
    ErrorInfo,
    Reported,
    Sample,
    SlotReport,
    Status,
    Telemetry,
    UpdateEvent,
    Wait,
)
from fleet.alerts.judge import Change, Reading
from fleet.api import prometheus
from fleet.controller import Controller
from fleet.dashboard import charts
from fleet.dashboard.data import PAGE, Data
from fleet.dashboard.pages.devices import Asked
from fleet.dashboard.render import render
from fleet.dashboard.session import LIFETIME_S, Sessions
from fleet.figures import Figures
from fleet.folder import Fleet, FleetConfig
from fleet.ingest.decode import Batch, Message
from fleet.ingest.writer import Writer
from fleet.rollout import selector
from fleet.rollout.spec import RolloutSpec
from fleet.store import alerts, clones, telemetry
from fleet.store.listing import Listing
from fleet.store.telemetry import Point
from fleet.store.tokens import Token
from tests.support.counting import cost_of, scans

ALL = Listing(selector.parse("all"))
OWN = Listing(selector.parse("own:site=*"))
REF = BundleRef("tiny-classifier", "1.0.0", "0" * 64)
TINY = Path(__file__).parents[2] / "data" / "tiny-classifier-1.0.0"


@pytest.fixture
def controller(tmp_path: Path, database_url: str) -> Iterator[Controller]:
    """A controller that is not connected: pages need its store alone."""
    config = FleetConfig(fleet="f", mqtt=MqttConfig(port=1), database=database_url)
    fleet = Fleet.init(tmp_path / "fleet", config)
    fleet.publish(TINY)
    made = Controller(fleet)
    yield made
    made.store.close()


def _report(controller: Controller, count: int, *, event: UpdateEvent | None = None) -> None:
    """Devices report that they run something."""
    writer = Writer(controller.store, admit_unknown=True)
    batch = []
    for index in range(count):
        name = f"d{index:04}"
        reported = Reported(
            device=name, boot="b", agent_version="1", board="raspberry-pi-5", runtime="litert",
            at=1.0, labels={"site": "<b>lyon</b>"}, slots={"classify": SlotReport(active=REF)},
            last_update=event,
        )  # fmt: skip
        batch.append(Message(name, reported, codec.encode(reported)))
    writer.write(batch, time.time())


@contextmanager
def _statements(controller: Controller) -> Iterator[list[str]]:
    """SELECTs of this thread: the controller's own look into the database, too."""
    found: list[str] = []
    mine = threading.get_ident()

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if threading.get_ident() == mine and statement.lstrip().upper().startswith("SELECT"):
            found.append(statement)

    sa.event.listen(controller.store.engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        sa.event.remove(controller.store.engine, "before_cursor_execute", note)


def test_the_number_of_statements_does_not_grow_with_the_fleet(controller: Controller) -> None:
    """Overview and device list: as many for 400 devices as for 10."""
    counts = []
    for devices in (10, 400):
        _report(controller, devices)
        data = Data(controller)
        with _statements(controller) as found:
            data.overview()
            page = data.device_page(ALL)
        assert len(page.devices) == min(devices, PAGE)
        counts.append(len(found))
    # The list's last page needs one more, to see that nothing follows.
    assert counts[1] <= counts[0] < 15


def test_what_a_page_reads_does_not_grow_with_the_fleet(controller: Controller) -> None:
    """Nor with what devices measured: the database counts, and pages are read by the page."""
    read: dict[str, set[int]] = {}
    controller.expiring()  # what runs out is listed once a minute
    now = time.time()  # once: in the next minute there would be one row more
    for count in (60, 400):
        _report(controller, count)
        sample = Sample(now, 10.0, "classify", REF, requests=3)
        payload = codec.encode(Telemetry("b", count, [sample]))
        batch = [Message(f"d{n:04}", Batch("b", count), payload) for n in range(count)]
        Writer(controller.store).write(batch, now)
        while telemetry.roll_up(controller.store):
            pass
        data = Data(controller)
        for name, look in (
            ("overview", data.overview),
            ("devices", lambda data=data: data.device_page(OWN)),
            ("models", data.models),
            ("metrics", lambda: prometheus.render(controller)),
        ):
            with cost_of(controller.store) as cost:
                look()
            read.setdefault(name, set()).add(cost.rows)
            if controller.store.is_sqlite:
                assert scans(controller.store, cost, "device", "telemetry_rollup") == []
    assert {name: len(rows) for name, rows in read.items()} == dict.fromkeys(read, 1), read
    assert data.overview().requests == 3 * 460


def test_the_device_list_goes_on_page_by_page(controller: Controller) -> None:
    """Every device once, in order."""
    _report(controller, 120)
    data, seen = Data(controller), []
    for number in (1, 2, 3):
        page = data.device_page(OWN, number)
        assert (page.total, page.pages, page.first) == (120, 3, 50 * number - 49)
        seen += [device.id for device in page.devices]
    assert seen == [f"d{index:04}" for index in range(120)]
    assert data.device_page(OWN, 99).number == 3, "beyond the end is the last page"


def test_the_overview_counts_what_devices_run(controller: Controller) -> None:
    """By bundle version, most first."""
    _report(controller, 7)
    overview = Data(controller).overview()
    assert overview.versions == [("tiny-classifier 1.0.0", 7)]
    assert overview.published == 1


def test_updates_are_shown_with_their_reasons_and_as_text(controller: Controller) -> None:
    """Whatever a device says is escaped, events with and without a reason are shown."""
    bad = UpdateEvent(
        boot="b", seq=1, revision=1, slot="classify", bundle=REF, state="refused", at=1.0,
        rollout="r1", reason=ErrorInfo("selftest-failed", "<script>alert(1)</script>"),
    )  # fmt: skip
    good = UpdateEvent(
        boot="b", seq=2, revision=2, slot="classify", bundle=REF, state="committed", at=2.0
    )
    _report(controller, 1, event=bad)
    _report(controller, 1, event=good)
    data = Data(controller)
    html = render("updates.html", updates=data.updates("d0000"))
    assert "committed" in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<script>" not in html
    html = render(
        "devices.html",
        page=data.device_page(ALL),
        filtered=False,
        asked=Asked("", "", "device", 1),
        pick=True,
    )
    assert "site=&lt;b&gt;lyon&lt;/b&gt;" in html
    assert "<b>" not in html
    html = render("device.html", d=data.device("d0000"))
    assert "&lt;b&gt;lyon" in html


def test_a_viewer_can_command_nothing(controller: Controller) -> None:
    """The data layer refuses too, not only the missing buttons."""
    viewer = Token("0" * 12, "v", "viewer", 0.0, None, None)
    data = Data(controller)
    spec = RolloutSpec.model_validate({"bundle": "tiny-classifier", "version": "1.0.0"})
    for work in (
        lambda: data.command("r1", "abort", viewer),
        lambda: data.create_rollout(spec, viewer),
        lambda: data.ask("d0", "classify", "x", viewer),
    ):
        with pytest.raises(RefusedError, match="operator"):
            work()


def test_commands_are_in_the_audit_log(controller: Controller) -> None:
    """With who gave them."""
    _report(controller, 3)
    data = Data(controller)
    operator = Token("0" * 12, "olga", "operator", 0.0, None, None)
    spec = RolloutSpec.model_validate({"bundle": "tiny-classifier", "version": "1.0.0"})
    rollout = data.create_rollout(spec, operator)
    data.command(rollout, "abort", operator)
    for _ in range(2):
        with pytest.raises(RefusedError):
            data.command(rollout, "abort", operator)
    entries, _ = data.audit_page(None)
    assert [(e.actor, e.action, e.outcome, e.times) for e in entries if e.actor == "olga"] == [
        ("olga", "rollout.abort", "wrong-state", 2),
        ("olga", "rollout.abort", "done", 1),
        ("olga", "rollout.create", "done", 1),
    ]
    assert all(e.detail["by"] == "dashboard" for e in entries if e.actor == "olga")


def test_a_session_lives_as_long_as_its_token_and_no_longer_than_its_lifetime() -> None:
    """A revoked token and a session that is too old are worth nothing."""
    token = Token("0" * 12, "v", "viewer", 0.0, None, None)
    valid, now = {"secret": token}, [0.0]

    async def find(secret: str) -> Token | None:
        return valid.get(secret)

    sessions = Sessions(find, lambda: now[0])

    def who(cookie: str | None) -> Token | None:
        return asyncio.run(sessions.token(cookie))

    first, second = sessions.begin("secret"), sessions.begin("secret")
    assert first != second
    assert who(first) is token
    assert who("x" * 43) is None
    assert who(None) is None
    sessions.end(second)
    assert who(second) is None
    now[0] = LIFETIME_S + 1
    assert who(first) is None
    third = sessions.begin("secret")
    valid.clear()
    assert who(third) is None


def test_charts_of_nothing_say_so() -> None:
    """An empty series has a notice; one with points has none."""
    empty = charts.span(charts.requests([]), 0, 60)
    assert empty["title"]["show"] is True
    point = Point("d", "classify", "", 30, 60, Figures(requests=3, errors=1))
    drawn = charts.span(charts.requests([point]), 0, 60)
    assert drawn["title"]["show"] is False
    assert drawn["series"][0]["data"] == [[30_000, 3]]


def _point(start: int, window_s: float, requests: int, slot: str = "device") -> Point:
    figures = Figures(samples=1, window_s=window_s, requests=requests)
    figures.gauges["rss_bytes"] = (start, 5e7)
    return Point("d", slot, "", start, 60, figures)


def test_a_chart_shows_an_idle_device_as_there_and_one_that_was_away_as_away() -> None:
    """Nothing happened is zero, up to now while it is connected; a gap is where it was away."""
    asked = [_point(0, 60, 0), _point(0, 60, 9, "classify")]
    idle = charts.requests([*asked, _point(900, 900, 0)], until=1500.0)
    rows = [(at / 1000, value) for at, value in idle["series"][0]["data"]]
    assert rows == [(0, 9), (60, 0), (840, 0), (900, 0), (960, 0), (1500, 0)]
    away = charts.requests([*asked, _point(900, 10, 0)])
    rows = [(at / 1000, value) for at, value in away["series"][0]["data"]]
    assert rows == [(0, 9), (60, None), (900, 0)]
    assert away["series"][0]["showSymbol"]


def test_a_gauge_is_drawn_through_idle_time_and_not_through_an_absence() -> None:
    """A gauge that moves far is told: until then the line goes on."""
    found = charts.gauges([_point(0, 60, 0), _point(900, 900, 0)], until=1500.0)
    memory = [(at / 1000, value) for at, value in found["series"][0]["data"]]
    assert memory == [(0, 50), (900, 50), (1500, 50)]
    found = charts.gauges([_point(0, 60, 0), _point(900, 10, 0)])
    memory = [(at / 1000, value) for at, value in found["series"][0]["data"]]
    assert memory == [(0, 50), (60, None), (900, 50)]


def _answered(start: int) -> Point:
    figures = Figures(requests=3, labels={"on": 3}, latency_us=Histogram("log8"))
    assert figures.latency_us is not None
    figures.latency_us.add(900.0, 3)
    return Point("d", "classify", "", start, 60, figures)


@pytest.mark.parametrize("draw", [charts.latency, charts.labels])
def test_no_line_joins_answers_across_a_time_without_any(
    draw: Callable[[list[Point]], dict[str, Any]],
) -> None:
    """There was no latency and no label then, whether the device was away or nobody asked it."""
    found = draw([_answered(0), _answered(60), _answered(900), _answered(960)])
    for series in found["series"]:
        rows = [(at / 1000, value is None) for at, value in series["data"]]
        assert rows == [(0, False), (60, False), (120, True), (900, False), (960, False)]
        assert series["showSymbol"]


def test_the_fleets_traffic_is_zero_in_minutes_of_which_nobody_tells() -> None:
    """A line from the last busy minute to the next sample would show requests that never were."""
    found = charts.traffic([(0, 40, 2), (600, 0, 0)], until=900.0)
    asked = [(at / 1000, value) for at, value in found["series"][0]["data"]]
    assert asked == [(0, 40), (60, 0), (540, 0), (600, 0), (660, 0), (900, 0)]


def test_models_are_plotted_by_size_and_measured_accuracy(controller: Controller) -> None:
    """A bundle without an accuracy on a test split is listed, not plotted."""
    (published, _), *_ = Data(controller).models()
    assert charts.models([published])["series"] == []
    metrics = {"accuracy_int8": 0.915, "accuracy_float": 0.92, "per_class": {}}
    measured = msgspec.structs.replace(
        published, manifest=msgspec.structs.replace(published.manifest, metrics=metrics)
    )
    (series,) = charts.models([measured])["series"]
    kilobytes = round(published.manifest.total_bytes / 1000, 2)
    assert series["data"] == [{"name": "1.0.0", "value": [kilobytes, 91.5]}]
    html = render("models.html", models=[(measured, 3, charts.accuracy_of(measured))])
    assert "91.5 %" in html


def test_what_devices_wait_for_is_on_every_page_that_shows_them(controller: Controller) -> None:
    """In the list, at the device, at the rollout, and as an alert; as text, never as markup."""
    full = ErrorInfo("disk-full", "needs 135 MB, 21 MB <b>free</b>")
    reported = Reported(
        device="d0000", boot="b", agent_version="1", board="raspberry-pi-5", runtime="litert",
        at=time.time(), waits=[Wait(full, time.time() - 300, "classify")],
        clock_offset_s=30 * 86400.0,
    )  # fmt: skip
    said = [
        Message("d0000", Status("online", "b", 1, time.time()), b""),
        Message("d0000", reported, codec.encode(reported)),
    ]
    Writer(controller.store, admit_unknown=True).write(said, time.time())
    spec = RolloutSpec.model_validate({"bundle": "tiny-classifier", "version": "1.0.0"})
    rollout = controller.runner.create(spec, "me").state.id
    controller.runner.tick()
    controller.runner.tick()
    data = Data(controller)
    shown = "needs 135 MB, 21 MB &lt;b&gt;free&lt;/b&gt;"
    device = render("device.html", d=data.device("d0000"))
    assert shown in device and "classify:" in device
    assert "30 days ahead of the controller&#39;s" in device
    assert shown in render(
        "devices.html",
        page=data.device_page(ALL),
        filtered=False,
        asked=Asked("", "", "device", 1),
        pick=True,
    )
    view, events, failed = data.rollout(rollout)
    page = render(
        "rollout.html",
        r=view,
        events=events,
        failed=failed,
        waiting=data.waiting(rollout),
        progress=data.progress(rollout),
    )
    assert "Devices that wait" in page and page.count(shown) == 2
    assert [a.text for a in data.overview().alerts if "wait" in a.text] == [
        "Devices wait: its disk is full (1)."
    ]


def test_what_needs_a_look_at_once_is_on_the_first_page(controller: Controller) -> None:
    """Doubled identities, and rules with open alerts, as the controller sees them."""
    _report(controller, 2)
    with controller.store.write() as connection:
        clones.note(connection, "d0000", "renewal", controller.clock(), "192.0.2.1")
        rule = next(one for one in alerts.rules(connection) if one.kind == "offline")
        found = Change(None, "d0001", "open", 1.0, reading=Reading(True, 1.0, "away", "d0001"))
        alerts.change(controller.store, connection, rule, [found], controller.clock())
    controller._look_at_broker()
    told = [(one.text, one.link) for one in Data(controller).overview().alerts]
    assert ("Rule offline: open alerts: 1.", "/alerts") in told
    assert any(link == "/devices/d0000" for _, link in told)
