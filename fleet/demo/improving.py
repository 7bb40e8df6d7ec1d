"""The demo's last step: people say things that the model was never taught; the next one knows them.

Corrections come in, hard examples leave by consent, are labelled (here by a list, elsewhere by
people), the next version is built, compared, tried in the shadow, rolled out, and asked what it
has not seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from contracts import codec
from contracts.errors import ShoalError
from fleet.api.models import Query
from fleet.api.models_field import Feedback
from fleet.api.models_samples import NewAsk
from fleet.client import Client
from fleet.demo.processes import run
from fleet.demo.report import Step

if TYPE_CHECKING:
    from fleet.demo.scenario import Demo

_ROOMS: Final = ("kitchen", "hallway", "garage", "bedroom", "office", "cellar", "porch", "nursery")
_CITIES: Final = ("berlin", "paris", "oslo", "lisbon", "vienna", "madrid", "dublin", "rome")
_WHILES: Final = ("5", "ten", "twenty", "30", "forty", "fifty", "seven", "nine")
_SAID: Final[Mapping[str, tuple[Sequence[str], Sequence[str]]]] = {
    "HassTurnOff": (_ROOMS, ("extinguish everything in the {}", "kill the bulbs in the {}")),
    "HassTurnOn": (_ROOMS, ("illuminate the {}", "it is far too gloomy in the {}")),
    "HassGetWeather": (_CITIES, ("should i bring a coat to {}", "is a parka needed in {}")),
    "HassVacuumStart": (_ROOMS, ("hoover up the crumbs in the {}", "suck up the dust in the {}")),
    "HassStartTimer": (
        _WHILES,
        ("give me a shout after {} minutes", "ring the gong once {} minutes are gone"),
    ),
}
_HEARD: Final = 5
"""Values that people say before the next version; with the others it is asked what is new."""

_BETTER: Final = 0.15
SHARES: Final[dict[str, Any]] = {"keep": True, "below": 0.95, "share": "hard"}
"""Of `examples` in the agents' configuration."""

_ROLLOUT: Final = (
    "{bake_s: 1, deadline_s: 120, trial: {seconds: 3}, waves: [{count: 1}, {percent: 100}]}"
)


def _texts(first: int, last: int) -> dict[str, str]:
    return {
        template.format(value): label
        for label, (values, templates) in _SAID.items()
        for value, template in itertools.product(values[first:last], templates)
    }


def improve(demo: Demo, model: str, recipe: Path, settings: Sequence[str], step: Step) -> None:
    """The whole loop; it holds when the next version is better on texts that it has not seen."""
    client, devices = demo.client(), sorted(demo.versions())
    unseen = _texts(_HEARD, len(_ROOMS))
    before = _accuracy(client, devices[0], unseen)
    meant = _texts(0, _HEARD)
    corrected = 0
    for number, (text, label) in enumerate(meant.items()):
        answer, given = _ask(client, devices[number % len(devices)], text)
        if number % 3 == 0 and given != label:
            said = Feedback(device=devices[number % len(devices)], answer=answer, label=label)
            client.feedback(said)
            corrected += 1
    gave = client.ask_samples(NewAsk(model=model, most=100, why="new phrases"))
    shared = sum(one.new for one in gave.devices)
    labelled = _label(client, model, meant)
    rollout = demo.work / "rollout.yaml"
    rollout.write_text(_ROLLOUT)
    arguments = [
        "improve", model, "--recipe", str(recipe), "--yes", "--json", "--shadow-s", "1",
        # The same sentences as version 2.0.0: what its teacher said of them is there.
        "--cache", str(demo.work / "build" / "cache"), "--max-loss", "0.03",
        "--rollout", str(rollout), "--dir", str(demo.fleet_dir),
    ]  # fmt: skip
    for setting in (*settings, "data.field_weight=10", "clean.noise_report=false"):
        arguments += ["--set", setting]
    with demo.console.status("building, comparing, in the shadow, at a canary"):
        done = codec.decode(
            run("fleet", arguments, demo.processes.log("improve"), show=False),
            dict[str, Any],
            what="what shoal improve says",
        )
    after = _accuracy(client, devices[0], unseen)
    running = set(demo.versions().values())
    step.held = running == {done["version"]} and after >= before + _BETTER
    step.seen = (
        f"{corrected} answers corrected, {shared} hard examples shared, {labelled} labelled; "
        f"{done['version']} on all devices; right on {len(unseen)} new texts: {before:.0%} by "
        f"{done['against']}, {after:.0%} by {done['version']}"
    )


def _ask(client: Client, device: str, text: str) -> tuple[str, str]:
    (answer,) = client.query(Query(devices=[device], text=text)).answers
    if answer.classified is None:
        raise ShoalError("no-answer", f"{device} did not answer")
    return answer.id, str(answer.classified["label"])


def _accuracy(client: Client, device: str, texts: Mapping[str, str]) -> float:
    right = sum(_ask(client, device, text)[1] == label for text, label in texts.items())
    return right / len(texts)


def _label(client: Client, model: str, meant: Mapping[str, str]) -> int:
    """Labels the queue by what was meant; what else is in it is passed over."""
    known = {text.replace("30", "<number>").replace(" 5 ", " <number> "): label
             for text, label in meant.items()}  # fmt: skip
    while items := client.label_queue(model, 50).items:
        for one in items:
            client.say_label(model, one.key, known.get(one.text))
    return client.label_queue(model, 1).labelled
