"""A Llama-family decoder as NumPy arrays: what every source gives and every step takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from contracts.errors import InputError

Array = npt.NDArray[np.float32]

MAX_LAYERS = 256
MAX_WIDTH = 16384
MAX_VOCABULARY = 1 << 20
MAX_HEAD_SIZE = 1024


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The shape of a decoder.

    Attributes:
        vocabulary: rows of the embedding table.
        layers: decoder blocks.
        width: of the residual stream.
        hidden: of the feed-forward part.
        heads, kv_heads: query heads, and key/value heads that they share.
        head_size: width of one head; even.
        rope_base: of the rotary position embedding.
        frequencies: of its pairs, in radians a position, where they are no plain powers of the
            base (scaled positions, heads that turn in part); empty: they are.
        local_frequencies: of the pairs in `local_layers`; empty: all layers turn alike.
        local_layers: that look back only so far, within which contexts are kept.
        rope_scale: of its cosines and sines.
        unrotated: layers without positions.
        attention_scale: of the scores; None: 1 / sqrt(head_size).
        activation: of the gate: SiLU, or GELU by its tanh formula.
        wide_norm: queries and keys are normalised over all heads together.
        norm_epsilon: of RMSNorm.
        trained_context: positions that the model was trained on, and for which its parts hold.
    """

    vocabulary: int
    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    rope_base: float = 10000.0
    frequencies: tuple[float, ...] = ()
    local_frequencies: tuple[float, ...] = ()
    local_layers: frozenset[int] = frozenset()
    rope_scale: float = 1.0
    unrotated: frozenset[int] = frozenset()
    attention_scale: float | None = None
    activation: Literal["silu", "gelu_tanh"] = "silu"
    wide_norm: bool = False
    norm_epsilon: float = 1e-5
    trained_context: int = 2048

    def check(self) -> None:
        """Raises ``InputError`` ``bad-weights`` when the shape cannot be a decoder's."""
        bounds = {
            "vocabulary": (self.vocabulary, MAX_VOCABULARY),
            "layers": (self.layers, MAX_LAYERS),
            "width": (self.width, MAX_WIDTH),
            "hidden": (self.hidden, 4 * MAX_WIDTH),
            "heads": (self.heads, 512),
            "kv_heads": (self.kv_heads, 512),
            "head_size": (self.head_size, MAX_HEAD_SIZE),
            "trained_context": (self.trained_context, 1 << 24),
        }
        for name, (value, most) in bounds.items():
            if not 1 <= value <= most:
                raise InputError("bad-weights", f"{name} is {value}; expected 1 to {most}")
        if self.heads % self.kv_heads or self.head_size % 2:
            raise InputError(
                "bad-weights",
                f"{self.heads} heads of {self.head_size} cannot share {self.kv_heads} "
                "key/value heads: expected a divisor, and an even head size",
            )
        if not (0 < self.norm_epsilon < 1 and 1 < self.rope_base < 1e9):
            raise InputError(
                "bad-weights",
                f"norm epsilon {self.norm_epsilon} or rotary base {self.rope_base} is absurd",
            )

        turns = (*self.frequencies, *self.local_frequencies)
        scales = [self.rope_scale, self.attention_scale or 1.0, *turns]
        if not all(np.isfinite(value) and 0 <= value < 1e4 for value in scales):
            raise InputError("bad-weights", "a rotary frequency or a scale is absurd")
        pairs = self.head_size // 2
        if {len(self.frequencies), len(self.local_frequencies)} - {0, pairs}:
            raise InputError("bad-weights", "expected a rotary frequency for each pair of a head")

    @property
    def score_scale(self) -> float:
        """Of the attention's scores."""
        return self.attention_scale or float(1 / np.sqrt(self.head_size))

    @property
    def parameters(self) -> int:
        """Weights of the decoder with a tied output head, counted once."""
        attention = self.width * self.head_size * (2 * self.heads + 2 * self.kv_heads)
        return self.vocabulary * self.width + self.layers * (
            attention + 3 * self.width * self.hidden + 2 * self.width
        )


@dataclass
class Layer:
    """One block. Matrices are ``[outputs, inputs]``, so that ``y = W @ x``.

    `q`, `k`: heads in rotate-half layout (dimension i turns with i + head_size / 2).
    Biases and norms are None where the family has none. `post_attention_norm` and
    `post_ffn_norm`: of what attention and feed-forward give, before it joins the stream.
    """

    attention_norm: Array | None
    q: Array
    k: Array
    v: Array
    o: Array
    ffn_norm: Array | None
    gate: Array
    up: Array
    down: Array
    q_bias: Array | None = None
    k_bias: Array | None = None
    v_bias: Array | None = None
    o_bias: Array | None = None
    gate_bias: Array | None = None
    up_bias: Array | None = None
    down_bias: Array | None = None
    q_norm: Array | None = None
    k_norm: Array | None = None
    post_attention_norm: Array | None = None
    post_ffn_norm: Array | None = None


@dataclass
class DecoderWeights:
    """A whole decoder in float32.

    Attributes:
        config: its shape.
        embedding: ``[vocabulary, width]``, looked up for a token.
        layers: the blocks, in order.
        final_norm: ``[width]``.
        head: ``[vocabulary, width]``; the same array as `embedding` when the model ties them.
    """

    config: DecoderConfig
    embedding: Array
    layers: list[Layer] = field(repr=False)
    final_norm: Array
    head: Array

    def check(self) -> None:
        """Raises ``InputError`` ``bad-weights`` when a shape is wrong or a value not finite."""
        c = self.config
        c.check()
        queries, keys = c.heads * c.head_size, c.kv_heads * c.head_size
        shapes: dict[str, tuple[int, ...]] = {
            "attention_norm": (c.width,),
            "q": (queries, c.width),
            "k": (keys, c.width),
            "v": (keys, c.width),
            "o": (c.width, queries),
            "ffn_norm": (c.width,),
            "gate": (c.hidden, c.width),
            "up": (c.hidden, c.width),
            "down": (c.width, c.hidden),
            "q_bias": (queries,),
            "k_bias": (keys,),
            "v_bias": (keys,),
            "o_bias": (c.width,),
            "gate_bias": (c.hidden,),
            "up_bias": (c.hidden,),
            "down_bias": (c.width,),
            "q_norm": (queries,) if c.wide_norm else (c.head_size,),
            "k_norm": (keys,) if c.wide_norm else (c.head_size,),
            "post_attention_norm": (c.width,),
            "post_ffn_norm": (c.width,),
        }
        if len(self.layers) != c.layers:
            raise InputError("bad-weights", f"expected {c.layers} layers, found {len(self.layers)}")
        _check("embedding", self.embedding, (c.vocabulary, c.width))
        _check("final_norm", self.final_norm, (c.width,))
        _check("head", self.head, (c.vocabulary, c.width))
        for index, layer in enumerate(self.layers):
            for name, shape in shapes.items():
                value = getattr(layer, name)
                if value is not None:
                    _check(f"layer {index} {name}", value, shape)


def _check(name: str, value: Array, shape: tuple[int, ...]) -> None:
    if value.shape != shape:
        raise InputError(
            "bad-weights", f"{name} has the shape {list(value.shape)}; expected {list(shape)}"
        )
    # The sum is finite exactly when no value is inf or nan (short of an overflow, as bad).
    if not np.isfinite(value.sum(dtype=np.float64)):
        raise InputError("bad-weights", f"{name} holds values that are not finite numbers")
