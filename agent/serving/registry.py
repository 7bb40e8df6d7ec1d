"""Which operations a device answers: op -> request type and handler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from agent.serving.reply import Reply
from contracts.errors import InputError
from contracts.requests import Request

Handler = Callable[[Any, Reply], None]


class Operation(msgspec.Struct, frozen=True):
    """An operation.

    Attributes:
        name: the last part of ``req/{op}``.
        request: the message type; a subclass of :class:`contracts.requests.Request`.
        handler: ``handler(request, reply)``.
        queued: it runs on the inference worker, in turn. If not, it runs at once on the
            network thread and must be quick.
        meant: the request with the slot that it means; it may raise as a handler does.
    """

    name: str
    request: type[Request]
    handler: Handler
    queued: bool = True
    meant: Callable[[Any], Any] = lambda request: request


class Registry:
    """The operations of one agent."""

    def __init__(self) -> None:
        self._operations: dict[str, Operation] = {}

    def add(self, operation: Operation) -> None:
        """Adds or replaces an operation."""
        self._operations[operation.name] = operation

    def get(self, name: str) -> Operation:
        """The operation of a name.

        Raises:
            InputError: ``unknown-operation`` with the known ones.
        """
        operation = self._operations.get(name)
        if operation is None:
            known = ", ".join(sorted(self._operations))
            raise InputError(
                "unknown-operation", f"this device has no operation {name[:64]!r}; it has: {known}"
            )
        return operation
