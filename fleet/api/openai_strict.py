"""What the bodies of OpenAI's form have in common: which fields are refused, and which let be.

A field that is not known is refused by its name: who sends it expects something of it. Let be is
null, wherever it stands; what says nothing of the answer (``user``); and a value that asks for
nothing (``store: false``), as does what is done anyhow (``verbosity: medium``).
Source: OpenAI API reference, chat completions, completions, responses and embeddings.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, model_validator


class Strict(BaseModel):
    """No field is passed over, but those that ask for nothing.

    Attributes:
        says_nothing: fields that may have any value.
        asks_nothing: fields that are not supported, and values of them that ask for nothing.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    says_nothing: ClassVar[tuple[str, ...]] = ()
    asks_nothing: ClassVar[dict[str, tuple[Any, ...]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _leave_out(cls, document: Any) -> Any:
        if not isinstance(document, dict):
            return document
        return {name: value for name, value in document.items() if cls._asks(name, value)}

    @classmethod
    def _asks(cls, name: Any, value: Any) -> bool:
        if value is None or name in cls.says_nothing:
            return False
        return not any(
            type(value) is type(v) and value == v for v in cls.asks_nothing.get(name, ())
        )


class Body(Strict):
    """The body of a request; see the module for what is let be."""

    says_nothing: ClassVar[tuple[str, ...]] = (
        *("user", "safety_identifier", "prompt_cache_key", "metadata"),
    )
    asks_nothing: ClassVar[dict[str, tuple[Any, ...]]] = {
        "functions": ([],),
        "function_call": ("none", "auto"),
        "best_of": (1,),
        "include": ([],),
        "modalities": (["text"],),
        "reasoning_effort": ("none",),
        "service_tier": ("auto", "default"),
        "store": (False,),
        "suffix": ("",),
        "verbosity": ("medium",),
    }

    model: Annotated[
        str,
        Field(
            min_length=1, max_length=4000, description="a selector; after a colon an adapter's name"
        ),
    ]


def _kind(value: Any) -> str:
    return "list" if isinstance(value, list) else "text"


TEXT_OR_LIST: Final = Discriminator(_kind)
"""Of a text, tagged ``text``, and a list, tagged ``list``: a mistake in one is told of that one."""


def _texts(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(one, int | list) for one in value):
        raise ValueError(
            "texts are expected, not numbers of tokens: each device has a tokenizer of its own "
            "(LangChain's OpenAIEmbeddings sends texts with check_embedding_ctx_length=False)"
        )
    return value


TEXTS: Final = BeforeValidator(_texts)
"""Of a text or a list of texts: numbers of tokens are refused by that word."""
