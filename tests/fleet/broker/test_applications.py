"""Applications on a real mosquitto, with clients that are not ours, and a real agent behind it.

Over 400 lines: one broker, and what each kind of application may do on it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from typer.testing import CliRunner

from contracts import codec
from contracts.config import AgentConfig, MqttConfig, TlsConfig
from contracts.topics import Topics
from fleet import expiry
from fleet.broker import MosquittoBroker
from fleet.broker.acl import Application, acl_file
from fleet.cli.app import app
from fleet.folder import ApiConfig, Fleet, FleetConfig
from tests.fleet.broker.test_access import Client
from tests.support.tools import free_port, need_tool, until

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples" / "applications"
FLEET = "reef"
TOPICS = Topics(FLEET)
WAIT_S = 120.0
NOT_AUTHORIZED = 0x87


def shoal(*arguments: object, ok: bool = True) -> Any:
    """Runs ``shoal fleet ... --json`` here; returns what it printed."""
    done = CliRunner().invoke(app, ["fleet", *map(str, arguments), "--json"])
    assert (done.exit_code == 0) == ok, done.output
    return json.loads(done.stdout if ok else done.stdout or done.stderr)


class Reef:
    """A fleet with TLS: kitchen-1 runs an agent, attic-1 is enrolled; panel may ask the kitchen."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        config = FleetConfig(
            fleet=FLEET, mqtt=MqttConfig(port=self.port), mutual_tls=True,
            api=ApiConfig(port=free_port()), http_repository=False,
        )  # fmt: skip
        self.fleet = Fleet.init(folder / "fleet", config)
        self.log = folder / "agent.log"
        for device in ("kitchen-1", "attic-1"):
            self.here(
                "enroll", device, "--board", "generic-x86-64", "--group", device.split("-")[0]
            )
        self.add("panel", "classify,status,cancel", "kitchen")
        self.broker = MosquittoBroker(
            self.fleet.folder / "broker" / "mosquitto.conf",
            port=self.port,
            program=need_tool("mosquitto", "/usr/sbin/mosquitto"),
        )

    def here(self, *arguments: object, ok: bool = True) -> Any:
        """Runs a command on this fleet."""
        return shoal(*arguments, "--dir", self.fleet.folder, ok=ok)

    def add(self, name: str, may: str, *groups: str) -> Any:
        """Adds an application."""
        on = [word for group in groups for word in ("--on", f"group={group}")]
        return self.here("app", "add", name, "--may", may, *on)

    def folder(self, name: str) -> Path:
        """Where an application's files are."""
        return self.fleet.folder / "apps" / name

    def config(self, name: str) -> MqttConfig:
        """How an application connects."""
        files = self.folder(name)
        tls = TlsConfig(
            ca=str(files / "ca.pem"), certificate=str(files / "certificate.pem"),
            key=str(files / "key.pem"),
        )  # fmt: skip
        return MqttConfig(port=self.port, tls=tls)

    @contextlib.contextmanager
    def running(self, config: Path, device: str) -> Iterator[None]:
        """An agent that has subscribed: it answers."""
        with self.log.open("ab") as log:
            agent = subprocess.Popen(
                [sys.executable, "-m", "agent", "run", "--config", config],
                env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            watcher = Client(self.fleet.controller_mqtt(), f"watches-{device}")
            watcher.subscribe(TOPICS.of_device(device, "status"))
            watcher.subscribe(TOPICS.every_response())
            watcher.until(lambda: any(b'"online"' in payload for _, payload in watcher.received))
            asked, answer = b'{"id": "first"}', TOPICS.response(device, "first")
            while not any(topic == answer for topic, _ in watcher.received):
                watcher.publish(TOPICS.request(device, "status"), asked)
                watcher.client.loop(0.1)
            watcher.close()
            yield
        finally:
            agent.send_signal(signal.SIGTERM)
            try:
                agent.wait(60)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait(10)

    def words(self, name: str, target: str, op: str) -> list[str]:
        """What the examples take."""
        return ["127.0.0.1", str(self.port), str(self.folder(name)), FLEET, name, target, op]


@pytest.fixture(scope="module")
def reef(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reef]:
    """The broker and the agent, until all tests are done."""
    reef = Reef(tmp_path_factory.mktemp("applications"))
    config = reef.fleet.folder / "devices" / "kitchen-1" / "agent.yaml"
    with reef.broker, reef.running(config, "kitchen-1"):
        yield reef


def run(*words: str) -> list[dict[str, Any]]:
    """Runs an example; returns the answers that it printed."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("target", ["d/kitchen-1", "g/kitchen"])
def test_mosquittos_own_client_gets_an_answer(reef: Reef, target: str) -> None:
    """From a device and from a group, on the topic that it named; errors as well."""
    need_tool("mosquitto_rr", "/usr/bin/mosquitto_rr")
    script = str(EXAMPLES / "ask.sh")
    (answer,) = run("sh", script, *reef.words("panel", target, "status"), "{}")
    assert answer["reported"]["device"] == "kitchen-1"
    (answer,) = run("sh", script, *reef.words("panel", target, "classify"), '{"text": "hello"}')
    assert answer["error"]["code"] == "no-model"
    (answer,) = run("sh", script, *reef.words("panel", target, "classify"), "no JSON at all")
    assert answer["error"]["code"] == "bad-message"


@pytest.mark.parametrize("text", [[], ["turn on the lights"]])
def test_the_example_in_python_gets_an_answer(reef: Reef, text: list[str]) -> None:
    """By binary correlation data, as the example makes it."""
    words = reef.words("panel", "d/kitchen-1", "classify" if text else "status")
    (answer,) = run(sys.executable, str(EXAMPLES / "ask.py"), *words, *text)
    assert ("error" in answer) == bool(text)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["5", "4"])
def test_the_example_in_javascript_gets_an_answer(reef: Reef, version: str, tmp_path: Path) -> None:
    """MQTT.js, over MQTT 5 by properties and over 3.1.1 by fields."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed")
    installed = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "--silent", "mqtt@5"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if installed.returncode:
        pytest.skip(f"npm cannot install MQTT.js: {installed.stderr[-300:]}")
    shutil.copy(EXAMPLES / "ask.mjs", tmp_path)
    words = reef.words("panel", "d/kitchen-1", "status")
    (answer,) = run(node, str(tmp_path / "ask.mjs"), *words, version)
    assert answer["reported"]["device"] == "kitchen-1"


