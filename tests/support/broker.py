"""Real brokers for tests, on loopback, each on a port of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from contracts.config import MqttConfig
from fleet.broker.run import EmbeddedBroker, MosquittoBroker, wait_until_connectable
from tests.support.tools import need_tool


@contextmanager
def mosquitto(port: int | None = None) -> Iterator[MqttConfig]:
    """A mosquitto process without access control."""
    program = need_tool("mosquitto", "/usr/sbin/mosquitto")
    with MosquittoBroker(port=port, program=program) as broker:
        wait_until_connectable(broker.config)
        yield broker.config


@contextmanager
def embedded(port: int | None = None) -> Iterator[MqttConfig]:
    """The broker that the demo embeds (rumqttd), MQTT 5 on loopback."""
    with EmbeddedBroker(port) as broker:
        yield broker.config


BROKERS = {"mosquitto": mosquitto, "embedded": embedded}

__all__ = ["BROKERS", "embedded", "mosquitto", "wait_until_connectable"]
