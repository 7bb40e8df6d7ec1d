"""The local socket: the device's owner may teach, judge and ask at the device itself.

One connection is one request: a line ``{"op": ..., "request": {...}}`` in, the messages of its
answer out, a line each. It is the same registry and worker that requests of the fleet go to; the
socket is below the state folder, for the agent's user and root alone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.serving.registry import Operation, Registry
from agent.serving.reply import Reply
from agent.serving.worker import Job, Worker
from agent.system.log import logger
from contracts import codec, limits
from contracts.answers import Answer
from contracts.errors import InputError, ShoalError, UnavailableError, from_info
from contracts.requests import Request

log = logger(__name__)

SOCKET: Final = "owner.sock"

OPERATIONS: Final = ("classify", "feedback", "teach")
"""What may be asked here."""

OWNER: Final = "owner"
"""Who asks, in what is kept of a request."""

ANSWER_S: Final = 60.0
"""Seconds within which an answer has to begin, and its next message to come."""

_GIVEN_S: Final = 5.0
_WAITING: Final = 8


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    op: str
    request: msgspec.Raw


class Door:
    """Listens, one request after the other, on a thread of its own.

    Args:
        folder: the state folder.
        device: who answers.
        registry: the operations.
        worker: where queued operations run.
        monotonic: seconds that only grow.
        refused: told slot and code of a request that did not get to its handler.
    """

    def __init__(
        self,
        folder: Path,
        device: str,
        registry: Registry,
        worker: Worker,
        monotonic: Callable[[], float],
        refused: Callable[[str, str], None],
    ) -> None:
        self._folder = folder
        self._device = device
        self._registry = registry
        self._worker = worker
        self._monotonic = monotonic
        self._refused = refused
        self._server: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    def open(self) -> None:
        """Listens. A device that cannot serves all the same; it is said in the log."""
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _address(self._folder) as address:
                with contextlib.suppress(FileNotFoundError):
                    if stat.S_ISSOCK((self._folder / SOCKET).lstat().st_mode):
                        (self._folder / SOCKET).unlink()  # of an agent that died
                server.bind(address)
                (self._folder / SOCKET).chmod(0o600)
            server.listen(_WAITING)
        except OSError as error:
            server.close()
            log.error("no local socket", reason=error.strerror)
            return
        self._server = server
        self._thread = threading.Thread(target=self._serve, args=(server,), name="owner")
        self._thread.daemon = True
        self._thread.start()

    def close(self) -> None:
        """Ends the thread and removes the socket."""
        server, self._server = self._server, None
        self._closing.set()
        if server is None or self._thread is None:
            return
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)  # what waits for a connection ends
        self._thread.join(_GIVEN_S)
        server.close()
        with contextlib.suppress(OSError):
            (self._folder / SOCKET).unlink()

    def _serve(self, server: socket.socket) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = server.accept()
            except OSError as error:
                if self._closing.is_set():
                    return
                log.warning("local socket", reason=error.strerror)
                self._closing.wait(1.0)  # as of too many open files
                continue
            with connection:
                try:
                    self._one(connection)
                except OSError:
                    pass  # whoever asked is gone
                except Exception as error:  # noqa: BLE001  # the next one is heard
                    log.error("local request failed", reason=type(error).__name__)

    def _one(self, connection: socket.socket) -> None:
        connection.settimeout(_GIVEN_S)
        name = f"owner-{secrets.token_hex(6)}"
        said = threading.Event()
        ended = threading.Event()

        def send(answer: Answer) -> None:
            said.set()
            try:
                connection.sendall(codec.encode(answer) + b"\n")
            except OSError:
                raise UnavailableError("cancelled", "whoever asked is gone") from None

        reply = Reply(name, self._device, send, monotonic=self._monotonic, done=ended.set)
        slot = ""
        try:
            operation, request = self._meant(_line(connection), name)
            slot = getattr(request, "slot", "")
            if operation.queued:
                job = Job(lambda: operation.handler(request, reply), reply, request.priority, slot)
                self._worker.submit(job)
        except ShoalError as error:
            self._refused(slot, error.code)
            reply.fail(error)
            return
        if not operation.queued:
            try:
                operation.handler(request, reply)
            except ShoalError as error:
                reply.fail(error)
            return
        while not ended.wait(ANSWER_S):
            if not said.is_set():
                reply.cancelled.set()  # nobody waits for it any more
                return
            said.clear()

    def _meant(self, data: bytes, name: str) -> tuple[Operation, Request]:
        asked = codec.decode(data, _Asked, what="a local request")
        if asked.op not in OPERATIONS:
            raise InputError("unknown-operation", f"only {', '.join(OPERATIONS)} may be asked here")
        operation = self._registry.get(asked.op)
        request = codec.decode(
            bytes(asked.request), operation.request, what=f"a {asked.op} request"
        )
        return operation, operation.meant(
            msgspec.structs.replace(request, id=name, requester=OWNER)
        )


def _line(connection: socket.socket) -> bytes:
    """The request; within some seconds, and of a bounded size."""
    data = b""
    while not data.endswith(b"\n"):
        piece = connection.recv(64 * 1024)
        if not piece:
            break
        data += piece
        if len(data) > limits.MAX_MESSAGE_BYTES:
            raise InputError("too-large", f"a request has at most {limits.MAX_MESSAGE_BYTES} bytes")
    return data


@contextlib.contextmanager
def _address(folder: Path) -> Iterator[str]:
    """An address of the socket that is short enough wherever the folder is."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{opened}/{SOCKET}"
    finally:
        os.close(opened)


def ask(folder: Path, op: str, request: Request) -> Answer:
    """Asks the agent that runs on a state folder; its last message.

    Raises:
        UnavailableError: ``not-running``; no agent listens there, or it ends while it answers.
        ShoalError: what the agent answers in place of a result.
    """
    given: Any = {"op": op, "request": request}
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(ANSWER_S + _GIVEN_S)
            with _address(folder) as address:
                client.connect(address)
            client.sendall(codec.encode(given) + b"\n")
            with client.makefile("rb") as answers:
                while data := answers.readline(limits.MAX_MESSAGE_BYTES):
                    answer = codec.decode(data, Answer, what="the agent's answer")
                    if answer.error is not None:
                        raise from_info(answer.error)
                    if answer.done:
                        return answer
    except OSError as error:
        raise UnavailableError(
            "not-running",
            f"no agent answers on {folder / SOCKET} ({error.strerror or 'too slow'}): it has to "
            "run, and this is for its user and root alone",
        ) from None
    raise UnavailableError("not-running", "the agent ended before it had answered")
