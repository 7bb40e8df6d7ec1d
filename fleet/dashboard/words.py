"""What a person says first: the engine's codes, phases and states in plain words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from contracts.errors import ErrorInfo
from contracts.messages import Acceleration

_TEST: Final = "its answers did not match the model's own test"

_CODES: Final[Mapping[str, str]] = {
    "golden-mismatch": _TEST,
    "selftest-failed": _TEST,
    "selftest-crashed": "the model crashed in its own test",
    "selftest-timeout": "the model's own test took too long",
    "accelerator-absent": "the runtime offers no such accelerator on this board",
    "accelerator-failed": "the accelerator does not run the model",
    "accelerator-crashed": "the accelerator crashed in its test",
    "accelerator-timeout": "the accelerator gave no answer in its test",
    "accelerator-wrong": "the accelerator does not give the model's own answers",
    "accelerator-slow": "the accelerator is not faster than the processor",
    "accelerator-died": "the agent ended while the accelerator served",
    "accelerator-unsupported": "text is generated on the processor",
    "selftest-memory": "the model needs more memory than the board gives to models",
    "selftest-interrupted": "the model's own test was interrupted",
    "no-memory": "there was no memory left",
    "no-space": "there is no room for it beside the models that are kept",
    "disk-full": "its disk is full",
    "disk-error": "its disk refused to read or write",
    "does-not-fit": "the model does not fit this board",
    "no-runtime": "nothing there can run this model",
    "load-crashed": "the model ended the agent, several times",
    "model-failed": "the model failed while running",
    "bundle-corrupt": "a file of the model was damaged on its disk",
    "not-published": "the model is not in the signed list",
    "wrong-signature": "not enough signatures were valid",
    "wrong-manifest": "what it downloaded is not what was signed",
    "wrong-file": "what it downloaded is not what was signed",
    "wrong-size": "what it downloaded is not what was signed",
    "wrong-hash": "what it downloaded is not what was signed",
    "repository-unreachable": "it cannot reach the repository",
    "trial-errors": "too many answers were errors in its trial",
    "trial-latency": "answers were too slow in its trial",
    "trial-memory": "it used too much memory in its trial",
    "trial-restarts": "the agent restarted too often in its trial",
    "trial-hang": "the model hung in its trial",
    "trial-deadline": "its trial did not end in time",
    "trial-offline": "the new program did not reach the broker",
    "trial-models": "a model did not serve with the new program",
    "release-install": "the new program could not be installed",
    "release-selftest": "the new program did not pass its own test",
    "deadline": "it did not get on in time",
    "lost": "it went away in the middle of the update",
    "clock-wrong": "its clock is wrong",
    "time-unknown": "it does not know the time",
    "window-closed": "it waits for its maintenance window",
    "slow-link": "its link is slow",
    "offline": "it has no connection",
    "no-base": "the model that this adapter belongs to does not serve there",
    "wrong-base": "the adapter belongs to another version of its model",
    "superseded": "something newer is wanted",
    "refused": "it gave no reason",
    "rolled-back": "it gave no reason",
    "gate-failed": "a gate did not hold",
    "no-evidence": "a gate had nothing to judge in time",
    "paused": "somebody paused it",
    "aborted": "somebody stopped it",
}

_STATES: Final[Mapping[str, str]] = {
    "awaiting-approval": "waits for approval",
    "rolling-back": "going back",
    "undo-failed": "could not go back",
    "undone": "went back",
    "undoing": "going back",
    "deferred": "away, gets it later",
    "assigned": "told, not begun",
    "rolled-back": "went back by itself",
    "self-tested": "tested",
}


def cause(reason: ErrorInfo | Mapping[str, Any] | None) -> str:
    """Why something went wrong, as a person would say it; of a code without words, its message."""
    if reason is None:
        return "no reason was given"
    given = reason if isinstance(reason, Mapping) else {
        "code": reason.code, "message": reason.message, "detail": reason.detail,
    }  # fmt: skip
    code, detail = str(given.get("code", "")), given.get("detail")
    words = _CODES.get(code)
    if words is None:
        return str(given.get("message") or "no reason was given")
    if words is _TEST and isinstance(detail, Mapping):
        passed, vectors = detail.get("passed"), detail.get("vectors")
        if isinstance(passed, int) and isinstance(vectors, int) and 0 <= passed <= vectors:
            return f"{words}, {vectors - passed} of {vectors}"
    return words


def engine(reason: ErrorInfo | Mapping[str, Any] | None) -> str:
    """The engine's own words, which come after: its code, and its message where it was not said."""
    if reason is None:
        return ""
    code, message = (
        (str(reason.get("code", "")), str(reason.get("message", "")))
        if isinstance(reason, Mapping)
        else (reason.code, reason.message)
    )
    return f"{code}: {message}" if code in _CODES else code


def both(reason: ErrorInfo) -> str:
    """A person's words, and the engine's after them."""
    return f"{cause(reason)} ({engine(reason)})"


def accelerator(found: Acceleration | None) -> str:
    """What came of an accelerator; empty: none was asked for."""
    if found is None:
        return ""
    if found.used or found.reason is None:
        return found.words()
    return f"not used, the processor serves: {found.name}: {both(found.reason)}"


def state(value: str) -> str:
    """A phase or state as a person would say it."""
    return _STATES.get(value, value)
