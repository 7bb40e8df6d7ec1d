"""Which device answers a completion: of those that the model's name means, the least busy."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import sqlalchemy as sa
from fastapi.concurrency import run_in_threadpool

from contracts.answers import Answer
from contracts.errors import InputError, UnavailableError, from_info
from contracts.requests import GenerateRequest
from fleet.controller import Controller
from fleet.rollout import selector
from fleet.store import devices, selection
from fleet.store.schema import DEVICE

SLOT: Final = "generate"
TIMEOUT_S: Final = 120.0
"""Seconds that one completion may take."""

_RETRY: Final = frozenset(
    {
        *("busy", "device-offline", "no-answer", "no-model", "shutting-down"),
        *("no-adapter", "no-base", "wrong-base"),
    }
)
_ADAPTER: Final = re.compile(r"(.+):([^:=!,()\s]+)")
_TRIES: Final = 3


class _Load:
    """Completions under way by device, so that a group shares the work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()
        self._turn = 0

    def order(self, names: list[str]) -> list[str]:
        """The least busy first; equals take turns."""
        with self._lock:
            self._turn += 1
            turn = self._turn % len(names)
            return sorted(names[turn:] + names[:turn], key=lambda name: self._running[name])

    def change(self, name: str, by: int) -> None:
        """One more, or one fewer."""
        with self._lock:
            self._running[name] += by
            if not self._running[name]:
                del self._running[name]


_LOAD = _Load()


def able_to(task: str) -> tuple[sa.ColumnElement[bool], ...]:
    """Conditions of devices with a task.

    That they were given: a device that merely says it has one is not sent anybody's text.
    """
    given, own = (selection.has(key, task) for key in ("task", f"{selector.OWN}task"))
    return DEVICE.c.revoked_at.is_(None), given, own


def split(model: str) -> tuple[str, str | None]:
    """The selector and the adapter that a model's name asks for."""
    found = _ADAPTER.fullmatch(model)
    if found is None or re.search(rf"\b{selector.OWN.rstrip(':')}$", found[1]):
        return model, None  # the colon belongs to the selector
    return found[1], found[2]


def candidates(controller: Controller, model: str, task: str, what: str) -> list[str]:
    """Devices that may answer: online, with the task.

    Raises:
        InputError: ``no-such-model``; the selector means no device with `what`.
        UnavailableError: ``device-offline``; none of them is online.
    """
    wanted = selector.parse(model)
    with controller.store.read() as connection:
        able = devices.contacts(connection, selection.means(wanted), *able_to(task))
        hint = "" if able else selection.hint(connection, wanted)
    if not able:
        raise InputError("no-such-model", f"{model[:100]!r} means no device with {what}{hint}")
    online = [device for device, up in able.items() if up]
    if not online:
        raise UnavailableError("device-offline", f"no device of {model[:100]!r} is online")
    return online


async def answers_of(
    controller: Controller, model: str, request: GenerateRequest
) -> AsyncGenerator[Answer, None]:
    """Answers of one device; another is asked when it fails before its first token.

    Raises:
        ShoalError: what the last device said.
    """
    names = _LOAD.order(
        await run_in_threadpool(candidates, controller, split(model)[0], SLOT, "a generator")
    )
    for index, name in enumerate(names[:_TRIES]):
        last = index + 1 == min(len(names), _TRIES)
        started = False
        _LOAD.change(name, +1)
        try:
            asked = controller.asker.ask([name], "generate", request, TIMEOUT_S)
            async with aclosing(asked):
                async for answer in asked:
                    if answer.error is not None:
                        if not started and not last and answer.error.code in _RETRY:
                            break
                        raise from_info(answer.error)
                    started = True
                    yield answer
        finally:
            _LOAD.change(name, -1)
        if started:
            return