@pytest.mark.soak
@pytest.mark.skipif(
    "NODE_RED" not in os.environ, reason="make test-node-red installs Node-RED in a folder"
)
@pytest.mark.parametrize("target", ["d/kitchen-1", "g/kitchen"])
def test_the_flow_for_node_red_gets_an_answer(reef: Reef, target: str, tmp_path: Path) -> None:
    """A real Node-RED with the application's own certificate; its button is pressed."""
    port = free_port()
    (tmp_path / "settings.js").write_text(
        f'module.exports = {{ uiPort: {port}, uiHost: "127.0.0.1", flowFile: "flow.json" }};'
    )
    shutil.copy(EXAMPLES / "node-red.json", tmp_path / "flow.json")
    files = reef.folder("panel")
    environment = {
        "SHOAL_HOST": "127.0.0.1", "SHOAL_PORT": str(reef.port),
        "SHOAL_CA": str(files / "ca.pem"), "SHOAL_CERTIFICATE": str(files / "certificate.pem"),
        "SHOAL_KEY": str(files / "key.pem"),
        "SHOAL_ASK": f"{TOPICS.prefix}/{target}/req/classify",
        "SHOAL_ANSWERS": TOPICS.application("panel", "node-red"),
    }  # fmt: skip
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [os.environ["NODE_RED"], "--userDir", tmp_path],
            env={**os.environ, **environment}, stdout=stream, stderr=stream,
        )  # fmt: skip
    try:
        until(lambda: "Connected to broker" in log.read_text(), WAIT_S, log.read_text)
        press = urllib.request.Request(
            f"http://127.0.0.1:{port}/inject/shoal-text", b"", method="POST"
        )
        urllib.request.urlopen(press, timeout=30).close()
        # The device has no model: the answer is an error, and it came back.
        until(lambda: "kitchen-1: no-model" in log.read_text(), WAIT_S, log.read_text)
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.parametrize("target", ["d/kitchen-1", "g/kitchen"])
def test_mosquitto_pub_and_sub_ask_over_mqtt_3(reef: Reef, target: str) -> None:
    """The shell's clients of 3.1.1, which has no properties: by the fields `id` and `reply_to`."""
    sub = need_tool("mosquitto_sub", "/usr/bin/mosquitto_sub")
    pub = need_tool("mosquitto_pub", "/usr/bin/mosquitto_pub")
    lines = need_tool("stdbuf", "/usr/bin/stdbuf")  # else a pipe gets what it says at its end
    files = reef.folder("panel")
    common = [
        "-V", "mqttv311", "-h", "127.0.0.1", "-p", str(reef.port), "-q", "1",
        "--cafile", str(files / "ca.pem"), "--cert", str(files / "certificate.pem"),
        "--key", str(files / "key.pem"),
    ]  # fmt: skip
    topic = TOPICS.application("panel", "shell", target.replace("/", "-"))
    request = json.dumps({"id": "s-1", "reply_to": topic, "text": "hello"})
    with subprocess.Popen(
        [lines, "-oL", sub, *common, "-d", "-t", topic, "-C", "1", "-W", str(int(WAIT_S))],
        stdout=subprocess.PIPE, text=True,
    ) as listener:  # fmt: skip
        assert listener.stdout is not None
        while "SUBACK" not in listener.stdout.readline():
            assert listener.poll() is None
        subprocess.run(
            [pub, *common, "-t", f"{TOPICS.prefix}/{target}/req/classify", "-m", request],
            check=True, timeout=WAIT_S,
        )  # fmt: skip
        (answer,) = (json.loads(one) for one in listener.stdout if one.startswith("{"))
    assert (answer["id"], answer["error"]["code"]) == ("s-1", "no-model")


