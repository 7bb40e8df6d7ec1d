"""Reads the log of one device: once, or for a while as it grows. Noted before anything is asked.

What a device may send is bounded by its protocol: an answer of so many lines and bytes, two a
second. What it says is checked again here, as it may lie: lines that were not asked for are no
answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final

import msgspec
from fastapi.concurrency import run_in_threadpool

from contracts import codec, limits
from contracts.answers import Answer, Logged
from contracts.errors import InputError, RefusedError, UnavailableError, from_info
from contracts.requests import LogLevel, LogsRequest
from fleet.store import audit, devices
from fleet.store.entries import Actor
from fleet.store.schema import DEVICE

if TYPE_CHECKING:  # a command reads the bounds here, and needs no controller
    from fleet.controller import Controller

ACTION: Final = "device.logs"
MAX_FOLLOW_S: Final = 600.0
"""Seconds for which a log is followed after one question; then it is asked, and noted, anew."""

MAX_FOLLOWERS: Final = 16
"""Logs that one controller follows at once."""

PAUSE_S: Final = 2.0
"""Seconds between two questions while a log is followed."""

_ANSWER_S: Final = 10.0
_TRIES: Final = 3

_SAID: Final = frozenset(
    {"busy", "device-offline", "internal", "logs-not-shared", "no-answer", "not-supported",
     "rate-limited", "unknown-operation"}
)  # fmt: skip
"""Errors that are believed; a device does not say that a token is wrong."""


class Wanted(msgspec.Struct, frozen=True):
    """What is asked for.

    Attributes:
        lines: at most so many at once.
        level: the least.
        after, boot: the lines that follow this one; None: the newest.
        follow_s: for how long; 0: once.
    """

    lines: int = 100
    level: LogLevel = "info"
    after: int | None = None
    boot: str | None = None
    follow_s: float = 0.0


async def read(
    controller: Controller, device: str, wanted: Wanted, actor: Actor
) -> AsyncGenerator[Logged, None]:
    """Yields pages of a device's log, the oldest lines first; one, or as they come.

    Raises:
        InputError: ``no-such-device``; ``unknown-operation``, of an agent that is too old.
        RefusedError: ``revoked``; ``logs-not-shared``, by the device's owner.
        UnavailableError: ``busy``, ``device-offline``, ``no-answer``, ``not-supported``,
            ``bad-log``; what the broker refuses.
    """
    await run_in_threadpool(_begin, controller, device, wanted, actor)
    if not wanted.follow_s:
        yield await _page(controller, device, wanted, actor)
        return
    if controller.log_followers >= MAX_FOLLOWERS:
        raise UnavailableError("busy", f"{MAX_FOLLOWERS} logs are followed: try again later")
    controller.log_followers += 1
    try:
        until = time.monotonic() + min(wanted.follow_s, MAX_FOLLOW_S)
        while True:
            page = await _page(controller, device, wanted, actor)
            yield page
            left = until - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(PAUSE_S, left))
            wanted = msgspec.structs.replace(wanted, after=max(page.last, 0), boot=page.boot)
            if page.last < 0:
                wanted = msgspec.structs.replace(wanted, after=None)
    finally:
        controller.log_followers -= 1


def _begin(controller: Controller, device: str, wanted: Wanted, actor: Actor) -> None:
    with controller.store.write() as connection:
        found = devices.contacts(connection, DEVICE.c.id == device)
        if device not in found:
            raise InputError("no-such-device", f"no device is called {device[:64]!r}")
        if found[device] is None:
            raise RefusedError("revoked", f"{device} was revoked: it is not asked")
        audit.note_by(
            connection, actor, ACTION, device, controller.clock(),
            lines=wanted.lines, level=wanted.level, follow_s=wanted.follow_s,
        )  # fmt: skip


def _online(controller: Controller, device: str) -> bool:
    with controller.store.read() as connection:
        return bool(devices.contacts(connection, DEVICE.c.id == device).get(device))


async def _page(controller: Controller, device: str, wanted: Wanted, actor: Actor) -> Logged:
    request = LogsRequest(
        after=wanted.after,
        boot=wanted.boot,
        most=wanted.lines,
        level=wanted.level,
        requester=actor.name[:64],
    )
    for left in reversed(range(_TRIES)):
        online = await run_in_threadpool(_online, controller, device)
        away = frozenset(() if online else (device,))
        asked = controller.asker.ask(
            [device], "logs", request, _ANSWER_S, offline=away.__contains__
        )
        answer = [one async for one in asked if one.done][-1]
        error = answer.error
        if error is None or error.code != "rate-limited" or not left:
            break
        await asyncio.sleep(1.0)  # somebody else reads it too
    return checked(answer, request)


def checked(answer: Answer, request: LogsRequest) -> Logged:
    """The lines of an answer.

    Raises:
        UnavailableError: ``bad-log``; it says something else than was asked.
        ShoalError: what the device says.
    """
    error = answer.error
    if error is not None and error.code not in _SAID:
        raise _bad(answer.device, f"the error {error.code[:64]!r}")
    if error is not None and error.code == "unknown-operation":
        error = msgspec.structs.replace(
            error, message=f"the agent of {answer.device} is too old to give its log: update it"
        )
    if error is not None:
        raise from_info(error)
    found = answer.logged
    if found is None:
        raise _bad(answer.device, "it has no lines")
    numbers = [one.seq for one in found.lines]
    again = request.after is not None and request.boot == found.boot
    if len(numbers) > request.most:
        raise _bad(answer.device, f"{len(numbers)} lines, of {request.most}")
    if numbers != sorted(set(numbers)) or (numbers and numbers[-1] > found.last):
        raise _bad(answer.device, "its lines are not in order")
    if again and numbers and request.after is not None and numbers[0] <= request.after:
        raise _bad(answer.device, "lines that it gave before")
    if len(codec.encode(found)) > 2 * limits.MAX_LOG_BYTES:
        raise _bad(answer.device, f"over {2 * limits.MAX_LOG_BYTES} bytes")
    return found


def _bad(device: str, why: str) -> UnavailableError:
    return UnavailableError("bad-log", f"{device} answered against its protocol: {why}")
