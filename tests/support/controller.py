"""A fleet of the tests' own: a signed repository, a controller on a real broker, real agents."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from contracts import blocks, codec
from contracts.answers import Answer
from contracts.bundle import Bundle
from contracts.config import AgentConfig, MqttConfig
from contracts.connection import connect_properties, new_client
from contracts.desired import Desired, DesiredBundle, TrialRules
from contracts.errors import ShoalError
from contracts.messages import BundleRef, Reported, Result, Status, Telemetry, UpdateEvent
from contracts.requests import BlobGet
from contracts.topics import Topics, parse
from fleet.identity import provisioning
from fleet.repository.repository import Repository
from tests.support import programs

if TYPE_CHECKING:
    from typing_extensions import Self

TINY = Path(__file__).parents[1] / "data" / "tiny-classifier-1.0.0"
TINY_NEXT = Path(__file__).parents[1] / "data" / "tiny-classifier-1.1.0"
QUICK_TRIAL = TrialRules(seconds=0.2)

_KINDS: dict[str, type[Any]] = {
    "status": Status,
    "reported": Reported,
    "update": UpdateEvent,
    "telemetry": Telemetry,
    "result": Result,
    "response": Answer,
}


def make_repository(folder: Path, *bundles: Path) -> Repository:
    """A repository with new keys and the bundles published."""
    repository = Repository.create(folder / "repo", folder / "keys")
    for bundle in bundles:
        repository.publish(Bundle.open(bundle))
    return repository


class Controller:
    """What a controller does, as far as an agent can see it. Use as a context manager."""

    def __init__(self, broker: MqttConfig, fleet: str, repository: Repository) -> None:
        self.broker = broker
        self.fleet = fleet
        self.repository = repository
        self.topics = Topics(fleet)
        self.messages: list[tuple[str, Any]] = []
        self.raw: list[tuple[str, bytes]] = []
        self.serve_blocks = True
        self.block_bytes = 0
        self.asked: list[tuple[str, int]] = []
        self._changed = threading.Condition()
        self._subscribed = threading.Event()
        self._lost = threading.Event()
        self._client = new_client(broker, f"controller-{uuid.uuid4().hex[:8]}")
        self._client.on_message = self._message
        self._client.on_connect = self._connected
        self._client.on_disconnect = lambda *_: self._lost.set()
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self.revision = 0

    def __enter__(self) -> Self:
        self._client.connect(
            self.broker.host,
            self.broker.port,
            clean_start=True,
            properties=connect_properties(self.broker),
        )
        self._client.loop_start()
        assert self._subscribed.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, client: Any, *_: object) -> None:
        client.subscribe([(f"{self.topics.prefix}/#", SubscribeOptions(qos=1, noLocal=True))])

    def _message(self, client: Any, userdata: Any, message: Any) -> None:
        address = parse(message.topic)
        if address.kind == "blob-get":
            self._send_block(address.target, message.payload)
            return
        if address.kind not in _KINDS or not message.payload:
            return
        value = codec.decode(message.payload, _KINDS[address.kind], what=address.kind)
        with self._changed:
            self.messages.append((address.target, value))
            self.raw.append((message.topic, message.payload))
            self._changed.notify_all()

    def _send_block(self, device: str, payload: bytes) -> None:
        request = codec.decode(payload, BlobGet, what="blob/get")
        self.asked.append((request.path, request.offset))
        if not self.serve_blocks:
            return
        try:
            block = self.repository.read(request.path, request.offset, request.length)
            data = blocks.pack(request.id, block)
        except ShoalError as error:
            data = blocks.pack_error(request.id, error)
        self.block_bytes += len(data)
        self._client.publish(self.topics.blob(device, request.id), data, qos=1)

    def of(self, kind: type[Any], device: str | None = None) -> list[Any]:
        """Messages of a type so far."""
        with self._changed:
            rows = list(self.messages)
        return [m for who, m in rows if isinstance(m, kind) and device in (None, who)]

    def wait_for(
        self,
        kind: type[Any],
        when: Callable[[Any], bool] = lambda _: True,
        timeout_s: float = 120.0,
    ) -> Any:
        """The first message of a type for which `when` holds; fails after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        seen = 0
        with self._changed:
            while True:
                for _, message in self.messages[seen:]:
                    if isinstance(message, kind) and when(message):
                        return message
                seen = len(self.messages)
                left = deadline - time.monotonic()
                if left <= 0:
                    last = [m for _, m in self.messages if isinstance(m, kind)][-3:]
                    raise AssertionError(f"no such {kind.__name__} in {timeout_s} s; last: {last}")
                self._changed.wait(left)

    def wait_disconnected(self, timeout_s: float = 60.0) -> None:
        """Until the broker has closed the connection: all that it sent has been taken then."""
        assert self._lost.wait(timeout_s)

    def want(
        self,
        device: str,
        ref: BundleRef,
        *,
        slot: str = "classify",
        mode: str = "active",
        trial: TrialRules = QUICK_TRIAL,
        rollout: str | None = None,
    ) -> int:
        """Publishes a desired document for one slot; returns its revision."""
        wish = DesiredBundle(ref, mode, trial)  # type: ignore[arg-type]
        return self.want_slots(device, {slot: wish}, rollout)

    def want_slots(
        self, device: str, slots: dict[str, DesiredBundle], rollout: str | None = None
    ) -> int:
        """Publishes a desired document; returns its revision."""
        self.revision += 1
        desired = Desired(self.revision, slots, rollout=rollout, at=time.time())
        topic = self.topics.of_device(device, "desired")
        self._client.publish(topic, codec.encode(desired), qos=1, retain=True)
        return self.revision

    def wait_final(self, revision: int, timeout_s: float = 120.0) -> UpdateEvent:
        """The final update event of a revision."""
        return self.wait_for(
            UpdateEvent,
            lambda e: e.revision == revision and e.state in ("committed", "refused", "rolled-back"),
            timeout_s,
        )

    def send(self, topic: str, payload: bytes, **properties: Any) -> None:
        """Publishes any bytes, with MQTT 5 properties."""
        options = Properties(PacketTypes.PUBLISH)
        for name, value in properties.items():
            setattr(options, name, value)
        self._client.publish(topic, payload, qos=1, properties=options)

    def ask(
        self, device: str, op: str, timeout_s: float = 60.0, group: bool = False, **fields: Any
    ) -> Answer:
        """Sends a request and waits for its final answer: of this device, or of one of a group."""
        request_id = self.ask_only(device, op, group=group, **fields)
        return self.wait_for(
            Answer,
            lambda a: a.id == request_id and a.done and (group or a.device == device),
            timeout_s,
        )

    def ask_only(self, device: str, op: str, *, group: bool = False, **fields: Any) -> str:
        """Sends a request; returns its id."""
        request_id = fields.pop("id", None) or f"r{uuid.uuid4().hex[:12]}"
        build = self.topics.group_request if group else self.topics.request
        payload = msgspec.json.encode({"id": request_id, **fields})
        self._client.publish(build(device, op), payload, qos=1)
        return request_id


