"""The OpenAI client talks to a fleet unchanged: agents, broker and controller are real.

Over 400 lines: all tests share one fleet of real agents.
"""

from __future__ import annotations

import asyncio
import json
import queue
import signal
import socket
import threading
import uuid
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import openai
import pytest
from openai.types import Completion as TextCompletion
from openai.types.chat import ChatCompletion

from contracts.answers import Answer
from contracts.bundle import Bundle
from contracts.config import MqttConfig
from contracts.connection import new_client
from contracts.topics import Topics
from fleet.api.openai import _asked, _events, _Shape
from fleet.api.openai_bodies import ChatCompletion as ChatBody
from fleet.rollout.spec import RolloutSpec
from tests.support.controller import AgentProcess
from tests.support.openai_nulls import optional_fields
from tests.support.served import ServedFleet
from tests.support.tiny_decoder import tiny_bundle

HELLO = [{"role": "user", "content": "the quick brown fox"}]


AGENTS: dict[str, AgentProcess] = {}


@pytest.fixture(scope="module")
def served(
    mosquitto_broker: MqttConfig, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedFleet]:
    """A controller and two agents of the group ``kitchen`` that both run a tiny generator."""
    folder = tmp_path_factory.mktemp("openai")
    name_of_fleet = f"openai-{uuid.uuid4().hex[:8]}"  # the broker knows the owner of each fleet
    bundle = tiny_bundle(folder / "bundle", contexts=(64, 512), tools=True)
    with ExitStack() as stack:
        fleet = stack.enter_context(
            ServedFleet(folder / "fleet", mosquitto_broker, name=name_of_fleet)
        )
        ref, _ = fleet.fleet.publish(bundle)
        assert ref == Bundle.open(bundle).ref
        repository = fleet.fleet.open_repository()
        for name in ("d1", "d2"):
            AGENTS[name] = stack.enter_context(
                AgentProcess(
                    folder / name, mosquitto_broker, name_of_fleet, repository, device=name,
                    repository_url=f"{fleet.fleet.api_url}/repo/",
                )
            )  # fmt: skip
        with fleet.client() as people:
            fleet.until(lambda: people.devices_page().counts.get("online") == 2, 60)
            for name in ("d1", "d2"):
                people.change_device(name, groups=["kitchen"])
            wish = {"bundle": ref.name, "version": ref.version, "waves": [{"percent": 100}],
                    "bake_s": 0, "trial": {"seconds": 0}}  # fmt: skip
            rollout = people.create_rollout(RolloutSpec.model_validate(wish)).id
            fleet.until(lambda: people.rollout(rollout).status == "succeeded", 60)
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
    """What a client may ask for is listed, and each is there by its name."""
    names = [m.id for m in client.models.list()]
    assert names == ["all", "group=kitchen", "d1", "d2"]
    assert [client.models.retrieve(name).id for name in names] == names
    with pytest.raises(openai.NotFoundError, match="none of those"):
        client.models.retrieve("gpt-4o")


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
    # As documented: the field is in every event, and null but in the last.
    assert all("usage" in c.model_fields_set and c.usage is None for c in chunks[:-1])


def test_a_message_has_all_that_strict_clients_need(client: openai.OpenAI) -> None:
    """OpenAI's schema requires ``refusal``; clients made from it take no message without."""
    raw = client.chat.completions.with_raw_response.create(model="d1", messages=HELLO, max_tokens=1)
    message = json.loads(raw.text)["choices"][0]["message"]
    assert message.keys() == {"role", "content", "refusal"}


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


def test_the_keys_of_an_answer_have_the_order_of_the_schema(client: openai.OpenAI) -> None:
    """A reasoning before the answer is of no use after it; through every program on the way."""
    names = ["reasoning", "answer", "best", "also"]
    schema = {"type": "object", "properties": {name: {"enum": [1, 2]} for name in names},
              "required": names, "additionalProperties": False}  # fmt: skip
    done = client.chat.completions.create(
        model="d1", messages=HELLO, max_tokens=100,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )  # fmt: skip
    assert list(json.loads(done.choices[0].message.content or "")) == names


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


def test_what_would_fail_again_is_not_sent_again(served: ServedFleet) -> None:
    """The client tries a 409 three times, and each would cost a device a whole answer."""
    sent: list[httpx.Request] = []
    http = httpx.Client(event_hooks={"request": [sent.append]})
    made = openai.OpenAI(
        base_url=f"{served.fleet.api_url}/v1", api_key=served.token, http_client=http, timeout=60
    )
    circle: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}
    with made, pytest.raises(openai.ConflictError, match="constraint"):
        made.chat.completions.create(model="d1", messages=HELLO, response_format=circle)
    assert len(sent) == 1


def test_a_chat_that_is_too_long_says_so_or_forgets_its_oldest_turns(
    client: openai.OpenAI,
) -> None:
    """By choice: of a chat, of a stream of it, and of a response."""
    old = {"role": "user", "content": "fox " * 200}
    turns: list[Any] = [old, {"role": "assistant", "content": "dog"}, old, *HELLO]
    asked: dict[str, Any] = {"model": "d1", "max_tokens": 8, "temperature": 0}
    with pytest.raises(openai.BadRequestError, match="tokens"):
        client.chat.completions.create(messages=turns, **asked)
    auto = {"extra_body": {"truncation": "auto"}}
    found = client.chat.completions.create(messages=turns, **asked, **auto)
    left = found.choices[0].model_extra["forgotten"]
    assert left in (2, 3)
    short = client.chat.completions.create(messages=turns[left:], **asked).choices[0]
    assert found.choices[0].message.content == short.message.content and not short.model_extra
    chunks = list(client.chat.completions.create(messages=turns, stream=True, **asked, **auto))
    assert chunks[-1].choices[0].model_extra == {"forgotten": left}
    made = client.responses.create(
        model="d1", input=turns, temperature=0, max_output_tokens=8, truncation="auto"
    )
    assert made.output[0].model_extra == {"forgotten": left}
    again: list[Any] = [*made.output, *HELLO]
    assert client.responses.create(model="d1", input=again, max_output_tokens=1).output


