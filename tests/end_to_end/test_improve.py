"""The field loop with real programs: texts leave by consent, people label, a better version.

The first is made by a command, the one after it by a button in a real browser.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from playwright.sync_api import Browser, expect

from contracts.bundle import Bundle
from contracts.config import ExamplesConfig, MqttConfig
from fleet.api.models import Query
from fleet.api.models_field import Feedback
from fleet.api.models_lessons import NewLesson
from fleet.api.models_samples import NewAsk
from fleet.client import Client
from tests.browser.conftest import chromium, fits, sign_in, tab_to
from tests.end_to_end.test_field import Home, Listener
from tests.support.controller import TINY, AgentProcess
from tests.support.served import ServedFleet

__all__ = ["chromium"]  # a fixture
MODEL = "tiny-classifier"
ROOMS = ["kitchen", "bedroom", "garage", "hall", "office", "attic", "cellar", "porch"]
TIMES = [
    "five minutes",
    "ten minutes",
    "an hour",
    "30 seconds",
    "two hours",
    "7 am",
    "a day",
    "a week",
]
DAYS = ["today", "tomorrow", "tonight", "outside", "on friday", "at noon", "later", "this weekend"]
KNOWN = {
    "lights-off": (
        ROOMS,
        ["turn off the lights in the {}", "switch the {} lamp off", "make the {} dark"],
    ),
    "lights-on": (
        ROOMS,
        ["turn on the lights in the {}", "switch the {} lamp on", "make the {} bright"],
    ),
    "timer": (TIMES, ["set a timer for {}", "wake me in {}", "start a {} timer"]),
    "weather": (DAYS, ["what is the weather {}", "will it rain {}", "how warm does it get {}"]),
}
SHIFTED = {
    "lights-off": (ROOMS, ["extinguish everything in the {}", "no more brightness for the {}"]),
    "lights-on": (ROOMS, ["illuminate the {}", "it is gloomy in the {}"]),
    "timer": (TIMES, ["remind me after {}", "ring the bell in {}"]),
    "weather": (DAYS, ["forecast {} please", "is a coat needed {}"]),
    "blinds": (ROOMS, ["raise the blinds in the {}", "lower the shutters of the {}"]),
}  # fmt: skip
CODE = "471108154711"
"""Digits that no time, count or digest has by chance."""
DEVICES: dict[str, Any] = {"kitchen": "hard", "cellar": "ask"}


def texts(of: dict[str, Any], first: int, last: int) -> list[tuple[str, str]]:
    """Sentences with their labels, with some of the values."""
    return [
        (template.format(value), label)
        for label, (values, templates) in of.items()
        for value, template in itertools.product(values[first:last], templates)
    ]


@pytest.fixture
def home(mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path) -> Iterator[Home]:
    """Two agents with a model: the owner of one shares hard examples, of the other is asked."""
    served = ServedFleet(tmp_path / "fleet", mosquitto_broker, name=fleet_name)
    with served, served.client() as client, ExitStack() as stack:
        repository = served.fleet.open_repository()
        for device, share in DEVICES.items():
            stack.enter_context(
                AgentProcess(
                    tmp_path / device, mosquitto_broker, fleet_name, repository, device=device,
                    repository_url=f"{served.fleet.api_url}/repo/",
                    examples=ExamplesConfig(keep=True, below=0.999, share=share),
                )
            )  # fmt: skip
        listener = Listener(mosquitto_broker, fleet_name)
        stack.callback(listener.stop)
        served.until(lambda: len([d for d in client.devices() if d.state == "online"]) == 2)
        one = Home(served, client, listener)
        first = one.roll_out(TINY)
        served.until(lambda: client.rollout(first).status == "succeeded")
        yield one


def ask(client: Client, device: str, text: str) -> tuple[str, str]:
    """Classifies: the id and the label of the answer."""
    (answer,) = client.query(Query(devices=[device], text=text, timeout_s=60)).answers
    assert answer.classified is not None, answer
    return answer.id, answer.classified["label"]


def accuracy(client: Client, rows: list[tuple[str, str]]) -> float:
    """How many of the rows a device has right."""
    return sum(ask(client, "kitchen", text)[1] == label for text, label in rows) / len(rows)


def recipe(folder: Path) -> Path:
    """Of the model, on what it was taught first; trains in seconds."""
    rows = [{"text": text, "label": label} for text, label in texts(KNOWN, 0, 8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = {
        "name": MODEL, "seed": 3, "data": {"train": "rows.jsonl"},
        "split": {"validation": 0.2, "test": 0.25}, "teacher": {"source": "none"},
        "student": {
            "family": "ngram",
            "ngram": {"features": {"buckets": 1024, "length": 96}, "dim": 16, "hidden": 16},
        },
        "distillation": {"fit": {"epochs": 30, "batch": 16, "rate": 0.02}},
        "quantisation": {"max_loss": 0.2}, "evaluation": {"folds": 0, "reject": 0.0},
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def run(*arguments: object, said: str = "") -> str:
    """Runs a program to its end; what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], input=said, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def by_button(chromium: Browser, served: ServedFleet) -> None:
    """Makes the version after the newest one at a phone's width, by keyboard, and sees its end."""
    site: Any = SimpleNamespace(url=served.fleet.api_url, token=lambda role: served.token)
    context = chromium.new_context(viewport={"width": 360, "height": 740})
    context.set_default_timeout(60_000)
    page = sign_in(context, site, "admin")
    page.goto(f"{site.url}/ui/improve/{MODEL}")
    page.wait_for_function("() => window.did_handshake === true")
    expect(page.get_by_text(f"{MODEL} 1.1.0", exact=True)).to_be_visible(timeout=60_000)
    tab_to(page, "Make the next version")
    page.keyboard.press("Enter")
    tab_to(page, "Make it")
    page.keyboard.press("Enter")
    expect(page.get_by_text(f"{MODEL} 1.2.0", exact=True)).to_be_visible(timeout=120_000)
    here = page.get_by_role("list", name="Steps").locator("[aria-current]")
    expect(here).to_contain_text("All devices of the rollout have it", timeout=240_000)
    expect(page.get_by_role("row").filter(has_text="kept out of the field")).to_be_visible()
    fits(page)
    context.close()


