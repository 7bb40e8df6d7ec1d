"""The client of OpenAI-compatible chat endpoints: for labels, for written text, for answers.

It asks again where that may help, waits as long as it is told to, keeps within a budget, and says
in one sentence what is wrong. The key is sent to the endpoint and written nowhere.
"""

from __future__ import annotations

import email.utils
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import msgspec

from contracts.errors import InputError, RefusedError, UnavailableError
from model_builder.recipes.teachers import EndpointConfig
from model_builder.teachers.kept import Kept

T = TypeVar("T")

_CHARACTERS_PER_TOKEN: Final = 4
_RETRIED: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
_MAX_PAUSE_S: Final = 30.0
_MAX_ASKED_PAUSE_S: Final = 120.0
"""Longest pause that is kept because the endpoint asks for it."""

_OPTIONAL: Final = ("response_format", "temperature", "max_tokens")
"""What is asked for only where the endpoint knows it."""


_THOUGHTS: Final = re.compile(r"^\s*<think>.*?</think>\s*", re.DOTALL)
"""What some models think aloud before they answer."""


class AskAgainError(Exception):
    """A request that is worth another try, and why.

    Args:
        why: for a person.
        after: seconds that the endpoint asks to wait; None: it says nothing.
    """

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


class BudgetSpentError(Exception):
    """The next request would be one too many; its text says of what."""


class Answer(msgspec.Struct, frozen=True):
    """What a model said.

    Attributes:
        text: of the answer.
        cut: whether it ends because it had no more tokens.
        read, wrote: tokens, as the endpoint counts them or else by the length of the text.
    """

    text: str
    cut: bool = False
    read: int = 0
    wrote: int = 0


class Spent(msgspec.Struct):
    """Answers that were had, tokens read and written for them, and what that costs."""

    requests: int = 0
    read: int = 0
    wrote: int = 0
    cost: float = 0.0


class Meter:
    """What an endpoint was asked over all runs with one file, and how much more it may be.

    Args:
        file: one line for each answer.
        prices: of a million tokens read and written; 0: unknown.
        requests, tokens, cost: at most; 0: no bound.
    """

    def __init__(
        self,
        file: Path,
        prices: tuple[float, float] = (0.0, 0.0),
        requests: int = 0,
        tokens: int = 0,
        cost: float = 0.0,
    ) -> None:
        self._kept = Kept(file)
        self._prices = prices
        self._bounds = (requests, tokens, cost)
        self._lock = threading.Lock()
        self._open = 0
        self.spent = Spent()
        for record in self._kept.records():
            read, wrote = record.get("read"), record.get("wrote")
            if isinstance(read, int) and isinstance(wrote, int):
                self._count(read, wrote)

    def begin(self) -> None:
        """Before a request.

        Raises:
            BudgetSpentError: there may be no other.
        """
        requests, tokens, cost = self._bounds
        with self._lock:
            spent = self.spent
            if requests and spent.requests + self._open >= requests:
                raise BudgetSpentError(f"{requests} requests")
            if tokens and spent.read + spent.wrote >= tokens:
                raise BudgetSpentError(f"{tokens} tokens")
            if cost and spent.cost >= cost:
                raise BudgetSpentError(f"a cost of {cost}")
            self._open += 1

    def end(self, answer: Answer | None) -> None:
        """After it; None: there was no answer, and nothing to pay."""
        with self._lock:
            self._open -= 1
            if answer is None:
                return
            self._count(answer.read, answer.wrote)
        self._kept.add({"read": answer.read, "wrote": answer.wrote})

    def _count(self, read: int, wrote: int) -> None:
        self.spent.requests += 1
        self.spent.read += read
        self.spent.wrote += wrote
        self.spent.cost += (read * self._prices[0] + wrote * self._prices[1]) / 1e6


