"""A whole fleet with mutual TLS: real programs, mosquitto with the generated configuration."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from agent.certificates.child import CertificateApart
from agent.certificates.device import post
from agent.certificates.renewal import Renewer
from contracts import codec
from contracts.config import AgentConfig, MqttConfig
from contracts.errors import ShoalError
from contracts.renewal import EnrolmentRequest
from fleet.broker import MosquittoBroker
from fleet.broker.run import wait_until_connectable
from fleet.cli.app import app
from fleet.folder import ApiConfig, Fleet, FleetConfig
from fleet.identity import provisioning
from tests.support import programs
from tests.support.bundles import noise_bundle
from tests.support.tools import free_port, need_tool

ROOT = Path(__file__).parents[3]
TINY = ROOT / "tests/data/tiny-classifier-1.0.0"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def shoal(*arguments: object) -> Any:
    """Runs ``shoal fleet ... --json`` in this process and returns what it printed."""
    done = CliRunner().invoke(app, ["fleet", *map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@contextlib.contextmanager
def program(*arguments: object, log: Path) -> Iterator[subprocess.Popen[bytes] | programs.Program]:
    """A program that is told to stop at the end."""
    with log.open("wb") as stream:
        process = programs.start(
            [sys.executable, "-m", *map(str, arguments)],
            env=ENVIRONMENT,
            stdout=stream,
            stderr=stream,
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


class Running:
    """A fleet whose broker and controller run."""

    def __init__(self, folder: Path) -> None:
        port, api = free_port(), free_port()
        self.fleet = Fleet.init(
            folder / "fleet",
            FleetConfig(
                fleet="reef",
                mqtt=MqttConfig(port=port),
                mutual_tls=True,
                api=ApiConfig(port=api),
            ),
        )
        self.folder = folder
        self.broker = MosquittoBroker(
            self.fleet.folder / "broker/mosquitto.conf",
            port=port,
            program=need_tool("mosquitto", "/usr/sbin/mosquitto"),
        )

    def devices(self) -> dict[str, Any]:
        """The devices that the controller knows, by id."""
        return {one["id"]: one for one in shoal("devices", "--dir", self.fleet.folder)}

    def until(self, condition: Any, what: str) -> None:
        """Waits for what only other processes bring about."""
        deadline = time.monotonic() + 180
        while not condition():
            assert time.monotonic() < deadline, what
            threading.Event().wait(0.2)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A broker and a controller with mutual TLS."""
    folder = tmp_path_factory.mktemp("secure")
    running = Running(folder)
    with (
        running.broker,
        program("fleet", "fleet", "serve", "--dir", running.fleet.folder, log=folder / "serve.log"),
    ):
        wait_until_connectable(running.fleet.controller_mqtt())

        def ready() -> bool:
            try:
                return shoal("devices", "--dir", running.fleet.folder) is not None
            except AssertionError:
                return False

        running.until(ready, "the controller did not start")
        yield running


