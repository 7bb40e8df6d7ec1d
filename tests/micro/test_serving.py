"""What a MicroPython device answers: generation in pieces, groups, properties, a full queue."""

from __future__ import annotations

import contextlib
import hashlib
import json
import queue
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest

from contracts import codec
from contracts.bundle import Bundle
from contracts.config import MqttConfig
from contracts.messages import Leave
from contracts.requests import ClassifyRequest, GenerateRequest, SelftestRequest
from fleet.repository.repository import Repository
from model_builder.generate_tiny import build, task
from model_builder.generate_tiny.cell import Cell
from model_builder.generate_tiny.flatfile import write
from model_builder.recipes import status_lines as recipes
from tests.micro import bundles, device
from tests.micro.conftest import DATA, Devices
from tests.micro.controller import Controller, enrol
from tests.support.broker import mosquitto
from tests.support.bundles import noise_adapter

if TYPE_CHECKING:
    from typing_extensions import Self


class Silent:
    """A broker that accepts each connection, and then says nothing more.

    Attributes:
        port: where it listens.
        connects: when each connection was accepted, by the monotonic clock.
    """

    def __enter__(self) -> Self:
        self.connects: queue.Queue[float] = queue.Queue()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._kept: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._server, *self._kept):
            one.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                connection, _ = self._server.accept()
                self._kept.append(connection)
                assert connection.recv(4096)[0] == 0x10  # CONNECT
                connection.sendall(b"\x20\x03\0\0\0")  # CONNACK, accepted, no properties
                self.connects.put(time.monotonic())


@pytest.fixture(scope="module")
def talker(tmp_path_factory) -> Bundle:
    """A generator with random weights: it talks nonsense, and does not end by itself."""
    cell = Cell(len(task.alphabet()), 24, 96, seed=3)
    recipe = recipes.Recipe("status-lines", "talker", "1.0.0", test_lines=10, min_exact=0)
    out = tmp_path_factory.mktemp("talker")
    return Bundle.open(build.package(recipe, write(cell), task.alphabet(), cell.parameters, out))


@pytest.fixture
def chip(controller, devices, talker, tmp_path) -> Bundle:
    """A device that classifies and generates; its classifier."""
    small = bundles.write(tmp_path / "small", "small", "1.0.0", seed=1)
    for bundle in (small, talker):
        controller.repository.publish(bundle)
    devices.start(devices.enrol("chip"))
    controller.desire_slots("chip", 1, {"classify": small.ref, "generate": talker.ref})
    for slot in ("classify", "generate"):
        controller.wait(
            f"{slot} committed",
            lambda _, k, m, s=slot: k == "update" and m.state == "committed" and m.slot == s,
        )
    return small


def test_a_device_generates_what_tflite_micro_generates_in_pieces(controller, chip, talker):
    """Two slots serve at once; pieces add up to the text, which is the reference kernels'."""
    (tested,) = controller.ask("chip", "selftest", SelftestRequest(slot="generate"))
    assert tested.selftested.vectors == tested.selftested.passed == talker.manifest.golden.count
    vector = talker.golden()[0]
    alphabet = task.alphabet()
    expected = "".join(alphabet[i] for i in vector.tokens if i)
    request = GenerateRequest(prompt=vector.text, max_tokens=len(vector.tokens))
    *chunks, last = controller.ask("chip", "generate", request)
    assert last.generated.text == expected
    assert last.generated.bundle == talker.ref
    assert last.generated.finish_reason == ("stop" if vector.tokens[-1] == 0 else "length")
    assert [answer.seq for answer in chunks] == list(range(len(chunks)))
    assert len(chunks) > 1
    assert "".join(answer.chunk for answer in chunks) == expected
    (whole,) = controller.ask(
        "chip", "generate", GenerateRequest(prompt=vector.text, max_tokens=9, stream=False)
    )
    assert whole.generated.text == expected[:9]
    (strange,) = controller.ask("chip", "generate", GenerateRequest(prompt="T=ж>"))
    assert strange.error.code == "bad-message"
    (answer,) = controller.ask("chip", "classify", ClassifyRequest(text=bundles.TEXTS[0]))
    assert answer.classified.bundle == chip.ref


def test_the_trained_generator_writes_the_right_line_on_a_device(controller, devices):
    """The shipped bundle is installed as an update, and its lines are right to the last letter."""
    bundle = Bundle.open(DATA / "status-lines-1.0.0")
    controller.repository.publish(bundle)
    devices.start(devices.enrol("chip"), heap="192k")
    controller.desire_slots("chip", 1, {"generate": bundle.ref})
    controller.wait_update("committed", 1)
    pairs = task.lines(20, seed=99, test=True)
    for prompt, status in pairs:
        *chunks, last = controller.ask("chip", "generate", GenerateRequest(prompt=prompt))
        assert last.generated.text == status
        assert last.generated.finish_reason == "stop"
        assert "".join(answer.chunk for answer in chunks) == status