def test_arguments_of_the_chat_template_reach_the_device(client: openai.OpenAI) -> None:
    """As users of vLLM write them; the prompt is longer by what the template adds."""
    asked: dict[str, Any] = {"model": "d1", "messages": HELLO, "max_tokens": 1}
    plain = client.chat.completions.create(**asked)
    quiet = client.chat.completions.create(
        **asked, extra_body={"chat_template_kwargs": {"enable_thinking": False}}
    )
    assert quiet.usage.prompt_tokens > plain.usage.prompt_tokens


def test_log_probabilities_are_those_of_the_tokens_taken(client: openai.OpenAI) -> None:
    """Of a chat and of a completion; one that was sampled need not be the most likely."""
    chat: dict[str, Any] = {"model": "d1", "messages": HELLO, "max_tokens": 12, "seed": 5}
    done = client.chat.completions.create(**chat, temperature=2, logprobs=True, top_logprobs=3)
    content = done.choices[0].logprobs.content
    assert len(content) == done.usage.completion_tokens
    assert all(len(one.top_logprobs) == 3 for one in content)
    assert all(one.logprob <= one.top_logprobs[0].logprob + 1e-6 for one in content)
    assert any(one.logprob < one.top_logprobs[2].logprob for one in content)
    text = b"".join(bytes(one.bytes) for one in content)  # parts of characters have bytes alone
    assert text.decode(errors="replace") == done.choices[0].message.content
    assert any(one.token.startswith("bytes:\\x") for one in content)
    alone = client.chat.completions.create(**chat, temperature=2, logprobs=True)
    assert [(c.token, c.top_logprobs) for c in alone.choices[0].logprobs.content] == [
        (c.token, []) for c in content
    ]
    assert client.chat.completions.create(**chat).choices[0].logprobs is None
    text = client.completions.create(
        model="d1", prompt="the lazy", max_tokens=6, temperature=0, logprobs=2
    ).choices[0]
    found = text.logprobs
    assert len(found.tokens) == len(found.token_logprobs) == len(found.text_offset) == 6
    assert [max(top.values()) for top in found.top_logprobs] == found.token_logprobs
    assert found.text_offset[:2] == [0, len(found.tokens[0])]


def test_log_probabilities_of_a_stream_come_with_its_text(client: openai.OpenAI) -> None:
    """In one piece, with all tokens: guidance asks for nothing else."""
    asked: dict[str, Any] = {"model": "d1", "max_tokens": 8, "temperature": 0, "n": 2, "seed": 1}
    chat: dict[str, Any] = {"messages": HELLO, "logprobs": True, "top_logprobs": 2, **asked}
    whole = client.chat.completions.create(**chat)
    chunks = [c for c in client.chat.completions.create(**chat, stream=True) if c.choices]
    told = [c.choices[0] for c in chunks if c.choices[0].logprobs]
    for choice, other in zip(told, whole.choices, strict=True):
        assert choice.delta.content == other.message.content
        tokens, others = choice.logprobs.content, other.logprobs.content
        assert [token.token for token in tokens] == [token.token for token in others]
        assert [t.logprob for t in tokens] == pytest.approx([t.logprob for t in others], abs=0.1)
        assert {len(token.top_logprobs) for token in tokens} == {2}
    text: dict[str, Any] = {"prompt": "the lazy dog", "logprobs": 2, **asked}
    pieces = [p.choices[0] for p in client.completions.create(**text, stream=True)]
    found = client.completions.create(**text).choices
    for piece, other in zip([p for p in pieces if p.logprobs], found, strict=True):
        assert (piece.text, piece.logprobs.tokens) == (other.text, other.logprobs.tokens)