def enroll_by_token(running: Running, device: str) -> Path:
    """What a person does: a token there, a command here."""
    token = shoal(
        "token", device, "--board", "raspberry-pi-5", "--group", "kitchen", "--dir",
        running.fleet.folder,
    )["token"]  # fmt: skip
    folder = running.folder / device
    folder.mkdir()
    (folder / "token").write_text(token)
    done = subprocess.run(
        [
            sys.executable, "-m", "agent", "enroll", "--url", running.fleet.api_url,
            "--token-file", folder / "token", "--config", folder / "agent.yaml",
        ],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "agent.yaml"


def test_a_device_enrols_itself_updates_and_answers_over_mutual_tls(running: Running) -> None:
    """Token, key made on the device, signed model, rollout, query; then it is revoked."""
    config = enroll_by_token(running, "d1")
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    running.broker.reload()
    shoal("publish", TINY, "--dir", running.fleet.folder)
    with program("agent", "run", "--config", config, log=running.folder / "d1.log"):
        running.until(
            lambda: running.devices()["d1"]["state"] == "online", "the device did not come online"
        )
        made = shoal(
            "rollout", "create", "tiny-classifier", "1.0.0", "--selector", "all", "--waves", "100%",
            "--set", "trial.seconds=1", "--set", "bake_s=0", "--dir", running.fleet.folder,
        )  # fmt: skip

        def active() -> bool:
            slot = running.devices()["d1"]["slots"].get("classify")
            return bool(slot and slot["active"] and not slot["trial"])

        running.until(active, f"the rollout {made['id']} did not reach the device")
        answer = shoal(
            "query", "d1", "classify", "turn on the kitchen light", "--dir", running.fleet.folder
        )
        assert answer["answers"][0]["classified"]["label"] == "lights-on"
        assert shoal("revoke", "d1", "--dir", running.fleet.folder)["certificates"] == 1
    running.broker.kill()
    running.broker.start()
    assert not connected(config)


def connected(config: Path) -> bool:
    """Whether the certificate of a device opens the broker."""
    settings = codec.convert_yaml(config.read_bytes(), AgentConfig, what="agent.yaml").mqtt
    try:
        wait_until_connectable(settings, 1.0)
    except ShoalError:
        return False
    return True


def test_a_token_is_refused_over_http_when_it_was_used(running: Running) -> None:
    """And a wrong one is; the error has the one shape and tells nothing."""
    config = enroll_by_token(running, "d2")
    token = (config.parent / "token").read_text()
    from agent.certificates.device import new_request

    for secret in (token, "wrong"):
        body = codec.encode(EnrolmentRequest(secret, new_request(None)[1]))
        with pytest.raises(ShoalError) as caught:
            post(f"{running.fleet.api_url}/v1/enroll", body)
        assert caught.value.code == "bad-token"


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = time.time()

    def time(self) -> float:
        """Seconds since the epoch."""
        return self.now

    def monotonic(self) -> float:
        """The same."""
        return self.now

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Does not wait."""
        return event.is_set()


def test_a_certificate_is_renewed_before_it_expires_and_survives_a_restart(
    running: Running, tmp_path: Path
) -> None:
    """Over HTTP; the new one opens the broker, and a fresh start uses it."""
    config, path = running.fleet.enroll("d3", "raspberry-pi-5", out=tmp_path / "agent.yaml")
    state = tmp_path / "state"
    state.mkdir()
    clock = Clock()
    certificate = CertificateApart(config, tmp_path, state)
    renewed: list[Any] = []
    renewer = Renewer(certificate, renewed.append, clock, threading.Event())
    assert not renewer.step(), "not due yet"
    clock.now = 1000.0
    assert not renewer.step(), "a clock that was never set judges nothing"
    clock.now = time.time() + 300 * 86400
    assert renewer.step()
    stored = state / "certificate.pem"
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert renewed[0].key != config.mqtt.tls.key  # type: ignore[union-attr]
    again = CertificateApart(config, tmp_path, state)
    assert again.tls == certificate.tls == renewed[0]
    wait_until_connectable(msgspec.structs.replace(config.mqtt, tls=again.tls), 5.0)
    assert len(running.fleet.open_identity().certificates("d3")) == 2

    # Damage, or another device's file: the one from enrolment is used.
    for content in (b"", b"noise", stored.read_bytes()[:100]):
        stored.write_bytes(content)
        assert CertificateApart(config, tmp_path, state).tls == config.mqtt.tls
    other, _ = running.fleet.enroll("d4", "raspberry-pi-5", out=tmp_path / "other.yaml")
    assert other.mqtt.tls is not None
    stored.write_text(f"{other.mqtt.tls.certificate}\n{other.mqtt.tls.key}")
    assert CertificateApart(config, tmp_path, state).tls == config.mqtt.tls
    assert provisioning.to_yaml(config) == path.read_bytes()


def test_a_renewal_that_fails_leaves_the_certificate_in_use(
    running: Running, tmp_path: Path
) -> None:
    """The controller is away, refuses, or sends what is not ours."""
    config, _ = running.fleet.enroll("d5", "raspberry-pi-5", out=tmp_path / "agent.yaml")
    clock = Clock()
    clock.now += 300 * 86400
    away = msgspec.structs.replace(config, renewal_url="http://127.0.0.1:9/v1/certificates/renew")
    running.fleet.open_identity().revoke("d5")
    wrong = msgspec.structs.replace(config, renewal_url=f"{running.fleet.api_url}/v1/me")
    for one in (away, wrong, config):
        certificate = CertificateApart(one, tmp_path, tmp_path)
        assert not Renewer(certificate, lambda _: None, clock, threading.Event()).step()
        assert certificate.tls == config.mqtt.tls
        assert not (tmp_path / "certificate.pem").exists()


def test_keys_are_listed_rotated_and_signed_by_command(running: Running, tmp_path: Path) -> None:
    """The commands a person uses in a key ceremony."""
    folder = running.fleet.folder
    roles = {role["role"]: role for role in shoal("keys", "list", "--dir", folder)}
    assert set(roles) == {"root", "targets", "snapshot", "timestamp"}
    assert shoal("keys", "rotate", "timestamp", "--dir", folder) == {"root_version": 2}
    new = shoal("keys", "new", "root", "--keys", tmp_path / "stick")
    draft = tmp_path / "draft.json"
    shoal(
        "keys", "propose", "root", draft, "--add", 0, "--public", new["public"], "--keep",
        "--threshold", 2, "--dir", folder,
    )  # fmt: skip
    signed = shoal("keys", "sign", draft, "--yes", "--keys", tmp_path / "stick", "--dir", folder)
    assert len(signed["signed_by"]) == 2
    assert shoal("keys", "apply", draft, "--dir", folder) == {"root_version": 3}
    assert shoal("keys", "resign", "--dir", folder) == {"signed": ["snapshot", "timestamp"]}
    after = {role["role"]: role for role in shoal("keys", "list", "--dir", folder)}
    ref = running.fleet.open_repository().publish(noise_bundle(tmp_path / "bundle"))
    shoal("withdraw", ref.name, ref.version, "--dir", folder)
    assert ref not in running.fleet.open_repository().bundles()
    assert (after["root"]["threshold"], len(after["root"]["keys"])) == (2, 2)
