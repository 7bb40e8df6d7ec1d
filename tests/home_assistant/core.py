"""A Home Assistant core as a program of its own, with its MQTT integration set up."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from contracts.config import MqttConfig
from tests.support.tools import free_port, until

if TYPE_CHECKING:
    from typing_extensions import Self

_USER = ("ada", "a password of a test")
_PATIENCE_S = 240.0
_CONFIGURATION = """
homeassistant: {{name: Test, latitude: 0, longitude: 0}}
http: {{server_host: 127.0.0.1, server_port: {port}}}
auth:
api:
frontend: {{development_repo: {frontend}}}
"""


class Core:
    """One core; a context manager.

    Args:
        program: ``hass`` of the environment that has it.
        folder: for its configuration.
        mqtt: the broker, with the certificate of Home Assistant.
    """

    def __init__(self, program: Path, folder: Path, mqtt: MqttConfig) -> None:
        self._program = program
        self._folder = folder
        self.log = folder / "core.log"
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        # Its pages are not needed; without a folder for them it starts in recovery mode.
        frontend = folder / "frontend"
        (frontend / "hass_frontend").mkdir(parents=True)
        (folder / "configuration.yaml").write_text(
            _CONFIGURATION.format(port=port, frontend=frontend)
        )
        storage = folder / ".storage"
        storage.mkdir()
        # What its dialogue for a broker stores.
        entry = {
            "entry_id": "0123456789abcdef0123456789abcdef", "version": 1, "domain": "mqtt",
            "title": "broker", "data": _broker(mqtt), "options": {}, "source": "user",
            "pref_disable_new_entities": False, "pref_disable_polling": False,
            "unique_id": None, "disabled_by": None,
        }  # fmt: skip
        (storage / "core.config_entries").write_text(
            json.dumps(
                {"version": 1, "minor_version": 1, "key": "core.config_entries",
                 "data": {"entries": [entry]}}
            )
        )  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._token = ""

    def __enter__(self) -> Self:
        with self.log.open("ab") as log:
            done = subprocess.run(
                [self._program, "--script", "auth", "--config", self._folder, "add", *_USER],
                stdout=log, stderr=log, timeout=_PATIENCE_S, check=False,
            )  # fmt: skip
            assert done.returncode == 0, self.log.read_text()
            self._process = subprocess.Popen(
                [self._program, "--config", self._folder, "--skip-pip", "--verbose"],
                stdout=log, stderr=log,
            )  # fmt: skip
        until(self._sign_in, _PATIENCE_S, self._said)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)

    def _said(self) -> str:
        return self.log.read_text()[-3000:]

    def _sign_in(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._said()
        who = {"client_id": f"{self._url}/"}
        begun = {**who, "handler": ["homeassistant", None], "redirect_uri": f"{self._url}/"}
        try:
            flow = self.call("/auth/login_flow", begun)
        except urllib.error.HTTPError as error:  # it has not set that up yet
            error.close()
            return False
        except OSError:
            return False
        name, password = _USER
        step = f"/auth/login_flow/{flow['flow_id']}"
        code = self.call(step, {**who, "username": name, "password": password})["result"]
        form = urllib.parse.urlencode({**who, "grant_type": "authorization_code", "code": code})
        self._token = self.call("/auth/token", form)["access_token"]
        return True

    def call(self, path: str, body: object = None) -> Any:
        """A GET, or with a body a POST of JSON (of a form, if it is text)."""
        form = isinstance(body, str)
        data = str(body).encode() if form else None if body is None else json.dumps(body).encode()
        kind = "application/x-www-form-urlencoded" if form else "application/json"
        headers = {"Content-Type": kind}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self._url + path, data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def entities(self, domain: str, name: str) -> list[dict[str, Any]]:
        """States of a domain whose friendly name ends so."""
        return [
            one
            for one in self.call("/api/states")
            if one["entity_id"].startswith(f"{domain}.")
            and one["attributes"].get("friendly_name", "").endswith(name)
        ]

    def wait(
        self, domain: str, name: str, what: Callable[[dict[str, Any]], Any], seconds: float = 240.0
    ) -> dict[str, Any]:
        """The first such state for which `what` holds."""
        found: dict[str, Any] = until(
            lambda: next((one for one in self.entities(domain, name) if what(one)), None),
            seconds,
            lambda: f"{self.entities(domain, name)}\n{self._said()}",
        )
        return found

    def errors(self) -> list[str]:
        """What the core said of our messages."""
        words = ("ERROR", "WARNING")
        return [
            line
            for line in self.log.read_text().splitlines()
            if "components.mqtt" in line and any(word in line for word in words)
        ]


def _broker(mqtt: MqttConfig) -> dict[str, Any]:
    found: dict[str, Any] = {
        "broker": mqtt.host, "port": mqtt.port, "protocol": "5", "discovery": True,
    }  # fmt: skip
    if mqtt.tls is not None:
        assert mqtt.tls.certificate is not None
        assert mqtt.tls.key is not None
        found |= {
            "certificate": Path(mqtt.tls.ca).read_text(),
            "client_cert": Path(mqtt.tls.certificate).read_text(),
            "client_key": Path(mqtt.tls.key).read_text(),
            "tls_insecure": False,
        }
    return found
