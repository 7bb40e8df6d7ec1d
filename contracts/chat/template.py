"""Chat messages to a prompt, through the model's own Jinja2 template, within bounds."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from contracts import codec, limits
from contracts.errors import InputError
from contracts.requests import ChatMessage, Tool, ToolCall

MAX_CHARS = 32 * limits.KIB
"""Characters of a template's source."""

_TOOLS = "tools"
"""The name under which templates are given them."""

_XML_TOOLS = "xml_tools"
"""The name that SmolLM3's template has for them, or for their functions."""

_OF_A_MESSAGE = re.compile(r"""message\.tools\b|message\[['"]tools['"]\]""")
"""A template that reads them from the system's turn, as text."""

_MAX_PROMPT_CHARS = 4 * limits.MAX_MESSAGE_BYTES


def _refuse(message: str) -> None:
    raise InputError("bad-messages", f"the model's chat template refuses: {str(message)[:300]}")


class ChatTemplate:
    """A compiled chat template.

    A template comes with a model and may be hostile. Whatever it does, a rendering ends within
    ``template_budget.SECONDS`` and some tens of MB: steps, copies and results are counted.

    Args:
        source: Jinja2, as in the ``tokenizer_config.json`` of a model.
        bos, eos: texts of the special tokens.
        now: the date of ``strftime_now``: by default the local one, as transformers has it.

    Raises:
        InputError: ``bad-template``, with the line where it is known.
    """

    def __init__(
        self, source: str, bos: str = "", eos: str = "", now: Callable[[], datetime] = datetime.now
    ) -> None:
        if len(source) > MAX_CHARS:
            raise InputError(
                "bad-template", f"the chat template has {len(source)} characters, over {MAX_CHARS}"
            )
        # Imported here: a device without a chat model does without its 4 MB.
        from contracts.chat.sandbox import TemplateSandbox

        self._environment = TemplateSandbox(now)
        self._environment.globals["raise_exception"] = _refuse
        self._source = source
        # What transformers always gives: a template may ask whether it is defined.
        self._always: dict[str, Any] = {
            "add_generation_prompt": True, "bos_token": bos, "documents": None,
            "eos_token": eos, "messages": [], "tools": None,
        }  # fmt: skip
        self._one_at_a_time = threading.Lock()
        try:
            self._template = self._environment.from_string(source)
        except Exception as error:  # noqa: BLE001 - a compiler's errors are of many classes
            raise InputError(
                "bad-template", f"the chat template is broken{_place(error)}: {_text(error)}"
            ) from None

    def render(
        self,
        messages: list[ChatMessage],
        tools: Sequence[Tool] = (),
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt that asks for the assistant's next turn.

        Args:
            messages: of the chat.
            tools: that the model may call.
            arguments: more variables, such as ``enable_thinking``; the template must read each.

        Raises:
            InputError: ``bad-messages``, ``too-large``, ``bad-template`` with the line where it
                is known.
        """
        from jinja2.exceptions import SecurityError

        from contracts.template_budget import STEPS_UNITS, UNITS_A_CHARACTER, Budget

        if not messages:
            raise InputError("bad-messages", "a chat needs at least one message")
        asked = tools or any(m.role == "tool" or m.tool_calls for m in messages)
        if asked and _TOOLS not in self._source:
            raise InputError("bad-messages", "the model's chat template knows no tools")
        self._check(arguments or {})
        turns = [_turn(message) for message in messages]
        given = {**self._always, **(arguments or {})}
        if tools:
            given["tools"] = [_tool(tool) for tool in tools]
            if _XML_TOOLS in self._environment.read and _XML_TOOLS not in given:
                given[_XML_TOOLS] = [one["function"] for one in given["tools"]]
        if tools and _OF_A_MESSAGE.search(self._source):
            if turns[0]["role"] != "system":
                turns.insert(0, {"role": "system", "content": ""})
            functions = [_tool(tool)["function"] for tool in tools]
            turns[0][_TOOLS] = json.dumps(functions, ensure_ascii=False)
        characters = sum(len(message.content) for message in messages)
        if asked or arguments:
            characters = len(codec.encode([messages, list(tools), arguments]))
        with self._one_at_a_time:
            self._environment.budget = Budget(STEPS_UNITS + UNITS_A_CHARACTER * characters)
            try:  # else the template would seem to be at fault
                for given_by_user in (arguments or {}, given["tools"], turns):
                    self._environment.budget.weigh(given_by_user)
            except SecurityError as error:
                raise InputError("bad-messages", f"the chat cannot be rendered: {error}") from None
            try:
                prompt = self._render({**given, "messages": turns})
            except InputError:
                raise
            except Exception as error:  # noqa: BLE001 - a template is a program
                raise InputError(
                    "bad-template", f"the chat template failed{_place(error)}: {_text(error)}"
                ) from None
        for tool in tools:
            if tool.name not in prompt:
                raise InputError(
                    "bad-messages", f"the model's chat template leaves out the tool {tool.name}"
                )
        return prompt

    def _check(self, arguments: Mapping[str, Any]) -> None:
        for name in arguments:
            if name in self._always or name in self._environment.globals:
                raise InputError("bad-messages", f"chat_template_kwargs: {name} is not to be set")
            if name not in self._environment.read:
                raise InputError(
                    "bad-messages", f"the model's chat template takes no argument {name[:64]}"
                )

    def _render(self, given: dict[str, Any]) -> str:
        pieces = []
        size = 0
        for piece in self._template.generate(given):
            size += len(piece)
            if size > _MAX_PROMPT_CHARS:
                raise InputError("too-large", f"the prompt is over {_MAX_PROMPT_CHARS} characters")
            pieces.append(piece)
        return "".join(pieces)


def _turn(message: ChatMessage) -> dict[str, Any]:
    """A message as templates have it; the keys of tools only where there are any."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def _arguments(call: ToolCall) -> dict[str, Any]:
    try:
        return msgspec.json.decode(call.arguments, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(
            "bad-messages", f"the arguments of the call of {call.name} are no JSON object: {error}"
        ) from None


def _tool(tool: Tool) -> dict[str, Any]:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _place(error: Exception) -> str:
    """`` in line N`` of the template: Jinja2 puts its lines into tracebacks."""
    line = getattr(error, "lineno", None) if type(error).__module__.startswith("jinja2") else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" in line {line}" if line else ""


def _text(error: Exception) -> str:
    return (str(getattr(error, "message", None) or error) or type(error).__name__)[:300]