def test_several_choices_have_seeds_of_their_own(client: openai.OpenAI) -> None:
    """A prompt is counted once, and a stream has the same choices by their numbers."""
    options: dict[str, Any] = {
        "model": "d1", "messages": HELLO, "max_tokens": 12, "n": 3, "seed": 7, "temperature": 1.5,
    }  # fmt: skip
    whole = client.chat.completions.create(**options)
    assert [c.index for c in whole.choices] == [0, 1, 2]
    texts = [c.message.content for c in whole.choices]
    one = client.chat.completions.create(**{**options, "n": 1})
    assert len(set(texts)) == 3 and one.choices[0].message.content == texts[0]
    assert whole.usage.prompt_tokens == one.usage.prompt_tokens
    assert whole.usage.completion_tokens > one.usage.completion_tokens
    chunks = list(
        client.chat.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        )
    )
    streamed = ["", "", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts and chunks[-1].usage == whole.usage


def test_a_list_of_prompts_has_a_choice_for_each(client: openai.OpenAI) -> None:
    """In order, each with its own text before it where `echo` asks for that."""
    options: dict[str, Any] = {"model": "all", "max_tokens": 5, "temperature": 0}
    prompts = ["the lazy dog", "fox"]
    alone = [client.completions.create(prompt=p, **options).choices[0].text for p in prompts]
    both = client.completions.create(prompt=prompts, echo=True, n=2, **options)
    expected = [p + t for p, t in zip(prompts, alone, strict=True) for _ in range(2)]
    assert [c.text for c in both.choices] == expected
    assert [c.index for c in both.choices] == [0, 1, 2, 3]
    streamed = [""] * 4
    for chunk in client.completions.create(prompt=prompts, echo=True, n=2, stream=True, **options):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == expected


def test_what_a_client_prefers_reaches_the_device(client: openai.OpenAI) -> None:
    """A bias forces a token, a penalty drives one out, and one token alone is no choice."""
    options: dict[str, Any] = {"model": "d1", "prompt": "the quick", "max_tokens": 6}
    forced = client.completions.create(**options, logit_bias={"65": 100}, temperature=0, logprobs=1)
    assert len(set(forced.choices[0].logprobs.tokens)) == 1
    driven = client.completions.create(
        **options, logit_bias={"65": 2}, frequency_penalty=2, presence_penalty=2, temperature=0,
        logprobs=0,
    )  # fmt: skip
    assert len(set(driven.choices[0].logprobs.tokens)) > 3
    greedy = client.completions.create(**options, temperature=0).choices[0].text
    extra = {"top_k": 1, "min_p": 0.1, "repetition_penalty": 1.0}
    top = client.completions.create(**options, temperature=3, extra_body=extra)
    assert top.choices[0].text == greedy
    with pytest.raises(openai.BadRequestError, match="999999 is no token"):
        client.completions.create(**options, logit_bias={"999999": 1})


def _tool(name: str, **schema: Any) -> dict[str, Any]:
    parameters = {"type": "object", **schema}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def _named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def _called(arguments: str) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    calls = [{"id": "c1", "type": "function", "function": function}]
    return {"role": "assistant", "content": None, "tool_calls": calls}


RESULT = {"role": "tool", "content": "rain"}
WEATHER = _tool(
    "get_weather",
    properties={"city": {"enum": ["Graz", "Lyon"]}, "days": {"enum": [1, 2]}},
    required=["city", "days"],
    additionalProperties=False,
)
TIME = _tool("get_time", properties={}, additionalProperties=False)


@pytest.mark.parametrize("choice", ["required", _named("get_weather")])
def test_a_tool_is_called_answered_and_the_chat_goes_on(choice: Any, client: openai.OpenAI) -> None:
    """As the library's users write it: the message of the call goes back as it came."""
    asked: dict[str, Any] = {
        "model": "d1", "tools": [WEATHER, TIME], "max_tokens": 200, "seed": 3,
        "temperature": 2, "parallel_tool_calls": False,
    }  # fmt: skip
    first = client.chat.completions.create(messages=HELLO, tool_choice=choice, **asked)
    found = first.choices[0]
    assert found.finish_reason == "tool_calls" and found.message.content is None
    (call,) = found.message.tool_calls
    if call.function.name == "get_weather":
        arguments = json.loads(call.function.arguments)
        assert arguments["city"] in ("Graz", "Lyon") and arguments["days"] in (1, 2)
    assert call.function.name == "get_weather" or choice == "required"
    result = {**RESULT, "tool_call_id": call.id}
    options = {**asked, "max_tokens": 10, "temperature": 0}
    second = client.chat.completions.create(messages=[*HELLO, found.message, result], **options)
    assert second.usage.prompt_tokens > first.usage.prompt_tokens
    assert second.choices[0].message.content
    streamed = list(
        client.chat.completions.create(messages=HELLO, tool_choice=choice, stream=True, **asked)
    )
    deltas = [d for chunk in streamed for d in chunk.choices[0].delta.tool_calls or []]
    assert deltas[0].id and deltas[0].type == "function" and deltas[0].function.name
    assert all(d.index == 0 and d.id is d.function.name is None for d in deltas[1:])
    assert deltas[0].function.name == call.function.name
    assert "".join(d.function.arguments for d in deltas) == call.function.arguments
    reasons = [chunk.choices[0].finish_reason for chunk in streamed]
    assert reasons[-1] == "tool_calls" and set(reasons[:-1]) == {None}


LOGPROBS = "message.output_text.logprobs"
CITY: dict[str, Any] = {"enum": ["Graz", "Lyon", "Bern"]}


def test_a_format_and_tools_go_together(client: openai.OpenAI) -> None:
    """The answer is in the format, or a call: of chats and responses, whole and streamed."""
    asked: dict[str, Any] = {"model": "d1", "temperature": 2, "parallel_tool_calls": False}
    named = {"name": "city", "schema": CITY}
    chat: dict[str, Any] = {
        "messages": HELLO, "tools": [WEATHER, TIME], "max_tokens": 200, "logprobs": True,
        "response_format": {"type": "json_schema", "json_schema": named}, **asked,
    }  # fmt: skip
    response: dict[str, Any] = {
        "input": HELLO, "tools": [_flat(WEATHER), _flat(TIME)], "max_output_tokens": 200,
        "text": {"format": {"type": "json_schema", **named}},
        "include": [LOGPROBS], "top_logprobs": 2, **asked,
    }  # fmt: skip

    def check(content: str | None, calls: list[Any], tokens: list[Any] | None) -> bool:
        if calls:
            assert len(calls) == 1 and not content and not tokens
            assert calls[0].name in ("get_weather", "get_time")
            assert isinstance(json.loads(calls[0].arguments), dict)
        else:
            assert json.loads(content or "") in CITY["enum"]
            assert "".join(token.token for token in tokens or []) == content
        return bool(calls)

    found = set()
    for seed in range(10):
        options = {**chat, "seed": seed, "extra_body": {"min_confidence": 0}}
        choice = client.chat.completions.create(**options).choices[0]
        message = choice.message
        calls = [call.function for call in message.tool_calls or []]
        tokens = choice.logprobs.content if choice.logprobs else None
        found.add(("chat", check(message.content, calls, tokens)))
        assert choice.finish_reason == ("tool_calls" if calls else "stop")
        assert 0 <= choice.model_extra["confidence"] < 1
        chunks = list(client.chat.completions.create(**options, stream=True))
        streamed = [chunk.choices[0] for chunk in chunks]
        assert streamed[-1].finish_reason == choice.finish_reason
        assert streamed[-1].model_extra == choice.model_extra
        told = "".join(one.delta.content or "" for one in streamed)
        assert told == (message.content or "")
        pieces = [call for one in streamed for call in one.delta.tool_calls or []]
        assert "".join(piece.function.arguments for piece in pieces) == "".join(
            call.arguments for call in calls
        )
        assert [len(o.logprobs.content) for o in streamed if o.logprobs] == (
            [len(tokens)] if tokens else []
        )
    for _ in range(12):
        made = client.responses.create(**response)
        with client.responses.stream(**response) as stream:
            events: list[Any] = list(stream)
        final = events[-1].response
        for one in (made, final):
            calls = [item for item in one.output if item.type == "function_call"]
            parts = [p for item in one.output if item.type == "message" for p in item.content]
            tokens = parts[0].logprobs if parts else None
            found.add(("response", check(one.output_text, calls, tokens)))
            assert all(len(token.top_logprobs) == 2 for token in tokens or [])
        deltas = [e for e in events if e.type == "response.output_text.delta"]
        assert "".join(event.delta for event in deltas) == final.output_text
        assert [len(e.logprobs) for e in deltas] == ([len(tokens)] if tokens else [])
        again = [*HELLO, *made.output]
        again += [
            {"type": "function_call_output", "call_id": item.call_id, "output": "rain"}
            for item in made.output
            if item.type == "function_call"
        ]
        assert client.responses.create(**{**response, "input": again}).output
    assert found == {(kind, called) for kind in ("chat", "response") for called in (True, False)}


def test_several_calls_of_a_stream_are_told_apart(client: openai.OpenAI) -> None:
    """The library's own reader of streams puts them together again."""
    asked: dict[str, Any] = {
        "model": "d1", "tools": [WEATHER, TIME], "max_tokens": 400, "seed": 3,
        "temperature": 1, "tool_choice": "required", "messages": HELLO,
    }  # fmt: skip
    counts = []
    for seed in range(12):
        asked["seed"] = seed
        with client.chat.completions.stream(**asked) as stream:
            done = stream.get_final_completion().choices[0]
        whole = client.chat.completions.create(**asked).choices[0]
        assert [(c.function.name, c.function.arguments) for c in done.message.tool_calls] == [
            (c.function.name, c.function.arguments) for c in whole.message.tool_calls
        ]
        assert len({c.id for c in done.message.tool_calls}) == len(done.message.tool_calls)
        assert done.finish_reason == whole.finish_reason == "tool_calls"
        counts.append(len(done.message.tool_calls))
    assert set(counts) >= {1}


def test_an_answer_says_how_sure_the_model_was_or_that_it_does_not_know(
    client: openai.OpenAI,
) -> None:
    """Streamed or whole, of a chat, a completion and a response."""
    asked: dict[str, Any] = {"model": "d1", "max_tokens": 8, "temperature": 0}
    plain = client.chat.completions.create(messages=HELLO, **asked).choices[0]
    assert not plain.model_extra
    sure = {"extra_body": {"min_confidence": 0}}
    found = client.chat.completions.create(messages=HELLO, **asked, **sure).choices[0]
    assert found.message.content == plain.message.content
    confidence = found.model_extra["confidence"]
    assert 0 < confidence < 0.9 and found.model_extra == {
        "confidence": confidence, "unknown": False,
    }  # fmt: skip
    unsure = {"extra_body": {"min_confidence": 0.95}}
    known = {"confidence": confidence, "unknown": True, "best": plain.message.content}
    found = client.chat.completions.create(
        messages=HELLO, logprobs=True, **asked, **unsure
    ).choices[0]
    assert (found.message.content, found.logprobs, found.model_extra) == ("", None, known)
    chunks = list(client.chat.completions.create(messages=HELLO, stream=True, **asked, **unsure))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == ""
    assert chunks[-1].choices[0].model_extra == known
    text = client.completions.create(prompt="the lazy", **asked, **unsure).choices[0]
    assert text.text == "" and text.model_extra["unknown"] and text.model_extra["best"]
    made = client.responses.create(
        model="d1", input="the quick brown fox", temperature=0, max_output_tokens=8, **unsure
    )
    assert made.output_text == "" and made.output[0].model_extra == known
    again: list[Any] = [*made.output, *HELLO]
    assert client.responses.create(model="d1", input=again, max_output_tokens=1).output


# A field of a chat that is let be (None), or what a client is told of it.
CHAT_FIELDS: list[tuple[dict[str, Any], str | None]] = [
    ({"user": "someone"}, None),
    ({"metadata": {"a": "b"}}, None),
    ({"safety_identifier": "x", "prompt_cache_key": "y"}, None),
    ({"store": False}, None),
    ({"store": True}, "store"),
    ({"service_tier": "auto"}, None),
    ({"service_tier": "flex"}, "service_tier"),
    ({"modalities": ["text"]}, None),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"audio": None}, None),
    ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
    ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
    ({"reasoning_effort": "high"}, "reasoning_effort"),
    ({"reasoning_effort": "none", "verbosity": "medium"}, None),
    ({"verbosity": "low"}, "verbosity"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"frequency_penalty": 0.5}, None),
    ({"frequency_penalty": 3}, "frequency_penalty"),
    ({"presence_penalty": None}, None),
    ({"logit_bias": {}}, None),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias"),
    ({"logprobs": False}, None),
    ({"top_logprobs": 3}, "top_logprobs needs logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"stream_options": {"include_usage": True}}, "stream_options needs stream"),
    ({"stream": True, "stream_options": {"fast": True}}, "fast"),
    ({"max_completion_tokens": 3}, "exclude each other"),
    ({"n": 0}, "n:"),
    ({"seed": -1}, "seed"),
    ({"stop": []}, None),
    ({"stop": ["a", "b"]}, None),
    ({"stop": ""}, "stop"),
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": {"type": "grammar"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "json_schema.schema"),
    ({"tools": []}, None),
    ({"tools": None, "tool_choice": None}, None),
    ({"tools": [{"type": "function", "function": {"name": "f", "description": None}}]}, None),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": None}}]}, None),
    ({"tool_choice": "none"}, None),
    ({"tool_choice": "required"}, "there are no tools"),
    ({"tool_choice": _named("f")}, "not in tools"),
    ({"tool_choice": "always"}, "tool_choice"),
    ({"parallel_tool_calls": False}, None),
    ({"tools": [_tool("f")]}, None),
    ({"tools": [_tool("f"), _tool("f")]}, "two have one name"),
    ({"tools": [_tool("a name")]}, "tools.0.function.name"),
    ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
    ({"tools": [_tool("f")], "logprobs": True}, None),
    ({"tools": [_tool("f")], "tool_choice": "none", "logprobs": True}, None),
    ({"tools": [_tool("f")], "min_confidence": 0.5}, None),
    ({"min_confidence": 0.5}, None),
    ({"truncation": "auto"}, None),
    ({"truncation": "oldest"}, "truncation"),
    ({"chat_template_kwargs": {}}, None),
    ({"chat_template_kwargs": {"enable_thinking": False}}, None),
    ({"chat_template_kwargs": {"mood": 1}}, "takes no argument mood"),
    ({"chat_template_kwargs": {"a b": 1}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": [1]}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {f"a{n}": 1 for n in range(33)}}, "chat_template_kwargs"),
    ({"min_confidence": 1.5}, "min_confidence"),
    (
        {
            "tools": [_tool("f", properties={}, additionalProperties=False)],
            "max_tokens": 200,
            "tool_choice": "required",
            "response_format": {"type": "json_object"},
        },
        None,
    ),
    ({"tools": [_tool("f", type="array")], "tool_choice": "required"}, "parameters of f"),
    ({"tools": [TIME, _tool("f", **{"not": {}})]}, "the parameters of f: the constraint cannot"),
    ({"messages": [*HELLO, _called('{"a":' * 40 + "1" + "}" * 40)]}, "more than 32 deep"),
    ({"messages": [*HELLO, {"role": "assistant", "content": None}]}, "content is null"),
    ({"messages": [*HELLO, {"role": "tool", "content": "rain"}]}, "tool_call_id"),
    ({"messages": [*HELLO, _called("[1]")]}, "no JSON object"),
    ({"messages": [*HELLO, _called("{}"), {**RESULT, "tool_call_id": "c1"}]}, None),
    ({"functions": [{"name": "f", "parameters": {}}]}, "functions"),
    ({"top_a": 0.2}, "top_a"),
    ({"temprature": 0}, "temprature"),
    ({"messages": [{"role": "user", "content": "a", "name": "Ann"}]}, None),
    ({"messages": [{"role": "critic", "content": "a"}]}, "role"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages.0.content.list.0.type: Input should be 'text'",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, None),
    ({"messages": []}, "messages"),
]


@pytest.mark.parametrize(("fields", "refusal"), CHAT_FIELDS, ids=[str(c[0]) for c in CHAT_FIELDS])
def test_a_field_of_a_chat_counts_or_is_refused_by_name(
    fields: dict[str, Any], refusal: str | None, client: openai.OpenAI
) -> None:
    """Nobody waits for what a field asks, and does not come."""
    body = {"model": "d1", "messages": HELLO, "max_tokens": 1, **fields}
    if refusal is None:
        assert client.post("/chat/completions", body=body, cast_to=ChatCompletion).choices
        return
    with pytest.raises(openai.BadRequestError) as raised:
        client.post("/chat/completions", body=body, cast_to=ChatCompletion)
    assert refusal in raised.value.message


def test_a_response_is_the_answer_of_a_chat(client: openai.OpenAI) -> None:
    """In the form of the newer endpoint, whose own messages can be given back."""
    made = client.responses.create(
        model="d1", input="the quick brown fox", temperature=0, max_output_tokens=12
    )
    chat = client.chat.completions.create(model="d1", messages=HELLO, max_tokens=12, temperature=0)
    assert made.output_text == chat.choices[0].message.content
    assert (made.status, made.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert made.usage.output_tokens == 12
    assert made.usage.input_tokens == chat.usage.prompt_tokens
    again: list[Any] = [{"role": "user", "content": "a"}, *made.output]
    again.append({"role": "user", "content": [{"type": "input_text", "text": "b"}]})
    second = client.responses.create(
        model="d1", instructions="be brief", input=again, max_output_tokens=60,
        text={"format": {"type": "json_schema", "name": "x", "schema": {"enum": [True]}}},
    )  # fmt: skip
    assert (second.status, second.output_text) == ("completed", "true")
    plain = client.responses.create(
        model="d1", input="a", metadata={"a": "b"}, reasoning={"effort": "none"},
        text={"verbosity": "medium"},
    )  # fmt: skip
    assert (plain.metadata, plain.text.format.type) == ({"a": "b"}, "text")
    assert second.text.format.schema_ == {"enum": [True]} and second.metadata == {}
    for fields in (
        {"store": True}, {"stream_options": {"include_usage": True}}, {"background": True},
        {"previous_response_id": "x"},
        {"tools": [{"type": "web_search"}]}, {"reasoning": {"effort": "low"}},
        {"include": ["reasoning.encrypted_content"]}, {"truncation": "last"}, {"input": []},
        {"text": {"verbosity": "low"}}, {"stop": "a"},
    ):  # fmt: skip
        with pytest.raises(openai.BadRequestError, match=f"body.{next(iter(fields))}"):
            client.post("/responses", body={"model": "d1", "input": "a", **fields}, cast_to=object)


def test_a_response_streams_the_events_that_the_client_puts_together(
    client: openai.OpenAI,
) -> None:
    """In their order, with their places; what they join to is what is given at once."""
    asked: Any = {"model": "d1", "input": "the quick brown fox", "max_output_tokens": 12}
    whole = client.responses.create(**asked, temperature=0)
    with client.responses.stream(**asked, temperature=0) as stream:
        events: list[Any] = list(stream)
    final = events[-1].response
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert [kind for kind in kinds if kind != "response.output_text.delta"] == [
        "response.created", "response.in_progress", "response.output_item.added",
        "response.content_part.added", "response.output_text.done", "response.content_part.done",
        "response.output_item.done", "response.incomplete",
    ]  # fmt: skip
    assert "".join(deltas) == final.output_text == whole.output_text
    assert final.status == "incomplete"
    assert final.usage is not None and final.usage.output_tokens == 12
    assert final.output[0].id in {event.item_id for event in events if hasattr(event, "item_id")}
    true: Any = {"format": {"type": "json_schema", "name": "x", "schema": {"enum": [True]}}}
    with client.responses.stream(model="d1", input="a", text=true) as stream:
        stream.until_done()
        assert stream.get_final_response().output_text == "true"


def _flat(tool: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "strict": None, **tool["function"]}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}])
def test_a_tool_of_a_response_is_called_answered_and_the_response_goes_on(
    choice: Any, client: openai.OpenAI
) -> None:
    """The items of the answer go back as they came, and those of its stream are the same."""
    asked: dict[str, Any] = {
        "model": "d1", "tools": [_flat(WEATHER), _flat(TIME)], "max_output_tokens": 200,
        "temperature": 2, "top_p": 0.5, "parallel_tool_calls": False,
    }  # fmt: skip
    first = client.responses.create(input=HELLO, tool_choice=choice, **asked)
    (call,) = first.output
    assert (first.status, call.type, call.status) == ("completed", "function_call", "completed")
    if call.name == "get_weather":
        arguments = json.loads(call.arguments)
        assert arguments["city"] in ("Graz", "Lyon") and arguments["days"] in (1, 2)
    assert call.name == "get_weather" or choice == "required"
    assert [tool.name for tool in first.tools] == ["get_weather", "get_time"]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    again = {**asked, "input": [*HELLO, *first.output, result], "temperature": 0}
    second = client.responses.create(**again)
    assert second.usage.input_tokens > first.usage.input_tokens
    chat = client.chat.completions.create(
        model="d1", tools=[WEATHER, TIME], max_tokens=200, temperature=0, top_p=0.5,
        parallel_tool_calls=False, messages=[
            *HELLO,
            {"role": "assistant", "tool_calls": [{"id": call.call_id, "type": "function",
             "function": {"name": call.name, "arguments": call.arguments}}]},
            {"role": "tool", "tool_call_id": call.call_id, "content": "rain"},
        ],
    )  # fmt: skip
    assert second.usage.input_tokens == chat.usage.prompt_tokens
    assert second.output_text == (chat.choices[0].message.content or "")
    with client.responses.stream(input=HELLO, tool_choice=choice, **asked) as stream:
        events: list[Any] = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    (done,) = events[-1].response.output
    assert events[-1].type == "response.completed" and done.type == "function_call"
    deltas = [e for e in events if e.type == "response.function_call_arguments.delta"]
    assert "".join(event.delta for event in deltas) == done.arguments
    assert {(e.item_id, e.output_index) for e in deltas} <= {(done.id, 0)}
    kinds = [event.type for event in events if event not in deltas]
    assert kinds == [
        "response.created", "response.in_progress", "response.output_item.added",
        "response.function_call_arguments.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0.type: Input should be 'function'"),
        ({"tools": [_flat(TIME), _flat(TIME)]}, "two have one name"),
        ({"top_logprobs": 3}, "top_logprobs needs include"),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 21}, "top_logprobs"),
        ({"include": ["file_search_call.results"]}, "include.0: Input should be"),
        ({"tool_choice": "required"}, "there are no tools"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "not in tools"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "expected a message, a function_call"),
        ({"input": [{"type": "function_call_output", "output": "a"}]}, "call_id: Field required"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "content.list.0.type: Input should be 'input_text'",
        ),
    ],
    ids=str,
)
def test_what_a_response_does_not_support_is_refused_by_name(
    fields: dict[str, Any], refusal: str, client: openai.OpenAI
) -> None:
    """In one sentence that says where."""
    with pytest.raises(openai.BadRequestError) as raised:
        client.post("/responses", body={"model": "d1", "input": "a", **fields}, cast_to=object)
    assert refusal in raised.value.message


