"""Chooses the next token from logits: greedy, temperature, top-k, top-p, min-p, penalty, seed.

Sources: Holtzman et al., "The Curious Case of Neural Text Degeneration" (2020) for top-p;
Nguyen et al., "Min P Sampling" (2024); Keskar et al., "CTRL" (2019) for the penalty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from contracts.errors import RefusedError
from contracts.requests import GenerateRequest

Floats = npt.NDArray[np.float32]
_PENALTY_WINDOW = 256
_HUGE = float(np.finfo(np.float32).max)


class SamplingOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a token is chosen; the fields mean the same as in ``GenerateRequest``.

    Attributes:
        temperature: 0: the most likely token (greedy).
        top_k: only the k most likely; 0: all.
        top_p: only the most likely that together have this share.
        min_p: only those with at least this part of the most likely one's share.
        repetition_penalty: divides the logits of the last 256 tokens; 1: none.
        frequency_penalty: taken off the logit of a token of the answer, for each time it is there.
        presence_penalty: the same, once.
        logit_bias: added to the logits of these tokens.
        seed: of the random numbers; None: a new one each time.
    """

    temperature: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.0
    top_k: Annotated[int, msgspec.Meta(ge=0)] = 0
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=10)] = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None

    @property
    def plain(self) -> bool:
        """Whether the token with the highest logit is taken as it is."""
        shifted = self.frequency_penalty or self.presence_penalty or self.logit_bias
        return self.temperature == 0 and self.repetition_penalty == 1 and not shifted

    @classmethod
    def of(cls, request: GenerateRequest) -> SamplingOptions:
        """The options of a request."""
        return cls(
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=request.top_p,
            min_p=request.min_p,
            repetition_penalty=request.repetition_penalty,
            frequency_penalty=request.frequency_penalty,
            presence_penalty=request.presence_penalty,
            logit_bias={int(token): bias for token, bias in request.logit_bias.items()},
            seed=request.seed,
        )


class Sampler:
    """Chooses tokens for one request.

    Args:
        options: how.
    """

    def __init__(self, options: SamplingOptions) -> None:
        self._options = options
        self._random = np.random.default_rng(options.seed)

    def pick(
        self,
        logits: Floats,
        recent: list[int],
        allowed: npt.NDArray[np.bool_] | None = None,
        answer: list[int] | None = None,
    ) -> int:
        """The next token.

        Args:
            logits: ``[vocabulary]``; not changed.
            recent: the tokens so far, for the penalty of repetition.
            allowed: ``[vocabulary]``; what a constraint allows (at least one).
            answer: those of the answer, for the other penalties.

        Raises:
            RefusedError: ``model-failed``; a logit is not finite.
        """
        o = self._options
        if not np.isfinite(logits).all():  # any token that was taken then would mean nothing
            raise RefusedError("model-failed", "the model gave numbers that are not finite")
        if o.repetition_penalty != 1.0 and recent:
            logits = _penalized(logits, recent[-_PENALTY_WINDOW:], o.repetition_penalty)
        logits = self._shifted(logits, answer or [])
        if allowed is not None:
            logits = np.where(allowed, logits, -np.inf)
        if o.temperature == 0:
            return int(np.argmax(logits))
        ids, shares = self._candidates(logits)
        heights = np.cumsum(shares)
        return int(ids[np.searchsorted(heights, self._random.random() * heights[-1])])

    def _shifted(self, logits: Floats, answer: list[int]) -> Floats:
        o = self._options
        penalties = answer if o.frequency_penalty or o.presence_penalty else []
        if not penalties and not o.logit_bias:
            return logits
        shifted = logits.copy()
        for token, times in Counter(penalties).items():
            shifted[token] -= o.frequency_penalty * times + o.presence_penalty
        for token, bias in o.logit_bias.items():
            shifted[token] += bias
        bounded: Floats = np.clip(shifted, -_HUGE, _HUGE)
        return bounded

    def _candidates(self, logits: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Ids that may be chosen, most likely first, and their shares."""
        o = self._options
        if o.top_k and o.top_k < logits.size:
            ids = np.argpartition(-logits, o.top_k - 1)[: o.top_k]
        else:
            ids = np.arange(logits.size)
        ids = ids[np.argsort(-logits[ids], kind="stable")]
        # Differences first: a tiny temperature makes them minus infinity, and no share.
        with np.errstate(over="ignore"):
            scaled = (logits[ids].astype(np.float64) - float(logits[ids[0]])) / o.temperature
        shares = np.exp(scaled)
        shares /= shares.sum()
        keep = shares >= max(o.min_p * shares[0], 0.0)
        if o.top_p < 1:
            keep &= np.cumsum(shares) - shares < o.top_p
        keep[0] = True
        keep &= shares > 0
        return ids[keep], shares[keep]


def _penalized(logits: Floats, recent: Iterable[int], penalty: float) -> Floats:
    seen = np.fromiter(set(recent), np.int64)
    changed: Floats = logits.copy()
    values = changed[seen].astype(np.float64)
    with np.errstate(over="ignore"):
        values = np.where(values > 0, values / penalty, values * penalty)
    # A tiny penalty must not make infinities, whose difference is not a number.
    changed[seen] = np.clip(values, -_HUGE, _HUGE)
    return changed


def top_logprobs(
    logits: Floats, count: int, taken: int
) -> tuple[list[tuple[int, float]], tuple[int, float]]:
    """Natural log-probabilities: of the `count` most likely tokens, best first, and of `taken`."""
    count = min(count, logits.size)
    highest = float(logits.max())
    total = highest + float(np.log(np.exp(logits.astype(np.float64) - highest).sum()))
    ids = np.argpartition(-logits, count - 1)[:count]
    ids = ids[np.argsort(-logits[ids], kind="stable")]
    best = [(int(i), float(logits[i]) - total) for i in ids]
    return best, (taken, float(logits[taken]) - total)
