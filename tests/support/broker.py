"""Real brokers for tests, on loopback, each on a port of its own."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import iotcore
import paho.mqtt.client as paho

from contracts.config import MqttConfig
from contracts.connection import new_client
from tests.support.tools import free_port, need_tool

_EMBEDDED = """
id = 0
[router]
id = 0
max_connections = 10010
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "v5"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 5000
max_payload_size = 1048576
max_inflight_count = 500
dynamic_filters = true
"""


def wait_until_connectable(config: MqttConfig, timeout_s: float = 10.0) -> None:
    """Returns once an MQTT 5 client can connect."""
    deadline = time.monotonic() + timeout_s
    while True:
        client = new_client(config, f"probe-{time.monotonic_ns()}")
        try:
            client.connect(config.host, config.port)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
            continue
        connected = False
        while time.monotonic() < deadline and not connected:
            if client.loop(0.05) != paho.MQTT_ERR_SUCCESS:
                break
            connected = client.is_connected()
        client.disconnect()
        if connected:
            return


@contextmanager
def mosquitto(port: int | None = None) -> Iterator[MqttConfig]:
    """A mosquitto process without access control."""
    program = need_tool("mosquitto", "/usr/sbin/mosquitto")
    config = MqttConfig(port=port or free_port())
    with tempfile.TemporaryDirectory(prefix="shoal-mosquitto-") as folder:
        file = Path(folder) / "mosquitto.conf"
        file.write_text(
            f"listener {config.port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
            "max_queued_messages 0\nmax_inflight_messages 200\nset_tcp_nodelay true\n"
            "log_type error\n"
        )
        process = subprocess.Popen([program, "-c", str(file)])
        try:
            wait_until_connectable(config)
            yield config
        finally:
            process.terminate()
            process.wait(10)


@contextmanager
def embedded(port: int | None = None) -> Iterator[MqttConfig]:
    """The broker that the demo embeds (rumqttd), MQTT 5 on loopback."""
    config = MqttConfig(port=port or free_port())
    with tempfile.TemporaryDirectory(prefix="shoal-embedded-") as folder:
        file = Path(folder) / "broker.toml"
        file.write_text(_EMBEDDED.format(port=config.port))
        with iotcore.Broker(config_path=str(file)):
            wait_until_connectable(config)
            yield config


BROKERS = {"mosquitto": mosquitto, "embedded": embedded}
