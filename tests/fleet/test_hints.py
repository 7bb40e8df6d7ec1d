"""Suggestions beside texts that wait for a label, by programs of their own."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import yaml

from contracts.answers import FieldSample
from contracts.config import MqttConfig
from contracts.errors import InputError
from fleet.folder import Fleet, FleetConfig
from fleet.improve import hints
from fleet.store import samples
from model_builder.classify.suggest import suggest
from model_builder.recipes.classify import Recipe, load
from model_builder.recipes.teachers import TeacherConfig
from model_builder.teachers.base import silent
from tests.model_builder.support import write_encoder
from tests.model_builder.test_teachers import Endpoint, serving
from tests.support.controller import TINY

ROOMS = ("kitchen", "hall", "garage", "attic", "porch", "office", "cellar", "bedroom")


def recipe(folder: Path) -> Path:
    """Of lights and timers, with a larger student as its teacher."""
    rows = [
        {"text": text.format(room), "label": label}
        for label, texts in {
            "lights": ("turn on the light in the {}", "make the {} bright"),
            "timer": ("ring in the {} in an hour", "start a timer for the {}"),
        }.items()
        for text in texts
        for room in ROOMS
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "recipe.yaml"
    document = {"name": "m", "data": {"train": "rows.jsonl"}, "teacher": {"source": "self:"}}
    path.write_text(yaml.safe_dump(document))
    return path


def test_the_newest_version_and_a_teacher_suggest_labels(tmp_path: Path) -> None:
    """For texts that nobody has labelled; what was suggested before goes."""
    fleet = Fleet.init(tmp_path / "fleet", FleetConfig("home", mqtt=MqttConfig(port=1)))
    ref, _ = fleet.publish(TINY)
    with contextlib.closing(fleet.open_store()) as store:
        ask = samples.Ask("ask-1", ref.name, "all", 9, "", "ann", 1.0)
        given = [
            FieldSample(f"{number:032x}", 1.0, text, "x", 0.2, ref, ["low-confidence"])
            for number, text in enumerate(
                ("turn on the light in the shed", "start a timer for the shed", "done already")
            )
        ]
        with store.write() as connection:
            samples.add(store, connection, ask, "d1", given, 1.0)
            done = samples.key_of("done already")
            samples.say(store, connection, ref.name, done, "ann", "timer", 1.0)
            samples.hint(connection, ref.name, "version 0.9.0", {done: ("weather", 0.5)})
        changes = ["student.family=ngram", "distillation.fit.epochs=40"]
        made = hints.suggest(fleet, ref.name, str(recipe(tmp_path)), changes)
        version, teacher = made
        assert version == "version 1.0.0"
        assert made[teacher] == 2
        with store.read() as connection:
            found = {one.sample.text: one.hints for one in samples.texts(connection, ref.name)}
        assert found["done already"] == []
        said = {text: {hint.source: hint for hint in of} for text, of in found.items()}
        assert said["turn on the light in the shed"][teacher].label == "lights"
        assert said["start a timer for the shed"][teacher].label == "timer"
        assert said["start a timer for the shed"][version].label == "timer"
        assert all(0 < hint.confidence <= 1 for of in found.values() for hint in of)
        # The next version is asked anew; what the teacher said stays.
        with store.write() as connection:
            samples.hint(connection, ref.name, "version 0.9.0", {done: ("weather", 0.5)})
        assert hints.look_again(fleet, ref) == 2
        with store.read() as connection:
            again = {one.sample.text: one.hints for one in samples.texts(connection, ref.name)}
        assert again == found
        # A text that goes takes its suggestions with it.
        with store.write() as connection:
            samples.delete(connection, model=ref.name, key=samples.key_of(given[0].text))
            samples.add(store, connection, ask, "d2", given[:1], 1.0)
        with store.read() as connection:
            texts = {one.sample.text: one.hints for one in samples.texts(connection, ref.name)}
        assert texts[given[0].text] == []


def test_an_endpoint_suggests_labels_and_is_sent_those_texts_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over HTTP, as `openai:` speaks; nothing of the recipe's rows but its labels goes there."""
    monkeypatch.setenv("TEST_KEY", "secret-key")
    with serving(Endpoint()) as endpoint:
        endpoint.answer = lambda text: {"timer": 0.9} if "ring" in text else "lights"
        made = load(
            recipe(tmp_path),
            [
                "teacher.source=openai:some-model",
                f"teacher.endpoint.base_url={endpoint.base_url}",
                "teacher.endpoint.api_key_env=TEST_KEY",
            ],
        )
        asked = ["ring the gong at <number>", "illuminate the shed"]
        name, found = suggest(made, asked, tmp_path / "cache", silent)
        assert "some-model" in name
        assert [one.label for one in found] == ["timer", "lights"]
        assert found[0].confidence > 0.5
        (body,) = endpoint.requests
    assert list(json.loads(body["messages"][1]["content"]).values()) == asked
    assert "turn on the light in the kitchen" not in json.dumps(body)


def test_an_encoder_suggests_labels_once_its_probe_has_read_the_recipes_rows(
    tmp_path: Path,
) -> None:
    """A tiny one, whose vectors are random but tell the texts of two labels apart."""
    folder = write_encoder(tmp_path / "encoder")
    made = load(recipe(tmp_path), [f"teacher.source=path:{folder}", "teacher.mode=probe"])
    asked = ["turn on the light in the shed", "start a timer for the shed"]
    name, found = suggest(made, asked, tmp_path / "cache", silent)
    assert name.startswith("path:")
    assert [one.label for one in found] == ["lights", "timer"]


@pytest.mark.parametrize("source", ["none", "labels:soft.jsonl"])
def test_a_recipe_whose_teacher_knows_no_other_text_suggests_nothing(
    source: str, tmp_path: Path
) -> None:
    """And says what to name."""
    bare = Recipe("m", teacher=TeacherConfig(source=source))
    with pytest.raises(InputError, match="openai:MODEL"):
        suggest(bare, ["a"], tmp_path, silent)
