"""Calls of tools: whatever a model would say, a call is of a tool and fits its schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.__main__ import main
from agent.generate.handler import ChunkSender
from agent.generate.model import GenerativeModel
from agent.generate.stop import Stop
from agent.serving.reply import Reply
from contracts.answers import Answer, CallPiece, Generated
from contracts.bundle import Bundle
from contracts.errors import InputError, ShoalError
from contracts.requests import ChatMessage, GenerateRequest, Tool, ToolCall
from tests.support.tiny_decoder import TOOL_TAG, tiny_bundle

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"enum": [1, 2, 3]}},
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"city": {"enum": ["Graz", "Lyon"]}},
}
WEATHER = Tool("get_weather", "The weather of a city", SCHEMA)
TIME = Tool("get-time", "The time")
ASKED = [ChatMessage("user", "what is the weather")]


@pytest.fixture(scope="module")
def tools_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a template that knows tools."""
    folder = tmp_path_factory.mktemp("tools")
    return tiny_bundle(folder, contexts=(256, 512), tools=True)


@pytest.fixture(scope="module")
def calling(tools_path: Path) -> Iterator[GenerativeModel]:
    """It, loaded."""
    model = GenerativeModel(Bundle.open(tools_path))
    yield model
    model.close()


def _request(**fields: Any) -> GenerateRequest:
    return GenerateRequest(
        **{"messages": ASKED, "tools": [WEATHER, TIME], "max_tokens": 200, "seed": 1, **fields}
    )


def _bias(model: GenerativeModel) -> dict[str, float]:
    """What makes the random model write the tag wherever it may."""
    return {str(model.prompts._tokenizer.token_to_id(TOOL_TAG)): 100.0}


def _check(result: Generated) -> None:
    for call in result.tool_calls:
        arguments = json.loads(call.arguments)
        if call.name == "get_weather":
            assert set(arguments) == {"city", "days"} and arguments["days"] in (1, 2, 3)
            assert arguments["city"] in ("Graz", "Lyon")
        else:
            assert (call.name, arguments) == ("get-time", {})


@pytest.mark.parametrize("seed", range(6))
def test_a_required_call_is_of_a_tool_and_fits_its_schema(
    seed: int, calling: GenerativeModel
) -> None:
    """A random model at a high temperature cannot do otherwise; nothing of it is streamed."""
    pieces: list[str] = []
    request = _request(tool_choice="required", temperature=3, seed=seed)
    result = calling.generate(request, pieces.append)
    assert len(result.tool_calls) >= 1 and result.text == "" and pieces == []
    assert result.finish_reason == "stop" and 0 < result.tokens <= 200
    assert len({call.id for call in result.tool_calls}) == len(result.tool_calls)
    _check(result)


def joined(pieces: list[CallPiece]) -> list[ToolCall]:
    """Calls put together from their pieces, which come one call after the other."""
    assert [piece.index for piece in pieces] == sorted(piece.index for piece in pieces)
    calls: dict[int, ToolCall] = {}
    for piece in pieces:
        if piece.index not in calls:
            assert piece.id and piece.name
            calls[piece.index] = ToolCall(piece.id, piece.name, piece.arguments)
        else:
            assert not piece.id and not piece.name
            known = calls[piece.index]
            calls[piece.index] = msgspec.structs.replace(
                known, arguments=known.arguments + piece.arguments
            )
    return list(calls.values())


def test_a_call_is_told_while_it_is_made(calling: GenerativeModel) -> None:
    """First which, then its arguments bit by bit; one that the budget cut short is no call."""
    pieces: list[CallPiece] = []
    request = _request(logit_bias=_bias(calling), temperature=1, tools=[WEATHER], max_tokens=400)
    result = calling.generate(request, tell=pieces.append)
    calls, *cut = (
        joined(pieces)[: len(result.tool_calls)],
        *joined(pieces)[len(result.tool_calls) :],
    )
    assert calls == result.tool_calls and len(calls) > 1 and len(cut) <= 1
    assert len(pieces) > 4 * len(result.tool_calls)