def test_a_client_of_mqtt_3_asks_by_fields(reef: Reef) -> None:
    """Paho over 3.1.1: no properties, the fields say the same."""
    topic = TOPICS.application("panel", "three")
    asked = json.dumps({"id": "q-3", "reply_to": topic}).encode()
    heard: list[bytes] = []
    answered = threading.Event()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311)
    files = reef.folder("panel")
    client.tls_set(*(str(files / name) for name in ("ca.pem", "certificate.pem", "key.pem")))
    client.on_connect = lambda c, *_: c.subscribe(topic, qos=1)
    client.on_subscribe = lambda c, *_: c.publish(
        TOPICS.request("kitchen-1", "status"), asked, qos=1
    )
    client.on_message = lambda _c, _u, message: (heard.append(message.payload), answered.set())
    client.connect("127.0.0.1", reef.port)
    client.loop_start()
    try:
        assert answered.wait(WAIT_S)
    finally:
        client.disconnect()
        client.loop_stop()
    assert json.loads(heard[0])["id"] == "q-3"


def test_correlation_data_of_any_bytes_comes_back_over_the_broker(reef: Reef) -> None:
    """The property itself, not only the id that is made of it."""
    topic, wanted = TOPICS.application("panel", "deep", "er"), bytes(range(256))
    client = Client(reef.config("panel"), "binary")
    seen: list[Any] = []
    client.client.on_message = lambda _c, _u, message: seen.append(message)
    client.subscribe(TOPICS.answers_to("panel"))
    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic, properties.CorrelationData = topic, wanted
    for target in (
        TOPICS.request("kitchen-1", "status"),
        TOPICS.group_request("kitchen", "status"),
    ):
        seen.clear()
        client.client.publish(target, b"{}", qos=1, properties=properties)
        client.until(lambda: seen)
        assert (seen[0].topic, seen[0].properties.CorrelationData) == (topic, wanted)
    client.close()


