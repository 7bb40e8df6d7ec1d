"""What is longer than a model's context: told before the training, or left out if it was written.

A pair that a person gave is refused, wherever a split puts it: one in the test split would end a
build after its training. A pair that a model wrote is left out and counted, since nobody can
shorten it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from tokenizers import Tokenizer

from contracts.errors import InputError
from model_builder.generate.pairs import Pair, Split, split_pairs
from model_builder.tune.chat import Frame
from model_builder.tune.data import chat_of
from model_builder.writing.pairs import WrittenPairs
from model_builder.writing.sift import Dropped

TOO_LONG: Final = "longer than the model's context"
_SHOWN: Final = 3
_LETTERS: Final = 60


def longer(
    frame: Frame, tokenizer: Tokenizer, pairs: Sequence[Pair], context: int
) -> list[tuple[Pair, int]]:
    """Pairs that a context cannot hold, with their tokens.

    Args:
        frame: around them.
        tokenizer: of the base.
        pairs: that are looked at.
        context: tokens of prompt and answer together.
    """
    sizes = [len(one.prompt) + len(one.answer) for one in frame.coded(tokenizer, pairs)]
    return [(pair, size) for pair, size in zip(pairs, sizes, strict=True) if size > context]


def fitting(
    split: Split,
    written: WrittenPairs | None,
    frame: Frame,
    tokenizer: Tokenizer,
    context: int,
    seed: int,
) -> Split:
    """The split without written pairs that are too long; `written` says how many they were.

    Args:
        split: all pairs.
        written: pairs among them that a model wrote; None: there are none.
        frame: around them.
        tokenizer: of the base.
        context: tokens of prompt and answer together.
        seed: of a new split.

    Raises:
        InputError: ``bad-data``; a pair of a person is too long, or too few are left.
    """
    everything = [*split.train, *split.validation, *split.test]
    found = longer(frame, tokenizer, everything, context)
    theirs = {prompt for prompt, *_ in written.pairs} if written is not None else set()
    refuse([one for one in found if one[0].prompt not in theirs], context)
    if written is None or not found:
        return split
    texts = [pair.prompt[:_LETTERS] for pair, _ in found[:_SHOWN]]
    left_out = written.facts.setdefault("left_out", [])
    left_out.append(msgspec.to_builtins(Dropped(TOO_LONG, len(found), texts)))
    written.warnings.append(
        f"{len(found)} written pairs have more than the {context} tokens that the model holds, "
        "and were left out"
    )
    gone = {pair for pair, _ in found}
    return split_pairs([pair for pair in everything if pair not in gone], seed)


def refuse(found: Sequence[tuple[Pair, int]], context: int) -> None:
    """Raises ``InputError`` ``bad-data`` for the first of the pairs that are too long."""
    if not found:
        return
    pair, size = found[0]
    chat = chat_of(pair.prompt)
    text = pair.prompt if chat is None else chat.messages[-1].content
    most = max(size for _, size in found)
    more = f" ({len(found) - 1} more are too long, up to {most})" if len(found) > 1 else ""
    raise InputError(
        "bad-data",
        f"the pair of {text[:_LETTERS]!r} has {size} tokens with its answer and template{more}; "
        f"the model holds {context}: shorten it, or raise student.context, which ends at what the "
        "base was trained on",
    )
