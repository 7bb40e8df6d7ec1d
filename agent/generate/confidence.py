"""How sure a decoder was of an answer, and what becomes of answers that it was not sure of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from agent.generate.sampling import top_logprobs
from contracts.answers import CallPiece, Generated
from contracts.chances import Knot, chance
from contracts.requests import GenerateRequest


class Confidence:
    """The geometric mean of the probabilities of an answer's tokens; it holds the answer back.

    Probabilities are those of the model's own logits, before temperature, penalties and
    constraints. A bundle that was calibrated makes a chance of the mean.

    Args:
        request: below its `min_confidence` the answer is unknown; None: nothing is reckoned or
            held back. An answer in a form of its own was not calibrated.
        emit: takes the text.
        knots: of the calibration; empty: there is none.
        tell: takes calls of tools.
    """

    def __init__(
        self,
        request: GenerateRequest,
        emit: Callable[[str], None] = lambda piece: None,
        knots: Sequence[Knot] = (),
        tell: Callable[[CallPiece], None] = lambda piece: None,
    ) -> None:
        self._least = request.min_confidence
        own_form = request.json_schema is not None or request.regex is not None or request.tools
        self._knots = () if own_form else knots
        self._emit = emit
        self._tell = tell
        self._surprise = 0.0
        self._tokens = 0

    def note(self, logits: npt.NDArray[np.float32], token: int) -> None:
        """Counts a token that was taken, the one that ends an answer too."""
        if self._least is not None:
            self.count(top_logprobs(logits, 1, token)[1][1])

    def count(self, log_probability: float) -> None:
        """Counts a token by the logarithm of its probability."""
        self._surprise -= log_probability
        self._tokens += 1

    def push(self, piece: str) -> None:
        """Takes a piece of text."""
        if self._least is None:
            self._emit(piece)

    def tell(self, piece: CallPiece) -> None:
        """Takes a piece of a call."""
        if self._least is None:
            self._tell(piece)

    def judged(self, result: Generated) -> Generated:
        """The answer with its confidence, or as unknown; tells what was held back."""
        if self._least is None:
            return result
        confidence = math.exp(-self._surprise / max(self._tokens, 1))
        if self._knots:
            confidence = chance(self._knots, confidence)
        confidence = round(confidence, 4)
        result = msgspec.structs.replace(
            result, confidence=confidence, calibrated=bool(self._knots)
        )
        if confidence < self._least:
            calls = [f"{call.name} {call.arguments}" for call in result.tool_calls]
            return msgspec.structs.replace(
                result,
                text="",
                tool_calls=[],
                unknown=True,
                best="\n".join([*([result.text] if result.text or not calls else []), *calls]),
                logprobs=[],
                chosen=[],
            )
        if result.finish_reason != "cancelled":
            if result.text:
                self._emit(result.text)
            for index, call in enumerate(result.tool_calls):
                self._tell(CallPiece(index, call.id, call.name, call.arguments))
        return result
