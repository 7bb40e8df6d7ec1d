"""How a model writes the call of a tool, as its chat template teaches it.

Each form is a tag that begins a call, and JSON with a name and arguments after it: Hermes and Qwen
(one object in a pair of tags), Granite and Phi (a list behind a tag), Mistral (a list behind
another), Llama 3 (an object alone, which is all of the answer).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class CallForm:
    """A form of calls.

    Attributes:
        tag: what begins a call within an answer.
        taught: by which a template is known to teach it.
        name: from the tag to the tool's name.
        arguments: between name and arguments.
        close: after the arguments of a call.
        between: what is before the name of another call; empty: a tag begins each.
        end: after the last call of a list.
        alone: a call is all of the answer, and one of it.
        id_size: characters of a call's id; 0: as usual.
    """

    tag: str
    taught: str
    name: str
    arguments: str
    close: str
    between: str = ""
    end: str = ""
    alone: bool = False
    id_size: int = 0

    def new_id(self) -> str:
        """The id of a call."""
        return secrets.token_hex(16)[: self.id_size] or f"call_{secrets.token_hex(8)}"

    def begin(self, names: Sequence[str]) -> list[str]:
        """How a call begins where another JSON text may stand in its place.

        Args:
            names: of the tools.
        """
        if not self.alone:
            return [self.tag]
        return [f"{self.tag}{self.name}{name}{self.arguments}" for name in names]

    def answer(self, text: str, calls: Sequence[tuple[str, str]]) -> str:
        """A whole answer with calls, as a model writes it.

        Args:
            text: that is said before them.
            calls: names, and arguments as the text of a JSON object.

        Raises:
            ValueError: the form has one call and no text, and there is more.
        """
        if self.alone and (text or len(calls) != 1):
            raise ValueError("one call is all of an answer in the form that the template teaches")
        parts = [text, "\n" if text else ""]
        for number, (name, arguments) in enumerate(calls):
            if not number or not self.between:
                parts += ["\n" if number else "", self.tag, self.name]
            else:
                parts.append(self.between)
            parts += [name, self.arguments, arguments, self.close]
        return "".join((*parts, self.end))


_ARGUMENTS: Final = '", "arguments": '

FORMS: Final = (
    CallForm(
        "<tool_call>", "<tool_call>", '\n{"name": "', _ARGUMENTS, close="}\n</tool_call>"
    ),
    CallForm(
        "<|tool_call|>", "<|tool_call|>", '[{"name": "', _ARGUMENTS,
        close="}", between=', {"name": "', end="]",
    ),
    CallForm(
        "[TOOL_CALLS]", "[TOOL_CALLS]", ' [{"name": "', _ARGUMENTS,
        close="}", between=', {"name": "', end="]", id_size=9,
    ),
    CallForm(
        '{"name": "', '"parameters": dictionary of argument name', "", '", "parameters": ',
        close="}", alone=True,
    ),
)  # fmt: skip
"""By the first whose words are in a template."""


def form_of(template: str) -> CallForm | None:
    """The form that a chat template teaches; None: none of these."""
    return next((form for form in FORMS if form.taught in template), None)