def test_what_finds_no_memory_beside_its_update_serves_after_it(controller, devices):
    """It does not wait for a restart."""
    devices.around = lambda command: [word.replace("/device.py", "/crowded.py") for word in command]
    devices.start(devices.enrol("chip"))
    bundle = Bundle.open(DATA / "status-lines-1.0.0")
    controller.repository.publish(bundle)
    controller.desire_slots("chip", 1, {"generate": bundle.ref})
    controller.wait_update("committed", 1)
    ((prompt, status),) = task.lines(1, seed=99, test=True)
    *_, last = controller.ask("chip", "generate", GenerateRequest(prompt=prompt, max_tokens=99))
    assert last.error is None
    assert last.generated.text == status


def test_a_device_refuses_adapters_and_requests_that_name_one(controller, chip, talker, tmp_path):
    """By code, before a file of one is fetched; what serves goes on."""
    prompt = talker.golden()[0].text
    named = GenerateRequest(prompt=prompt, adapter="home", max_tokens=4)
    (answer,) = controller.ask("chip", "generate", named)
    assert answer.error.code == "no-adapter"
    adapter = noise_adapter(tmp_path / "home", talker.ref)
    controller.repository.publish(adapter)
    slots = {"classify": chip.ref, "generate": talker.ref, "home": adapter.ref}
    controller.desire_slots("chip", 2, slots)
    end = controller.wait_update("refused", 2)
    assert (end.state, end.slot, end.reason.code) == ("refused", "home", "does-not-fit")
    assert "adapter" in end.reason.message
    *_, last = controller.ask("chip", "generate", GenerateRequest(prompt=prompt, max_tokens=4))
    assert last.generated.bundle == talker.ref


def test_a_full_queue_is_busy_and_a_request_can_be_cancelled(controller, chip):
    """Four requests wait behind a long one, others are told at once; cancelling frees them."""
    long = {"id": "long", "prompt": "t=20.0>", "max_tokens": 4000}
    controller.send("chip", "generate", json.dumps(long).encode())
    controller.wait("a piece", lambda _, k, m: k == "response" and m.id == "long" and m.chunk)
    for number in range(8):
        body = {"id": f"q{number}", "text": bundles.TEXTS[0]}
        controller.send("chip", "classify", json.dumps(body).encode())
    busy = [controller.answer(f"q{number}") for number in range(4, 8)]
    assert [answer.error.code for answer in busy] == ["busy"] * 4
    controller.send("chip", "cancel", b'{"id": "stop", "cancel": "long"}')
    assert controller.answer("stop").cancelled is True
    assert controller.answer("long").generated.finish_reason == "cancelled"
    for number in range(4):
        assert controller.answer(f"q{number}").classified.bundle == chip.ref
    controller.send("chip", "cancel", b'{"id": "again", "cancel": "long"}')
    assert controller.answer("again").cancelled is False


def test_properties_of_mqtt_5_carry_id_reply_topic_and_expiry(controller, chip):
    """A client that uses properties alone is answered like one that uses fields."""
    topic = controller.topics.response("chip", "by-property")
    controller.send(
        "chip", "classify", json.dumps({"text": bundles.TEXTS[0]}).encode(),
        CorrelationData=b"by-property", ResponseTopic=topic, MessageExpiryInterval=60,
    )  # fmt: skip
    assert controller.answer("by-property").classified is not None
    assert controller.correlations["by-property"] == b"by-property"


def test_a_request_that_does_not_fit_is_told_so_and_costs_nothing_else(controller, chip):
    """Escapes make 2048 bytes of text a packet of 6 KB; the largest packet there may be as well."""
    text = "é" * 1024
    assert len(text.encode()) == 2048
    topic = controller.topics.response("chip", "escaped")
    body = json.dumps({"text": text}).encode()
    assert len(body) > 6000
    controller.send(
        "chip", "classify", body, CorrelationData=b"escaped", ResponseTopic=topic
    )  # fmt: skip
    refused = controller.answer("escaped")
    assert refused.error.code == "too-large"
    assert "2048 bytes" in refused.error.message
    assert controller.correlations["escaped"] == b"escaped"
    controller.send("chip", "generate", b" " * 262_144, CorrelationData=b"huge")
    assert controller.answer("huge").error.code == "too-large"
    # Without the properties nobody knows whom to tell; what is no request is dropped as well.
    controller.send("chip", "classify", json.dumps({"id": "x", "text": text}).encode())
    wide = [("k", "v" * 4000)]
    controller.send("chip", "classify", body, CorrelationData=b"wide", UserProperty=wide)
    controller.publish(controller.topics.of_device("chip", "desired"), b" " * 9000)
    # The same text as it is meant to be sent fits, and it was one connection all the time.
    (answer,) = controller.ask("chip", "classify", ClassifyRequest(text=text))
    assert answer.classified.bundle == chip.ref
    assert {"x", "wide"}.isdisjoint(controller.correlations)
    sessions = [m.session for _, k, m in controller.heard if k == "status"]
    assert set(sessions) == {1}


