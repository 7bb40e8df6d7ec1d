"""Errors over HTTP: the one shape ``{"error": {"code", "message", "detail"}}`` for all of them."""

from __future__ import annotations

from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from contracts import codec, wording
from contracts.errors import ErrorBody, ErrorInfo, InputError, RefusedError, ShoalError

_LOG: Final = structlog.get_logger("api")

_STATUS: Final = {
    "changed-meanwhile": 412,
    "idempotency-mismatch": 422,
    "idempotency-running": 409,
    "unauthorized": 401,
    "forbidden": 403,
    "rate-limited": 429,
    "too-large": 413,
    # Off the wire an error has a code but no class: what a device says of a request.
    **dict.fromkeys(
        (
            "bad-constraint",
            "bad-message",
            "bad-messages",
            "bad-text",
            "empty-prompt",
            "prompt-too-long",
            "unknown-label",
            "unknown-operation",
            "wrong-task",
        ),
        400,
    ),
    "no-such-answer": 404,
    **dict.fromkeys(
        (
            "already-judged",
            "answer-too-old",
            "budget-ended",
            "constraint-failed",
            "logs-not-shared",
            "model-failed",
            "not-supported",
        ),
        409,
    ),
}
_ELSEWHERE: Final = (
    *("/api/", "/chat/", "/completion", "/embed", "/models", "/responses", "/v1/api/", "/v1/v1/"),
    *("/v1/audio/", "/v1/images/", "/v1/moderations", "/v1/messages"),
)
"""Where other servers of language models answer, or clients that were given half an address."""

_HERE: Final = (
    "clients of OpenAI's form are answered here (chat/completions, completions, responses, "
    "embeddings, models), with a base URL that ends in /v1"
)

_TITLES: Final = {
    400: "bad-request",
    404: "not-found",
    405: "method-not-allowed",
    406: "not-acceptable",
    413: "too-large",
    415: "unsupported-media-type",
    416: "bad-range",
}


class ApiError(ShoalError):
    """An error that is HTTP's alone: no or wrong token, too many requests."""

    def __init__(self, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(code, message)
        self.headers = headers


def status_of(error: ShoalError) -> int:
    """The HTTP status of an error."""
    if error.code in _STATUS:
        return _STATUS[error.code]
    if isinstance(error, InputError):
        return 404 if error.code.startswith("no-such-") else 400
    return 409 if isinstance(error, RefusedError) else 503


def body(status: int, code: str, message: str, detail: Any = None, headers: Any = None) -> Response:
    """An error response."""
    info = ErrorInfo(code, message, detail or {})
    return Response(
        codec.encode(ErrorBody(info)), status, dict(headers or {}), media_type="application/json"
    )


def _what(item: dict[str, Any]) -> str:
    if item["type"] == "extra_forbidden":
        return "this field is not supported"
    return wording.pattern(str(item["msg"])).removeprefix("Value error, ")


def _is_openai(request: Request) -> bool:
    return "openai" in getattr(request.scope.get("route"), "tags", [])


def install(app: FastAPI) -> None:
    """Makes every error of `app` have the one shape."""

    @app.exception_handler(ShoalError)
    async def _shoal(request: Request, error: ShoalError) -> Response:
        headers = error.headers if isinstance(error, ApiError) else None
        info, status = error.info, status_of(error)
        # OpenAI's clients send a 409 again, twice, as if somebody had been faster.
        if status == 409 and _is_openai(request):
            headers = {"x-should-retry": "false"}
        return body(status, info.code, info.message, info.detail, headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        places = [
            {
                "where": ".".join(str(part) for part in item["loc"]),
                "what": _what(item),
            }
            for item in error.errors()[:20]
        ]
        first = places[0] if places else {"where": "request", "what": "not valid"}
        message = f"{first['where']}: {first['what']}"[:2000]
        # OpenAI's clients know 400 as their own mistake, and one more wrong field as that too.
        status = 400 if _is_openai(request) else 422
        return body(status, "bad-request", message, {"errors": places})

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        code = _TITLES.get(error.status_code, "http-error")
        told = str(error.detail)
        if error.status_code == 404 and request.url.path.startswith(_ELSEWHERE):
            told = f"there is no {request.url.path[:100]}: {_HERE}"
        return body(error.status_code, code, told, headers=error.headers)

    @app.exception_handler(Exception)
    async def _defect(request: Request, error: Exception) -> Response:
        _LOG.error("defect in the API", path=request.url.path, exc_info=error)
        return body(500, "defect", "the controller has a defect here; its log has the trace")


__all__ = ["ApiError", "body", "install", "status_of"]