WHOLE: dict[str, dict[str, Any]] = {
    "/chat/completions": {"model": "d1", "messages": HELLO, "max_tokens": 1},
    "/completions": {"model": "d1", "prompt": "the", "max_tokens": 1},
    "/responses": {"model": "d1", "input": "the", "max_output_tokens": 1},
}


@pytest.mark.parametrize(
    ("path", "field"), [(path, field) for path in WHOLE for field in optional_fields(path)]
)
def test_null_is_a_field_that_was_left_out(path: str, field: str, client: openai.OpenAI) -> None:
    """OpenAI's schema allows it of most, and some clients send it of all."""
    made = client.post(path, body={**WHOLE[path], field: None}, cast_to=object)
    assert isinstance(made, dict) and made["usage"]


@pytest.mark.parametrize("choice", ["auto", "none"])
@pytest.mark.parametrize("stream", ["true", "false"])
@pytest.mark.parametrize(
    ("parameters", "status"),
    [('{"minimum":NaN}', 200), ('{"minimum":1e999}', 200), ('{"a":"\\ud800"}', 400)],
)
def test_what_a_response_tells_again_is_json(
    choice: str, stream: str, parameters: str, status: int, served: ServedFleet
) -> None:
    """Also where no device was shown the tools."""
    tool = f'{{"type":"function","name":"f","parameters":{parameters}}}'
    found = httpx.post(
        f"{served.fleet.api_url}/v1/responses", timeout=60,
        headers={"Authorization": f"Bearer {served.token}", "Content-Type": "application/json"},
        content='{"model":"d1","input":"a","max_output_tokens":1,'
        f'"stream":{stream},"tool_choice":"{choice}","tools":[{tool}]}}',
    )  # fmt: skip
    assert found.status_code == status, found.text
    last = found.text.strip().rsplit("data: ")[-1]
    assert "NaN" not in last and ("error" in json.loads(last) or status == 200)