class ChatEndpoint:
    """A model at an endpoint. Inside :meth:`opened` threads may ask at once.

    Args:
        model: its name there.
        config: where and how.
        where: the section of the recipe, for messages.
        meter: counts and bounds what is asked; None: no bound.
        pause: sleeps some seconds; tests pass their own.

    Raises:
        InputError: ``bad-teacher``; no URL.
    """

    def __init__(
        self,
        model: str,
        config: EndpointConfig,
        where: str = "teacher.endpoint",
        meter: Meter | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        if not model or not config.base_url.startswith(("http://", "https://")):
            raise InputError(
                "bad-teacher",
                f"openai: needs a model name and {where}.base_url (http:// or https://)",
            )
        self.name = f"openai:{model}"
        self.model = model
        self.config = config
        self._where = where
        self._meter = meter
        self._pause = pause
        self._stopped = threading.Event()
        self._key = ""
        self._client: httpx.Client | None = None
        self._answered = False
        self._unknown: set[str] = set()

    @contextmanager
    def opened(self) -> Iterator[ChatEndpoint]:
        """Connects.

        Raises:
            InputError: ``bad-teacher``; the key's variable is not set. An empty name of the
                variable means that the endpoint wants no key.
        """
        name = self.config.api_key_env
        self._key = os.environ.get(name, "") if name else ""
        if name and not self._key:
            raise InputError(
                "bad-teacher",
                f"the environment variable {name} with the endpoint's key is not set; "
                f'for an endpoint without a key: {self._where}.api_key_env: ""',
            )
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        with httpx.Client(
            base_url=self.config.base_url.rstrip("/") + "/",
            headers=headers,
            timeout=self.config.timeout_s,
            follow_redirects=False,
        ) as client:
            self._client = client
            self._stopped.clear()
            try:
                yield self
            finally:
                self._client = None

    def stop(self) -> None:
        """Nothing is tried again: what is asked for is of no use any more."""
        self._stopped.set()

    def ask(
        self,
        system: str,
        user: str,
        use: Callable[[Answer], T],
        *,
        temperature: float = 0.0,
        max_tokens: int = 0,
        as_json: bool = True,
    ) -> T:
        """One question, asked until the answer is of use.

        Args:
            system: what the model is told it is to do.
            user: the question.
            use: makes of the answer what is wanted, or raises :class:`AskAgainError`.
            temperature: of the sampling.
            max_tokens: of the answer; 0: as the endpoint has it.
            as_json: whether the answer is to be a JSON object.

        Raises:
            RefusedError: ``endpoint-refused``.
            UnavailableError: ``endpoint-failed``.
            BudgetSpentError: from the meter.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "temperature": temperature,
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": user},
            ],
        }
        if as_json:
            body["response_format"] = {"type": "json_object"}
        if max_tokens:
            body["max_tokens"] = max_tokens
        problem = ""
        for attempt in range(self.config.retries + 1):
            try:
                return use(self._metered(body))
            except AskAgainError as again:
                problem = str(again)
                wait = min(_MAX_PAUSE_S, 0.5 * 2 ** (attempt + 1))
                if again.after is not None:
                    wait = min(_MAX_ASKED_PAUSE_S, max(wait, again.after))
            if self._stopped.is_set():
                break
            if attempt < self.config.retries:
                self._pause(wait)
        raise UnavailableError(
            "endpoint-failed",
            f"{self.name}: gave up after {self.config.retries + 1} tries: {problem}; the answers "
            "so far are kept, run the build again to go on",
        )

    def _metered(self, body: dict[str, Any]) -> Answer:
        if self._meter is None:
            return self._once(body)
        self._meter.begin()
        answer = None
        try:
            answer = self._once(body)
        finally:
            self._meter.end(answer)
        return answer

    def _once(self, body: dict[str, Any]) -> Answer:
        """One request; without what the endpoint says that it does not know."""
        while True:
            sent = {key: value for key, value in body.items() if key not in self._unknown}
            response = self._post(sent)
            unknown = response.status_code in (400, 422) and self._named(response.text, sent)
            if not unknown:
                break
            self._unknown.add(unknown)
        if response.status_code in _RETRIED:
            raise AskAgainError(f"HTTP {response.status_code}", _retry_after(response))
        if response.status_code != 200:
            raise RefusedError(
                "endpoint-refused",
                f"{self.name}: HTTP {response.status_code}: {self._said(response.text)}",
            )
        answer = _answer(response, body)
        self._answered = True
        return answer

    def _post(self, body: dict[str, Any]) -> httpx.Response:
        assert self._client is not None
        try:
            return self._client.post("chat/completions", json=body)
        except httpx.ConnectError as error:
            if self._answered:
                raise AskAgainError(f"{type(error).__name__}: {error}") from None
            raise UnavailableError(
                "endpoint-failed",
                f"{self.name}: cannot connect to {self.config.base_url}: {error}; check "
                f"{self._where}.base_url, and that the endpoint runs",
            ) from None
        except httpx.InvalidURL as error:
            raise InputError("bad-teacher", f"{self._where}.base_url: {error}") from None
        except httpx.HTTPError as error:
            raise AskAgainError(f"{type(error).__name__}: {error}") from None

    def _named(self, text: str, sent: dict[str, Any]) -> str:
        """The optional setting that a refusal is about; empty: none."""
        return next((name for name in _OPTIONAL if name in sent and name in text), "")

    def _said(self, text: str) -> str:
        """What an endpoint said, without the key that it may repeat."""
        return (text.replace(self._key, "[key]") if self._key else text)[:200]


def estimated_tokens(text: str) -> int:
    """Of a text, about."""
    return len(text) // _CHARACTERS_PER_TOKEN + 1


def _answer(response: httpx.Response, body: dict[str, Any]) -> Answer:
    if len(response.content) > _MAX_ANSWER_BYTES:
        raise AskAgainError("the answer is too large")
    try:
        document = response.json()
        choice = document["choices"][0]
        content = choice["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise AskAgainError("the answer is not a chat completion") from None
    if not isinstance(content, str):
        raise AskAgainError("the answer has no text")
    content = _THOUGHTS.sub("", content)
    usage = document.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    read, wrote = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not (isinstance(read, int) and read > 0):
        read = sum(estimated_tokens(message["content"]) for message in body["messages"])
    if not (isinstance(wrote, int) and wrote >= 0):
        wrote = estimated_tokens(content)
    return Answer(content, choice.get("finish_reason") == "length", read, wrote)


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds of the header ``Retry-After``: a number, or a date (RFC 9110, section 10.2.3)."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