class AgentProcess:
    """One agent program. Use as a context manager; it is killed at the end if it still runs."""

    def __init__(
        self,
        folder: Path,
        broker: MqttConfig,
        fleet: str,
        repository: Repository,
        *,
        device: str = "dev-1",
        board: str = "raspberry-pi-5",
        **config: Any,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.device = device
        self.state = folder / "state"
        self.path = folder / "agent.yaml"
        config.setdefault("telemetry_s", 0.5)
        self.config = AgentConfig(
            fleet=fleet,
            device=device,
            board=board,
            trust_root=repository.root.decode(),
            mqtt=broker,
            **config,
        )
        self.path.write_bytes(provisioning.to_yaml(self.config))
        self.log = folder / "agent.log"
        self.process: subprocess.Popen[bytes] | programs.Program | None = None
        self.environment: dict[str, str] = {}
        self.command = [sys.executable, "-m", "agent", "run", "--config", str(self.path)]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self, **options: Any) -> None:
        """Starts the program."""
        with self.log.open("ab") as log:
            self.process = programs.start(
                self.command,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                **options,
            )

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
        if self.process is not None:
            self.process.wait(60)
            if self.process.stdin is not None:
                self.process.stdin.close()

    def terminate(self, timeout_s: float = 60.0) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


class _RangeHandler(SimpleHTTPRequestHandler):
    """Static files with single ranges, and a count of the bytes sent."""

    protocol_version = "HTTP/1.1"
    sent = 0
    asked: ClassVar[list[tuple[str, int]]] = []
    away = False

    def log_message(self, *_: object) -> None:
        """Silent."""

    def do_GET(self) -> None:
        """One file, or the rest of it from an offset."""
        path = Path(self.translate_path(self.path))
        if type(self).away:
            self.send_response_only(404)  # without a date
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        start = 0
        header = self.headers.get("Range", "")
        if header.startswith("bytes=") and header.endswith("-"):
            start = int(header[6:-1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        body = data[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        type(self).sent += len(body)
        type(self).asked.append((self.path.lstrip("/"), start))
        with contextlib.suppress(OSError):
            self.wfile.write(body)


@contextlib.contextmanager
def http_server(folder: Path, port: int = 0) -> Iterator[tuple[str, Any]]:
    """A folder over HTTP on loopback: base URL, and an object whose `sent` counts bytes.

    Its `asked` has the files that were given, and from which byte on. While its `away` is set, it
    has no file, and does not say the time.
    """

    class Handler(_RangeHandler):
        sent = 0
        asked: ClassVar[list[tuple[str, int]]] = []
        away = False

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, directory=str(folder), **options)

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            """A client that goes away is no news."""

    with Server(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", Handler
        finally:
            server.shutdown()
            thread.join()
