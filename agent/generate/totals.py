"""What is counted while an answer grows, and the figures that it ends with."""

from __future__ import annotations

import msgspec

from contracts.answers import FinishReason, Generated
from contracts.messages import BundleRef


class Totals(msgspec.Struct):
    """Counts of one answer; `started` and `first_token` are seconds of one monotonic clock."""

    started: float
    prompt_tokens: int = 0
    tokens: int = 0
    runs: int = 0
    first_token: float | None = None
    logprobs: list[list[tuple[str, float]]] = []
    chosen: list[tuple[str, float]] = []

    def result(self, bundle: BundleRef, text: str, reason: FinishReason, now: float) -> Generated:
        """The answer that ends now."""
        first = self.first_token if self.first_token is not None else now
        # The first token belongs to the prompt's time; the rate is that of the others.
        rate = (self.tokens - 1) / (now - first) if self.tokens > 1 and now > first else 0.0
        return Generated(
            text=text,
            finish_reason=reason,
            prompt_tokens=self.prompt_tokens,
            tokens=self.tokens,
            bundle=bundle,
            first_token_ms=round((first - self.started) * 1e3, 3),
            tokens_per_s=round(rate, 3),
            tokens_per_step=round(self.tokens / self.runs, 3) if self.runs else 0.0,
            logprobs=self.logprobs,
            chosen=self.chosen,
        )
