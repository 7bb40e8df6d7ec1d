"""The thread that sends mail: tried again with growing waits, and each outcome is kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from contracts.errors import ShoalError
from fleet.smtp import MailError, Post
from fleet.store import Store, mail

_LOG: Final = structlog.get_logger("mail")
_POLL_S: Final = 1.0
_BATCH: Final = 20
_DEFECT_S: Final = 5.0
_JOIN_S: Final = 10.0


class Mailer:
    """Sends what is in the database, one message after the other.

    Args:
        store: what is to be sent.
        post: who sends it; None: this fleet has no server for mail, and nothing is sent.
        clock: seconds since the epoch.
        fleet: its name, for the ids of messages.
        may: whether this process is the one that sends; another does then.
    """

    def __init__(
        self,
        store: Store,
        post: Post | None,
        clock: Callable[[], float] = time.time,
        *,
        fleet: str = "fleet",
        may: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._post = post
        self._clock = clock
        self._fleet = fleet
        self._may = may
        self._stopping = threading.Event()
        self._paused = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mail", daemon=True)

    def start(self) -> None:
        """Starts sending."""
        self._paused.clear()
        if self._post is not None and not self._thread.is_alive():
            self._thread.start()

    def pause(self) -> None:
        """Sends nothing until it is started again."""
        self._paused.set()

    def stop(self) -> None:
        """Stops; what is not sent stays in the database."""
        self._stopping.set()
        if self._post is not None:
            self._post.stop()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        while not self._stopping.wait(_POLL_S):
            try:
                if not self._paused.is_set() and self._may():
                    self.send()
            except ShoalError as error:
                _LOG.warning("mail waits", reason=str(error))
            except Exception:  # noqa: BLE001
                _LOG.exception("mail waits")
                self._stopping.wait(_DEFECT_S)

    def send(self) -> int:
        """Sends what is due; returns how many messages the server took."""
        if self._post is None:
            return 0
        with self._store.read() as connection:
            due = mail.due(connection, self._clock(), _BATCH)
        done = 0
        for one in due:
            if self._stopping.is_set() or self._paused.is_set():
                break
            done += self._send(self._post, one)
        return done

    def _send(self, post: Post, one: mail.Mail) -> bool:
        error: str | None = None
        final = False
        try:
            identifier = f"{one.id}.{int(one.created_at)}@{self._fleet}.shoal.invalid"
            post.send(one.recipient, one.subject, one.body, identifier)
        except MailError as failed:
            error, final = failed.info.message, failed.final
        except ShoalError as failed:
            error = failed.info.message
        except Exception as failed:  # noqa: BLE001
            # A defect with one message must not stop the others.
            _LOG.exception("mail failed", mail=one.id)
            error = type(failed).__name__
        if error is not None and self._stopping.is_set():
            return False  # it was cut off here: that is no failure of the server's
        with self._store.write() as connection:
            if error is None:
                mail.note_sent(connection, one.id, self._clock())
            else:
                mail.note_failed(connection, one, error, self._clock(), final=final)
        if error is not None:
            _LOG.warning("mail not sent", mail=one.id, tried=one.attempts + 1, reason=error)
        return error is None