@pytest.mark.timeout(600)
def test_corrections_of_users_become_a_better_version(
    home: Home, tmp_path: Path, chromium: Browser
) -> None:
    """Shared by consent, labelled, built, compared, in the shadow, at a canary, everywhere."""
    served, client, listener = home.served, home.client, home.listener
    here = ("--dir", served.fleet.folder)
    unseen = texts(SHIFTED, 5, 8)
    before = accuracy(client, unseen)
    meant = dict(texts(SHIFTED, 0, 5))
    for number, (text, label) in enumerate(meant.items()):
        device = list(DEVICES)[number % 2]
        answer, given = ask(client, device, f"{text} {CODE}")
        if number % 5 == 0 and given != label:
            known = label if label in KNOWN else None
            right = None if known else False
            client.feedback(Feedback(device=device, answer=answer, label=known, right=right))

    # Only one of the two owners shares without being asked.
    asked = client.ask_samples(NewAsk(model=MODEL, most=100, why="new phrases"))
    gave = {one.device: one for one in asked.devices}
    assert gave["kitchen"].new > 10, gave
    assert gave["cellar"].new == 0 and gave["cellar"].error is not None
    assert gave["cellar"].error["code"] == "consent-needed"
    owner = ("--config", tmp_path / "cellar" / "agent.yaml")
    (waits,) = json.loads(run("agent", "samples", "requests", "--json", *owner))
    assert (waits["name"], waits["why"]) == (asked.name, "new phrases")
    secret = [data for topic, data in listener.heard if "/d/cellar/res/" in topic]
    assert not [data for data in secret if b'"shared"' in data], "nothing without consent"
    run("agent", "samples", "approve", asked.name, *owner)
    again = client.collect_samples(asked.name)
    assert {one.device: one.new for one in again.devices}["cellar"] > 10
    left = json.loads(run("agent", "samples", "audit", "--json", *owner))
    assert len(left) == {one.device: one.sent for one in again.devices}["cellar"]
    assert all("<number>" in one["text"] and CODE not in one["text"] for one in left)
    shared = [data for _, data in listener.heard if b'"shared"' in data]
    assert shared and not [data for data in shared if CODE.encode() in data], "redacted"
    sent = [
        topic for topic, data in listener.heard if CODE.encode() in data and "/req/" not in topic
    ]
    assert sent == [], "no text as it was said"

    # People label: one at a terminal, the rest by the API.
    truth = {text.replace("30", "<number>"): label for text, label in meant.items()}

    def right(text: str) -> str:
        cut = text.removesuffix(" <number>").replace("7 am", "<number> am")
        return truth.get(cut) or dict(texts(SHIFTED, 5, 8)).get(cut, "weather")

    first = client.label_queue(MODEL, 1).items[0]
    out = run("fleet", "fleet", "samples", "label", MODEL, *here, said=f"{right(first.text)}\n")
    assert "1 labelled" in out
    while (queue := client.label_queue(MODEL, 50)).items:
        for one in queue.items:
            client.say_label(MODEL, one.key, right(one.text))
    assert queue.labelled > 30

    # Until then a device is taught what the version lacks; the next one has learnt it.
    lesson = NewLesson(
        devices=["kitchen"], model=MODEL, lesson="shades", label="blinds", timeout_s=60,
        texts=[f"{act} the shades in the {room}" for act in ("pull", "draw") for room in ROOMS[:3]],
    )  # fmt: skip
    assert client.teach(lesson).devices[0].error is None
    assert ask(client, "kitchen", "draw the shades in the office")[1] == "blinds"

    rollout = tmp_path / "rollout.yaml"
    rollout.write_text("{bake_s: 1, trial: {seconds: 0}, waves: [{count: 1}, {percent: 100}]}")
    done = json.loads(
        run(
            "fleet", "improve", MODEL, "--recipe", recipe(tmp_path), "--yes", "--json",
            "--shadow-s", 1, "--max-loss", 0.15, "--rollout", rollout, *here,
        )
    )  # fmt: skip
    assert (done["step"], done["against"], done["version"]) == ("done", "1.0.0", "1.1.0")
    assert [client.rollout(done["rollouts"][kind]).status for kind in ("shadow", "active")] == [
        "succeeded", "succeeded",
    ]  # fmt: skip
    assert {home.active(device) for device in DEVICES} == {"1.1.0"}
    lineage = Bundle.open(Path(done["bundle"])).manifest.provenance.lineage
    assert lineage is not None
    assert (lineage.after, lineage.lessons) == ("1.0.0", {"blinds": 1})
    assert lineage.texts == done["rows"]["learn"]
    assert ask(client, "kitchen", "draw the shades in the office")[1] == "blinds"
    (kept,) = client.device("kitchen").slots["classify"].taught
    assert kept["serves"] is False, "the model answers now, and not the lesson"
    after = accuracy(client, unseen)
    assert after >= before + 0.25, (before, after)
    assert accuracy(client, texts(KNOWN, 0, 2)) >= 0.8, "what it knew it knows"

    # The one after it.
    by_button(chromium, served)
    assert {home.active(device) for device in DEVICES} == {"1.2.0"}
    assert "model.improve" in {one.action for one in client.audit()}
    assert accuracy(client, unseen) >= before + 0.25
