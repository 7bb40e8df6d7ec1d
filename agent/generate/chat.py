"""Chat messages to a prompt, through the model's own Jinja2 template, in a sandbox."""

from __future__ import annotations

from typing import Any

from contracts import limits
from contracts.errors import InputError
from contracts.messages import ChatMessage

_MAX_PROMPT_CHARS = 4 * limits.MAX_MESSAGE_BYTES
_MAX_RANGE = 4096


def _refuse(message: str) -> None:
    raise InputError("bad-messages", f"the model's chat template refuses: {str(message)[:300]}")


def _range(*arguments: int) -> range:
    wanted = range(*arguments)
    if len(wanted) > _MAX_RANGE:
        raise InputError("bad-template", f"the chat template counts beyond {_MAX_RANGE}")
    return wanted


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: Jinja2, as in the ``tokenizer_config.json`` of a model.
        bos, eos: texts of the special tokens.

    Raises:
        InputError: ``bad-template``.
    """

    def __init__(self, source: str, bos: str = "", eos: str = "") -> None:
        # Imported here: a device without a chat model does without its 4 MB.
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        self._error = jinja2.TemplateError
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        environment.globals["range"] = _range
        self._tokens = {"bos_token": bos, "eos_token": eos}
        try:
            self._template = environment.from_string(source)
        except (self._error, RecursionError) as error:
            raise InputError("bad-template", f"the chat template is broken: {error}") from None

    def render(self, messages: list[ChatMessage]) -> str:
        """The prompt that asks for the assistant's next turn.

        Raises:
            InputError: ``bad-messages``, ``bad-template``.
        """
        if not messages:
            raise InputError("bad-messages", "a chat needs at least one message")
        turns: list[dict[str, Any]] = [{"role": m.role, "content": m.content} for m in messages]
        try:
            pieces = []
            size = 0
            for piece in self._template.generate(
                messages=turns, add_generation_prompt=True, **self._tokens
            ):
                size += len(piece)
                if size > _MAX_PROMPT_CHARS:
                    raise InputError(
                        "too-large", f"the prompt is over {_MAX_PROMPT_CHARS} characters"
                    )
                pieces.append(piece)
            return "".join(pieces)
        except (self._error, TypeError, ValueError, RecursionError) as error:
            raise InputError("bad-template", f"the chat template failed: {error}") from None
