"""The controller's figures in Prometheus' text format, read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from contracts import drops
from fleet import field
from fleet.controller import Controller
from fleet.store import bundles, clones, delivery, devices, rollouts, telemetry

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_SINCE_S: Final = 300.0


class _Controller(Collector):
    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def collect(self) -> Iterator[Metric]:
        yield from _process(self._controller)
        yield from _fleet(self._controller)
        yield from _field(self._controller)
        yield from _ends(self._controller)


def _process(controller: Controller) -> Iterator[Metric]:
    counters = controller.consumer.counters
    for name, text, value in (
        ("ingest_messages", "messages committed", counters.messages),
        ("ingest_batches", "transactions of ingest", counters.batches),
        ("ingest_rejected", "messages refused as malformed", counters.rejected),
        ("ingest_unknown", "messages of devices not enrolled, or revoked", counters.unknown),
        ("ingest_over_quota", "messages refused, of devices over a quota", counters.over_quota),
        ("acks_sent", "acknowledgements sent to devices", counters.acknowledged),
        ("ingest_retries", "batches that had to be committed again", counters.retries),
        ("desired_sent", "desired documents acknowledged by the broker", controller.outbox.sent),
        ("blocks_served", "repository blocks sent over MQTT", controller.blocks.served),
        (
            "blocks_refused",
            "requests of devices not enrolled, or revoked",
            controller.blocks.refused,
        ),
        ("block_bytes", "bytes of repository blocks sent over MQTT", controller.blocks.bytes),
        ("queries_sent", "requests sent to devices", controller.asker.asked),
        ("query_answers", "answers of devices", controller.asker.answered),
        ("engine_steps", "steps of the rollout engine", controller.steps),
    ):
        metric = CounterMetricFamily(f"shoal_{name}", text)
        metric.add_metric([], value)
        yield metric
    for name, text, figure in (
        ("ingest_backlog", "messages waiting for their transaction", controller.consumer.backlog),
        ("ingest_commit_seconds", "duration of the newest transaction", counters.lag_s),
        ("engine_leader", "1 when this process steps the rollouts", int(controller.leading)),
    ):
        gauge = GaugeMetricFamily(f"shoal_{name}", text)
        gauge.add_metric([], figure)
        yield gauge


def _fleet(controller: Controller) -> Iterator[Metric]:
    since = controller.clock() - _SINCE_S
    with controller.store.read() as connection:
        states = devices.counts(connection)
        totals = telemetry.fleet_totals(connection, since)
        names = bundles.names(connection)
        active = rollouts.active(connection)
        phases = rollouts.phase_counts(connection, active)
        today = delivery.day_of(controller.clock())
        lost = delivery.loss_totals(connection, today - delivery.RECENT_DAYS)
        over = delivery.over_quota(connection, today, 10_000)
    metric = GaugeMetricFamily("shoal_devices", "devices by state", labels=["state"])
    for state in ("online", "offline", "unknown", "revoked"):
        metric.add_metric([state], states.get(state, 0))
    yield metric
    places = GaugeMetricFamily(
        "shoal_dropped_recently",
        "samples, results, events and lines dropped since yesterday, by place",
        labels=["place"],
    )
    for place in drops.WORDS:
        places.add_metric([place], lost.places.get(place, 0))
    yield places
    for name, text, figure in (
        ("devices_dropping", "devices of which data was dropped since yesterday", lost.devices),
        ("devices_over_quota", "devices over their quota of today", len(over)),
    ):
        gauge = GaugeMetricFamily(f"shoal_{name}", text)
        gauge.add_metric([], figure)
        yield gauge
    members = GaugeMetricFamily(
        "shoal_rollout_members", "members of active rollouts", labels=["rollout", "phase"]
    )
    for rollout, waves in phases.items():
        sums: dict[str, int] = {}
        for counts in waves.values():
            for phase, count in counts.items():
                sums[phase] = sums.get(phase, 0) + count
        for phase, count in sorted(sums.items()):
            members.add_metric([rollout, phase], count)
    yield members
    labels = ["slot", "bundle", "version"]
    requests = GaugeMetricFamily("shoal_requests_5m", "requests in five minutes", labels=labels)
    errors = GaugeMetricFamily("shoal_errors_5m", "errors in five minutes", labels=labels)
    latency = GaugeMetricFamily(
        "shoal_latency_p95_us_5m", "p95 latency in five minutes, microseconds", labels=labels
    )
    for (slot, bundle), figures in sorted(totals.items()):
        ref = names.get(bundle)
        if ref is None:
            continue
        values = [slot, ref.name, ref.version]
        requests.add_metric(values, figures.requests)
        errors.add_metric(values, figures.errors)
        p95 = figures.latency_us.quantile(0.95) if figures.latency_us else None
        if p95 is not None:
            latency.add_metric(values, p95)
    yield from (requests, errors, latency)


def _field(controller: Controller) -> Iterator[Metric]:
    """What people say of answers; estimates only where they say something."""
    with controller.store.read() as connection:
        found = field.versions(connection, controller.clock() - field.WEEK_S)
    labels = ["slot", "bundle", "version"]
    judged = GaugeMetricFamily(
        "shoal_field_judged_7d", "answers judged in seven days", labels=[*labels, "verdict"]
    )
    estimates = GaugeMetricFamily(
        "shoal_field_accuracy_7d",
        "accuracy by the feedback of seven days, with the ends of its 95 % interval",
        labels=[*labels, "feedback", "figure"],
    )
    for one in found:
        if one.ref is None:
            continue
        values = [one.slot, one.ref.name, one.ref.version]
        judged.add_metric([*values, "right"], one.judged.right)
        judged.add_metric([*values, "wrong"], one.judged.wrong)
        for kind, estimate in (("all", one.all), ("sampled", one.sampled)):
            if estimate is not None and field.enough(estimate):
                for figure in ("value", "low", "high"):
                    estimates.add_metric([*values, kind, figure], getattr(estimate, figure))
    yield from (judged, estimates)


def _ends(controller: Controller) -> Iterator[Metric]:
    """What runs out; devices by their number alone, as there may be many."""
    now = controller.clock()
    left = GaugeMetricFamily(
        "shoal_expires_seconds", "seconds until something runs out", labels=["kind", "name"]
    )
    few = GaugeMetricFamily(
        "shoal_device_certificates_expiring", "device certificates that are not renewed in time"
    )
    items = controller.expiring()
    for item in items:
        if item.kind not in ("device", "enrolment"):
            left.add_metric([item.kind, item.name], item.expires - now)
    few.add_metric([], sum(i.kind == "device" and i.days(now) is not None for i in items))
    unread = GaugeMetricFamily(
        "shoal_broker_files_unread", "1 while the broker has not read who is revoked or renewed"
    )
    unread.add_metric([], int(bool(controller.watch.todo)))
    with controller.store.read() as connection:
        known = clones.every(connection, now - clones.QUIET_S)
    cloned = GaugeMetricFamily("shoal_clones", "identities that more than one device has")
    cloned.add_metric([], len(known))
    yield from (left, few, unread, cloned)


def render(controller: Controller) -> bytes:
    """The text that Prometheus scrapes."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Controller(controller))
    return generate_latest(registry)
