"""Feedback and field accuracy over HTTP: who may, what is refused, and what is told."""

from __future__ import annotations

import time

import pytest

from contracts import codec
from contracts.judged import Judged
from contracts.messages import BundleRef, Sample, Telemetry
from fleet.api import prometheus
from fleet.controller import Controller
from fleet.dashboard.data import Data
from fleet.dashboard.render import render
from fleet.field import enough
from fleet.ingest.decode import decode
from fleet.ingest.writer import Writer
from fleet.store import bundles, telemetry
from tests.fleet.api.conftest import Signed


def told(controller: Controller, counts: dict[str, Judged]) -> BundleRef:
    """Devices tell what was said of the published bundle."""
    now = time.time()
    with controller.store.read() as connection:
        (ref,) = bundles.names(connection).values()
    messages = [
        decode(
            "home",
            f"shoal/v1/home/d/{device}/telemetry",
            codec.encode(Telemetry("b", 0, [Sample(now, 10.0, "classify", ref, judged=judged)])),
        )
        for device, judged in counts.items()
    ]
    Writer(controller.store).write(messages, now)
    while telemetry.roll_up(controller.store):
        pass
    return ref


def counts(right: int, wrong: int, meant: str = "<b>off</b>") -> Judged:
    """Verdicts on two labels."""
    found = Judged()
    for _ in range(right):
        found.note("lights-on", None, right=True, sampled=True)
    for _ in range(wrong):
        found.note("weather", meant, right=False, sampled=False)
    return found


def test_field_accuracy_is_told_with_its_interval_by_label_and_by_group(
    controller: Controller, signed: Signed
) -> None:
    """As JSON, for Prometheus, and on the model's page."""
    ref = told(controller, {f"d{n}": counts(18, 2 if n % 2 else 12) for n in range(5)})
    client = signed("viewer")
    (one,) = client.get("/v1/field").json()["versions"]
    assert (one["name"], one["version"], one["right"], one["wrong"]) == (
        ref.name, ref.version, 90, 40,
    )  # fmt: skip
    assert one["estimate"]["enough"]
    assert one["estimate"]["low"] < 90 / 130 < one["estimate"]["high"]
    assert one["sampled"]["accuracy"] == 1.0
    lyon = client.get("/v1/field", params={"selector": "site=lyon"}).json()["versions"]
    assert [(v["right"], v["wrong"]) for v in lyon] == [(36, 4)]
    detail = client.get(f"/v1/field/{ref.name}/{ref.version}", params={"by": "site"}).json()
    assert [(g["name"], g["right"], g["wrong"]) for g in detail["groups"]] == [
        ("graz", 54, 36), ("lyon", 36, 4),
    ]  # fmt: skip
    assert [(row["name"], row["right"], row["wrong"]) for row in detail["labels"]] == [
        ("weather", 0, 40), ("lights-on", 90, 0),
    ]  # fmt: skip
    assert detail["confusions"] == [{"given": "weather", "right": "<b>off</b>", "count": 40}]
    text = prometheus.render(controller).decode()
    assert f'shoal_field_judged_7d{{bundle="{ref.name}",slot="classify",verdict="wrong"' in text
    assert text.count("shoal_field_accuracy_7d{") == 6
    field = Data(controller).field(ref.name, ref.version)
    with controller.store.read() as connection:
        found = bundles.find(connection, ref.name, ref.version)
    page = render(
        "model.html",
        b=found,
        running=1,
        field=field,
        pool=Data(controller).pooled(ref.name, ref.version),
        enough=enough,
        metrics=[],
        report=None,
        may_roll=False,
    )
    assert "&lt;b&gt;off&lt;/b&gt;" in page, "a label is text, never HTML"
    assert "69.2 %" in page
    assert "lyon" in page
    assert "not enough yet" not in page
    assert "Too few devices had answers judged in that week." in page, "it is not over"


def test_little_feedback_is_not_shown_as_a_figure(controller: Controller, signed: Signed) -> None:
    """Three verdicts say next to nothing: JSON says so, and Prometheus has no estimate."""
    ref = told(controller, {"d0": counts(2, 1)})
    (one,) = signed("viewer").get("/v1/field").json()["versions"]
    assert one["estimate"]["judged"] == 3
    assert not one["estimate"]["enough"]
    assert "shoal_field_accuracy_7d{" not in prometheus.render(controller).decode()
    field = Data(controller).field(ref.name, ref.version)
    with controller.store.read() as connection:
        found = bundles.find(connection, ref.name, ref.version)
    page = render(
        "model.html",
        b=found,
        running=1,
        field=field,
        pool=Data(controller).pooled(ref.name, ref.version),
        enough=enough,
        metrics=[],
        report=None,
        may_roll=False,
    )
    assert "not enough yet" in page


@pytest.mark.parametrize(
    ("role", "body", "status", "code"),
    [
        ("nobody", {"device": "d0", "answer": "q-1", "right": True}, 401, "unauthorized"),
        ("viewer", {"device": "d0", "answer": "q-1", "right": True}, 403, "forbidden"),
        ("operator", {"device": "d0", "answer": "q-1"}, 400, "bad-feedback"),
        (
            "operator",
            {"device": "d0", "answer": "q-1", "right": True, "label": "x"},
            400,
            "bad-feedback",
        ),
        ("operator", {"device": "nope", "answer": "q-1", "right": True}, 404, "no-such-device"),
        ("operator", {"device": "d0", "answer": "#", "right": True}, 422, "bad-request"),
        ("operator", {"device": "d0", "answer": "q", "label": "x" * 300}, 422, "bad-request"),
        ("operator", {"device": "d0", "answer": "q-1", "right": True}, 503, "device-offline"),
    ],
)
def test_feedback_needs_the_right_to_ask_and_one_word(
    signed: Signed, role: str, body: dict[str, object], status: int, code: str
) -> None:
    """As a query; what is wrong with it is said before a device is asked."""
    answer = signed(role).post("/v1/feedback", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_version_that_is_not_published_has_no_accuracy(signed: Signed) -> None:
    """An unknown bundle is said to be one."""
    answer = signed("viewer").get("/v1/field/nothing/1.0.0")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no-such-bundle")