def test_pieces_that_come_fast_travel_together_and_calls_stay_apart() -> None:
    """Over MQTT: text, then calls, however long the link was busy."""
    sent: list[Answer] = []
    reply = Reply("r", "d", sent.append, monotonic=lambda: 0.0)
    sender = ChunkSender(reply, lambda: 0.0)
    for text in ("it ", "is ", "so"):
        sender.push(text)
    for index, name in enumerate(("f", "g")):
        sender.tell(CallPiece(index, f"c{index}", name))
        for text in ("{", '"a"', ":", str(index), "}"):
            sender.tell(CallPiece(index, arguments=text))
    sender.tell(CallPiece(2, "c2", "h"))
    sender.flush()
    assert "".join(one.chunk or "" for one in sent) == "it is so"
    assert joined([one.call for one in sent if one.call is not None]) == [
        ToolCall("c0", "f", '{"a":0}'), ToolCall("c1", "g", '{"a":1}'), ToolCall("c2", "h", ""),
    ]  # fmt: skip
    assert [one.seq for one in sent] == list(range(len(sent))) and len(sent) < 8


@pytest.mark.parametrize("tools", [[], [WEATHER]])
def test_arguments_of_the_template_reach_it(tools: list[Tool], calling: GenerativeModel) -> None:
    """With tools and without, and where old turns are forgotten; a prompt has no template."""
    plain = calling.generate(_request(tools=tools, max_tokens=2))
    for more in ({}, {"when_full": "forget"}):
        quiet = _request(
            tools=tools, max_tokens=2, chat_template_kwargs={"enable_thinking": False}, **more
        )
        result = calling.generate(quiet)
        assert result.prompt_tokens == plain.prompt_tokens + len(calling.prompts.encode("dog"))
    with pytest.raises(InputError, match="takes no argument mood"):
        calling.generate(_request(tools=tools, chat_template_kwargs={"mood": "good"}))
    with pytest.raises(InputError, match="need messages"):
        calling.generate(GenerateRequest(prompt="a", chat_template_kwargs={"a": 1}))


def test_each_tool_can_be_called(calling: GenerativeModel) -> None:
    """The name is the model's choice."""
    names = {
        calling.generate(_request(tool_choice="required", temperature=3, seed=seed))
        .tool_calls[0]
        .name
        for seed in range(30)
    }
    assert names == {"get_weather", "get-time"}


def test_a_call_that_the_model_begins_is_held_to_the_schema(calling: GenerativeModel) -> None:
    """The tag is no text, and calls go on as long as the model goes on, to a bound."""
    pieces: list[str] = []
    request = _request(logit_bias=_bias(calling), temperature=1, max_tokens=400)
    result = calling.generate(request, pieces.append)
    assert len(result.tool_calls) == 8 and result.text == "".join(pieces) == ""
    _check(result)
    once = calling.generate(
        _request(logit_bias=_bias(calling), temperature=1, parallel_tool_calls=False)
    )
    assert len(once.tool_calls) == 1


