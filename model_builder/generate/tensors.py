"""The tensors of a checkpoint, by the plan that its config.json gave.

Differences between families become weights that compute the same: joined matrices are cut,
factors multiplied in, heads put in the order that the decoder turns them in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from contracts.errors import InputError
from model_builder.generate.families import Multipliers, Plan
from model_builder.generate.weights import Array, DecoderConfig, DecoderWeights, Layer


@dataclass(frozen=True)
class Packing:
    """What stands between a checkpoint's own matrices and those of :class:`DecoderWeights`.

    Attributes:
        rotary: dimensions of a head that turn.
        residual: factor of what joins the stream.
    """

    rotary: int
    residual: float = 1.0


Get = Callable[[str], Array]
"""A tensor by its name, or ``InputError`` when the files lack it."""
Maybe = Callable[[str], Array | None]

_LAYER: Final = "model.layers.{}."


def read_weights(plan: Plan, get: Get, maybe: Maybe) -> DecoderWeights:
    """The tensors of a plan. `get` and `maybe` keep track of what was read.

    Raises:
        InputError: ``bad-weights``.
    """
    c = plan.config
    layers = [_layer(plan, i, get) for i in range(c.layers)]
    embedding = get("model.embed_tokens.weight")
    head = maybe("lm_head.weight")
    if plan.tied and head is not None and not np.array_equal(head, embedding):
        raise InputError(
            "bad-weights",
            "the model ties its embeddings and has another lm_head.weight: one of them is a "
            "leftover; take the tensor out, or set tie_word_embeddings to false",
        )
    if plan.tied or (plan.tied is None and head is None):
        head = embedding
    elif head is None:
        raise InputError("bad-weights", "the model ties no embeddings and lacks lm_head.weight")
    final_norm = get("model.norm.weight") + np.float32(plan.family.added_gain)
    weights = multiplied(DecoderWeights(c, embedding, layers, final_norm, head), plan.multipliers)
    weights.check()
    return weights


def multiplied(weights: DecoderWeights, m: Multipliers) -> DecoderWeights:
    """The decoder with its factors put into weights; that of the scores is in the config."""
    if m == Multipliers():
        return weights
    residual = np.float32(m.residual)
    layers = [
        replace(
            layer,
            o=layer.o * residual,
            o_bias=None if layer.o_bias is None else layer.o_bias * residual,
            down=layer.down * residual,
            down_bias=None if layer.down_bias is None else layer.down_bias * residual,
        )
        for layer in weights.layers
    ]
    return DecoderWeights(
        weights.config,
        np.asarray(weights.embedding * np.float32(m.embedding), np.float32),
        layers,
        weights.final_norm,
        np.asarray(weights.head / np.float32(m.logits), np.float32),
    )


def _layer(plan: Plan, index: int, get: Get) -> Layer:
    c, family = plan.config, plan.family
    at = _LAYER.format(index)
    attention, mlp = f"{at}self_attn.", f"{at}mlp."
    queries, keys = c.heads * c.head_size, c.kv_heads * c.head_size
    if family.fused:
        q, k, v = cut(get(f"{attention}qkv_proj.weight"), (queries, keys, keys))
        gate, up = cut(get(f"{mlp}gate_up_proj.weight"), (c.hidden, c.hidden))
    else:
        q, k, v = (get(f"{attention}{name}_proj.weight") for name in "qkv")
        gate, up = get(f"{mlp}gate_proj.weight"), get(f"{mlp}up_proj.weight")
    in_attention, in_mlp = plan.biases

    def bias(name: str, there: bool) -> Array | None:
        return get(f"{name}_proj.bias") if there else None

    def gain(name: str) -> Array | None:
        return get(f"{name}.weight") + np.float32(family.added_gain) if name else None

    norms = [gain(name and at + name) for name in family.norms]
    in_qkv = family.qkv_bias or in_attention
    layer = Layer(
        attention_norm=norms[0],
        post_attention_norm=norms[1],
        post_ffn_norm=norms[3],
        q=q,
        k=k,
        v=v,
        o=get(f"{attention}o_proj.weight"),
        ffn_norm=norms[2],
        gate=gate,
        up=up,
        down=get(f"{mlp}down_proj.weight"),
        q_bias=bias(f"{attention}q", in_qkv),
        k_bias=bias(f"{attention}k", in_qkv),
        v_bias=bias(f"{attention}v", in_qkv),
        o_bias=bias(f"{attention}o", in_attention),
        gate_bias=bias(f"{mlp}gate", in_mlp),
        up_bias=bias(f"{mlp}up", in_mlp),
        down_bias=bias(f"{mlp}down", in_mlp),
        q_norm=gain(f"{attention}q_norm" if family.qk_norm else ""),
        k_norm=gain(f"{attention}k_norm" if family.qk_norm else ""),
    )
    return spread(layer, c, plan.rotary)


def cut(matrix: Array, rows: tuple[int, ...]) -> list[Array]:
    """A joined matrix in parts of so many rows."""
    if matrix.ndim != 2 or len(matrix) != sum(rows):
        raise InputError(
            "bad-weights", f"a joined matrix is {list(matrix.shape)}; expected {sum(rows)} rows"
        )
    return np.split(matrix, np.cumsum(rows)[:-1])


def spread(layer: Layer, c: DecoderConfig, rotary: int) -> Layer:
    """The layer with its heads ordered so that dimension i pairs with i + head_size / 2.

    Where only the first `rotary` dimensions of a head turn, they pair within themselves; the
    others get pairs with the frequency 0.
    """
    if rotary == c.head_size:
        return layer

    def ordered(value: Array | None) -> Array | None:
        return None if value is None else spread_rows(value, c.head_size, rotary)

    return replace(
        layer,
        q=spread_rows(layer.q, c.head_size, rotary),
        k=spread_rows(layer.k, c.head_size, rotary),
        q_bias=ordered(layer.q_bias),
        k_bias=ordered(layer.k_bias),
        q_norm=ordered(layer.q_norm),
        k_norm=ordered(layer.k_norm),
    )


def spread_rows(value: Array, head_size: int, rotary: int) -> Array:
    """Rows (or values) of heads of which the first `rotary` dimensions turn, as in `spread`."""
    turning, half = np.arange(rotary), rotary // 2
    still = np.arange(rotary, head_size)
    middle = len(still) // 2
    order = np.concatenate([turning[:half], still[:middle], turning[half:], still[middle:]])
    parts = value.reshape(-1, head_size, *value.shape[1:])
    return np.ascontiguousarray(parts[:, order].reshape(value.shape))
