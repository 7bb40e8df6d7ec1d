"""One row of a chat file as messages and tools: OpenAI's form and ShareGPT's, and what becomes it.

OpenAI's: https://platform.openai.com/docs/guides/supervised-fine-tuning (``messages``, ``tools``,
``tool_calls`` with arguments as text, ``weight`` 0 for answers that are not to be learnt).
ShareGPT's, as trainers read it: ``conversations`` of ``from`` and ``value``, ``system`` and
``tools`` beside them; a turn from ``function_call`` has a call as JSON, one from ``observation``
its result.
"""

from __future__ import annotations

import json
from typing import Any, Final, Literal

import msgspec

from contracts import limits, wording
from contracts.errors import InputError
from contracts.requests import ChatMessage, Tool, ToolCall
from model_builder.generate.forms import as_chat, refuse_judged

Role = Literal["system", "user", "assistant", "tool"]
_ROLES: Final[dict[str, Role]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
_CALL: Final = "function_call"


class Row(msgspec.Struct, frozen=True):
    """A chat. `left_out`: places of answers that are there to be read, not to be learnt."""

    messages: list[ChatMessage]
    tools: list[Tool]
    left_out: set[int]


def chat_row(row: Any) -> Row:
    """A row, checked.

    Raises:
        InputError: ``bad-data``; what was expected.
    """
    refuse_judged(row)
    row = as_chat(row) or {}
    turns = row.get("messages", row.get("conversations"))
    if not isinstance(turns, list) or not turns:
        raise InputError("bad-data", "expected messages, or conversations, with at least one turn")
    for media in ("images", "videos", "audios"):
        if row.get(media):
            raise InputError("bad-data", f"a row with {media}: only texts are learnt")
    tools = [_tool(each) for each in _listed(row.get("tools"), "tools")]
    if len({tool.name for tool in tools}) < len(tools):
        raise InputError("bad-data", "two tools have one name")
    found: list[ChatMessage] = []
    left_out = set()
    if row.get("system"):
        found.append(ChatMessage("system", _text(row["system"], "system")))
    for turn in turns:
        if not isinstance(turn, dict):
            raise InputError("bad-data", "a turn is no object with a role and a content")
        if turn.get("weight", 1) == 0:
            left_out.add(len(found))
        found.append(_message(turn, tools))
    for call in (call for message in found for call in message.tool_calls):
        if call.name not in {tool.name for tool in tools}:
            raise InputError("bad-data", f"a call of {call.name}, which is none of the row's tools")
    return Row(found, tools, left_out)


def _message(turn: dict[str, Any], tools: list[Tool]) -> ChatMessage:
    stated = str(turn.get("role", turn.get("from")))
    role = _ROLES.get(stated)
    if role is None:
        raise InputError(
            "bad-data",
            f"a turn of {stated[:40]!r}: expected the text of a system, user, assistant or tool",
        )
    content = turn.get("content", turn.get("value"))
    if stated == _CALL:
        rows = _listed(content, "a call")
        return ChatMessage(role, "", [_call(each, tools) for each in rows])
    rows = _listed(turn.get("tool_calls"), "tool_calls")
    if rows and role != "assistant":
        raise InputError("bad-data", f"a turn of {stated[:40]!r} with tool_calls")
    text = "" if rows and content is None else _text(content, f"a turn of {stated!r}")
    identity = turn.get("tool_call_id") or ""
    if not isinstance(identity, str) or len(identity) > 64:
        raise InputError("bad-data", "a tool_call_id is no text of up to 64 characters")
    return ChatMessage(role, text, [_call(each, tools) for each in rows], identity)


def _text(value: Any, what: str) -> str:
    """A content: text, or a list of parts that are text."""
    if isinstance(value, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in value]
        value = "".join(part for part in parts if isinstance(part, str))
        if any(not isinstance(part, str) for part in parts):
            value = None
    if not isinstance(value, str):
        raise InputError("bad-data", f"{what}: expected the text that was said")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise InputError("bad-data", f"a content is no text: {error}") from None
    if size > limits.MAX_TEXT_BYTES:
        raise InputError("bad-data", f"a content is over {limits.MAX_TEXT_BYTES} bytes")
    return value


def _listed(value: Any, what: str) -> list[dict[str, Any]]:
    """Objects: a list of them, one of them, or either as JSON text; nothing is none."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise InputError("bad-data", f"{what}: no JSON: {error}") from None
    rows = value if isinstance(value, list) else [value] if value else []
    if not all(isinstance(each, dict) for each in rows):
        raise InputError("bad-data", f"{what}: expected objects")
    return rows


def _function(row: dict[str, Any]) -> dict[str, Any]:
    inner = row.get("function")
    return inner if isinstance(inner, dict) else row


def _tool(row: dict[str, Any]) -> Tool:
    known = {key: value for key, value in _function(row).items() if value is not None}
    try:
        return msgspec.convert(known, Tool)
    except msgspec.ValidationError as error:
        raise InputError("bad-data", f"a tool cannot be used: {wording.of(error)}") from None


def _call(row: dict[str, Any], tools: list[Tool]) -> ToolCall:
    """A call, its arguments as a device writes them: compact, in the order of the schema."""
    given = _function(row)
    arguments = given.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise InputError("bad-data", f"the arguments of a call are no JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise InputError("bad-data", "the arguments of a call are no JSON object")
    name = given.get("name")
    schema = next((t.parameters.get("properties") for t in tools if t.name == name), None)
    order = list(schema) if isinstance(schema, dict) else []
    keys = sorted(arguments, key=lambda key: order.index(key) if key in order else len(order))
    text = json.dumps(
        {key: arguments[key] for key in keys}, ensure_ascii=False, separators=(",", ":")
    )
    made = {"id": str(row.get("id") or "")[:64], "name": name, "arguments": text}
    try:
        return msgspec.convert(made, ToolCall)
    except msgspec.ValidationError as error:
        raise InputError("bad-data", f"a call cannot be used: {wording.of(error)}") from None
