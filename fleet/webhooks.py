"""Delivers events to webhooks, signed, with retries.

A delivery is a POST of JSON with the headers ``Shoal-Event``, ``Shoal-Delivery`` (an id that is
the same for every try: the receiver drops what it has seen), ``Shoal-Timestamp`` and
``Shoal-Signature``: ``sha256=`` and the hex HMAC-SHA256, with the webhook's secret, of the
timestamp, a dot, and the body.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import httpx
import structlog

from contracts import authorities
from contracts.errors import ShoalError
from fleet.egress import Allowed, Transport
from fleet.store import Store, webhooks

_LOG: Final = structlog.get_logger("webhooks")
_POLL_S: Final = 1.0
_TIMEOUT_S: Final = 10.0
_BATCH: Final = 50
_DEFECT_S: Final = 5.0


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """The value of ``Shoal-Signature``."""
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={digest.hexdigest()}"


class Sender:
    """The thread that delivers, with one more for each webhook that is being told something.

    Args:
        store: what is to be delivered.
        clock: seconds since the epoch.
        ca: PEM text of authorities that a receiver may be of, beside the system's.
        allowed: addresses to which it may deliver beside public ones.
    """

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float] = time.time,
        *,
        ca: str = "",
        allowed: Allowed | None = None,
    ) -> None:
        self._allowed = allowed or Allowed()
        self._ca = ca
        self._store = store
        self._clock = clock
        self._stopping = threading.Event()
        self._paused = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        """Starts delivering."""
        self._paused.clear()
        if not self._thread.is_alive():
            self._thread.start()

    def pause(self) -> None:
        """Delivers nothing until it is started again."""
        self._paused.set()

    def stop(self) -> None:
        """Stops; what is not delivered stays in the database."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_TIMEOUT_S + 5)

    def client(self) -> httpx.Client:
        """What delivers: to public addresses and to those that are allowed, by no other way."""
        context = authorities.context(self._ca)
        # No redirects: a receiver must not send us elsewhere with a signed body.
        return httpx.Client(
            transport=Transport(context, self._allowed),
            timeout=_TIMEOUT_S,
            follow_redirects=False,
            trust_env=False,
        )

    def _run(self) -> None:
        with (
            self.client() as client,
            ThreadPoolExecutor(webhooks.MAX_WEBHOOKS, "webhook") as threads,
        ):
            busy: dict[str, Future[None]] = {}
            while not self._stopping.wait(_POLL_S):
                try:
                    if not self._paused.is_set():
                        busy = {hook: job for hook, job in busy.items() if not job.done()}
                        with self._store.read() as connection:
                            waiting = webhooks.waiting(connection, self._clock())
                        # One that hangs keeps a thread busy, and nobody else.
                        for hook in waiting - busy.keys():
                            busy[hook] = threads.submit(self._serve, client, hook)
                except ShoalError as error:
                    _LOG.warning("webhooks wait", reason=str(error))
                except Exception:  # noqa: BLE001
                    _LOG.exception("webhooks wait")
                    self._stopping.wait(_DEFECT_S)

    def _serve(self, client: httpx.Client, hook: str) -> None:
        try:
            self._deliver_to(client, hook)
        except ShoalError as error:
            _LOG.warning("a webhook waits", webhook=hook, reason=str(error))
        except Exception:  # noqa: BLE001
            _LOG.exception("a webhook waits", webhook=hook)
            self._stopping.wait(_DEFECT_S)

    def deliver(self, client: httpx.Client) -> int:
        """Delivers what is due, to one after the other; returns how many succeeded."""
        with self._store.read() as connection:
            waiting = webhooks.waiting(connection, self._clock())
        return sum(self._deliver_to(client, hook) for hook in sorted(waiting))

    def _deliver_to(self, client: httpx.Client, hook: str) -> int:
        with self._store.read() as connection:
            due = webhooks.due(connection, self._clock(), _BATCH, hook)
        done = 0
        for delivery in due:
            if self._stopping.is_set() or self._paused.is_set():
                break
            error = self._post(client, delivery)
            with self._store.write() as connection:
                if error is None:
                    webhooks.note_delivered(connection, delivery.id, self._clock())
                    done += 1
                else:
                    webhooks.note_failed(
                        connection, delivery.id, delivery.attempts, error, self._clock()
                    )
        return done

    def _post(self, client: httpx.Client, delivery: webhooks.Delivery) -> str | None:
        body = delivery.payload.encode()
        timestamp = str(int(self._clock()))
        headers = {
            "Content-Type": "application/json",
            "Shoal-Event": delivery.event,
            "Shoal-Delivery": str(delivery.id),
            "Shoal-Timestamp": timestamp,
            "Shoal-Signature": signature(delivery.webhook.secret, timestamp, body),
        }
        try:
            answer = client.post(delivery.webhook.url, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"{type(error).__name__}: {error}"
        except Exception as error:  # noqa: BLE001
            # A defect with one receiver must not stop the deliveries to the others.
            _LOG.exception("webhook failed", delivery=delivery.id)
            return f"{type(error).__name__}: {error}"
        return None if answer.is_success else f"status {answer.status_code}"
