"""An agent behind a bad network: updates finish, telemetry has no gap, nobody is silent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from contracts.answers import Answer
from contracts.bundle import MANIFEST, Bundle, file_entries
from contracts.config import MqttConfig
from contracts.messages import Reported, Status, Telemetry, UpdateEvent
from fleet.repository import paths
from fleet.repository.repository import Repository
from tests.support.broker import mosquitto
from tests.support.bundles import rewrite
from tests.support.controller import (
    TINY,
    AgentProcess,
    Controller,
    http_server,
    make_repository,
)
from tests.support.proxy import Proxy
from tests.support.tools import free_port, until

REF = Bundle.open(TINY).ref
SIZE = 300_000


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that takes seconds over a thin pipe."""
    import random

    folder = tmp_path_factory.mktemp("big") / "bundle"
    Bundle.open(TINY).extract(folder)
    (folder / "extra.bin").write_bytes(random.Random(0).randbytes(SIZE))
    files = file_entries(p for p in folder.iterdir() if p.name != MANIFEST)
    return rewrite(Bundle.open(folder), version="3.0.0", files=files)


@contextmanager
def behind_proxy(
    broker: MqttConfig, fleet: str, folder: Path, big: Bundle, **config: Any
) -> Iterator[tuple[Controller, AgentProcess, Proxy]]:
    """A controller beside the broker, an agent behind the proxy."""
    repository = make_repository(folder, TINY, big.path)
    with Proxy(broker.port) as proxy, Controller(broker, fleet, repository) as controller:
        there = MqttConfig(port=proxy.port, keepalive_s=5)
        with AgentProcess(
            folder / "a", there, fleet, repository, telemetry_s=0.2, **config
        ) as agent:
            controller.wait_for(Status)
            yield controller, agent, proxy


def check_no_gap(controller: Controller) -> None:
    """Every sequence number up to the highest came, of each boot."""
    last = max((t.seq for t in controller.of(Telemetry)), default=0)
    controller.wait_for(Telemetry, lambda t: t.seq > last + 3)
    by_boot: dict[str, set[int]] = {}
    for batch in controller.of(Telemetry):
        by_boot.setdefault(batch.boot, set()).add(batch.seq)
        assert batch.dropped == 0
    for seqs in by_boot.values():
        assert seqs == set(range(max(seqs) + 1))


def test_cuts_in_the_middle_of_a_download(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path, big: Bundle
) -> None:
    """The connection is reset again and again; the download goes on where it stopped."""
    with behind_proxy(mosquitto_broker, fleet_name, tmp_path, big) as (controller, agent, proxy):
        proxy.bytes_per_s = 150_000
        revision = controller.want(agent.device, big.ref)
        controller.wait_for(UpdateEvent, lambda e: e.state == "downloading")
        for _ in range(3):
            threading.Event().wait(0.7)
            proxy.cut()
        assert controller.wait_final(revision, 90).state == "committed"
        # Each cut may cost the blocks that were on the way, and no more.
        assert controller.block_bytes < 2 * SIZE + 200_000
        check_no_gap(controller)


def test_one_percent_of_pieces_reset_the_connection(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path, big: Bundle
) -> None:
    """A download of many pieces still ends."""
    with behind_proxy(mosquitto_broker, fleet_name, tmp_path, big) as (controller, agent, proxy):
        proxy.reset_ratio = 0.01
        revision = controller.want(agent.device, big.ref)
        assert controller.wait_final(revision, 120).state == "committed"
        while proxy.resets < 3:
            controller.ask(agent.device, "classify", timeout_s=60, text="turn on the light")
        proxy.reset_ratio = 0
        check_no_gap(controller)


def test_a_thin_pipe_of_50_kilobytes_a_second(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path, big: Bundle
) -> None:
    """Slow is not broken: nothing is asked for twice, and the device stays online."""
    with behind_proxy(mosquitto_broker, fleet_name, tmp_path, big) as (controller, agent, proxy):
        proxy.bytes_per_s = 50_000
        revision = controller.want(agent.device, big.ref)
        assert controller.wait_final(revision, 90).state == "committed"
        assert controller.block_bytes < 1.1 * (SIZE + 40_000)
        assert [s for s in controller.of(Status) if s.state == "offline"] == []
        check_no_gap(controller)


def test_a_half_open_connection_is_noticed_and_replaced(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path, big: Bundle
) -> None:
    """Silence without a reset: the keep-alive ends it, what waited arrives."""
    with behind_proxy(mosquitto_broker, fleet_name, tmp_path, big) as (controller, agent, proxy):
        controller.wait_final(controller.want(agent.device, REF))
        before = max(s.session for s in controller.of(Status))
        proxy.silent = True
        controller.wait_for(Status, lambda s: s.state == "offline")
        request = controller.ask_only(agent.device, "classify", text="turn on the light")
        proxy.silent = False
        proxy.cut()
        controller.wait_for(Status, lambda s: s.state == "online" and s.session > before)
        controller.wait_for(Answer, lambda a: a.id == request)
        check_no_gap(controller)