def test_a_retained_request_is_answered_when_it_is_sent_and_never_again(
    reef: Reef, tmp_path: Path
) -> None:
    """A device that connects later passes it over, and answers what is asked then."""
    topic = TOPICS.application("panel", "kept")
    client = Client(reef.config("panel"), "keeps")
    client.subscribe(topic)
    target = TOPICS.group_request("kitchen", "status")
    kept = json.dumps({"id": "kept", "reply_to": topic}).encode()
    client.publish(target, kept, retain=True)
    client.until(lambda: len(client.received) == 1)
    reef.here("enroll", "kitchen-2", "--board", "generic-x86-64", "--group", "kitchen",
              "--out", tmp_path / "agent.yaml")  # fmt: skip
    reef.broker.reload()
    with reef.running(tmp_path / "agent.yaml", "kitchen-2"):
        asked = json.dumps({"id": "later", "reply_to": topic}).encode()
        client.publish(TOPICS.request("kitchen-2", "status"), asked)
        client.until(lambda: any(b'"later"' in payload for _, payload in client.received))
        told = [json.loads(payload) for _, payload in client.received]
        assert ("kept", "kitchen-2") not in {(one["id"], one["device"]) for one in told}
    client.publish(target, b"", retain=True)
    client.close()


def test_an_application_may_do_nothing_else(reef: Reef) -> None:
    """Other devices, operations and topics; not as a device of its own name either."""
    client = Client(reef.config("panel"), "nosy")
    forbidden = [
        TOPICS.request("attic-1", "status"),
        TOPICS.request("kitchen-1", "generate"),
        TOPICS.request("kitchen-1", "leave"),
        TOPICS.group_request("attic", "status"),
        TOPICS.group_request("kitchen", "generate"),
        TOPICS.of_device("kitchen-1", "desired"),
        TOPICS.of_device("kitchen-1", "reported"),
        f"{TOPICS.prefix}/d/kitchen-1/res/x",
        TOPICS.owner(),
        TOPICS.application("panel", "x"),
        TOPICS.application("other", "x"),
        f"{TOPICS.prefix}/d/app:panel/telemetry",
        f"{TOPICS.prefix}/d/panel/telemetry",
    ]
    assert {topic: client.publish(topic, b"{}") for topic in forbidden} == dict.fromkeys(
        forbidden, NOT_AUTHORIZED
    )
    controller = Client(reef.fleet.controller_mqtt(), "speaks")
    for topic in (f"{TOPICS.prefix}/#", "#", TOPICS.every_response(), TOPICS.answers_to("other")):
        client.subscribe(topic)
    for topic in (TOPICS.response("kitchen-1", "x"), TOPICS.application("other", "x")):
        controller.publish(topic, b"secret")
    controller.publish(TOPICS.application("panel", "marker"), b"mine")
    client.subscribe(TOPICS.answers_to("panel"))
    controller.publish(TOPICS.application("panel", "marker"), b"mine")
    client.until(lambda: any(payload == b"mine" for _, payload in client.received))
    assert not [topic for topic, payload in client.received if payload == b"secret"]
    for one in (client, controller):
        one.close()


def test_devices_write_where_their_own_applications_read_alone(reef: Reef) -> None:
    """The attic is not the panel's: it cannot speak to it."""
    path = reef.fleet.folder / "devices" / "attic-1" / "agent.yaml"
    config = codec.convert_yaml(path.read_bytes(), AgentConfig, what="agent.yaml")
    client = Client(config.mqtt, "the-attic")
    assert client.publish(TOPICS.application("panel", "x"), b"{}") == NOT_AUTHORIZED
    client.close()


