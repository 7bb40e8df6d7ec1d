"""A device's log, read over the fleet: what a device may say, who may ask, and what is noted."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from contracts.answers import Answer, Logged, LogLine
from contracts.errors import ErrorInfo, ShoalError
from contracts.requests import LogsRequest
from fleet import logtail
from fleet.controller import Controller
from fleet.store import audit, devices
from tests.fleet.api.conftest import (
    NOW,
    Signed,
    controller,
    migrated_postgresql,
    migrated_sqlite,
    signed,
    template,
)

__all__ = ["controller", "migrated_postgresql", "migrated_sqlite", "signed", "template"]


def line(seq: int, event: str = "ready") -> LogLine:
    """A line of a log."""
    return LogLine(seq, 1.0, "info", event, "m", {"code": "x"})


def logged(*numbers: int, last: int | None = None, boot: str = "b") -> Answer:
    """An answer with lines of these numbers."""
    end = last if last is not None else (numbers[-1] if numbers else -1)
    return Answer(id="q", device="d1", logged=Logged(boot, [line(n) for n in numbers], end))


ASKED = LogsRequest(after=4, boot="b", most=2)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer(id="q", device="d1"), "no lines"),
        (logged(5, 6, 7), "3 lines, of 2"),
        (logged(6, 5), "not in order"),
        (logged(5, 5), "not in order"),
        (logged(5, last=4), "not in order"),
        (logged(4, 5), "gave before"),
        (Answer(id="q", device="d1", error=ErrorInfo("unauthorized", "no")), "'unauthorized'"),
    ],
)
def test_a_device_that_lies_is_told_so(answer: Answer, why: str) -> None:
    """Its lines are no answer, and it does not speak for the controller."""
    with pytest.raises(ShoalError, match=why) as caught:
        logtail.checked(answer, ASKED)
    assert caught.value.code == "bad-log"


def test_what_a_device_refuses_is_said_on() -> None:
    """Its owner's word, and that its agent is too old."""
    assert logtail.checked(logged(5, 6), ASKED).last == 6
    assert logtail.checked(logged(0, boot="c"), ASKED).boot == "c", "it was started anew"
    for code in ("logs-not-shared", "not-supported", "unknown-operation"):
        answer = Answer(id="q", device="d1", error=ErrorInfo(code, "no operation 'logs'"))
        with pytest.raises(ShoalError) as caught:
            logtail.checked(answer, ASKED)
        assert caught.value.code == code
    assert "too old" in str(caught.value) or code != "unknown-operation"


class Device:
    """A device that is asked: what it is asked, and what it says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, controller: Controller) -> None:
        self.asked: list[LogsRequest] = []
        self.says: list[Answer] = []
        monkeypatch.setattr(controller.asker, "ask", self._ask)
        monkeypatch.setattr(logtail, "PAUSE_S", 0.0)
        monkeypatch.setattr(logtail, "_online", lambda *_: True)

    async def _ask(
        self, names: list[str], op: str, request: LogsRequest, *_: object, **__: object
    ) -> AsyncGenerator[Answer, None]:
        assert (names, op) == (["d1"], "logs")
        self.asked.append(request)
        yield self.says[min(len(self.asked), len(self.says)) - 1]


def lines_of(response: Any) -> list[dict[str, Any]]:
    """The documents of a stream."""
    return [json.loads(one) for one in response.text.splitlines()]


def noted(controller: Controller) -> list[tuple[str, str, str]]:
    """Entries of the audit log, newest first."""
    with controller.store.read() as connection:
        entries, _ = audit.page(connection, None, 100)
    return [(one.action, one.target, one.outcome) for one in entries]


def test_a_log_is_followed_from_its_last_line_and_noted_once(
    controller: Controller, signed: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page goes on where the one before ended; a lie ends it, as an error in the last line."""
    device = Device(monkeypatch, controller)
    device.says = [logged(3, 4), logged(5), logged(last=5), logged(2)]
    before = len(noted(controller))
    response = signed("operator").post(
        "/v1/devices/d1/logs", json={"lines": 2, "level": "warning", "follow_s": 600}
    )
    pages = lines_of(response)
    assert [[one["seq"] for one in page["lines"]] for page in pages[:-1]] == [[3, 4], [5], []]
    assert pages[0]["lines"][0]["facts"] == {"code": "x"}
    assert pages[-1]["error"]["code"] == "bad-log"
    assert [(one.after, one.boot) for one in device.asked] == [
        (None, None), (4, "b"), (5, "b"), (5, "b"),
    ]  # fmt: skip
    assert device.asked[0].level == "warning"
    assert device.asked[0].requester == "the operator"
    assert noted(controller)[: len(noted(controller)) - before] == [
        ("device.logs", "d1", audit.DONE)
    ]
    assert controller.log_followers == 0, "its place is free again"
    monkeypatch.setattr(controller, "log_followers", logtail.MAX_FOLLOWERS)
    answer = signed("admin").post("/v1/devices/d1/logs", json={"follow_s": 1})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")


def test_who_may_not_read_a_log_is_told_why(
    controller: Controller, signed: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A viewer, a device that is not there, that was revoked, or whose owner keeps its log."""
    device = Device(monkeypatch, controller)
    error = ErrorInfo("logs-not-shared", "the owner of this device keeps its log")
    device.says = [Answer(id="q", device="d1", error=error)]
    with controller.store.write() as connection:
        devices.revoke(connection, "d2", NOW)
    for role, path, status, code in (
        ("viewer", "d1", 403, "forbidden"), ("operator", "nobody", 404, "no-such-device"),
        ("operator", "d2", 409, "revoked"), ("operator", "d1", 409, "logs-not-shared"),
    ):  # fmt: skip
        answer = signed(role).post(f"/v1/devices/{path}/logs", json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    wrong = signed("operator").post("/v1/devices/d1/logs", json={"follow_s": 1e6})
    assert wrong.status_code == 422