def test_a_broker_that_restarts_without_its_sessions(
    fleet_name: str, tmp_path: Path, big: Bundle
) -> None:
    """The new broker knows nothing: the agent subscribes and tells everything again."""
    port = free_port()
    repository = make_repository(tmp_path, TINY, big.path)
    with ExitStack() as first, ExitStack() as listening:
        broker = first.enter_context(mosquitto(port))
        # It listens before the agent sends and until the broker has ended: what that broker
        # acknowledged and nobody heard would be a gap that no agent can know of.
        heard = listening.enter_context(Controller(broker, fleet_name, repository))
        with AgentProcess(tmp_path / "a", broker, fleet_name, repository) as agent:
            heard.wait_final(heard.want(agent.device, REF))
            first.close()
            heard.wait_disconnected()
            last = max((t.seq for t in heard.of(Telemetry)), default=-1)
            listening.close()
            threading.Event().wait(1.5)  # telemetry gathers in the spool
            with mosquitto(port) as again, Controller(again, fleet_name, repository) as controller:
                controller.wait_for(Status, lambda s: s.state == "online")
                reported = controller.wait_for(Reported)
                assert reported.slots["classify"].active == REF
                answer = controller.ask(agent.device, "classify", text="turn on the light")
                assert answer.classified is not None
                controller.wait_for(Telemetry, lambda t: t.seq > last + 5)
                seqs = sorted({t.seq for t in controller.of(Telemetry)})
                assert seqs == list(range(seqs[0], seqs[-1] + 1))
                assert seqs[0] <= last + 1


def test_http_that_breaks_goes_on_over_mqtt(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path, big: Bundle
) -> None:
    """The second way takes over in the middle of a file, at the byte."""
    repository: Repository = make_repository(tmp_path, TINY, big.path)
    with (
        http_server(repository.folder) as (url, _),
        Proxy(int(url.rsplit(":", 1)[1])) as proxy,
        Controller(mosquitto_broker, fleet_name, repository) as controller,
    ):
        proxy.bytes_per_s = 100_000
        with AgentProcess(
            tmp_path / "a",
            mosquitto_broker,
            fleet_name,
            repository,
            repository_url=f"http://127.0.0.1:{proxy.port}",
        ) as agent:
            revision = controller.want(agent.device, big.ref)
            controller.wait_for(UpdateEvent, lambda e: e.state == "downloading")
            until(lambda: proxy.forwarded > 80_000)  # into the middle of the file
            proxy.refuse = True
            proxy.cut()
            assert controller.wait_final(revision, 60).state == "committed"
            assert 0 < controller.block_bytes < SIZE + 60_000


@pytest.mark.parametrize("way", ["http", "mqtt"])
def test_a_retry_goes_on_where_the_attempt_before_ended(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path, big: Bundle, way: str
) -> None:
    """A rollout that is taken back in mid-download, a kill, and the next one: bytes come once.

    What came is on the disk, so no byte of it is asked for again, however slow all are.
    """
    repository = make_repository(tmp_path, TINY, big.path)
    large = paths.blob(next(f.sha256 for f in big.manifest.files if f.size == SIZE))
    with ExitStack() as stack:
        url, server = stack.enter_context(http_server(repository.folder))
        http = stack.enter_context(Proxy(int(url.rsplit(":", 1)[1])))
        mqtt = stack.enter_context(Proxy(mosquitto_broker.port))
        controller = stack.enter_context(Controller(mosquitto_broker, fleet_name, repository))
        base = f"http://127.0.0.1:{http.port}" if way == "http" else None
        agent = stack.enter_context(
            AgentProcess(
                tmp_path / "a",
                MqttConfig(port=mqtt.port),
                fleet_name,
                repository,
                repository_url=base,
            )
        )
        controller.wait_final(controller.want(agent.device, REF))
        link = http if way == "http" else mqtt
        link.bytes_per_s = 40_000
        controller.want(agent.device, big.ref)
        came = controller.wait_for(
            UpdateEvent, lambda e: e.done_bytes > SIZE // 2 and e.total_bytes > SIZE
        )
        link.bytes_per_s = 8_000  # the rest takes long enough to be taken back
        kept = SIZE - (came.total_bytes - came.done_bytes)  # its other files may all be there
        back = controller.want(agent.device, REF)
        controller.wait_for(Reported, lambda r: r.desired_revision == back)
        agent.kill()
        asked = server.asked if way == "http" else controller.asked
        before = len(asked)
        agent.start()
        link.bytes_per_s = 0
        assert controller.wait_final(controller.want(agent.device, big.ref)).state == "committed"
        again = [at for path, at in asked[before:] if path == large]
        assert all(at >= kept for at in again) and kept > SIZE // 3
        # Of blocks that the broker held for the agent, none may be left to ask for.
        assert again or way == "mqtt"
