"""Asks devices for hard examples, stores what comes, and tells them what is stored."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import msgspec

from contracts.answers import Answer, FieldSample
from contracts.errors import ErrorInfo, ShoalError
from contracts.requests import SamplesRequest
from fleet.rollout import selector
from fleet.store import audit, devices, samples, selection
from fleet.store.entries import Actor
from fleet.store.samples import Ask

if TYPE_CHECKING:
    from fleet.controller import Controller

TIMEOUT_S: Final = 30.0
"""Seconds for one answer of a device, which reads, chooses and redacts."""

AT_ONCE: Final = 16
"""Devices that are asked at once."""

_MAX_ROUNDS: Final = 64


class Gave(msgspec.Struct, frozen=True):
    """What one device gave.

    Attributes:
        new: samples that were not there before.
        sent: samples that it sent.
        error: why it sent none, or no more.
    """

    device: str
    new: int = 0
    sent: int = 0
    error: ErrorInfo | None = None


async def collect(controller: Controller, ask: Ask, actor: Actor) -> list[Gave]:
    """Asks all devices that a request means; each answers as far as its owner consents."""
    online = await asyncio.to_thread(_means, controller, ask)
    free = asyncio.Semaphore(AT_ONCE)

    async def one(device: str) -> Gave:
        if not online[device]:
            return Gave(device, error=ErrorInfo("device-offline", f"{device} is offline"))
        async with free:
            return await _of_device(controller, ask, device)

    found = list(await asyncio.gather(*(one(device) for device in sorted(online))))
    if any(gave.new for gave in found):
        await asyncio.to_thread(_note, controller, ask, actor, found)
    return found


def _means(controller: Controller, ask: Ask) -> dict[str, bool]:
    with controller.store.read() as connection:
        known = devices.contacts(connection, selection.means(selector.parse(ask.selector)))
    return {device: up for device, up in known.items() if up is not None}


def _note(controller: Controller, ask: Ask, actor: Actor, found: list[Gave]) -> None:
    with controller.store.write() as connection:
        audit.note_by(
            connection,
            actor,
            "samples.collect",
            ask.model,
            controller.clock(),
            ask=ask.name,
            samples={gave.device: gave.new for gave in found if gave.new},
        )


async def _of_device(controller: Controller, ask: Ask, device: str) -> Gave:
    new = sent = 0
    kept: list[str] = []
    for _ in range(_MAX_ROUNDS):
        request = SamplesRequest(
            ask=ask.name, model=ask.model, most=ask.most, kept=kept, why=ask.why, requester=ask.by
        )
        try:
            answer = await _answer(controller, device, request)
            if answer.shared is None:
                error = answer.error or ErrorInfo("no-answer", f"{device} said something else")
                return Gave(device, new, sent, error)
            given = answer.shared.samples
            if not given:
                break
            new += await asyncio.to_thread(_store, controller, ask, device, given)
        except ShoalError as error:
            return Gave(device, new, sent, error.info)
        sent += len(given)
        kept = [one.id for one in given]
    return Gave(device, new, sent)


async def _answer(controller: Controller, device: str, request: SamplesRequest) -> Answer:
    answers = controller.asker.ask([device], "samples", request, TIMEOUT_S)
    async with aclosing(answers):
        async for answer in answers:
            return answer
    raise AssertionError("a query ends with an answer of each device")


def _store(controller: Controller, ask: Ask, device: str, given: list[FieldSample]) -> int:
    with controller.store.write() as connection:
        return samples.add(
            controller.store,
            connection,
            ask,
            device,
            given,
            controller.clock(),
        )


def open_asks(controller: Controller) -> list[Ask]:
    """Requests that go on: owners may have approved them, or devices come online."""
    with controller.store.read() as connection:
        return samples.asks(connection, controller.clock() - samples.ASK_S)