def test_a_schema_of_a_tool_that_cannot_be_kept_has_its_status(client: openai.OpenAI) -> None:
    """Not in the midst of a stream, when its tool is called."""
    tools: Any = [_tool("f", properties=3)]
    with pytest.raises(openai.BadRequestError, match="the parameters of f"):
        client.chat.completions.create(
            model="d1", messages=HELLO, tools=tools, tool_choice="required", stream=True
        )


def test_a_stream_of_a_device_that_ends_without_a_result_says_so() -> None:
    """It ended as if all was said, without a reason."""
    body = ChatBody.model_validate({"model": "d1", "messages": HELLO, "stream": True})
    (asked,) = _asked(body, body.fields(), "somebody")

    async def nothing() -> AsyncGenerator[Answer, None]:
        return
        yield

    first = Answer(id="a", device="d1")
    controller: Any = None

    async def told() -> bytes:
        events = _events(first, nothing(), controller, [asked], _Shape("chat", body))
        return b"".join([event async for event in events])

    assert b'"code":"no-answer"' in asyncio.run(told())


def test_a_response_that_fails_has_its_status_or_says_so_in_its_stream(
    client: openai.OpenAI,
) -> None:
    """Before a token: the status of a wrong request."""
    with pytest.raises(openai.NotFoundError, match="no device with a generator"):
        client.responses.create(model="gpt-4o", input="a", stream=True)


