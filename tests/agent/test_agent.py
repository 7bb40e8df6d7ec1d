"""A real agent program on real brokers: connects, updates itself, answers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from contracts.answers import Answer
from contracts.bundle import Bundle
from contracts.config import MqttConfig
from contracts.manifest import Golden
from contracts.messages import Reported, Status, Telemetry, UpdateEvent
from fleet.repository.repository import Repository
from tests.support.bundles import rewrite
from tests.support.controller import (
    TINY,
    TINY_NEXT,
    AgentProcess,
    Controller,
    http_server,
    make_repository,
)

REF = Bundle.open(TINY).ref
NEXT = Bundle.open(TINY_NEXT).ref


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository with both tiny bundles."""
    return make_repository(tmp_path, TINY, TINY_NEXT)


def test_updates_over_mqtt_blocks_answers_and_updates_again(
    broker: MqttConfig, fleet_name: str, tmp_path: Path, repository: Repository
) -> None:
    """From an empty device to answers of the first bundle, then of the second."""
    with (
        Controller(broker, fleet_name, repository) as controller,
        AgentProcess(tmp_path / "a", broker, fleet_name, repository) as agent,
    ):
        birth = controller.wait_for(Status, lambda s: s.state == "online")
        assert controller.ask(agent.device, "classify", text="hi").error.code == "no-model"
        revision = controller.want(agent.device, REF, rollout="r1")
        assert controller.wait_final(revision).state == "committed"
        answer = controller.ask(agent.device, "classify", text="turn on the kitchen light")
        assert answer.classified is not None
        assert answer.classified.label == "lights-on"
        assert answer.classified.bundle == REF
        revision = controller.want(agent.device, NEXT, rollout="r2")
        assert controller.wait_final(revision).state == "committed"
        reported = controller.wait_for(Reported, lambda r: r.desired_revision == revision)
        assert reported.slots["classify"].active == NEXT
        assert reported.slots["classify"].previous == REF
        after = controller.ask(agent.device, "classify", text="turn on the kitchen light")
        assert after.classified is not None
        assert after.classified.bundle == NEXT
        events = [e.state for e in controller.of(UpdateEvent) if e.revision == revision]
        assert events == [
            "downloading",
            "verified",
            "fits",
            "self-tested",
            "trial",
            "committed",
        ]
        seqs = [e.seq for e in controller.of(UpdateEvent)]
        assert seqs == sorted(set(seqs))
        tested = controller.ask(agent.device, "selftest")
        assert tested.selftested is not None
        assert tested.selftested.passed == tested.selftested.vectors == 33
        assert controller.ask(agent.device, "status").reported is not None
        controller.wait_for(
            Telemetry, lambda t: any(s.slot == "classify" and s.requests for s in t.samples)
        )
        assert agent.terminate() == 0
        death = controller.wait_for(Status, lambda s: s.state == "offline")
        assert death.session >= birth.session


def test_a_killed_agent_serves_again_and_its_will_says_offline(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path, repository: Repository
) -> None:
    """SIGKILL: the will tells it, the restart serves the same bundle in a newer session."""
    with (
        Controller(mosquitto_broker, fleet_name, repository) as controller,
        AgentProcess(tmp_path / "a", mosquitto_broker, fleet_name, repository) as agent,
    ):
        controller.wait_final(controller.want(agent.device, REF))
        first = controller.of(Status)[-1]
        agent.kill()
        will = controller.wait_for(Status, lambda s: s.state == "offline")
        assert (will.boot, will.session) == (first.boot, first.session)
        request = controller.ask_only(agent.device, "classify", text="start a timer")
        agent.start()
        birth = controller.wait_for(Status, lambda s: s.boot != first.boot)
        assert birth.session > first.session
        answer = controller.wait_for(Answer, lambda a: a.id == request)
        assert answer.classified is not None, "a request sent meanwhile was lost"
        assert answer.classified.label == "timer"


def test_downloads_over_http_fetch_every_byte_once(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path, repository: Repository
) -> None:
    """HTTP is used when there is a URL; nothing goes over MQTT blocks."""
    with (
        http_server(repository.folder) as (url, server),
        Controller(mosquitto_broker, fleet_name, repository) as controller,
        AgentProcess(
            tmp_path / "a", mosquitto_broker, fleet_name, repository, repository_url=url
        ) as agent,
    ):
        assert controller.wait_final(controller.want(agent.device, REF)).state == "committed"
        assert controller.block_bytes == 0
        files = Bundle.open(TINY).manifest.total_bytes
        assert files < server.sent < files + 20_000  # and the metadata and the manifest


def test_golden_vectors_that_do_not_hold_are_refused_and_the_old_bundle_serves(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path
) -> None:
    """The self-test refuses, with the reason, and nothing changes for users."""
    bad = tmp_path / "bad"
    Bundle.open(TINY_NEXT).extract(bad)
    bundle = Bundle.open(bad)
    vectors = bundle.golden()
    from contracts import codec
    from contracts.bundle import file_entries

    wrong = [type(v)(v.text, [-x for x in v.output], v.label) for v in vectors]
    (bad / bundle.manifest.golden.file).write_bytes(codec.encode(wrong))
    files = file_entries(p for p in bad.iterdir() if p.name != "manifest.json")
    bundle = rewrite(bundle, version="9.0.0", files=files, golden=Golden("golden.json", 33))
    repository = make_repository(tmp_path, TINY, bad)
    with (
        Controller(mosquitto_broker, fleet_name, repository) as controller,
        AgentProcess(tmp_path / "a", mosquitto_broker, fleet_name, repository) as agent,
    ):
        controller.wait_final(controller.want(agent.device, REF))
        event = controller.wait_final(controller.want(agent.device, bundle.ref))
        assert event.state == "refused"
        assert event.reason is not None
        assert event.reason.code == "golden-mismatch"
        answer = controller.ask(agent.device, "classify", text="what is the weather")
        assert answer.classified is not None
        assert answer.classified.bundle == REF


def test_telemetry_has_no_gap_in_its_sequence(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path, repository: Repository
) -> None:
    """Sequence numbers of one boot begin at 0 and grow by one."""
    with (
        Controller(mosquitto_broker, fleet_name, repository) as controller,
        AgentProcess(tmp_path / "a", mosquitto_broker, fleet_name, repository, telemetry_s=0.1),
    ):
        controller.wait_for(Telemetry, lambda t: t.seq == 10)
        seqs = [t.seq for t in controller.of(Telemetry)]
        assert seqs[:11] == list(range(11))
        gauges = controller.of(Telemetry)[-1].samples[-1].gauges
        assert gauges["rss_bytes"] > 0
        assert time.time() - controller.of(Telemetry)[-1].samples[-1].at < 60