def test_an_application_is_listed_replaced_and_revoked(reef: Reef) -> None:
    """Its open connection may do nothing from then on, and it cannot come back."""
    reef.add("gone", "status", "kitchen")
    reef.broker.reload()
    with pytest.raises(AssertionError):
        reef.add("gone", "status", "kitchen")  # it is there
    wide = reef.here("app", "add", "gone", "--may", "status,classify", "--on", "group=kitchen",
                     "--replace")  # fmt: skip
    assert wide["application"]["may"] == ["classify", "status"]
    reef.broker.reload()
    client = Client(reef.config("gone"), "gone")
    topic = TOPICS.request("kitchen-1", "classify")
    _until(lambda: client.publish(topic, b"{}") in (0, 0x10))
    listed = {one["application"]["name"]: one for one in reef.here("app", "list")}
    assert listed["gone"].get("revoked") is None
    store = reef.fleet.open_store()
    with store.read() as connection:
        ends = expiry.every(reef.fleet, reef.fleet.open_repository(), connection, time.time())
    store.close()
    assert "gone" in {one.name for one in ends if one.kind == "application"}
    assert reef.here("app", "revoke", "gone")["certificates"] == 1
    reef.broker.reload()
    _until(lambda: client.publish(topic, b"{}") == NOT_AUTHORIZED)
    client.cut()
    listed = {one["application"]["name"]: one for one in reef.here("app", "list")}
    assert listed["gone"]["revoked"] is not None
    assert reef.here("app", "revoke", "gone", ok=False)["error"]["code"] == "no-such-application"


def _until(condition: Any) -> None:
    """Waits for the broker, which reads its files a moment after it is told."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.1)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["a b", "--may", "status", "--on", "group=kitchen"], "bad-name"),
        (["x", "--may", "leave", "--on", "group=kitchen"], "unknown-operation"),
        (["x", "--may", "status", "--on", "kitchen"], "bad-options"),
        (["x", "--may", ",", "--on", "group=kitchen"], "bad-options"),
        (["x", "--may", "status", "--on", "group=a/b"], "bad-name"),
        (["x", "--may", "status", "--on", "group=k", "--days", "0"], "bad-duration"),
        (["panel", "--may", "status", "--on", "group=k"], "file-exists"),
    ],
)
def test_what_cannot_be_added_is_one_line_and_leaves_nothing(
    reef: Reef, words: list[str], code: str
) -> None:
    """No folder with half a key, no rule."""
    before = (reef.fleet.folder / "broker" / "acl").read_text()
    assert reef.here("app", "add", *words, ok=False)["error"]["code"] == code
    assert (reef.fleet.folder / "broker" / "acl").read_text() == before
    assert not (reef.folder("x") / "key.pem").exists()


def test_a_fleet_without_certificates_has_no_applications(tmp_path: Path) -> None:
    """There the broker lets every program of the machine do all."""
    Fleet.init(tmp_path / "plain", FleetConfig("plain", mqtt=MqttConfig(port=1)))
    words = ["app", "add", "x", "--may", "status", "--on", "group=k", "--dir", tmp_path / "plain"]
    assert shoal(*words, ok=False)["error"]["code"] == "tls-needed"


def test_the_rules_follow_the_groups_of_devices() -> None:
    """A device that joins the group can be asked, and may answer; one that leaves cannot."""
    panel = Application("panel", ["status"], ["kitchen"])
    groups: dict[str, list[str]] = {"a": ["kitchen"], "b": ["attic"]}
    rules = acl_file(FLEET, groups, applications=[panel])
    assert f"topic write {TOPICS.request('a', 'status')}" in rules
    assert TOPICS.request("b", "status") not in rules
    assert rules.count(f"topic write {TOPICS.answers_to('panel')}") == 1
    moved = acl_file(FLEET, {"a": [], "b": ["kitchen"]}, applications=[panel])
    assert TOPICS.request("a", "status") not in moved
    assert f"topic write {TOPICS.request('b', 'status')}" in moved
    denied = acl_file(FLEET, {}, revoked=["app:panel", "c"])
    assert f"user app:panel\ntopic deny {TOPICS.prefix}/#" in denied