def test_an_adapter_is_asked_for_in_each_form(client: openai.OpenAI) -> None:
    """None has one of this name: no form answers without it."""
    codes = set()
    for path, body in (
        ("/chat/completions", {"messages": HELLO}),
        ("/completions", {"prompt": "a"}),
        ("/responses", {"input": "a"}),
    ):
        for stream in (False, True):
            with pytest.raises(openai.APIStatusError) as caught:
                client.post(
                    path, body={"model": "d1:other", "stream": stream, **body}, cast_to=object
                )
            codes.add((path, stream, caught.value.body["code"]))
    assert {code for _, _, code in codes} == {"no-adapter"}, codes


TEXT_FIELDS: list[tuple[dict[str, Any], str | None]] = [
    ({"best_of": 1}, None),
    ({"best_of": 3}, "best_of"),
    ({"suffix": "end"}, "suffix"),
    ({"echo": True, "logprobs": 1}, "echo or logprobs"),
    ({"logprobs": 6}, "logprobs"),
    ({"prompt": [1, 2, 3]}, "texts are expected, not numbers of tokens"),
    ({"prompt": [[1, 2], [3]]}, "texts are expected, not numbers of tokens"),
    ({"prompt": ["a", 1]}, "prompt.list.1: Input should be a valid string"),
    ({"prompt": None}, "prompt: Field required"),
    ({"prompt": []}, "prompt"),
    ({"max_tokens": 0, "echo": True}, "max_tokens"),
    ({"messages": HELLO}, "messages"),
]


