"""Rounds of the loop: hard examples leave, people label, `improve` builds; how much comes back.

A device keeps and chooses as the agent does, the controller stores and orders as it does, and the
next version is built, compared and published by the steps of ``shoal improve``. Left out are the
broker, and the rollout.
"""

from __future__ import annotations

import json
import queue
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, cast

import _shift
import msgspec
import numpy as np
import yaml
from _field_fleet import DAY_S, NOW, SLOT, Device, Model, People, answered, busy, drawer, judge
from _shift import Said, Texts

from agent.serving.examples import Examples
from agent.serving.registry import Registry
from agent.serving.reply import Reply
from agent.sharing import redaction
from agent.sharing.giving import Giving
from contracts.answers import Answer, FieldSample
from contracts.bundle import Bundle
from contracts.config import AgentConfig, ExamplesConfig, RedactConfig
from contracts.errors import RefusedError
from contracts.requests import SamplesRequest
from fleet.client import Client
from fleet.config import FleetConfig
from fleet.folder import Fleet
from fleet.improve.steps import Improvement, run
from fleet.improve.wish import State, Wish
from fleet.samples import order
from fleet.store import samples
from fleet.store.samples import Ask, key_of

MODEL: Final = "intents"
PERSON: Final = "ann"
MOST: Final = 30
"""Examples that a device gives away at a request."""

_PAGE: Final = 20
"""Texts that a person is shown before the queue is ordered anew."""

RECIPE: Final[dict[str, Any]] = {
    "name": MODEL, "seed": 1, "data": {"train": "rows.jsonl"},
    "clean": {"noise_report": False},
    "split": {"validation": 0.1, "test": 0.15}, "teacher": {"source": "none"},
    "student": {
        "family": "ngram",
        "ngram": {
            "kind": "bag", "features": {"buckets": 4096, "length": 96, "pairs": True},
            "dim": 32, "hidden": 64,
        },
    },
    "distillation": {
        "fit": {
            "epochs": 20, "batch": 64, "rate": 0.005, "dropout": 0.1, "feature_dropout": 0.1,
        },
    },
    "quantisation": {"max_loss": 0.2}, "evaluation": {"folds": 0, "reject": 0.02},
}  # fmt: skip


class NoDevices:
    """A client of a controller that knows of no device: the newest version is the one that runs."""

    def devices(self) -> list[object]:
        """None."""
        return []


