"""Texts as vectors: on the device, on the command line, and by OpenAI's own client."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
import openai
import pytest
from numpy.typing import NDArray

from agent.runtime.classifier import Classifier
from contracts.bundle import Bundle
from contracts.config import MqttConfig
from contracts.errors import InputError
from fleet.api import models
from fleet.rollout.spec import RolloutSpec
from model_builder import lazy_tensorflow as tf
from tests.support.controller import TINY, AgentProcess
from tests.support.openai_nulls import optional_fields
from tests.support.served import ServedFleet
from tests.support.tiny_encoder import encoder_bundle

TEXTS = ["turn on the hall light", "make the attic warmer", "turn on the hall light please"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of an encoder."""
    return encoder_bundle(tmp_path_factory.mktemp("encoder"))


def float_embeddings(bundle: Path) -> NDArray[np.float32]:
    """Of the encoder that the bundle was made from, before int8."""
    from model_builder.encoders.encoder import pad_batch  # these load TensorFlow
    from model_builder.encoders.weights import fetch
    from model_builder.teachers.sentence import load_tokenizer

    files = fetch(f"path:{bundle.parent / 'encoder'}", "", bundle.parent / "cache")
    tokens = [load_tokenizer(files.tokenizer, 16).encode(text).ids for text in TEXTS]
    ids, mask = pad_batch(tokens, 4)
    return np.asarray(files.load()(tf.constant(ids), tf.constant(mask)))


def test_a_vector_has_length_one_and_is_that_of_the_text(bundle: Path) -> None:
    """The same for the same text, and close to what the encoder gives in float."""
    model = Classifier(Bundle.open(bundle))
    vectors = np.array([model.embed(text).embedding for text in TEXTS])
    assert vectors.shape == (3, 32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert model.embed(TEXTS[0]).embedding == vectors[0].tolist()
    assert (vectors * float_embeddings(bundle)).sum(axis=1) == pytest.approx(1, abs=0.01)
    assert model.embed(TEXTS[0]).tokens == 7
    assert model.classify(TEXTS[0]).label in {"heat", "off", "on"}
    assert model.embed("hall " * 40).truncated
    with pytest.raises(InputError, match=r"tiny-classifier.* gives no embeddings"):
        Classifier(Bundle.open(TINY)).embed("hello")


def test_the_command_prints_a_vector_a_line(bundle: Path) -> None:
    """From the lines of its input; an n-gram bundle is one clear error."""
    run = [sys.executable, "-m", "agent", "embed"]
    done = subprocess.run(
        [*run, bundle], input="\n".join(TEXTS), capture_output=True, text=True, timeout=60
    )
    assert [len(msgspec.json.decode(line)) for line in done.stdout.splitlines()] == [32] * 3
    done = subprocess.run([*run, TINY, "hello"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, "gives no embeddings" in done.stderr) == (2, True)


@pytest.fixture(scope="module")
def served(
    mosquitto_broker: MqttConfig, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedFleet]:
    """A controller and two agents: one runs the encoder, the other n-grams."""
    folder = tmp_path_factory.mktemp("embeddings")
    name_of_fleet = f"embed-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        fleet = stack.enter_context(
            ServedFleet(folder / "fleet", mosquitto_broker, name=name_of_fleet)
        )
        runs = {"d1": TINY, "d2": bundle}
        refs = {name: fleet.fleet.publish(path)[0] for name, path in runs.items()}
        repository = fleet.fleet.open_repository()
        for name in runs:
            stack.enter_context(
                AgentProcess(
                    folder / name, mosquitto_broker, name_of_fleet, repository, device=name,
                    repository_url=f"{fleet.fleet.api_url}/repo/",
                )
            )  # fmt: skip
        with fleet.client() as people:
            fleet.until(lambda: people.devices_page().counts.get("online") == 2, 60)
            for name, ref in refs.items():
                wish = {
                    "bundle": ref.name, "version": ref.version, "selector": f"device={name}",
                    "waves": [{"percent": 100}], "bake_s": 0, "trial": {"seconds": 0},
                }  # fmt: skip
                rollout = people.create_rollout(RolloutSpec.model_validate(wish)).id
                fleet.until(lambda r=rollout: people.rollout(r).status == "succeeded", 60)
        yield fleet


def test_the_openai_client_gets_vectors_of_a_device(served: ServedFleet, bundle: Path) -> None:
    """Floats and base64, one text and many, from whichever device has an encoder."""
    local = Classifier(Bundle.open(bundle))
    wanted = np.array([local.embed(text).embedding for text in TEXTS])
    url = f"{served.fleet.api_url}/v1"
    with openai.OpenAI(base_url=url, api_key=served.token, max_retries=0, timeout=60) as client:
        many = client.embeddings.create(model="all", input=TEXTS)  # asks for base64
        assert [row.index for row in many.data] == [0, 1, 2]
        assert np.array([row.embedding for row in many.data]) == pytest.approx(wanted, abs=1e-5)
        assert many.model == "tiny-encoder 1.0.0"
        assert many.usage.total_tokens == sum(local.embed(text).tokens for text in TEXTS)
        one = client.embeddings.create(model="d2", input=TEXTS[1], encoding_format="float")
        assert one.data[0].embedding == pytest.approx(wanted[1], abs=1e-5)
        with pytest.raises(openai.APIStatusError, match="gives no embeddings"):
            client.embeddings.create(model="d1", input="hello")
        with pytest.raises(openai.APIStatusError, match="means no device"):
            client.embeddings.create(model="group=nowhere", input="hello")
        with pytest.raises(openai.APIStatusError):
            client.embeddings.create(model="d2", input=["x"] * 257)
        for tokens in ([1, 2, 3], [[1, 2], [3]]):  # as LangChain sends unless it is told not to
            with pytest.raises(openai.BadRequestError, match="texts are expected, not numbers"):
                client.embeddings.create(model="d2", input=tokens)
        nulls = dict.fromkeys(optional_fields("/embeddings"))
        made = client.post(
            "/embeddings", body={"model": "d2", "input": "a", **nulls}, cast_to=object
        )
        assert len(made["data"][0]["embedding"]) == 32


def test_a_query_embeds_too(served: ServedFleet) -> None:
    """As any other operation; the device without an encoder says so."""
    with served.client() as people:
        asked = models.Query.model_validate({"selector": "all", "op": "embed", "text": TEXTS[0]})
        first, second = people.query(asked).answers
        assert first.error is not None
        assert first.error.code == "no-embedding"
        assert second.embedded is not None
        assert len(second.embedded["embedding"]) == 32
