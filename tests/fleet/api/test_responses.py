"""What a streamed response says of its items, put together by OpenAI's own types."""

from __future__ import annotations

import itertools
import json
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from contracts.answers import CallPiece, Generated
from contracts.messages import BundleRef
from contracts.requests import ToolCall
from fleet.api.responses import Shape, Told
from fleet.api.responses_bodies import Responses

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOL = {"type": "function", "name": "get_time", "parameters": {"type": "object"}}
BUNDLE = BundleRef("talker", "1.0.0", "0" * 64)


def _told() -> Told:
    body = {"model": "d1", "input": "a", "tools": [TOOL]}
    return Told(Shape(Responses.model_validate(body)))


def _read(events: list[bytes]) -> list[Any]:
    """Each is one that OpenAI's library knows, with all that its type needs."""
    return [EVENT.validate_json(event.split(b"data: ")[1]) for event in events]


def test_a_call_that_was_begun_when_tokens_ended_is_never_done() -> None:
    """A client that acts on what is done makes no half of a call."""
    told = _told()
    pieces = [
        CallPiece(0, "call_1", "get_time"), CallPiece(0, arguments="{}"),
        CallPiece(1, "call_2", "get_time"), CallPiece(1, arguments='{"zo'),
    ]  # fmt: skip
    made = Generated("", "length", 3, 9, BUNDLE, tool_calls=[ToolCall("call_1", "get_time", "{}")])
    events = _read([*itertools.chain(*map(told.call, pieces)), *told.end(made, {})])
    begun = [e.item.call_id for e in events if e.type == "response.output_item.added"]
    done = [e.item.call_id for e in events if e.type == "response.output_item.done"]
    assert (begun, done) == (["call_1", "call_2"], ["call_1"])
    final: Response = events[-1].response
    assert (final.status, [item.type for item in final.output]) == ("incomplete", ["function_call"])


def test_items_have_the_places_at_which_they_were_begun() -> None:
    """Text, a call that was told in pieces, and one of an agent that gives it at the end alone."""
    told = _told()
    calls = [ToolCall("call_1", "get_time", "{}"), ToolCall("call_2", "get_time", '{"a":1}')]
    made = Generated("ab", "stop", 3, 9, BUNDLE, tool_calls=calls)
    events = _read([
        *told.text("a"), *told.call(CallPiece(0, "call_1", "get_time", "{}")), *told.text("b"),
        *told.end(made, {}),
    ])  # fmt: skip
    added = [e for e in events if e.type == "response.output_item.added"]
    done = [e for e in events if e.type == "response.output_item.done"]
    assert [(e.output_index, e.item.type) for e in added] == [
        (0, "message"), (1, "function_call"), (2, "function_call"),
    ]  # fmt: skip
    assert [(e.output_index, e.item.id) for e in done] == [
        (e.output_index, e.item.id) for e in added
    ]
    final = events[-1].response
    assert [item.id for item in final.output] == [e.item.id for e in added]
    assert final.output_text == "ab"
    assert [json.loads(item.arguments) for item in final.output[1:]] == [{}, {"a": 1}]


def test_a_call_before_any_text_is_first() -> None:
    """As its model wrote it."""
    told = _told()
    made = Generated("b", "stop", 3, 9, BUNDLE, tool_calls=[ToolCall("call_1", "get_time", "{}")])
    events = _read([
        *told.call(CallPiece(0, "call_1", "get_time", "{}")), *told.text("b"), *told.end(made, {}),
    ])  # fmt: skip
    assert [item.type for item in events[-1].response.output] == ["function_call", "message"]


def test_an_answer_of_nothing_is_an_empty_message() -> None:
    """Never no item at all."""
    (message,) = _read(list(_told().end(Generated("", "stop", 3, 0, BUNDLE), {})))[
        -1
    ].response.output
    assert (message.type, message.content[0].text) == ("message", "")
