"""Calibration of a tuned generator's confidence by validation pairs, and its worth on test ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contracts.chances import Knot
from model_builder.generate.chances import Judged, fitted, judged, reliability
from model_builder.generate.pairs import Pair, Split
from model_builder.teachers.base import Progress
from model_builder.tune.compare import Asked, expected, text_of
from model_builder.tune.data import chat_of

_MOST_PAIRS = 400


def calibrated(
    bundle: Path, split: Split, max_tokens: int, asked: Asked, progress: Progress
) -> tuple[list[Knot], dict[str, Any]]:
    """Knots for the manifest, none where there are too few pairs; and the report's part.

    Chats with tools are left out: calls have no confidence.
    """
    progress("calibrating", 0, 2)

    def answers(pairs: Sequence[Pair]) -> Judged:
        plain = [p for p in pairs if (chat := chat_of(p.prompt)) is None or not chat.tools]
        return judged(
            bundle,
            plain[:_MOST_PAIRS],
            max_tokens,
            asked,
            lambda answer, pair: text_of(answer) == expected(pair),
        )

    knots = fitted(answers(split.validation))
    progress("calibrating", 1, 2)
    told = reliability(answers(split.test), knots)
    progress("calibrating", 2, 2)
    return knots, {"knots": knots, **told}
