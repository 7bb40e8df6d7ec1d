"""Ingest: from MQTT messages to committed rows, acknowledged only after the commit."""

from fleet.ingest.consumer import Consumer

__all__ = ["Consumer"]
