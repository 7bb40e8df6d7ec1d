"""What a device tells others on its machine: Prometheus, Home Assistant."""

from __future__ import annotations

import json
import urllib.request
from typing import Annotated, Literal

import jinja2
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.telemetry import homeassistant
from agent.telemetry.prometheus import MetricsServer, render
from agent.telemetry.recorder import Recorder
from contracts import codec
from contracts.messages import (
    Sample,
    Telemetry,
)
from contracts.topics import Topics, home_assistant_discovery
from tests.agent.telemetry.test_telemetry import REF


def test_prometheus_reads_what_is_served() -> None:
    """The official parser takes it, with odd labels; other paths are 404."""
    recorder = Recorder(lambda: 0)
    for value in (100.0, 200.0, 400.0):
        recorder.answered("classify", REF, value, label='quo"te\\and\nline')
    recorder.failed("classify", "busy")
    server = MetricsServer(0, lambda: render(recorder.totals, {"rss_bytes": 5e7}))
    try:
        url = f"http://127.0.0.1:{server.port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            text = answer.read().decode()
        families = {f.name: f for f in text_string_to_metric_families(text)}
        assert families["shoal_requests"].samples[0].value == 3
        assert families["shoal_busy"].samples[0].value == 1
        assert families["shoal_labels"].samples[0].labels["label"] == 'quo"te\\and\nline'
        counts = [s.value for s in families["shoal_latency_seconds"].samples if "le" in s.labels]
        assert counts == sorted(counts)
        assert counts[-1] == 3
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(url + "x", timeout=5)
    finally:
        server.close()


# Home Assistant: the documented schema of a device discovery payload, and its abbreviations. --


class HaDevice(msgspec.Struct, forbid_unknown_fields=True):
    """``device`` (``dev``)."""

    ids: list[str]
    name: str
    mf: str
    mdl: str
    sw: str


class HaOrigin(msgspec.Struct, forbid_unknown_fields=True):
    """``origin`` (``o``)."""

    name: str
    sw: str


class HaAvailability(msgspec.Struct, forbid_unknown_fields=True):
    """One of ``availability``."""

    topic: str
    value_template: str
    payload_available: str
    payload_not_available: str


class HaSensor(msgspec.Struct, tag="sensor", tag_field="p", forbid_unknown_fields=True):
    """MQTT sensor: the keys that we use of those that are documented."""

    name: str
    unique_id: str
    state_topic: str
    value_template: str
    state_class: Literal["measurement", "total", "total_increasing"] | None = None
    entity_category: Literal["config", "diagnostic"] | None = None
    device_class: Literal["data_size", "temperature", "duration"] | None = None
    unit_of_measurement: Literal["B", "°C"] | None = None


class HaUpdate(msgspec.Struct, tag="update", tag_field="p", forbid_unknown_fields=True):
    """Nothing but the platform: what an older agent told is removed."""


class HaDocument(msgspec.Struct, forbid_unknown_fields=True):
    """The payload of ``homeassistant/device/{object_id}/config``."""

    dev: HaDevice
    o: HaOrigin
    availability: list[HaAvailability]
    cmps: dict[Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]+$")], HaSensor | HaUpdate]
    qos: Literal[0, 1, 2]


def test_home_assistant_discovery_is_what_its_documentation_says() -> None:
    """Keys, ids, topics; and every template renders our real messages."""
    topics = Topics("home.fleet")
    raw = codec.encode(homeassistant.document(topics, "pi.kitchen", "A board", ["classify"]))
    found = msgspec.json.decode(raw, type=HaDocument)
    assert home_assistant_discovery("home.fleet", "pi.kitchen") == (
        "homeassistant/device/shoal-home_fleet-pi_kitchen-8bc938d4/config"
    )
    assert found.cmps["update_classify"] == HaUpdate()
    sensors = {name: one for name, one in found.cmps.items() if isinstance(one, HaSensor)}
    assert len({part.unique_id for part in sensors.values()}) == len(sensors)

    def shown(part: str, message: object) -> str:
        template = jinja2.Environment(autoescape=False).from_string(sensors[part].value_template)
        return template.render(value_json=json.loads(codec.encode(message)))

    sample = Sample(1.0, 1.0, gauges={"rss_bytes": 5.0, "queue": 2.0})
    telemetry = Telemetry("b", 0, [Sample(1.0, 1.0, "classify"), sample])
    assert shown("rss", telemetry) == "5.0"
    assert shown("queue", telemetry) == "2.0"
    assert shown("temperature", telemetry) == "None"
    status = jinja2.Environment(autoescape=False).from_string(found.availability[0].value_template)
    assert status.render(value_json={"state": "online"}) == "online"