class Loop:
    """A fleet's folder with a first version, and people who label.

    Args:
        folder: an empty one.
        texts: of the shift.
        first: the first version, a built bundle.
        recipe: of it.
    """

    def __init__(self, folder: Path, texts: Texts, first: Path, recipe: Path) -> None:
        self.fleet = Fleet.init(folder / "fleet", FleetConfig(fleet="f"))
        self.store = self.fleet.open_store(migrate=True)
        self.fleet.publish(first)
        self.recipe = recipe
        self.texts = texts
        self.labelled = 0
        self.asks = 0
        self.versions = 0
        self.bundle = first
        rows = [one.text for one in texts.heard]
        redacted = redaction.redact(rows, RedactConfig())
        self._labels = {
            key_of(text): one.label for text, one in zip(redacted, texts.heard, strict=True)
        }
        self._redacted = redacted

    def model(self, rows: Sequence[Said]) -> Model:
        """The newest version on texts."""
        return answered(Bundle.open(self.bundle), [(one.text, one.label) for one in rows])

    # Samples come in. ---------------------------------------------------------------------------

    def ask(self) -> Ask:
        """A request for hard examples, as the controller stores it."""
        self.asks += 1
        ask = Ask(f"ask-{self.asks}", MODEL, "all", MOST, "", PERSON, NOW + 7 * DAY_S * self.asks)
        with self.store.write() as connection:
            samples.add_ask(connection, ask)
        return ask

    def store_samples(self, ask: Ask, device: str, given: Sequence[FieldSample]) -> None:
        """What a device gave."""
        with self.store.write() as connection:
            samples.add(self.store, connection, ask, device, given, ask.at)

    def label_queue(self, count: int) -> None:
        """A person labels what the queue shows, page by page."""
        goal = self.labelled + count
        while self.labelled < goal:
            with self.store.read() as connection:
                found = samples.texts(connection, MODEL)
            page = order.queue(found, PERSON, min(_PAGE, goal - self.labelled))
            if not page:
                return
            for one in page:
                self._say(one.key)

    def label_random(self, count: int, seed: int) -> None:
        """A person labels what devices were asked, picked by chance from all of it."""
        chance = np.random.default_rng(1000 + seed)
        weights = _shift.everywhere(self.texts.heard)
        goal, ask = self.labelled + count, self.ask()
        reference = Bundle.open(self.bundle).ref
        while self.labelled < goal:
            row = int(chance.choice(len(weights), p=weights))
            text = self._redacted[row]
            with self.store.read() as connection:
                if samples.exists(connection, MODEL, key_of(text)):
                    continue  # labelled already: it costs nobody anything
            # A device of its own each: the bound of an ask is a device's.
            mark = key_of(text)
            one = FieldSample(mark, ask.at, text, "?", 0.5, reference, ["low-confidence"])
            self.store_samples(ask, f"r{mark[:12]}", [one])
            self._say(mark)

    def _say(self, key: str) -> None:
        with self.store.write() as connection:
            samples.say(
                self.store, connection, MODEL, key, PERSON, self._labels[key], NOW + self.labelled
            )
        self.labelled += 1

    # The next version. --------------------------------------------------------------------------

    def improve(self, say: Callable[[str], None], *, anyway: bool = False) -> State:
        """Builds, compares, signs: `shoal improve --yes --publish-only`.

        `anyway`: what it stops counts all the same as the newest version.
        """
        client = cast("Client", NoDevices())
        improvement = Improvement(self.fleet, client, MODEL, say)
        with improvement.locked():
            self.versions += 1  # named, as what was not rolled out would be gone on with
            version = f"1.{self.versions}.0"
            state = improvement.begin(lambda last: last or Wish(str(self.recipe)), version)
            try:
                run(improvement, lambda verdict: True, roll_out=False)
            except RefusedError as error:
                say(error.info.message)
                if anyway:
                    self.bundle = Path(state.bundle)
                return state
        self.bundle = Path(state.bundle)
        return state

    def kinds(self, folder: Path) -> dict[str, int]:
        """What was labelled, by kind."""
        kind = {
            key_of(text): one.kind
            for text, one in zip(self._redacted, self.texts.heard, strict=True)
        }
        found: dict[str, int] = {}
        with self.store.read() as connection:
            for one in samples.texts(connection, MODEL):
                if one.label is not None:
                    found[kind[one.key]] = found.get(kind[one.key], 0) + 1
        return found

    def close(self) -> None:
        """Closes the database."""
        self.store.close()


class Home:
    """A device whose owner shares hard examples."""

    def __init__(self, folder: Path, name: str, site: str) -> None:
        folder.mkdir(parents=True)
        keep = ExamplesConfig(keep=True, share="hard")
        config = AgentConfig(
            fleet="f", device=name, board="raspberry-pi-5", trust_root="{}", examples=keep
        )
        self.now = NOW
        self.examples = Examples(folder, keep, lambda: self.now)
        self.device = Device(name, site, self.examples)
        self._registry = Registry()
        giving = Giving(folder, config, self.examples, lambda: self.now, lambda: self.now)
        giving.register(self._registry)

    def week(
        self,
        model: Model,
        drawn: Sequence[int],
        people: People,
        chance: np.random.Generator,
    ) -> None:
        """Answers, keeps what is hard, and hears what people say."""
        facts = model.manifest.classifier
        assert facts is not None
        for number, row in enumerate(drawn):
            self.now += 1
            self.examples.consider(SLOT, model.texts[row], model.says[row], facts.threshold, None)
            if number % 50 == 49:
                self.examples.flush()
        judge(self.device, model, np.asarray(drawn), people, chance)
        self.examples.flush()

    def give(self, ask: Ask) -> list[FieldSample]:
        """What it gives to a request."""
        self.now = ask.at
        answers: queue.Queue[Answer] = queue.Queue()
        request = SamplesRequest(
            id=f"{ask.name}-{self.device.name}", ask=ask.name, model=ask.model, most=ask.most
        )
        reply = Reply(request.id, self.device.name, answers.put, monotonic=lambda: 0.0)
        self._registry.get("samples").handler(request, reply)
        answer = answers.get(timeout=60)
        return [] if answer.shared is None else answer.shared.samples

    def close(self) -> None:
        """Closes what it keeps."""
        self.examples.close()


