"""A small tokenizer for a student: byte-level BPE trained on its own data, or plain bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

END = "<|end|>"
"""Ends an answer, and pads."""

BYTES = 256


def train_tokenizer(texts: Iterable[str], size: int, phrases: Sequence[str] = ()) -> Tokenizer:
    """A byte-level tokenizer.

    Args:
        texts: to train on.
        size: of the vocabulary; 257 or less gives plain bytes and the end token.
        phrases: ASCII texts that are one token each, wherever they stand; part of `size`.
    """
    tokenizer = Tokenizer(models.BPE())
    # Spaces are pieces of their own, so that a word has the same pieces within a sentence and
    # between quotation marks: a student that copies has nothing to translate.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=max(size - len(phrases), BYTES + 1),
        special_tokens=[AddedToken(END, special=True, normalized=False)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(p, special=False, normalized=False) for p in phrases])
    return tokenizer