def test_calls_that_are_whole_outlive_the_budget(calling: GenerativeModel) -> None:
    """Or the context: the one that was begun last is left out, and the answer says so."""
    request = _request(logit_bias=_bias(calling), temperature=1, tools=[WEATHER], max_tokens=400)
    whole = calling.generate(request)
    cut = calling.generate(msgspec.structs.replace(request, max_tokens=whole.tokens // 2))
    assert 1 <= len(cut.tool_calls) < len(whole.tool_calls) == 7
    assert whole.finish_reason == "length"
    assert cut.finish_reason == "length" and cut.tokens <= whole.tokens // 2
    _check(cut)


def test_text_without_a_call_is_streamed_as_ever(calling: GenerativeModel) -> None:
    """And ends at the stop strings of the request."""
    pieces: list[str] = []
    free = calling.generate(_request(max_tokens=30), pieces.append)
    assert free.tool_calls == [] and "".join(pieces) == free.text and free.tokens == 30
    assert free.finish_reason == "length"
    stop = free.text[5:8]
    cut = calling.generate(_request(max_tokens=30, stop=[stop]))
    assert cut.text == free.text[: free.text.index(stop)] and cut.finish_reason == "stop"


def test_log_probabilities_are_those_of_the_text(calling: GenerativeModel) -> None:
    """The tokens of a tag, a stop string and a call are none of it."""
    free = calling.generate(_request(max_tokens=30, logprobs=2))
    told = re.sub(
        r"bytes:(\\x..)+", "\N{REPLACEMENT CHARACTER}", "".join(t for t, _ in free.chosen)
    )
    assert told == free.text and len(free.logprobs) == 30
    assert all(len(best) == 2 for best in free.logprobs)
    for tools in ([WEATHER, TIME], []):
        whole = calling.generate(_request(max_tokens=30, logprobs=1, tools=tools))
        stop = "".join(text for text, _ in whole.chosen[3:5])
        one = calling.generate(_request(max_tokens=30, logprobs=1, stop=[stop], tools=tools))
        joined = "".join(text for text, _ in one.chosen)
        assert one.text and joined.startswith(one.text)
        assert len(one.chosen) == len(one.logprobs) < one.tokens
        assert not "".join(text for text, _ in one.chosen[:-1]).startswith(one.text)
    required = calling.generate(_request(logprobs=2, tool_choice="required", temperature=1))
    assert required.tool_calls and required.chosen == required.logprobs == []
    said = set()
    for seed in range(40):  # text before a call: its tokens alone
        bias = dict.fromkeys(_bias(calling), 100.0 if seed % 2 else 5.0)
        request = _request(logprobs=1, temperature=3, seed=seed, logit_bias=bias)
        mixed = calling.generate(request)
        if mixed.tool_calls:
            told = re.sub(r"bytes:(\\x..)+", "", "".join(text for text, _ in mixed.chosen))
            assert told.startswith(re.sub(r"[^\x00-\x7f]", "", mixed.text))
            said.add(bool(mixed.text))
            if not mixed.text:
                assert mixed.chosen == []
    assert said == {True, False}


def test_confidence_counts_a_call_and_holds_it_back(calling: GenerativeModel) -> None:
    """Of text, and of calls with their names and arguments; unknown is neither."""
    request = _request(tool_choice="required", parallel_tool_calls=False)
    plain = calling.generate(request)
    pieces: list[CallPiece] = []
    texts: list[str] = []
    sure = msgspec.structs.replace(request, min_confidence=0.0)
    result = calling.generate(sure, texts.append, tell=pieces.append)
    assert 0 < result.confidence < 1 and not result.unknown and not result.calibrated
    assert [(c.name, c.arguments) for c in joined(pieces)] == [
        (c.name, c.arguments) for c in plain.tool_calls
    ]
    assert len(pieces) == 1 and joined(pieces) == result.tool_calls and not texts
    pieces.clear()
    unsure = msgspec.structs.replace(request, min_confidence=result.confidence + 0.01)
    unknown = calling.generate(unsure, texts.append, tell=pieces.append)
    assert unknown.unknown and unknown.confidence == result.confidence
    assert (unknown.text, unknown.tool_calls, pieces, texts) == ("", [], [], [])
    (call,) = plain.tool_calls
    assert unknown.best == f"{call.name} {call.arguments}"
    free = calling.generate(_request(max_tokens=10, min_confidence=0.0), texts.append)
    assert texts == [free.text] and 0 < free.confidence < 1
    hidden, without = (
        calling.generate(_request(max_tokens=10, min_confidence=0.0, **fields))
        for fields in ({"tool_choice": "none"}, {"tools": []})
    )
    assert hidden.confidence == without.confidence


def test_a_format_and_tools_go_together_on_the_command_line(
    tools_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The same fields as over MQTT."""
    (tmp_path / "tools.json").write_text('[{"name": "f"}]')
    (tmp_path / "schema.json").write_text('{"enum": ["graz", "lyon"]}')
    options = ["--tools", str(tmp_path / "tools.json"), "--json-schema",
               str(tmp_path / "schema.json"), "--temperature", "2", "--json",
               "--logprobs", "1", "--min-confidence", "0"]  # fmt: skip
    found = set()
    for seed in range(12):
        assert main(["generate", str(tools_path), "what", *options, "--seed", str(seed)]) == 0
        made = json.loads(capfd.readouterr().out)
        calls = [call["name"] for call in made.get("tool_calls", [])]
        assert calls or made["text"] in ('"graz"', '"lyon"')
        assert calls or "".join(text for text, _ in made["chosen"]) == made["text"]
        assert 0 <= made["confidence"] < 1
        found.add(bool(calls))
    assert found == {True, False}


def test_none_is_the_same_as_no_tools(calling: GenerativeModel) -> None:
    """A model that must not call is not shown what it could call."""
    none = calling.generate(_request(max_tokens=10, tool_choice="none"))
    assert none.text == calling.generate(_request(max_tokens=10, tools=[])).text
    assert none.prompt_tokens < calling.generate(_request(max_tokens=10)).prompt_tokens


def test_the_result_of_a_call_is_in_the_next_prompt(calling: GenerativeModel) -> None:
    """With the call that it answers."""
    call = ToolCall("c1", "get_weather", '{"city":"Graz","days":2}')
    turns = [*ASKED, ChatMessage("assistant", "", [call]), ChatMessage("tool", "rain", [], "c1")]
    prompt = calling.prompts.render_chat(turns, [WEATHER])
    assert prompt == (
        "get_weather,<user>what is the weather<assistant><tool_call>"
        '{"name": "get_weather", "arguments": {"city": "Graz", "days": 2}}</tool_call>'
        "<tool>rain<assistant>"
    )
    result = calling.generate(_request(messages=turns, max_tokens=5))
    assert result.prompt_tokens == len(calling.prompts.encode_rendered(prompt)) + len("get-time,")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"prompt": "a", "messages": None}, "bad-message"),
        ({"json_schema": {}, "regex": "a"}, "bad-constraint"),
        ({"json_schema": {"not": {}}, "tool_choice": "auto"}, "bad-constraint"),
        ({"regex": "(", "tool_choice": "auto"}, "bad-constraint"),
        ({"tools": [WEATHER, WEATHER]}, "bad-message"),
        ({"tools": [Tool("f", "", {"type": "array"})]}, "bad-constraint"),
        ({"tools": [Tool("f", "", {"type": "object", "properties": 3})]}, "bad-constraint"),
        ({"tools": [Tool("f", "", {"$ref": "http://x/y"})]}, "bad-constraint"),
        ({"messages": [ChatMessage("assistant", "", [ToolCall("c", "f", "[1]")])]}, "bad-messages"),
        (
            {"messages": [ChatMessage("assistant", "", [ToolCall("c", "f", '{"a":' * 5000)])]},
            "bad-messages",
        ),
        ({"max_tokens": 3}, "budget-ended"),
    ],
)
def test_what_cannot_be_called_is_one_error_and_the_model_goes_on(
    fields: dict[str, Any], code: str, calling: GenerativeModel
) -> None:
    """Hostile schemas and histories included."""
    request = _request(**{"tools": [WEATHER], "tool_choice": "required", **fields})
    with pytest.raises(ShoalError) as raised:
        calling.generate(request)
    assert raised.value.code == code
    assert calling.generate(_request(tool_choice="required", temperature=1)).tool_calls


def test_a_model_whose_template_has_no_tools_says_so(model: GenerativeModel) -> None:
    """Rather than leave them out."""
    with pytest.raises(InputError, match="knows no tools"):
        model.generate(_request(max_tokens=5))
    with pytest.raises(InputError, match="knows no tools"):
        model.generate(
            GenerateRequest(messages=[*ASKED, ChatMessage("tool", "rain", [], "c1")], max_tokens=5)
        )


def test_a_cancelled_call_is_no_call(calling: GenerativeModel) -> None:
    """Half a call is not given out."""
    left = 12

    def checkpoint() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Stop("cancelled")

    result = calling.generate(
        _request(tool_choice="required", temperature=1), lambda piece: None, checkpoint
    )
    assert result.finish_reason == "cancelled" and result.tool_calls == []


def test_the_command_shows_a_call_as_a_line(
    tools_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Tools come in a file, in the form that clients of the API have them."""
    functions = [{"name": "f"}, {"type": "function", "function": {"name": "f"}}]
    for function in functions:
        (tmp_path / "tools.json").write_text(json.dumps([function]))
        options = ["--tools", str(tmp_path / "tools.json"), "--tool-choice", "required"]
        assert main(["generate", str(tools_path), "what is it", *options]) == 0
        assert set(capfd.readouterr().out.splitlines()) == {"f {}"}
