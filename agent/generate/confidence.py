"""How sure a decoder was of an answer, and what becomes of answers that it was not sure of."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt

from agent.generate.sampling import top_logprobs
from contracts.answers import Generated


class Confidence:
    """The geometric mean of the probabilities of an answer's tokens; it holds the text back.

    Probabilities are those of the model's own logits, before temperature, penalties and
    constraints. They are not calibrated.

    Args:
        least: below it the answer is unknown; None: nothing is reckoned or held back.
        emit: takes the text.
    """

    def __init__(self, least: float | None, emit: Callable[[str], None]) -> None:
        self._least = least
        self._emit = emit
        self._held: list[str] = []
        self._surprise = 0.0
        self._tokens = 0

    def note(self, logits: npt.NDArray[np.float32], token: int) -> None:
        """Counts a token that was taken, the one that ends an answer too."""
        if self._least is not None:
            self._surprise -= top_logprobs(logits, 1, token)[1][1]
            self._tokens += 1

    def push(self, piece: str) -> None:
        """Takes a piece of text."""
        if self._least is None:
            self._emit(piece)
        else:
            self._held.append(piece)

    def judged(self, result: Generated) -> Generated:
        """The answer with its confidence, or as unknown; tells the text that was held back."""
        if self._least is None:
            return result
        confidence = round(math.exp(-self._surprise / max(self._tokens, 1)), 4)
        result = msgspec.structs.replace(result, confidence=confidence)
        if confidence < self._least:
            return msgspec.structs.replace(
                result, text="", unknown=True, best=result.text, logprobs=[], chosen=[]
            )
        if self._held and result.finish_reason != "cancelled":
            self._emit("".join(self._held))
        return result
