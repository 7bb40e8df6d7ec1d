"""The operation ``samples``: hard examples for the fleet, where their owner consents.

Consent is in ``agent.yaml``, for a source or for all (``share: hard``), or said to one request by
``shoal-agent samples approve``. Without it nothing leaves, not even how many there are. What
leaves is chosen (:mod:`agent.sharing.choice`), redacted (:mod:`agent.sharing.redaction`), bounded,
and written down first (:mod:`agent.sharing.ledger`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

from agent.serving.examples import Example, Examples, marked
from agent.serving.limiter import RateLimiter
from agent.serving.registry import Operation, Registry
from agent.serving.reply import Reply
from agent.sharing import choice, redaction
from agent.sharing.ledger import Ask, Ledger
from agent.system.log import logger
from contracts import limits
from contracts.answers import FieldSample, Shared
from contracts.config import AgentConfig
from contracts.errors import RefusedError, ShoalError, UnavailableError
from contracts.requests import SamplesRequest

log = logger(__name__)

PER_S: Final = 5.0
"""Requests a second, of all together."""


class Giving:
    """Answers requests for hard examples, one at a time, on a thread of its own.

    Args:
        folder: the state folder.
        config: who consents to what.
        examples: that are kept; None: none is.
        now: seconds since the epoch.
        monotonic: seconds that only grow.
    """

    def __init__(
        self,
        folder: Path,
        config: AgentConfig,
        examples: Examples | None,
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._folder = folder
        self._config = config
        self._examples = examples
        self._now = now
        self._monotonic = monotonic
        self._limiter = RateLimiter(PER_S)
        self._busy = threading.Lock()

    def register(self, registry: Registry) -> None:
        """Adds the operation; it waits for no model."""
        registry.add(Operation("samples", SamplesRequest, self.samples, queued=False))

    def samples(self, request: SamplesRequest, reply: Reply) -> None:
        """``req/samples``: reading, choosing and redacting take a while, so not on this thread."""
        if self._examples is None:
            raise RefusedError("no-examples", "this device keeps no hard examples")
        if self._config.examples.share == "never":
            raise RefusedError(
                "samples-withheld", "the owner of this device gives no hard examples away"
            )
        if not self._limiter.allow("", self._monotonic()):
            raise UnavailableError("rate-limited", "too many requests for hard examples: wait")
        if not self._busy.acquire(blocking=False):
            raise UnavailableError("busy", "another request for hard examples is in work")
        try:
            threading.Thread(
                target=self._answer, args=(request, reply), name="samples", daemon=True
            ).start()
        except BaseException:
            self._busy.release()
            raise

    def _answer(self, request: SamplesRequest, reply: Reply) -> None:
        shared: Shared | None = None
        failure: ShoalError
        try:
            shared = self._shared(request)
        except ShoalError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - whoever asked is told, without a text
            log.error("hard examples not shared", reason=type(error).__name__)
            failure = UnavailableError("internal", "the request failed")
        finally:
            self._busy.release()  # before the answer: the next request may follow it at once
        try:
            if shared is None:
                reply.fail(failure)
            else:
                reply.finish(shared=shared)
                log.info("hard examples shared", ask=request.ask, count=len(shared.samples))
        except ShoalError as error:
            log.warning("answer not sent", code=error.code)  # it is sent again when asked again

    def _shared(self, request: SamplesRequest) -> Shared:
        assert self._examples is not None
        now = self._now()
        self._examples.flush()
        with Ledger(self._folder) as ledger:
            ledger.confirm(request.kept, now)
            pool, consent = self._pool(request, ledger, now)
            sent = ledger.sent(request.ask)
            again = [mark for mark, kept in sent.items() if not kept and mark in pool]
            room = request.most - len(sent)
            others = {mark: one for mark, one in pool.items() if mark not in sent}
            # By identity: a text may be there for several models.
            names = {id(one): mark for mark, one in others.items()}
            chosen = choice.choose(list(others.values()), max(0, room))
            marks = [*again, *(names[id(one)] for one in chosen)]
            redacted = redaction.redact(
                [_one_line(pool[mark].text) for mark in marks], self._config.examples.redact
            )
            samples, size = [], 0
            for mark, text in zip(marks, redacted, strict=True):
                length = len(text.encode("utf-8", "replace"))
                if length > limits.MAX_SAMPLE_BYTES or not text.strip():
                    continue
                if size + length > limits.MAX_SAMPLES_BYTES:
                    break
                size += length
                samples.append(_sample(mark, text, pool[mark]))
            if samples:
                ledger.leaves(
                    _ask(request, now), consent, [(one.id, one.text) for one in samples], now
                )
        return Shared(
            ask=request.ask,
            samples=samples,
            more=len(marks) - len(samples) if samples else 0,
            consent=consent,
        )

    def _pool(
        self, request: SamplesRequest, ledger: Ledger, now: float
    ) -> tuple[dict[str, Example], Literal["configuration", "owner"]]:
        """The examples that may leave for a request, by mark.

        Raises:
            UnavailableError: ``consent-needed``; the request waits for the owner now.
            RefusedError: ``samples-withheld``; the owner refused it.
        """
        try:
            found = marked(self._folder)
        except UnavailableError:
            found = {}  # none was kept until now
        gone = ledger.kept()
        found = {
            mark: one
            for mark, one in found.items()
            if one.bundle.name == request.model and mark not in gone
        }
        rules = self._rules()
        free = {mark: one for mark, one in found.items() if consents(one, rules)}
        if len(free) == len(found):
            return free, "configuration"
        state = ledger.note(_ask(request, now))
        if state == "approved":
            return found, "owner"
        if free:
            return free, "configuration"
        if state == "refused":
            raise RefusedError(
                "samples-withheld", f"the owner of this device refused {request.ask}"
            )
        raise UnavailableError(
            "consent-needed",
            "the owner of this device has not approved this request yet: "
            f"`shoal-agent samples approve {request.ask}` on the device",
        )

    def _rules(self) -> dict[str, str]:
        rules = {"": str(self._config.examples.share)}
        for source in self._config.sources:
            if rules.setdefault(source.name, source.share) == "hard":
                rules[source.name] = source.share  # of two with one name both must
        return rules


def consents(example: Example, rules: Mapping[str, str]) -> bool:
    """Whether the configuration alone lets an example leave: all that it came from must."""
    return all(rules.get(source) == "hard" for source in example.sources or [""])


def _ask(request: SamplesRequest, now: float) -> Ask:
    return Ask(
        request.ask, request.model, request.most, request.requester, request.why, now, "waiting"
    )


def _sample(mark: str, text: str, one: Example) -> FieldSample:
    return FieldSample(
        id=mark,
        at=round(one.at),
        text=text,
        label=one.label,
        confidence=round(one.confidence, 4),
        bundle=one.bundle,
        reasons=list(one.reasons),
        best=one.best,
        meant=one.meant,
        times=one.times,
    )


def _one_line(text: str) -> str:
    """Without what is no sign: line ends, control characters, halves of pairs."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def would_leave(folder: Path, config: AgentConfig, ask: Ask) -> list[str]:
    """The texts that would leave if the owner approved a request, as they would."""
    with Ledger(folder, make=False) as ledger:
        gone = ledger.kept()
    found = [
        one
        for mark, one in marked(folder).items()
        if one.bundle.name == ask.model and mark not in gone
    ]
    texts = [_one_line(one.text) for one in choice.choose(found, ask.most)]
    return redaction.redact(texts, config.examples.redact)