def test_a_device_answers_that_it_has_read_that_it_leaves(controller, chip):
    """Its connection is ended by whoever waits for this; its own message stays on its terminal."""
    leave = codec.encode(Leave("replaced", "another board has its name", id="farewell"))
    controller.send("chip", "leave", leave)
    answer = controller.answer("farewell")
    assert (answer.device, answer.done, answer.error) == ("chip", True, None)


def test_what_expired_while_it_waited_is_not_answered_late(controller, chip):
    """A request with a deadline of a millisecond waits behind a long one: nobody needs it."""
    long = {"id": "long", "prompt": "t=20.0>", "max_tokens": 8000}
    late = {"id": "late", "text": bundles.TEXTS[0], "deadline_ms": 1}
    controller.send("chip", "generate", json.dumps(long).encode())
    controller.wait("a piece", lambda _, k, m: k == "response" and m.id == "long" and m.chunk)
    controller.send("chip", "classify", json.dumps(late).encode())
    threading.Event().wait(0.05)
    controller.send("chip", "cancel", b'{"id": "stop", "cancel": "long"}')
    controller.answer("long")
    controller.ask("chip", "classify", ClassifyRequest(text="after"))
    assert "late" not in controller.correlations


def test_a_group_is_asked_and_the_device_answers_under_its_own_name(controller, chip):
    """A request to ``g/kitchen`` reaches every device that is in it."""
    topic = controller.topics.group_request("kitchen", "classify")
    controller.publish(topic, json.dumps({"id": "all", "text": bundles.TEXTS[1]}).encode())
    answer = controller.answer("all")
    assert answer.device == "chip"
    assert answer.classified.bundle == chip.ref


def test_a_device_leaves_a_broker_that_fell_silent_and_connects_again(tmp_path):
    """Within one and a half times the keep-alive; a broker that says nothing at all counts too."""
    keepalive = 5
    with Silent() as server:
        config = MqttConfig(host="127.0.0.1", port=server.port)
        folder = enrol(tmp_path / "chip", "chip", "silent", config, b"{}")
        settings = json.loads((folder / "shoal.json").read_text())
        settings["mqtt"]["keepalive_s"] = keepalive
        (folder / "shoal.json").write_text(json.dumps(settings))
        process = subprocess.Popen(
            device.command("device.py", str(folder)), env=device.environment()
        )
        try:
            first = server.connects.get(timeout=20)
            second = server.connects.get(timeout=20)
        finally:
            process.kill()
            process.wait(10)
    assert 0.4 * keepalive < second - first < 1.5 * keepalive


def test_a_device_that_has_no_memory_to_connect_restarts(tmp_path):
    """After three times in a row; a connection that was lost for another reason does not count."""
    config = MqttConfig(host="127.0.0.1", port=1)
    folder = enrol(tmp_path / "chip", "chip", "starved", config, b"{}")
    found = device.run("starved.py", str(folder), "memory memory broken memory memory memory")
    assert found == {"attempts": 6, "resets": 1}


def test_a_device_comes_back_after_the_broker_was_away(tmp_path):
    """It connects again by itself, with a new session number, and serves what it has."""
    repository = Repository.create(tmp_path / "repo", tmp_path / "keys")
    bundle = Bundle.open(DATA / "tiny-classifier-1.0.0")
    repository.publish(bundle)
    with mosquitto() as config, Controller(config, "away", repository) as controller:
        started = Devices(tmp_path / "devices", config, controller)
        started.start(started.enrol("chip"))
        try:
            controller.desire("chip", 1, bundle.ref)
            controller.wait_update("committed", 1)
        except BaseException:
            started.stop()
            raise
    try:
        with mosquitto(config.port) as config, Controller(config, "away", repository) as controller:
            status = controller.wait(
                "online again", lambda _, k, m: k == "status" and m.state == "online"
            )
            assert status.session == 2
            (answer,) = controller.ask("chip", "classify", ClassifyRequest(text="what time"))
            assert answer.classified.bundle == bundle.ref
    finally:
        started.stop()


def test_an_application_is_answered_where_it_reads_and_gets_its_correlation_data(controller, chip):
    """Binary correlation data is no reason for silence, and the topic is the application's."""
    topic, correlation = controller.topics.application("panel", "chip"), b"\x00\xff/binary"
    made = f"c-{hashlib.sha256(correlation).hexdigest()[:32]}"
    body = json.dumps({"text": bundles.TEXTS[0]}).encode()
    controller.send("chip", "classify", body, CorrelationData=correlation, ResponseTopic=topic)
    assert controller.answer(made).classified is not None
    assert controller.correlations[made] == correlation
    assert [to for to, _, m in controller.heard if getattr(m, "id", "") == made] == [topic]
    # Where nobody may be answered, it answers on its own topic.
    wild = f"{controller.topics.prefix}/a/panel/#"
    controller.send("chip", "classify", body, CorrelationData=b"mine", ResponseTopic=wild)
    assert controller.answer("mine").classified is not None
    assert "chip" in {to for to, _, m in controller.heard if getattr(m, "id", "") == "mine"}
