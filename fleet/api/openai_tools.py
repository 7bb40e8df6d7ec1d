"""Tools of a request, as chats and responses give them, and what of them goes to a device.

Source: OpenAI API reference, function calling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from contracts import limits, requests
from fleet.api.openai_strict import Strict

MAX_TOOLS: Final = 64
CallId = Annotated[str, Field(max_length=64)]
_ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Mode = Literal["none", "auto", "required"]


class CalledFunction(Strict):
    """What a call is of."""

    name: _ToolName
    arguments: Annotated[str, Field(max_length=limits.MAX_TEXT_BYTES)]


class Call(Strict):
    """A call in an assistant's message."""

    id: CallId
    type: Literal["function"] = "function"
    function: CalledFunction


class Function(Strict):
    """A function that a model may call. Arguments are always held to `parameters` (``strict``)."""

    name: _ToolName
    description: Annotated[str, Field(max_length=4096)] | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class GivenTool(Strict):
    """A tool of a chat."""

    type: Literal["function"]
    function: Function


class _Typed(Strict):
    """What says that it is a function: first, so that another kind is refused by that word."""

    type: Literal["function"]


class FlatTool(Function, _Typed):
    """A tool of a response."""

    asks_nothing: ClassVar[dict[str, tuple[Any, ...]]] = {
        "allowed_callers": (["direct"],),
        "async": (False,),
        "defer_loading": (False,),
    }


class ChosenName(Strict):
    """The name in a choice."""

    name: _ToolName


class ChosenTool(Strict):
    """The one tool that must be called, of a chat."""

    type: Literal["function"]
    function: ChosenName

    @property
    def name(self) -> str:
        """Of the tool."""
        return self.function.name


class FlatChoice(ChosenName):
    """The one tool that must be called, of a response."""

    type: Literal["function"]


Choice = Mode | ChosenTool | FlatChoice


def mode(functions: Sequence[Function], choice: Choice | None) -> Mode:
    """Whether the answer can be a call: never, if the model likes, or always.

    Raises:
        ValueError: tools and the choice among them do not fit.
    """
    names = [function.name for function in functions]
    if len(set(names)) < len(names):
        raise ValueError("tools: two have one name")
    if isinstance(choice, ChosenTool | FlatChoice):
        if choice.name not in names:
            raise ValueError("tool_choice names a function that is not in tools")
        return "required"
    if choice == "required" and not names:
        raise ValueError("tool_choice is required, and there are no tools")
    return choice or "auto" if names else "none"


def fields(
    functions: Sequence[Function], choice: Choice | None, parallel: bool | None
) -> dict[str, Any]:
    """The wire's fields of tools; none where none can be called."""
    how = mode(functions, choice)
    if how == "none":
        return {}
    only = choice.name if isinstance(choice, ChosenTool | FlatChoice) else ""
    return {
        "tools": [
            requests.Tool(f.name, f.description or "", f.parameters or {})
            for f in functions
            if f.name == (only or f.name)
        ],
        "tool_choice": how,
        # One that must be called is called once.
        "parallel_tool_calls": parallel is not False and not only,
    }
