"""``openai:MODEL``: soft labels from an OpenAI-compatible chat endpoint.

Texts go in batches; the answer is JSON. Answers are kept on disk as they come, so that a run that
fails half way asks only for the rest. The cost is estimated before the first request.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
from numpy.typing import NDArray

from contracts.errors import InputError, RefusedError, UnavailableError
from model_builder.recipes.teachers import EndpointConfig
from model_builder.teachers.base import Progress

_CHARACTERS_PER_TOKEN: Final = 4
_TOKENS_PER_ANSWER: Final = 12
_RETRIED: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
_MAX_PAUSE_S: Final = 30.0

_SYSTEM: Final = (
    "You label texts. Answer with one JSON object and nothing else: keys are the texts' numbers, "
    'each value is the label, or an object of labels with probabilities, for example {"1": '
    '{"a": 0.9, "b": 0.1}}. Use these labels only: '
)


class EndpointTeacher:
    """Labels texts by asking a model.

    Args:
        model: its name at the endpoint.
        config: where and how.
        labels: all of them.
        cache: folder for the answers.
        progress: is told of the texts done.
        pause: sleeps some seconds; tests pass their own.

    Raises:
        InputError: ``bad-teacher``; no URL, or no key in the environment.
    """

    open_ended = True
    size_bytes = 0

    def __init__(
        self,
        model: str,
        config: EndpointConfig,
        labels: Sequence[str],
        cache: Path,
        progress: Progress,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        if not model or not config.base_url.startswith(("http://", "https://")):
            raise InputError(
                "bad-teacher",
                "openai: needs a model name and teacher.endpoint.base_url (http:// or https://)",
            )
        self.name = f"openai:{model}"
        self._model = model
        self._config = config
        self._labels = list(labels)
        self._index = {label: i for i, label in enumerate(labels)}
        self._progress = progress
        self._pause = pause
        self._system = _SYSTEM + json.dumps(self._labels, ensure_ascii=False)
        identity = json.dumps([model, config.base_url, self._system])
        self.digest = hashlib.sha256(identity.encode()).hexdigest()
        self._file = cache / f"endpoint-{self.digest[:24]}.jsonl"
        self._lock = threading.Lock()
        self._known = self._read()

    def estimate(self, texts: Sequence[str]) -> dict[str, float]:
        """Requests, tokens and cost of labelling what is not known yet."""
        missing = self._missing(texts)
        requests = -(-len(missing) // self._config.batch)
        written = sum(len(text) for text in missing) + requests * len(self._system)
        tokens_in = written / _CHARACTERS_PER_TOKEN
        tokens_out = len(missing) * float(_TOKENS_PER_ANSWER)
        price_in, price_out = self._config.price_per_million
        cost = (tokens_in * price_in + tokens_out * price_out) / 1e6
        return {
            "requests": float(requests),
            "input_tokens": round(tokens_in),
            "output_tokens": round(tokens_out),
            "cost": round(cost, 4),
        }

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See :class:`model_builder.teachers.base.Teacher`.

        Raises:
            RefusedError: ``over-budget``, ``endpoint-refused``, ``bad-answer``.
            UnavailableError: ``endpoint-failed``; what was answered so far is kept.
        """
        missing = self._missing(texts)
        if missing:
            estimate = self.estimate(texts)
            if self._config.max_cost and estimate["cost"] > self._config.max_cost:
                raise RefusedError(
                    "over-budget",
                    f"labelling {len(missing)} texts would cost about {estimate['cost']}; "
                    f"teacher.endpoint.max_cost is {self._config.max_cost}",
                    **estimate,
                )
            self._ask_all(missing)
        return np.log(np.stack([self._known[_key(text)] for text in texts]))

    def embeddings(self, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """None: a chat endpoint gives none."""
        return None

    def neighbours(self, texts: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """None known."""
        return {}

    def _missing(self, texts: Sequence[str]) -> list[str]:
        return list(dict.fromkeys(t for t in texts if _key(t) not in self._known))

    def _read(self) -> dict[str, NDArray[np.float32]]:
        """Answers of earlier runs; a line that a crash cut short is skipped."""
        known: dict[str, NDArray[np.float32]] = {}
        if not self._file.is_file():
            return known
        for line in self._file.read_bytes().splitlines():
            try:
                record = json.loads(line)
                row = np.asarray(record["p"], np.float32)
                if row.shape == (len(self._labels),) and np.isfinite(row).all():
                    known[str(record["key"])] = row
            except (ValueError, KeyError, TypeError):
                continue
        return known

    def _ask_all(self, texts: list[str]) -> None:
        key = os.environ.get(self._config.api_key_env, "")
        if not key:
            raise InputError(
                "bad-teacher",
                f"the environment variable {self._config.api_key_env} with the endpoint's key "
                "is not set",
            )
        size = self._config.batch
        batches = [texts[i : i + size] for i in range(0, len(texts), size)]
        self._file.parent.mkdir(parents=True, exist_ok=True)
        done = 0
        with (
            httpx.Client(
                base_url=self._config.base_url.rstrip("/") + "/",
                headers={"Authorization": f"Bearer {key}"},
                timeout=self._config.timeout_s,
                follow_redirects=False,
            ) as client,
            self._file.open("ab") as sink,
            ThreadPoolExecutor(self._config.concurrency) as pool,
        ):
            tasks = [pool.submit(self._ask, client, batch, sink) for batch in batches]
            try:
                for task, batch in zip(tasks, batches, strict=True):
                    task.result()
                    done += len(batch)
                    self._progress("endpoint labels", done, len(texts))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _ask(self, client: httpx.Client, texts: list[str], sink: Any) -> None:
        """One batch: ask, check, keep. An answer that is not usable is asked for again."""
        problem = ""
        for attempt in range(self._config.retries + 1):
            if attempt:
                self._pause(min(_MAX_PAUSE_S, 0.5 * 2**attempt))
            try:
                rows = self._rows(self._request(client, texts), len(texts))
            except _AskAgainError as again:
                problem = str(again)
                continue
            with self._lock:
                for text, row in zip(texts, rows, strict=True):
                    self._known[_key(text)] = row
                    record = {"key": _key(text), "p": [round(float(v), 6) for v in row]}
                    sink.write(json.dumps(record).encode() + b"\n")
                sink.flush()
                os.fsync(sink.fileno())
            return
        raise UnavailableError(
            "endpoint-failed",
            f"{self.name}: gave up after {self._config.retries + 1} tries: {problem}; the answers "
            "so far are kept, run the build again to go on",
        )

    def _request(self, client: httpx.Client, texts: list[str]) -> str:
        numbered = {str(number): text for number, text in enumerate(texts, 1)}
        body = {
            "model": self._model,
            "temperature": 0,
            "response_format": {"type": "json_object"},
            "messages": [
                {"role": "system", "content": self._system},
                {"role": "user", "content": json.dumps(numbered, ensure_ascii=False)},
            ],
        }
        try:
            response = client.post("chat/completions", json=body)
        except httpx.HTTPError as error:
            raise _AskAgainError(f"{type(error).__name__}: {error}") from None
        if response.status_code in _RETRIED:
            raise _AskAgainError(f"HTTP {response.status_code}")
        if response.status_code != 200:
            raise RefusedError(
                "endpoint-refused",
                f"{self.name}: HTTP {response.status_code}: {response.text[:200]}",
            )
        if len(response.content) > _MAX_ANSWER_BYTES:
            raise _AskAgainError("the answer is too large")
        try:
            content = response.json()["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            raise _AskAgainError("the answer is not a chat completion") from None
        if not isinstance(content, str):
            raise _AskAgainError("the answer has no text")
        return content

    def _rows(self, content: str, count: int) -> list[NDArray[np.float32]]:
        """Probabilities of each text of a batch, from the model's JSON."""
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            raise _AskAgainError("the model did not answer in JSON") from None
        if not isinstance(answer, dict):
            raise _AskAgainError("the model did not answer with a JSON object")
        return [self._row(answer.get(str(number))) for number in range(1, count + 1)]

    def _row(self, value: Any) -> NDArray[np.float32]:
        classes = len(self._labels)
        if isinstance(value, str):
            value = {value: self._config.confidence}
        if not isinstance(value, dict) or not value:
            raise _AskAgainError("the model left a text out")
        strange = [label for label in value if label not in self._index]
        if strange:
            raise _AskAgainError(f"the model used a label that there is not: {strange[0][:60]!r}")
        row = np.zeros(classes, np.float32)
        for label, share in value.items():
            if not isinstance(share, (int, float)) or not 0 <= share <= 1:
                raise _AskAgainError("the model gave a probability outside 0 to 1")
            row[self._index[label]] = share
        rest = max(0.0, 1.0 - float(row.sum()))
        row += max(rest, 1e-3) / classes
        return np.asarray(row / row.sum(), np.float32)


class _AskAgainError(Exception):
    """A request that is worth another try, and why."""


def _key(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]
