"""One look at who has the fleet, for a program that has something to say at the broker and ends."""

from __future__ import annotations

import threading
from typing import Final

from contracts import codec, limits
from contracts.desired import Owner
from contracts.errors import InputError, UnavailableError
from contracts.topics import Topics
from fleet.mqtt.link import Handler
from fleet.ownership.keeper import SETTLE_S
from fleet.store import Store, ownership

_UNREADABLE: Final = "an owner that this version cannot read"


class Glance:
    """Hears the owner's document on a connection that subscribes to :attr:`filters`.

    Args:
        topics: of the fleet.
    """

    def __init__(self, topics: Topics) -> None:
        self._arrived = threading.Event()
        self._document: Owner | None = None
        self._unreadable = False
        self.filters: dict[str, Handler] = {topics.owner(): self._on_document}

    def _on_document(self, _topic: str, payload: bytes) -> None:
        self._document, self._unreadable = None, False
        if payload:
            try:
                self._document = codec.decode(
                    payload, Owner, what="the owner's document", cap=limits.MAX_MESSAGE_BYTES
                )
            except InputError:
                self._unreadable = True
        self._arrived.set()

    def check(self, store: Store) -> None:
        """Makes sure that no other database has the fleet; the connection must be up.

        Raises:
            UnavailableError: ``not-owner``.
        """
        self._arrived.wait(SETTLE_S)
        owner = self._document
        who = _UNREADABLE if self._unreadable else ""
        if owner is not None:
            with store.read() as connection:
                known = ownership.known(connection, [owner.fence])
            mine = owner.database == known.database
            if not mine or known.fences.get(owner.fence) != owner.instance or known.contested:
                who = f"the controller {owner.instance} on {owner.host}, with another database,"
        if who:
            raise UnavailableError(
                "not-owner",
                f"{who} has this fleet: nothing is sent from this folder; to give the fleet to it, "
                "run `shoal fleet takeover`",
            )
