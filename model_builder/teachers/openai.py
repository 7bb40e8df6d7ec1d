"""``openai:MODEL``: soft labels from an OpenAI-compatible chat endpoint.

Texts go in batches; the answer is JSON. Answers are kept on disk as they come, so that a run that
fails half way asks only for the rest. The cost is estimated before the first request.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contracts.errors import RefusedError
from model_builder.recipes.teachers import EndpointConfig
from model_builder.teachers.base import Progress
from model_builder.teachers.endpoint import AskAgainError, ChatEndpoint, Meter, estimated_tokens
from model_builder.teachers.kept import Kept

_TOKENS_PER_ANSWER: Final = 12

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
        meanings: of labels, which the model is told too.
        where: the section of `config` in the recipe, for messages.
        meter: counts and bounds the requests.

    Raises:
        InputError: ``bad-teacher``; no URL.
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
        meanings: Mapping[str, str] | None = None,
        where: str = "teacher.endpoint",
        meter: Meter | None = None,
    ) -> None:
        self._endpoint = ChatEndpoint(model, config, where, meter, pause)
        self.name = self._endpoint.name
        self._config = config
        self._labels = list(labels)
        self._index = {label: i for i, label in enumerate(labels)}
        self._progress = progress
        self._system = _SYSTEM + json.dumps(self._labels, ensure_ascii=False)
        if meanings:
            told = json.dumps(dict(meanings), ensure_ascii=False)
            self._system += f" What they mean: {told}"
        identity = json.dumps([model, config.base_url, self._system])
        self.digest = hashlib.sha256(identity.encode()).hexdigest()
        self._kept = Kept(cache / f"endpoint-{self.digest[:24]}.jsonl")
        self._lock = threading.Lock()
        self._known = self._read()

    def estimate(self, texts: Sequence[str]) -> dict[str, float]:
        """Requests, tokens and cost of labelling what is not known yet."""
        missing = self._missing(texts)
        requests = -(-len(missing) // self._config.batch)
        written = sum(len(text) for text in missing)
        tokens_in = float(written // 4 + requests * estimated_tokens(self._system))
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

    def known(self, text: str) -> NDArray[np.float32] | None:
        """Probabilities float32 [C] of a text that was labelled; None: it was not."""
        return self._known.get(_key(text))

    def embeddings(self, texts: Sequence[str]) -> NDArray[np.float32] | None:
        """None: a chat endpoint gives none."""
        return None

    def neighbours(self, texts: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """None known."""
        return {}

    def _missing(self, texts: Sequence[str]) -> list[str]:
        return list(dict.fromkeys(t for t in texts if _key(t) not in self._known))

    def _read(self) -> dict[str, NDArray[np.float32]]:
        """Answers of earlier runs."""
        known: dict[str, NDArray[np.float32]] = {}
        for record in self._kept.records():
            try:
                row = np.asarray(record["p"], np.float32)
            except (ValueError, KeyError, TypeError):
                continue
            if row.shape == (len(self._labels),) and np.isfinite(row).all():
                known[str(record.get("key"))] = row
        return known

    def _ask_all(self, texts: list[str]) -> None:
        size = self._config.batch
        batches = [texts[i : i + size] for i in range(0, len(texts), size)]
        done = 0
        with self._endpoint.opened(), ThreadPoolExecutor(self._config.concurrency) as pool:
            tasks = [pool.submit(self._ask, batch) for batch in batches]
            try:
                for task, batch in zip(tasks, batches, strict=True):
                    task.result()
                    done += len(batch)
                    self._progress("endpoint labels", done, len(texts))
            except BaseException:
                self._endpoint.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _ask(self, texts: list[str]) -> None:
        """One batch: ask, check, keep. An answer that is not usable is asked for again."""
        numbered = {str(number): text for number, text in enumerate(texts, 1)}
        rows = self._endpoint.ask(
            self._system,
            json.dumps(numbered, ensure_ascii=False),
            lambda answer: self._rows(answer.text, len(texts)),
        )
        records = []
        for text, row in zip(texts, rows, strict=True):
            records.append({"key": _key(text), "p": [round(float(v), 6) for v in row]})
        self._kept.add(*records)
        with self._lock:
            self._known |= {_key(text): row for text, row in zip(texts, rows, strict=True)}

    def _rows(self, content: str, count: int) -> list[NDArray[np.float32]]:
        """Probabilities of each text of a batch, from the model's JSON."""
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            raise AskAgainError("the model did not answer in JSON") from None
        if not isinstance(answer, dict):
            raise AskAgainError("the model did not answer with a JSON object")
        return [self._row(answer.get(str(number))) for number in range(1, count + 1)]

    def _row(self, value: Any) -> NDArray[np.float32]:
        classes = len(self._labels)
        if isinstance(value, str):
            value = {value: self._config.confidence}
        if not isinstance(value, dict) or not value:
            raise AskAgainError("the model left a text out")
        strange = [label for label in value if label not in self._index]
        if strange:
            raise AskAgainError(f"the model used a label that there is not: {strange[0][:60]!r}")
        row = np.zeros(classes, np.float32)
        for label, share in value.items():
            if not isinstance(share, (int, float)) or not 0 <= share <= 1:
                raise AskAgainError("the model gave a probability outside 0 to 1")
            row[self._index[label]] = share
        rest = max(0.0, 1.0 - float(row.sum()))
        row += max(rest, 1e-3) / classes
        return np.asarray(row / row.sum(), np.float32)


def _key(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]
