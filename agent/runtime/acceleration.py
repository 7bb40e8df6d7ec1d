"""Whether an accelerator answers a bundle's golden vectors as the processor does, and faster.

An accelerator is a vendor's library: it may crash, hang, or compute something else. It is tried
in a child of its own, beside the processor on the same texts, and never elsewhere before it has
passed. No outcome is the bundle's fault: the processor serves it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from io import BufferedRWPair
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from agent.children import helper, wire
from agent.children.limits import limit_child, silence
from agent.runtime.engine import ABSENT
from agent.runtime.model import Options
from contracts import codec
from contracts.bundle import Bundle
from contracts.errors import ErrorInfo, ShoalError
from contracts.manifest import GoldenVector, Manifest
from contracts.messages import Acceleration

if TYPE_CHECKING:
    from agent.runtime.classifier import Classifier

MAX_STEPS: Final = 2
"""How far an int8 output of an accelerator may be from the golden one, in steps of 256."""

MAX_SHARE: Final = 0.02
"""How far the share of a label may be from the processor's, where outputs are float32."""

GAIN: Final = 1.2
"""The processor's time over the accelerator's, from which on it is worth it."""

RUNS: Final = 200
"""Times that each of both answers a text; more, where there are more golden vectors."""

BUDGET_S: Final = 10.0
"""Seconds of measuring, at most."""

SECONDS: Final = 120
"""Seconds after which a child is ended that has not answered; drivers compile for some time."""

MEMORY_BYTES: Final = 2 * 1024**3
"""Bytes of private memory that the child may map beside the model: drivers map a lot."""


class Question(msgspec.Struct, frozen=True):
    """To the child: which bundle to try, with what.

    Attributes:
        folder: of the bundle.
        accelerator: as of :class:`agent.runtime.model.Options`.
        runtime: which runtime; None: the best.
        threads: of the processor.
        memory_bytes: that the child may map.
    """

    folder: str
    accelerator: str
    runtime: str | None
    threads: int
    memory_bytes: int


def choices(setting: str) -> Sequence[str]:
    """What is tried for ``serving.accelerator``, in this order, until one passes."""
    return {"none": (), "auto": ("npu", "gpu")}.get(setting, (setting,))


def name_of(accelerator: str) -> str:
    """Its name in a report: that of a library without its folder."""
    return Path(accelerator).name[:64]


def attempt(
    folder: Path,
    accelerator: str,
    *,
    runtime: str | None = None,
    threads: int = 1,
    memory_bytes: int = 0,
    seconds: int = SECONDS,
) -> Acceleration:
    """Tries an accelerator with a classifier's bundle, which has passed its self-test.

    Args:
        folder: of the bundle.
        accelerator: as of :class:`agent.runtime.model.Options`, not empty.
        runtime: which runtime; None: the best.
        threads: of the processor.
        memory_bytes: that the model may take.
        seconds: of the wall clock, after which it is given up.
    """
    limit = memory_bytes + MEMORY_BYTES
    question = Question(str(folder.absolute()), accelerator, runtime, threads, limit)
    name = name_of(accelerator)
    try:
        return helper.ask(
            "accelerator", seconds, lambda child: _converse(child, question, seconds), work=""
        )
    except OSError as error:
        return _not_used(name, "accelerator-failed", f"there is no process to try it: {error}")


def _converse(child: helper.Child, question: Question, seconds: int) -> Acceleration:
    name = name_of(question.accelerator)
    try:
        with suppress(ConnectionError):
            wire.send(child.line, question)
        return wire.receive(child.line, Acceleration)
    except (OSError, EOFError):
        code = child.end()
        if code == -signal.SIGALRM:
            return _not_used(
                name, "accelerator-timeout", f"it gave no answer within {seconds} s and was killed"
            )
        return _crashed(name, helper.how_ended(code))
    except ShoalError as error:
        return _crashed(name, f"wrote what is no answer ({error})")


def _crashed(name: str, how: str) -> Acceleration:
    return _not_used(name, "accelerator-crashed", f"the process that tried it {how}")


def _not_used(name: str, code: str, message: str) -> Acceleration:
    return Acceleration(name, reason=ErrorInfo(code, message[:500]))


