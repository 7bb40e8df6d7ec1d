"""The OpenAI client talks to a fleet unchanged: agents, broker and controller are real."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import openai
import pytest

from contracts.bundle import Bundle
from contracts.config import MqttConfig
from contracts.messages import Reported
from tests.support.controller import AgentProcess, Controller
from tests.support.served import ServedFleet
from tests.support.tiny_decoder import tiny_bundle

HELLO = [{"role": "user", "content": "the quick brown fox"}]


@pytest.fixture(scope="module")
def served(
    mosquitto_broker: MqttConfig, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedFleet]:
    """A controller and two agents of the group ``kitchen`` that both run a tiny generator."""
    folder = tmp_path_factory.mktemp("openai")
    bundle = tiny_bundle(folder / "bundle")
    with ExitStack() as stack:
        fleet = stack.enter_context(
            ServedFleet(folder / "fleet", mosquitto_broker, name="openai-test")
        )
        ref, _ = fleet.fleet.publish(bundle)
        assert ref == Bundle.open(bundle).ref
        repository = fleet.fleet.open_repository()
        peer = stack.enter_context(Controller(mosquitto_broker, "openai-test", repository))
        peer.serve_blocks = False
        for name in ("d1", "d2"):
            stack.enter_context(
                AgentProcess(
                    folder / name, mosquitto_broker, "openai-test", repository, device=name,
                    groups=["kitchen"], repository_url=f"{fleet.fleet.api_url}/repo/",
                )
            )  # fmt: skip
        for name in ("d1", "d2"):
            revision = peer.want(name, ref, slot="generate")
            peer.wait_for(
                Reported,
                lambda r, n=name, v=revision: r.device == n and r.desired_revision == v,
                60,
            )
        client = _client(fleet)
        fleet.until(lambda: len(list(client.models.list())) == 4)
        client.close()
        yield fleet


def _client(fleet: ServedFleet) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{fleet.fleet.api_url}/v1", api_key=fleet.token, max_retries=0, timeout=60
    )


@pytest.fixture
def client(served: ServedFleet) -> Iterator[openai.OpenAI]:
    """The real client with the fleet's admin token."""
    with _client(served) as made:
        yield made


def test_models_are_devices_their_groups_and_all(client: openai.OpenAI) -> None:
    """What a client may ask for is listed."""
    assert [m.id for m in client.models.list()] == ["all", "group=kitchen", "d1", "d2"]


def test_a_streamed_chat_is_the_whole_chat_in_pieces(client: openai.OpenAI) -> None:
    """The pieces of a stream join to what the same request gives at once."""
    whole = client.chat.completions.create(model="d1", messages=HELLO, max_tokens=20, temperature=0)
    assert whole.usage is not None and whole.usage.completion_tokens == 20
    assert whole.choices[0].finish_reason == "length"
    stream = client.chat.completions.create(
        model="d2", messages=HELLO, max_tokens=20, temperature=0, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 20
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"


def test_completions_stream_too(client: openai.OpenAI) -> None:
    """The older kind of completion works on a selector."""
    options = {"model": "group=kitchen", "prompt": "the lazy dog", "max_tokens": 10}
    whole = client.completions.create(**options, temperature=0)
    pieces = client.completions.create(**options, temperature=0, stream=True)
    assert "".join(p.choices[0].text for p in pieces) == whole.choices[0].text


def test_a_group_shares_the_work(client: openai.OpenAI) -> None:
    """Several completions at once are all answered, by the devices of the group."""

    def ask(seed: int) -> str:
        done = client.chat.completions.create(
            model="all", messages=HELLO, max_tokens=15, temperature=1, seed=seed
        )
        return done.choices[0].message.content or ""

    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(ask, range(8)))
    assert len(texts) == 8 and len(set(texts)) > 4


def test_a_json_schema_is_kept(client: openai.OpenAI) -> None:
    """``response_format`` constrains the device."""
    schema = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"],
              "additionalProperties": False}  # fmt: skip
    done = client.chat.completions.create(
        model="d1", messages=HELLO, max_tokens=40,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )  # fmt: skip
    assert done.choices[0].message.content in ('{"on":true}', '{"on":false}')


def test_errors_are_the_clients_own(client: openai.OpenAI, served: ServedFleet) -> None:
    """A wrong model, a wrong token and a too long prompt raise what the library has for them."""
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=HELLO)
    wrong = openai.OpenAI(
        base_url=f"{served.fleet.api_url}/v1", api_key="shoal_wrong", max_retries=0
    )
    with wrong, pytest.raises(openai.AuthenticationError):
        wrong.chat.completions.create(model="all", messages=HELLO)
    long = [{"role": "user", "content": "fox " * 500}]
    for stream in (False, True):
        with pytest.raises(openai.APIStatusError, match="tokens"):
            client.chat.completions.create(model="d1", messages=long, stream=stream)
    assert client.chat.completions.create(model="d1", messages=HELLO, max_tokens=1).choices


def test_a_reader_who_leaves_does_not_block_the_device(client: openai.OpenAI) -> None:
    """A stream closed after its first piece is cancelled; the next request is answered."""
    stream = client.chat.completions.create(model="d1", messages=HELLO, max_tokens=40, stream=True)
    next(iter(stream))
    stream.close()
    assert client.chat.completions.create(model="d1", messages=HELLO, max_tokens=1).choices
