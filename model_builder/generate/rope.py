"""Rotary position embeddings: from what a checkpoint states to one frequency a pair.

Sources: Su et al., "RoFormer" (2021); Peng et al., "YaRN" (2023); Ding et al., "LongRoPE" (2024);
the llama3 rule of the Llama 3.1 release. Formulas are those that checkpoints are made for, as
the `transformers` library computes them.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from contracts.errors import InputError
from model_builder.generate.keys import Keys

Frequencies = npt.NDArray[np.float64]

TYPES: Final = ("default", "linear", "llama3", "yarn", "longrope", "dynamic")


class Rope:
    """Frequencies of a decoder's positions.

    Attributes:
        frequencies: ``[pairs]`` radians a position.
        scale: of cosines and sines.
        longest: positions up to which they hold; None: no bound of their own.
        base: where plain powers of it are the frequencies; None: they are not.
    """

    def __init__(
        self,
        frequencies: Frequencies,
        *,
        scale: float = 1.0,
        longest: int | None = None,
        base: float | None = None,
    ) -> None:
        self.frequencies = frequencies
        self.scale = scale
        self.longest = longest
        self.base = base


def plain(base: float, size: int) -> Frequencies:
    """``base ** (-2 i / size)`` for the ``size / 2`` pairs."""
    half = size // 2
    return np.asarray(base ** (-np.arange(half, dtype=np.float64) / half))


def rope(stated: dict[str, Any], where: str, base: float, size: int, trained: int) -> Rope:
    """What a ``rope_scaling`` or ``rope_parameters`` means.

    Args:
        stated: its keys, without `rope_theta` and `partial_rotary_factor`.
        where: for messages.
        base: `rope_theta`.
        size: of the part of a head that turns.
        trained: `max_position_embeddings`.

    Raises:
        InputError: ``unknown-architecture``; a kind or key that is not known.
    """
    keys = Keys(stated, where)
    kind = keys.text("rope_type", None) or keys.text("type", "default") or "default"
    keys.get("type")
    keys.get("original_max_position_embeddings")  # stated beside kinds that do not need it
    exact = plain(base, size)
    if kind == "default":
        found = Rope(exact, base=base)
    elif kind == "linear":
        found = Rope(exact / keys.number("factor"))
    elif kind == "dynamic":
        # It changes nothing until a text is longer than the model was trained on.
        keys.number("factor")
        original = keys.whole("original_max_position_embeddings", trained)
        found = Rope(exact, base=base, longest=original)
    elif kind == "llama3":
        found = Rope(_llama3(exact, keys))
    elif kind == "yarn":
        found = _yarn(exact, base, size, keys, trained)
    elif kind in ("longrope", "su"):
        found = _longrope(exact, keys, trained)
    else:
        raise InputError(
            "unknown-architecture",
            f"{where}: positions are scaled by {kind[:40]!r}; expected {', '.join(TYPES)}",
        )
    keys.finish()
    return found


def _llama3(exact: Frequencies, keys: Keys) -> Frequencies:
    factor = keys.number("factor")
    low, high = keys.number("low_freq_factor"), keys.number("high_freq_factor")
    original = keys.whole("original_max_position_embeddings")
    lengths = 2 * math.pi / exact
    smooth = (original / lengths - low) / (high - low)
    between = (1 - smooth) * exact / factor + smooth * exact
    return np.where(
        lengths > original / low,
        exact / factor,
        np.where(lengths < original / high, exact, between),
    )


def _yarn(exact: Frequencies, base: float, size: int, keys: Keys, trained: int) -> Rope:
    factor = keys.number("factor")
    original = keys.whole("original_max_position_embeddings", trained)
    fast, slow = keys.number("beta_fast", 32.0), keys.number("beta_slow", 1.0)
    stated = keys.number("attention_factor", 0.0)
    one, all_dims = keys.number("mscale", 0.0), keys.number("mscale_all_dim", 0.0)
    whole = keys.flag("truncate", default=True)

    def magnitude(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    if stated:
        attention = stated
    elif one and all_dims:
        attention = magnitude(one) / magnitude(all_dims)
    else:
        attention = magnitude(1.0)

    def dimension(turns: float) -> float:
        return size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    first, last = dimension(fast), dimension(slow)
    if whole:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, size - 1)
    if first == last:
        last += 0.001
    ramp = np.clip((np.arange(size // 2) - first) / (last - first), 0, 1)
    return Rope(exact / factor * ramp + exact * (1 - ramp), scale=attention)


def _longrope(exact: Frequencies, keys: Keys, trained: int) -> Rope:
    """The factors for short texts; longer ones have others, so contexts end where those begin."""
    short = keys.numbers("short_factor", len(exact))
    keys.numbers("long_factor", len(exact))
    original = keys.whole("original_max_position_embeddings", trained)
    factor = keys.number("factor", trained / original)
    if "original_max_position_embeddings" in keys:
        factor = trained / original  # which has the last word
    stated = keys.number("attention_factor", 0.0)
    short_scale, long_scale = keys.number("short_mscale", 0.0), keys.number("long_mscale", 0.0)
    if short_scale or long_scale:
        raise InputError("unknown-architecture", f"{keys.where}: short_mscale is not supported")
    scale = stated or (1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original)))
    return Rope(exact / np.array(short), scale=scale, longest=original)