def preload() -> None:
    """What every child needs; no library of an accelerator."""
    from agent.runtime import check

    check.preload()
    for kind in (Question, Manifest, list[GoldenVector]):
        codec.decoder(kind)


def main(line: BufferedRWPair) -> int:
    """The child: limits itself, tries, answers."""
    silence()
    asked = wire.receive(line, Question)
    limit_child(asked.memory_bytes)
    options = Options(asked.runtime, asked.threads, accelerator=asked.accelerator)
    try:
        answer = compare(Bundle.open(Path(asked.folder)), options)
    except (ShoalError, OSError, MemoryError) as error:
        code = error.code if isinstance(error, ShoalError) else ""
        code = ABSENT if code == ABSENT else "accelerator-failed"
        said = str(error) or type(error).__name__
        answer = _not_used(name_of(asked.accelerator), code, said)
    wire.send(line, answer)
    return 0


def compare(bundle: Bundle, options: Options) -> Acceleration:
    """Compares an accelerator with the processor: golden vectors, answers, time.

    Raises:
        ShoalError, OSError: it cannot be loaded, or does not run.
    """
    from agent.runtime import model as models

    name = name_of(options.accelerator)
    processor = models.load(bundle, msgspec.structs.replace(options, accelerator=""))
    try:
        accelerated = models.load(bundle, options)
        try:
            return _compare(name, bundle, processor, accelerated)
        finally:
            accelerated.close()
    finally:
        processor.close()


def _compare(
    name: str, bundle: Bundle, processor: Classifier, accelerated: Classifier
) -> Acceleration:
    from agent.runtime import golden, model

    with model.refusing("an accelerator's test"):
        for one in (processor, accelerated):
            one.warm_up()
        vectors = bundle.golden()
        allowed = msgspec.structs.replace(bundle.manifest.golden, max_steps=MAX_STEPS)
        result = golden.replay(accelerated, vectors, allowed)
        other = [v.text for v in vectors if not _same(processor, accelerated, v.text)]
        if result.passed < result.vectors or other:
            wrong = max(result.vectors - result.passed, len(other))
            reason = ErrorInfo(
                "accelerator-wrong",
                f"{wrong} of {result.vectors} answers are not the processor's; int8 outputs may "
                f"differ by {MAX_STEPS} steps, the largest difference was {result.max_steps}",
            )
            return Acceleration(name, max_steps=result.max_steps, reason=reason)
        speedup = measure(processor, accelerated, [vector.text for vector in vectors])
    if speedup < GAIN:
        reason = ErrorInfo(
            "accelerator-slow",
            f"it takes {1 / speedup:.2g} times as long as the processor; only what is {GAIN} times "
            "as fast serves",
        )
        return Acceleration(name, speedup=speedup, max_steps=result.max_steps, reason=reason)
    return Acceleration(name, used=True, speedup=speedup, max_steps=result.max_steps)


def _same(processor: Classifier, accelerated: Classifier, text: str) -> bool:
    """Whether both answer alike: the labels, and float32 outputs within :data:`MAX_SHARE`."""
    ours, theirs = processor.run(text), accelerated.run(text)
    if ours.output.dtype != np.int8:
        shares = processor.probabilities(ours) - accelerated.probabilities(theirs)
        if np.abs(shares).max() > MAX_SHARE:
            return False
    left, right = processor.classify(text), accelerated.classify(text)
    labels = [[one.label for one in answer.labels or ()] for answer in (left, right)]
    return left.label == right.label and labels[0] == labels[1]


def measure(processor: Classifier, accelerated: Classifier, texts: Sequence[str]) -> float:
    """The processor's median time for a text over the accelerator's, taking turns."""
    times: tuple[list[float], list[float]] = ([], [])
    until = time.monotonic() + BUDGET_S
    for run in range(max(RUNS, len(texts))):
        for of, one in zip(times, (processor, accelerated), strict=True):
            start = time.perf_counter()
            one.run(texts[run % len(texts)])
            of.append(time.perf_counter() - start)
        if time.monotonic() > until:
            break
    return float(f"{np.median(times[0]) / np.median(times[1]):.3g}")
