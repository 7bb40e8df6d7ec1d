"""A message as ingest took it from the broker, and what became of all of them."""

from __future__ import annotations

from typing import NamedTuple

from fleet.ingest.decode import Message


class Arrived(NamedTuple):
    """A message as paho gave it, with the connection that it came on, and what was read in it."""

    connection: int
    mid: int
    qos: int
    topic: str
    payload: bytes
    retained: bool = False
    read: Message | Exception | None = None


class Counters:
    """What ingest did, for metrics: plain numbers that one thread writes."""

    def __init__(self) -> None:
        self.messages = 0
        self.batches = 0
        self.rejected = 0
        self.unknown = 0
        self.retries = 0
        self.over_quota = 0
        self.acknowledged = 0
        self.lag_s = 0.0
