"""Pooled figures over HTTP: a week once told stays as it was told, and a role sees them alone."""

from __future__ import annotations

import pytest

from contracts import codec
from contracts.errors import InputError
from contracts.judged import Judged
from contracts.messages import Sample, Telemetry
from fleet import pools
from fleet.controller import Controller
from fleet.dashboard.data import Data
from fleet.dashboard.render import render
from fleet.field import enough
from fleet.ingest.decode import decode
from fleet.ingest.writer import Writer
from fleet.store import bundles, devices, telemetry
from tests.fleet.api.conftest import NOW, Signed

WEEK = "2027-W02"
"""The week of the conftest's moment."""


def tell(controller: Controller, seq: int, at: float, right: int) -> str:
    """All devices tell of verdicts; the model's path."""
    with controller.store.read() as connection:
        (ref,) = bundles.names(connection).values()
    one = Judged()
    for _ in range(right):
        one.note("on", None, right=True, sampled=False, confidence=0.9)
    one.note("on", "off", right=False, sampled=False, confidence=0.4)
    messages = [
        decode(
            "home",
            f"shoal/v1/home/d/d{number}/telemetry",
            codec.encode(Telemetry("b", seq, [Sample(at, 10.0, "classify", ref, judged=one)])),
        )
        for number in range(5)
    ]
    Writer(controller.store).write(messages, at)
    while telemetry.roll_up(controller.store):
        pass
    return f"/v1/pooled/{ref.name}/{ref.version}"


def test_a_week_is_told_once_and_stays_as_it_was_told(
    controller: Controller, signed: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sites of two and three devices are told together; what comes later changes nothing."""
    path = tell(controller, 0, NOW, 3)
    tell(controller, 1, NOW - 14 * 86400, 7)  # another week
    over = pools.span_of(WEEK)[1] + pools.SETTLE_S
    monkeypatch.setattr(controller, "clock", lambda: over - 1)
    early = signed("admin").get(path, params={"week": WEEK})
    assert early.status_code == 400
    assert early.json()["error"]["code"] == "bad-week"
    monkeypatch.setattr(controller, "clock", lambda: over + 1)
    client = signed("pooled")
    first = client.get(path).json()
    assert (first["week"], first["by"], first["least"]) == (WEEK, "site", 5)
    (group,) = first["groups"]
    assert (group["name"], group["devices"], group["right"], group["wrong"]) == (
        "(others)", 5, 15, 5,
    )  # fmt: skip
    assert group["confusion"][0] == {"given": "on", "right": "on", "count": 15}
    assert [t["right"] for t in group["calibration"]][9] == 15
    assert group["low"] < group["accuracy"] == 0.75 < group["high"]
    with controller.store.read() as connection:
        (published,) = bundles.every(connection)
    page = render(
        "model.html", b=published, running=1, enough=enough, metrics=[], report=None,
        may_roll=False, field=Data(controller).field(published.ref.name, published.ref.version),
        pool=Data(controller).pooled(published.ref.name, published.ref.version),
    )  # fmt: skip
    assert "week 2027-W02" in page and "(others)" in page and "on for off (5)" in page
    # Late verdicts, and devices that moved to a site, are the difference that would tell of them.
    tell(controller, 2, NOW + 10, 9)
    with controller.store.write() as connection:
        for number in range(4):
            devices.enroll(
                controller.store, connection, f"d{number}", "raspberry-pi-5", {"site": "x"}, [], NOW
            )
    assert client.get(path, params={"week": WEEK}).json() == first


def test_the_role_pooled_reads_pooled_figures_and_nothing_else(
    controller: Controller, signed: Signed
) -> None:
    """Every route of the API that a viewer has is shut, but this one."""
    path = tell(controller, 0, NOW, 3)
    client = signed("pooled")
    assert client.get(path).status_code == 200
    routes = client.app.openapi()["paths"]  # type: ignore[attr-defined]
    tried = 0
    for route, methods in routes.items():
        if route.startswith("/v1/pooled") or "get" not in methods:
            continue
        answer = client.get(route.replace("{name}", "n").replace("{version}", "1.0.0"))
        shut = signed("nobody").get(route).status_code
        if shut != 401:
            continue  # open to anybody
        assert answer.status_code == 403, route
        tried += 1
    assert tried > 20


@pytest.mark.parametrize("week", ["", "2026", "2026-W00", "2026-W54", "2026-W5", "x" * 20])
def test_what_is_no_week_is_refused(week: str) -> None:
    """By name, with an example."""
    with pytest.raises(InputError, match="2026-W48"):
        pools.span_of(week)


def test_a_week_is_a_monday_to_a_monday() -> None:
    """By ISO 8601, also where the year changes."""
    first, end = pools.span_of("2026-W53")
    assert end - first == 7 * 86400
    assert pools.span_of("2027-W01")[0] == end
    assert pools.last_week(end + pools.SETTLE_S) == "2026-W53"
    assert pools.last_week(end + pools.SETTLE_S - 1) == "2026-W52"