@pytest.mark.parametrize(("fields", "refusal"), TEXT_FIELDS, ids=[str(c[0]) for c in TEXT_FIELDS])
def test_a_field_of_a_completion_counts_or_is_refused_by_name(
    fields: dict[str, Any], refusal: str | None, client: openai.OpenAI
) -> None:
    """As of a chat."""
    body = {"model": "d1", "prompt": "the quick", "max_tokens": 1, **fields}
    if refusal is None:
        assert client.post("/completions", body=body, cast_to=TextCompletion).choices
        return
    with pytest.raises(openai.BadRequestError) as raised:
        client.post("/completions", body=body, cast_to=TextCompletion)
    assert refusal in raised.value.message


SCHEMA = '"response_format":{"type":"json_schema","json_schema":{"schema":%s}}'
BODIES = {
    "temperature NaN": ('"temperature":NaN', 400, "bad-request"),
    "temperature 1e999": ('"temperature":1e999', 400, "bad-request"),
    "temperature -1": ('"temperature":-1', 400, "bad-request"),
    "temperature of the wrong type": ('"temperature":[1]', 400, "bad-request"),
    "seed 10**30": (f'"seed":{10**30}', 400, "bad-request"),
    "a seed of 5,000 digits": ('"seed":' + "1" * 5000, 400, "bad-request"),
    "no tokens": ('"max_tokens":0', 400, "bad-request"),
    "five choices": ('"n":5', 400, "bad-request"),
    "100,000 stops": (f'"stop":{["x"] * 100_000}'.replace("'", '"'), 400, "bad-request"),
    "a stop of half a pair": ('"stop":["\\ud800"]', 400, "bad-request"),
    "a schema with half a pair": (SCHEMA % '{"enum":["\\ud800"]}', 400, "bad-text"),
    "a schema with a long number": (SCHEMA % f'{{"enum":[{10**400}]}}', 400, "bad-constraint"),
    "a schema with NaN": (SCHEMA % '{"minimum":NaN}', 400, "bad-constraint"),
    "a deep schema": (SCHEMA % ('{"a":' * 900 + "1" + "}" * 900), 400, "bad-constraint"),
    "a very deep schema": (SCHEMA % ('{"a":' * 9**5 + "1" + "}" * 9**5), 400, "bad-request"),
    "a schema over a message": (SCHEMA % f'{{"enum":[{"1," * 400_000}1]}}', 413, "too-large"),
    "a large enum": (SCHEMA % f'{{"enum":{[1] * 50_000}}}', 400, "bad-constraint"),
    "multiples without end": (SCHEMA % '{"multipleOf":99999999}', 400, "bad-constraint"),
    "a contradiction": (SCHEMA % '{"const":1,"type":"string"}', 400, "bad-constraint"),
    "a circle": (SCHEMA % '{"$ref":"#"}', 409, "constraint-failed"),
}


