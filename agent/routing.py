"""What a device does with a message, by its topic."""

from __future__ import annotations

from typing import Protocol

import msgspec

from agent.connection import Inbound
from agent.link import Link
from agent.serving.dispatch import Dispatcher
from agent.system.log import logger
from agent.update.engine import Engine
from contracts import codec
from contracts.desired import Desired
from contracts.errors import InputError, ShoalError
from contracts.messages import Ack, Leave
from contracts.topics import LEAVE, parse

log = logger(__name__)


class Listeners(Protocol):
    """Who takes messages. They may be made after this."""

    @property
    def link(self) -> Link:
        """Takes farewells."""

    @property
    def dispatcher(self) -> Dispatcher:
        """Takes requests, and acknowledges them."""

    @property
    def engine(self) -> Engine:
        """Takes desired documents."""

    def on_block(self, name: str, payload: bytes, at: float | None) -> None:
        """Takes a block of the repository, with the controller's time if it was told."""

    def on_desired(self, desired: Desired | None) -> None:
        """A desired document counts from now on."""

    def on_ack(self, ack: Ack) -> None:
        """Takes the controller's word on what it has."""


class Routing:
    """The messages of one device, as they come from its connection.

    Args:
        listeners: who takes them.
    """

    def __init__(self, listeners: Listeners) -> None:
        self._to = listeners

    def message(self, inbound: Inbound) -> None:
        """Takes a message on the network thread; what is wrong in it harms nobody."""
        try:
            address = parse(inbound.topic)
            match address.kind:
                case "request" if address.name == LEAVE:
                    self._to.link.leave(codec.decode(inbound.payload, Leave, what="a farewell"))
                case "request" | "group-request" if inbound.retained:
                    # It would be answered again at every connection, for ever.
                    log.warning("a retained request is passed over")
                case "request":
                    self._to.dispatcher.handle(address.name, inbound)
                    return
                case "group-request":
                    self._to.dispatcher.handle(address.name, inbound, group=True)
                    return
                case "blob":
                    self._to.on_block(address.name, inbound.payload, inbound.at)
                case "desired":
                    self._desired(inbound.payload)
                case "ack":
                    self._to.on_ack(codec.decode(inbound.payload, Ack, what="an ack"))
        except ShoalError as error:
            # Neither topic nor message: whoever sent it may have put a text into either.
            log.warning("message refused", code=error.code, bytes=len(inbound.payload))
        inbound.ack()

    def _desired(self, payload: bytes) -> None:
        if not payload:  # the broker keeps none any more
            return
        try:
            desired = codec.decode(payload, Desired, what="a desired document")
            if self._to.engine.offer(desired):
                self._to.on_desired(desired)
        except InputError as error:
            reason = msgspec.structs.replace(error.info, code="bad-desired")
            self._to.engine.refuse(reason)
