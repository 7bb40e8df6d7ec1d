"""The families of decoders that can be imported from a Hugging Face folder.

Each is a Llama with differences, and each difference is one of the fields of :class:`Family`,
a line that reads a key, or a rewriting of the weights that computes the same. What is not said
here is refused: see :mod:`model_builder.generate.keys`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from contracts.errors import InputError
from model_builder.generate.keys import Keys
from model_builder.generate.rope import Rope, rope
from model_builder.generate.weights import (
    MAX_HEAD_SIZE,
    MAX_LAYERS,
    Array,
    DecoderConfig,
    DecoderWeights,
    Layer,
)

Get = Callable[[str], Array]
"""A tensor by its name, or ``InputError`` when the files lack it."""
Maybe = Callable[[str], Array | None]

# Keys that say how a checkpoint was trained, saved or is to be run, not what it computes.
HARMLESS: Final = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_name_or_path",
        "add_cross_attention",
        "architectures",
        "attention_dropout",
        "auto_map",
        "begin_suppress_tokens",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "embd_pdrop",
        "eos_token_id",
        "finetuning_task",
        "hidden_dropout",
        "id2label",
        "initializer_range",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "max_window_layers",
        "model_type",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "pad_token_id",
        "prefix",
        "pretraining_tp",
        "resid_pdrop",
        "return_dict",
        "sep_token_id",
        "task_specific_params",
        "tokenizer_class",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "unsloth_fixed",
        "unsloth_version",
        "use_cache",
        "use_mambapy",
        "problem_type",
        "transformers.js_config",
        "keys_to_ignore_at_inference",
    }
)

_LAYER: Final = "model.layers.{}."


@dataclass(frozen=True)
class Family:
    """What sets a family apart.

    Attributes:
        norm_epsilon, rope_theta: where config.json leaves them out; None: it must not.
        qkv_bias: the family has biases there, whatever config.json says.
        qk_norm: queries and keys are normalised in each head.
        fused: one matrix holds q, k and v, one gate and up.
        multipliers: Granite's factors of embedding, residuals, scores and logits.
    """

    norm_epsilon: float | None = 1e-6
    rope_theta: float | None = None
    qkv_bias: bool = False
    qk_norm: bool = False
    fused: bool = False
    multipliers: bool = False


FAMILIES: Final = {
    "LlamaForCausalLM": Family(rope_theta=10000.0),
    "MistralForCausalLM": Family(rope_theta=10000.0),
    "Qwen2ForCausalLM": Family(qkv_bias=True),
    "Qwen3ForCausalLM": Family(qk_norm=True),
    "SmolLM3ForCausalLM": Family(),
    "Phi3ForCausalLM": Family(norm_epsilon=None, fused=True),
    "GraniteForCausalLM": Family(multipliers=True),
}


@dataclass(frozen=True)
class Multipliers:
    """Granite's: every one is put into weights."""

    embedding: float = 1.0
    residual: float = 1.0
    logits: float = 1.0


@dataclass(frozen=True)
class Plan:
    """A config.json, understood."""

    family: Family
    config: DecoderConfig
    rotary: int
    multipliers: Multipliers
    tied: bool | None
    biases: tuple[bool, bool]
    """Whether attention and feed-forward have biases."""