def write_recipe(folder: Path, texts: Texts) -> Path:
    """The recipe of the first version, on what it is taught."""
    lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in texts.taught]
    (folder / "rows.jsonl").write_text("".join(lines))
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


class Round(msgspec.Struct, frozen=True):
    """After a round: labels so far, accuracy on what nobody has heard, what was labelled."""

    labels: int
    accuracy: float
    by_kind: dict[str, float]
    step: str
    labelled: dict[str, int]
    bundle: str = ""


def measure(loop: Loop, state: State | None, folder: Path) -> Round:
    """How good the newest version is."""
    model = loop.model(loop.texts.unseen)
    rows = loop.texts.unseen
    by_kind = {
        kind: float(np.mean([r for r, one in zip(model.right, rows, strict=True)
                             if one.kind == kind]))
        for kind in sorted({one.kind for one in rows})
    }  # fmt: skip
    return Round(
        loop.labelled,
        float(np.dot(_shift.everywhere(rows), model.right)),
        by_kind,
        state.step if state is not None else "first",
        loop.kinds(folder),
        str(loop.bundle),
    )


def by_queue(
    folder: Path,
    texts: Texts,
    first: Path,
    recipe: Path,
    people: People,
    rounds: Sequence[int],
    devices: int,
    say: Callable[[str], None],
) -> list[Round]:
    """Rounds of the loop; a round is a week in which all devices that share hear people."""
    folder.mkdir()
    loop = Loop(folder, texts, first, recipe)
    chance = np.random.default_rng(7)
    homes = [
        Home(folder / "devices" / f"d{n}", f"d{n}", _shift.SITES[n % len(_shift.SITES)])
        for n in range(devices)
    ]
    draw = drawer(lambda site: _shift.after(texts.heard, site))
    found = [measure(loop, None, folder)]
    for count in rounds:
        model = loop.model(texts.heard)
        ask = loop.ask()
        for home, answers in zip(homes, busy(devices, 400, chance), strict=True):
            drawn = [int(n) for n in draw(home.device.site, answers, chance)]
            home.week(model, drawn, people, chance)
            loop.store_samples(ask, home.device.name, home.give(ask))
        loop.label_queue(count)
        found.append(measure(loop, loop.improve(say), folder))
        say(str(found[-1]))
    for home in homes:
        home.close()
    loop.close()
    return found


def by_chance(
    folder: Path,
    texts: Texts,
    first: Path,
    recipe: Path,
    rounds: Sequence[int],
    say: Callable[[str], None],
) -> list[Round]:
    """The same number of rounds, with labels of texts picked by chance.

    Versions that would be stopped count too: this is of what labels are worth.
    """
    folder.mkdir()
    loop = Loop(folder, texts, first, recipe)
    found = [measure(loop, None, folder)]
    for number, count in enumerate(rounds):
        loop.label_random(count, number)
        found.append(measure(loop, loop.improve(say, anyway=True), folder))
        say(str(found[-1]))
    loop.close()
    return found