@pytest.mark.parametrize("stream", ["false", "true"])
@pytest.mark.parametrize("case", BODIES)
def test_a_bad_body_has_one_error_and_the_fleet_goes_on(
    case: str, stream: str, client: openai.OpenAI, served: ServedFleet
) -> None:
    """The status says whose fault it is: a client must not try a wrong request again."""
    field, status, code = BODIES[case]
    message = '{"role":"user","content":"the quick"}'
    body = f'{{"model":"d1","messages":[{message}],"stream":{stream},{field}}}'
    found = httpx.post(
        f"{served.fleet.api_url}/v1/chat/completions", content=body, timeout=60,
        headers={"Authorization": f"Bearer {served.token}", "Content-Type": "application/json"},
    )  # fmt: skip
    assert (found.status_code, found.json()["error"]["code"]) == (status, code), found.text[:300]
    assert client.chat.completions.create(model="d1", messages=HELLO, max_tokens=1).choices


@pytest.mark.parametrize(
    ("content", "status"),
    [("fox " * 500, 400), ("\N{LATIN SMALL LETTER E WITH ACUTE}" * 16_000, 413), ("", 400)],
)
def test_a_prompt_that_no_device_takes_has_the_status_of_a_wrong_request(
    content: str, status: int, client: openai.OpenAI
) -> None:
    """It is the device that finds out; over HTTP it is still the request that is wrong."""
    with pytest.raises(openai.APIStatusError) as raised:
        client.completions.create(model="d1", prompt=content)
    assert raised.value.status_code == status


def test_a_query_with_half_a_pair_anywhere_is_refused(served: ServedFleet) -> None:
    """Also in the name of an option, and in a stream, whose status would be gone."""
    for options in ('{"\\ud800":1}', '{"stop":["\\ud800"]}', '{"regex":"\\ud800"}'):
        for stream in ("false", "true"):
            found = httpx.post(
                f"{served.fleet.api_url}/v1/queries", timeout=60,
                headers={
                    "Authorization": f"Bearer {served.token}", "Content-Type": "application/json",
                },
                content='{"devices":["d1"],"op":"generate","text":"a",'
                f'"stream":{stream},"options":{options}}}',
            )  # fmt: skip
            assert found.status_code == 400 and found.json()["error"]["code"] == "bad-text"


def test_readers_who_never_read_do_not_keep_others_waiting(
    client: openai.OpenAI, served: ServedFleet
) -> None:
    """Their answers wait in buffers; the devices and the controller go on."""
    body = json.dumps({"model": "d1", "messages": HELLO, "stream": True, "max_tokens": 40})
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {served.token}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    port = int(served.fleet.api_url.rsplit(":", 1)[1])
    with ExitStack() as stack:
        for _ in range(20):
            silent = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            silent.sendall((head + body).encode())
        answer = client.chat.completions.create(model="d1", messages=HELLO, max_tokens=1)
    assert answer.choices


def _heard(heard: queue.Queue[tuple[str, dict[str, Any]]], topic: str, name: str) -> Any:
    """A value of the next message on a topic, which comes within a minute."""
    while True:
        found, message = heard.get(timeout=60)
        if found == topic:
            return message[name]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/queries"])
def test_an_answer_that_nobody_waits_for_is_cancelled(
    path: str, stream: bool, served: ServedFleet, mosquitto_broker: MqttConfig
) -> None:
    """A client that gives up asks again, and the device would make both answers."""
    topics = Topics(served.fleet.config.fleet)
    heard: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
    ready = threading.Event()
    ears = new_client(mosquitto_broker, f"ears-{uuid.uuid4().hex[:8]}")
    ears.on_message = lambda _client, _data, message: heard.put(
        (message.topic, json.loads(message.payload))
    )
    ears.on_subscribe = lambda *_: ready.set()
    ears.connect(mosquitto_broker.host, mosquitto_broker.port)
    ears.subscribe([(topics.requests_of("d1"), 1)])
    ears.loop_start()
    body: dict[str, Any] = {
        "/v1/chat/completions": {"model": "d1", "messages": HELLO, "stream": stream},
        "/v1/responses": {"model": "d1", "input": "a", "stream": stream},
        "/v1/queries": {"devices": ["d1"], "op": "generate", "text": "a", "stream": stream},
    }[path]
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {served.token}\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    port = int(served.fleet.api_url.rsplit(":", 1)[1])
    device = AGENTS["d1"].process
    assert device is not None
    device.send_signal(signal.SIGSTOP)
    try:
        assert ready.wait(60)
        with socket.create_connection(("127.0.0.1", port)) as leaves:
            leaves.sendall(head.encode() + data)
            # What others left behind may still be cancelled.
            asked = _heard(heard, topics.request("d1", "generate"), "id")
        cancelled = topics.request("d1", "cancel")
        while _heard(heard, cancelled, "cancel") != asked:
            pass
    finally:
        device.send_signal(signal.SIGCONT)
        ears.disconnect()
        ears.loop_stop()


def test_a_reader_who_leaves_does_not_block_the_device(client: openai.OpenAI) -> None:
    """A stream closed after its first piece is cancelled; the next request is answered."""
    stream = client.chat.completions.create(model="d1", messages=HELLO, max_tokens=40, stream=True)
    next(iter(stream))
    stream.close()
    assert client.chat.completions.create(model="d1", messages=HELLO, max_tokens=1).choices
