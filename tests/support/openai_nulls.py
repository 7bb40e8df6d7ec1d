"""Which fields of a request OpenAI's own library lets be left out, read from its types."""

from __future__ import annotations

import typing
from typing import Any

from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params


def optional_fields(path: str) -> list[str]:
    """Of the body of a request to `path`."""
    kinds: dict[str, Any] = {
        "/chat/completions": chat_create_params.CompletionCreateParamsNonStreaming,
        "/completions": completion_create_params.CompletionCreateParamsNonStreaming,
        "/responses": response_create_params.ResponseCreateParamsNonStreaming,
        "/embeddings": embedding_create_params.EmbeddingCreateParams,
    }
    hints = typing.get_type_hints(kinds[path], include_extras=True)
    left = {name for name, hint in hints.items() if typing.get_origin(hint) is not typing.Required}
    return sorted(left - {"model", "input"})  # a device is always asked for something
