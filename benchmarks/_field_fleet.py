"""A fleet of which people judge answers: the agents count, the controller adds up. In memory.

No broker: what a device would publish is handed to the controller's decoder as the bytes that it
is. All else is the product's own: :class:`agent.serving.answers.Answers` and the recorder count,
:class:`fleet.ingest.writer.Writer` and the roll-up add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from agent.runtime.classifier import Classifier
from agent.serving.answers import Answers
from agent.serving.examples import Examples
from agent.telemetry.recorder import Recorder
from contracts import codec
from contracts.answers import Classified
from contracts.bundle import Bundle
from contracts.manifest import Manifest
from contracts.messages import BundleRef, Telemetry
from contracts.requests import FeedbackRequest
from contracts.topics import Topics
from fleet.ingest.decode import Message, decode
from fleet.ingest.writer import Writer
from fleet.store import Store, devices, telemetry

FLEET: Final = "f"
SLOT: Final = "classify"
NOW: Final = 1_800_000_000.0
DAY_S: Final = 24 * 3600.0
_BATCH: Final = 500


class People(msgspec.Struct, frozen=True):
    """How they judge.

    Attributes:
        judge: share of answers that they judge by themselves.
        bias: how many times as often a wrong answer as a right one.
        sampled: share of answers that they are asked about, picked by chance.
        noise: share of verdicts that are wrong.
    """

    judge: float = 0.02
    bias: float = 1.0
    sampled: float = 0.0
    noise: float = 0.1


class Device:
    """An agent without a network."""

    def __init__(self, name: str, site: str, examples: Examples | None = None) -> None:
        self.name, self.site = name, site
        self.recorder = Recorder(rss=lambda: 0)
        self.answers = Answers(self.recorder, lambda: 0.0, examples)
        self._topic = Topics(FLEET).of_device(name, "telemetry")
        self._seq = 0

    def batch(self, at: float) -> Message:
        """What it would publish, as the controller reads it."""
        samples = self.recorder.take(at, DAY_S)
        body = codec.encode(Telemetry("boot", self._seq, samples))
        self._seq += 1
        return decode(FLEET, self._topic, body)


class Model(msgspec.Struct, frozen=True):
    """A version with what it answers to each text of a pool."""

    ref: BundleRef
    manifest: Manifest
    says: list[Classified]
    right: npt.NDArray[np.bool_]
    meant: list[str]
    texts: list[str]

    def renamed(self, version: str) -> Model:
        """The same under another version: as if it were another one."""
        ref = BundleRef(self.ref.name, version, _digest(version))
        says = [msgspec.structs.replace(one, bundle=ref) for one in self.says]
        return msgspec.structs.replace(self, ref=ref, says=says)


def answered(bundle: Bundle, rows: Sequence[tuple[str, str]]) -> Model:
    """What a version answers to texts whose labels are known; the agent's classifier runs it."""
    classifier = Classifier(bundle)
    try:
        says = [classifier.classify(text, 1) for text, _ in rows]
    finally:
        classifier.close()
    right = np.array([one.label == label for one, (_, label) in zip(says, rows, strict=True)])
    meant = [label for _, label in rows]
    return Model(bundle.ref, bundle.manifest, says, right, meant, [text for text, _ in rows])


def _digest(version: str) -> str:
    return version.encode().hex().ljust(64, "0")


def judge(
    device: Device,
    model: Model,
    drawn: npt.NDArray[np.int64],
    people: People,
    chance: np.random.Generator,
) -> int:
    """People say of some answers whether they are right; how many answers were right."""
    right = model.right[drawn]
    correct = int(right.sum())
    device.recorder.answered(SLOT, model.ref, 100.0, times=len(drawn))
    # `judge` is the share over all answers: wrong ones have `bias` times the chance of right ones.
    share = float(np.mean(right))
    base = people.judge / (share + people.bias * (1 - share))
    asked = chance.random(len(drawn)) < people.sampled
    spoke = chance.random(len(drawn)) < np.where(right, base, base * people.bias)
    for place in np.flatnonzero(asked | spoke):
        row = int(drawn[place])
        _say(device, model, row, f"a{place}", sampled=bool(asked[place]), people=people, by=chance)
    return correct


def _say(
    device: Device,
    model: Model,
    row: int,
    answer: str,
    *,
    sampled: bool,
    people: People,
    by: np.random.Generator,
) -> None:
    facts = model.manifest.classifier
    assert facts is not None
    said, meant = model.says[row], model.meant[row]
    lies = by.random() < people.noise
    right: bool | None = None
    label: str | None = None
    if model.right[row] != lies:  # right and said so, or wrong and said to be right
        right = True
    elif lies:
        label = next(one for one in facts.labels if one != said.label)
    elif meant in facts.labels:
        label = meant
    else:
        right = False  # the right label is none that the model knows
    device.answers.classified(SLOT, answer, said, model.manifest, model.texts[row])
    device.answers.judge(
        FeedbackRequest(id=f"f-{answer}", answer=answer, right=right, label=label, sampled=sampled)
    )


class Controller:
    """Its database, and what puts telemetry into it."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(f"sqlite:///{folder / 'fleet.db'}")
        self.store.migrate()
        self._writer = Writer(self.store)

    def enroll(self, fleet: Sequence[Device]) -> None:
        """Knows the devices, with their site."""
        with self.store.write() as connection:
            for one in fleet:
                labels = {"site": one.site}
                devices.enroll(self.store, connection, one.name, "raspberry-pi-5", labels, [], NOW)

    def hear(self, fleet: Sequence[Device], at: float) -> None:
        """Ingests a batch of each device and adds it up."""
        for first in range(0, len(fleet), _BATCH):
            self._writer.write([one.batch(at) for one in fleet[first : first + _BATCH]], at)
        while telemetry.roll_up(self.store):
            pass

    def close(self) -> None:
        """Closes the database."""
        self.store.close()


def busy(count: int, mean: float, chance: np.random.Generator) -> npt.NDArray[np.int64]:
    """Answers of each device in a span of time: some give many times as many as others."""
    found = chance.lognormal(math.log(mean), 0.5, count)
    return np.maximum(found, 1).astype(np.int64)


def drawer(
    weights: Callable[[str], npt.NDArray[np.float64]],
) -> Callable[[str, int, np.random.Generator], npt.NDArray[np.int64]]:
    """Draws what is said at a site."""
    sums: dict[str, npt.NDArray[np.float64]] = {}

    def draw(site: str, count: int, chance: np.random.Generator) -> npt.NDArray[np.int64]:
        if site not in sums:
            sums[site] = np.cumsum(weights(site))
        places = np.searchsorted(sums[site], chance.random(count))
        return np.minimum(places, len(sums[site]) - 1)

    return draw
