"""Pairs as token ids. Apart from the training: what is too long is told without TensorFlow."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from contracts.errors import InputError
from model_builder.generate.pairs import Pair
from model_builder.generate.vocabulary import END


class Encoded(msgspec.Struct):
    """Pairs as the student reads them.

    Attributes:
        ids: int32 ``[N, T + 1]``, prompt, completion and end, padded with the end token.
        counts: float32 ``[N, T]``, 1 where the next token is of the completion or its end.
    """

    ids: npt.NDArray[np.int32]
    counts: npt.NDArray[np.float32]


def encode_pairs(
    tokenizer: Tokenizer, pairs: list[Pair], prefix: str, suffix: str, length: int
) -> Encoded:
    """Encodes pairs; those longer than `length` tokens are an error.

    Raises:
        InputError: ``bad-data``.
    """
    end = tokenizer.token_to_id(END)
    assert end is not None
    prompts = tokenizer.encode_batch([prefix + pair.prompt + suffix for pair in pairs])
    answers = tokenizer.encode_batch([pair.completion for pair in pairs])
    ids = np.full((len(pairs), length + 1), end, np.int32)
    counts = np.zeros((len(pairs), length), np.float32)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        text = [*prompt.ids, *answer.ids, end]
        if len(text) > length + 1:
            raise InputError(
                "bad-data",
                f"a pair has {len(text)} tokens, student.context is {length}: "
                f"{pairs[row].prompt[:60]!r}",
            )
        ids[row, : len(text)] = text
        counts[row, len(prompt.ids) - 1 : len(text) - 1] = 1
    return Encoded(ids, counts)