def understand(document: dict[str, Any], where: str) -> Plan:
    """Reads a config.json; every key is used, harmless, off, or refused.

    Raises:
        InputError: ``unknown-architecture``, ``bad-weights``.
    """
    keys = Keys(document, where)
    names = keys.get("architectures", [])
    name = names[0] if isinstance(names, list) and names else None
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        raise InputError(
            "unknown-architecture",
            f"{where} names a {str(name)[:60]!r} model; expected one of {', '.join(FAMILIES)}",
        )
    keys.refuse("quantization_config", "its weights are quantised; expected float weights")
    keys.refuse("use_bidirectional_attention", "expected a causal decoder")
    for key, neutral in (("hidden_act", "silu"), ("rope_interleaved", False)):
        keys.neutral(key, neutral)
    width, heads = keys.whole("hidden_size"), keys.whole("num_attention_heads")
    if heads < 1:
        raise InputError("bad-weights", f"{where} says that it has {heads} heads")
    head_size = keys.whole("head_dim", width // heads)
    layers = keys.whole("num_hidden_layers")
    if not (2 <= head_size <= MAX_HEAD_SIZE and 1 <= layers <= MAX_LAYERS):
        raise InputError(
            "bad-weights", f"{where} says {layers} layers with heads of {head_size} dimensions"
        )
    if document.get("max_position_embeddings", 0) is None:
        raise InputError("bad-weights", f"{where}: max_position_embeddings is null")
    trained = keys.whole("max_position_embeddings", 2048)
    turn, rotary = _turn(keys, family, head_size, trained)
    trained = min(trained, turn.longest or trained, _window(keys, layers) or trained)
    scale = None
    multipliers = Multipliers()
    if family.multipliers:
        scale = keys.number("attention_multiplier", 1.0)
        multipliers = Multipliers(
            keys.number("embedding_multiplier", 1.0),
            keys.number("residual_multiplier", 1.0),
            keys.number("logits_scaling", 1.0),
        )
    frequencies: tuple[float, ...] = ()
    if turn.base is None or rotary != head_size:
        rest = np.zeros((head_size - rotary) // 2)
        frequencies = tuple(float(f) for f in (*turn.frequencies, *rest))
    config = DecoderConfig(
        vocabulary=keys.whole("vocab_size"),
        layers=layers,
        width=width,
        hidden=keys.whole("intermediate_size"),
        heads=heads,
        kv_heads=keys.whole("num_key_value_heads", heads),
        head_size=head_size,
        rope_base=turn.base or 10000.0,
        frequencies=frequencies,
        rope_scale=turn.scale,
        unrotated=_unrotated(keys, layers),
        attention_scale=scale,
        norm_epsilon=keys.number("rms_norm_eps", *_default(family.norm_epsilon)),
        trained_context=trained,
    )
    config.check()
    tied = keys.flag("tie_word_embeddings") if "tie_word_embeddings" in keys else None
    keys.get("tie_word_embeddings")
    biases = keys.flag("attention_bias"), keys.flag("mlp_bias")
    keys.finish(HARMLESS)
    return Plan(family, config, rotary, multipliers, tied, biases)


def _default(value: float | None) -> tuple[float, ...]:
    return () if value is None else (value,)


def _turn(keys: Keys, family: Family, head_size: int, trained: int) -> tuple[Rope, int]:
    """The rotary embedding, by the keys of today's and of earlier releases of the library."""
    new, old = keys.get("rope_parameters"), keys.get("rope_scaling")
    stated = new if new is not None else old if old is not None else {}
    if not isinstance(stated, dict) or any(isinstance(v, dict) for v in stated.values()):
        raise InputError(
            "unknown-architecture", f"{keys.where}: expected one set of rotary parameters"
        )
    if isinstance(new, dict) and isinstance(old, dict):
        both = {k: v for k, v in new.items() if k in old}
        if any(old[k] != v for k, v in both.items()):
            raise InputError(
                "unknown-architecture", f"{keys.where}: rope_parameters and rope_scaling differ"
            )
    rest = dict(stated)
    inner = rest.pop("rope_theta", None), rest.pop("partial_rotary_factor", None)
    outer = keys.get("rope_theta"), keys.get("partial_rotary_factor")
    for key, a, b in zip(("rope_theta", "partial_rotary_factor"), inner, outer, strict=True):
        if a is not None and b is not None and a != b:
            raise InputError("unknown-architecture", f"{keys.where} has two values of {key}")
    found = Keys(
        {
            "rope_theta": inner[0] if inner[0] is not None else outer[0],
            "partial_rotary_factor": inner[1] if inner[1] is not None else outer[1],
        },
        keys.where,
    )
    base = found.number("rope_theta", *_default(family.rope_theta))
    rotary = int(head_size * found.number("partial_rotary_factor", 1.0))
    if not 2 <= rotary <= head_size or rotary % 2 or head_size % 2 or not 1 < base < 1e12:
        raise InputError("bad-weights", f"{keys.where}: {rotary} of {head_size} turn by {base}")
    if "original_max_position_embeddings" in keys:
        rest.setdefault(
            "original_max_position_embeddings", keys.whole("original_max_position_embeddings")
        )
    return rope(rest, keys.where, base, rotary, trained), rotary


def _window(keys: Keys, layers: int) -> int | None:
    """The attention window, where a layer has one: contexts end where it begins to matter."""
    window = keys.get("sliding_window")
    used = keys.flag("use_sliding_window", default=True)
    kinds = keys.get("layer_types")
    if kinds is not None:
        known = {"full_attention", "sliding_attention"}
        if not isinstance(kinds, list) or len(kinds) != layers or not set(kinds) <= known:
            raise InputError("unknown-architecture", f"{keys.where}: layer_types are not known")
        used = "sliding_attention" in kinds
    if window is None or not used:
        return None
    return keys.whole("sliding_window")


def _unrotated(keys: Keys, layers: int) -> frozenset[int]:
    """Layers without positions: ``no_rope_layers`` has a 1 for each layer that turns."""
    flags, step = keys.get("no_rope_layers"), keys.get("no_rope_layer_interval")
    if flags is None:
        if step is None:
            return frozenset()
        every = keys.whole("no_rope_layer_interval")
        return frozenset(i for i in range(layers) if every > 0 and (i + 1) % every == 0)
    if not isinstance(flags, list) or len(flags) != layers or not set(flags) <= {0, 1}:
        raise InputError("bad-weights", f"{keys.where}: expected a no_rope_layers for each layer")
    return frozenset(i for i, turns in enumerate(flags) if not turns)


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
    weights = multiplied(
        DecoderWeights(c, embedding, layers, get("model.norm.weight"), head), plan.multipliers
    )
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

    in_qkv = family.qkv_bias or in_attention
    layer = Layer(
        attention_norm=get(f"{at}input_layernorm.weight"),
        q=q,
        k=k,
        v=v,
        o=get(f"{attention}o_proj.weight"),
        ffn_norm=get(f"{at}post_attention_layernorm.weight"),
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
        q_norm=get(f"{attention}q_norm.weight") if family.qk_norm else None,
        k_norm=get(f"{attention}k_norm.weight") if family.qk_norm else None,
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
    turning, half = np.arange(rotary), rotary // 2
    still = np.arange(rotary, c.head_size)
    middle = len(still) // 2
    order = np.concatenate([turning[:half], still[:middle], turning[half:], still[middle:]])

    def ordered(value: Array | None) -> Array | None:
        if value is None:
            return None
        parts = value.reshape(-1, c.head_size, *value.shape[1:])
        return np.ascontiguousarray(parts[:, order].reshape(value.shape))

    q, k = ordered(layer.q), ordered(layer.k)
    assert q is not None
    assert k is not None
    return replace(
        layer,
        q=q,
        k=k,
        q_bias=ordered(layer.q_bias),
        k_bias=ordered(layer.k_bias),
        q_norm=ordered(layer.q_norm),
        k_norm=ordered(layer.k_norm),
    )
