"""The families of decoders that can be imported from a Hugging Face folder.

Each is a Llama with differences, and each difference is one of the fields of :class:`Family`,
a line that reads a key, or a rewriting of the weights that computes the same. What is not said
here is refused: see :mod:`model_builder.generate.keys`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from contracts.errors import InputError
from model_builder.generate.keys import Keys
from model_builder.generate.rope import Frequencies, Rope, plain, rope
from model_builder.generate.weights import MAX_HEAD_SIZE, MAX_LAYERS, DecoderConfig

# Keys that say how a checkpoint was trained, saved or is to be run, not what it computes.
HARMLESS: Final = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_model_name_or_path",
        "_name_or_path",
        "add_cross_attention",
        "architectures",
        "attention_dropout",
        "auto_map",
        "begin_suppress_tokens",
        "bos_token_id",
        "chunk_size_feed_forward",
        "cls_token_id",
        "decoder_start_token_id",
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
        "mask_token_id",
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
        "suppress_tokens",
        "torchscript",
        "transformers_version",
        "unk_token_id",
        "unsloth_fixed",
        "unsloth_version",
        "use_cache",
        "use_mambapy",
        "problem_type",
        "transformers.js_config",
        "keys_to_ignore_at_inference",
    }
)


@dataclass(frozen=True)
class Family:
    """What sets a family apart.

    Attributes:
        norm_epsilon, rope_theta: where config.json leaves them out; None: it must not.
        qkv_bias: the family has biases there, whatever config.json says.
        qk_norm: queries and keys are normalised in each head.
        fused: one matrix holds q, k and v, one gate and up.
        multipliers: Granite's factors of embedding, residuals, scores and logits.
        layered: `layer_types` and `use_sliding_window` say which layers have the window; in the
            others a stated window is in all of them.
        partial: heads may turn in part; in the others the library passes over that.
        unrotated: layers may be without positions.
        norms: the names of a block's: before and after attention, before and after feed-forward;
            empty where there is none.
        wide_norm: queries and keys are normalised over all heads together.
        added_gain: a norm's gain is what the file has and 1.
        two_turns: layers with a window turn by frequencies of their own.
        gemma: GELU, scores scaled by `query_pre_attn_scalar`, embeddings by the root of the
            width, which are tied unless config.json says no.
    """

    norm_epsilon: float | None = 1e-6
    rope_theta: float | None = None
    qkv_bias: bool = False
    qk_norm: bool = False
    fused: bool = False
    multipliers: bool = False
    layered: bool = False
    partial: bool = False
    unrotated: bool = False
    norms: tuple[str, str, str, str] = ("input_layernorm", "", "post_attention_layernorm", "")
    wide_norm: bool = False
    added_gain: bool = False
    two_turns: bool = False
    gemma: bool = False


_OLMO: Final = Family(
    norm_epsilon=1e-5,
    rope_theta=10000.0,
    qk_norm=True,
    wide_norm=True,
    norms=("", "post_attention_layernorm", "", "post_feedforward_layernorm"),
)

FAMILIES: Final = {
    "LlamaForCausalLM": Family(rope_theta=10000.0),
    "MistralForCausalLM": Family(rope_theta=10000.0),
    "Qwen2ForCausalLM": Family(qkv_bias=True, layered=True),
    "Qwen3ForCausalLM": Family(qk_norm=True, layered=True),
    "SmolLM3ForCausalLM": Family(layered=True, unrotated=True),
    "Phi3ForCausalLM": Family(norm_epsilon=None, fused=True, partial=True),
    "GraniteForCausalLM": Family(multipliers=True),
    "MinistralForCausalLM": Family(layered=True),
    "Olmo2ForCausalLM": _OLMO,
    "Olmo3ForCausalLM": replace(_OLMO, rope_theta=None, layered=True, two_turns=True),
    "Gemma3ForCausalLM": Family(
        rope_theta=1e6,
        qk_norm=True,
        norms=(
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ),
        added_gain=True,
        gemma=True,
        layered=True,
        two_turns=True,
    ),
}


_CONVOLUTIONS: Final = frozenset(["Lfm2ForCausalLM", "lfm2"])


def no_family(name: str) -> str:
    """Why a model of this name is refused, as the end of an error where there is a reason."""
    if name not in _CONVOLUTIONS:
        return ""
    return (
        "; its short convolutions remember states, and no keys and values a token, which is all "
        "that caches, sessions and guesses of the agent hold"
    )


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
            f"{where} names a {str(name)[:60]!r} model; expected one of {', '.join(FAMILIES)}"
            + no_family(str(name)),
        )
    keys.refuse(
        "quantization_config",
        "its weights are quantised; save it in 16 bits (unsloth: merged_16bit)",
    )
    keys.refuse("use_bidirectional_attention", "expected a causal decoder")
    keys.neutral("rope_interleaved", False)
    if family.gemma:
        keys.neutral("hidden_activation", "gelu_pytorch_tanh")
    else:
        keys.neutral("hidden_act", "silu")
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
    window = _window(keys, layers, family)
    local = _local(keys, layers, 6 if family.gemma else 4) if family.two_turns else frozenset()
    near, keys_of_turn = (None, keys)
    if family.two_turns:
        near, keys_of_turn = _two_turns(keys, family, head_size)
    turn, rotary = _turn(keys_of_turn, family, head_size, trained)
    trained = min(
        trained,
        turn.longest or trained,
        window or trained,
    )
    scale = None
    multipliers = Multipliers()
    if family.multipliers:
        scale = keys.number("attention_multiplier", 1.0)
        multipliers = Multipliers(
            keys.number("embedding_multiplier", 1.0),
            keys.number("residual_multiplier", 1.0),
            keys.number("logits_scaling", 1.0),
        )
    if family.gemma:
        scale = keys.number("query_pre_attn_scalar", 256.0) ** -0.5
        multipliers = Multipliers(embedding=float(np.sqrt(width)))
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
        local_frequencies=() if near is None else tuple(float(f) for f in near),
        local_layers=local,
        activation="gelu_tanh" if family.gemma else "silu",
        wide_norm=family.wide_norm,
        rope_scale=turn.scale,
        unrotated=_unrotated(keys, layers) if family.unrotated else frozenset(),
        attention_scale=scale,
        norm_epsilon=keys.number("rms_norm_eps", *_default(family.norm_epsilon)),
        trained_context=trained,
    )
    config.check()
    tied = True if family.gemma else None
    if "tie_word_embeddings" in keys:
        tied = keys.flag("tie_word_embeddings")
    keys.get("tie_word_embeddings")
    biases = keys.flag("attention_bias"), keys.flag("mlp_bias")
    keys.finish(HARMLESS)
    return Plan(family, config, rotary, multipliers, tied, biases)


def _local(keys: Keys, layers: int, every: int) -> frozenset[int]:
    """Layers that look back only so far: by their kinds, or all but every so many."""
    kinds = keys.get("layer_types")
    for key in ("sliding_window_pattern", "_sliding_window_pattern"):
        if key in keys:
            every = keys.whole(key)
    if kinds is None:
        return frozenset(i for i in range(layers) if every < 1 or (i + 1) % every)
    if not isinstance(kinds, list):
        return frozenset()  # which :func:`_window` refuses
    return frozenset(i for i, kind in enumerate(kinds) if kind == "sliding_attention")


def _two_turns(keys: Keys, family: Family, head_size: int) -> tuple[Frequencies, Keys]:
    """Frequencies of local layers, and the keys for those of the others."""
    both = keys.get("rope_parameters")
    if family.gemma:
        base = keys.number("rope_local_base_freq", 10000.0)
    else:  # alike, but for what scales positions
        base = keys.number("rope_theta", 500000.0)
    if both is None:
        return plain(base, head_size), keys
    names = {"full_attention", "sliding_attention"}
    if not isinstance(both, dict) or not all(isinstance(both.get(n), dict) for n in names):
        raise InputError(
            "unknown-architecture", f"{keys.where}: expected two sets of rotary parameters"
        )
    Keys(both, keys.where).finish(names)
    near = Keys(both["sliding_attention"], f"{keys.where}, sliding_attention")
    near.neutral("rope_type", "default")
    base = near.number("rope_theta", base)
    near.finish()
    # `rope_theta` and `rope_scaling` may be there too, as earlier releases have them.
    rest = {k: keys.get(k) for k in ("rope_theta", "rope_scaling")}
    return plain(base, head_size), Keys(
        {**rest, "rope_parameters": both["full_attention"]}, keys.where
    )


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
    if not family.partial:
        found.neutral("partial_rotary_factor", 1.0)
    base = found.number("rope_theta", *_default(family.rope_theta))
    rotary = int(head_size * found.number("partial_rotary_factor", 1.0))
    if not 2 <= rotary <= head_size or rotary % 2 or head_size % 2 or not 1 < base < 1e12:
        raise InputError("bad-weights", f"{keys.where}: {rotary} of {head_size} turn by {base}")
    if "original_max_position_embeddings" in keys:
        rest.setdefault(
            "original_max_position_embeddings", keys.whole("original_max_position_embeddings")
        )
    return rope(rest, keys.where, base, rotary, trained), rotary


def _window(keys: Keys, layers: int, family: Family) -> int | None:
    """The attention window, where a layer has one: contexts end where it begins to matter."""
    window = keys.get("sliding_window", 4096 if family.gemma else None)
    used = keys.flag("use_sliding_window", default=True)
    kinds = keys.get("layer_types")
    if kinds is not None:
        known = {"full_attention", "sliding_attention"}
        if not isinstance(kinds, list) or len(kinds) != layers or not set(kinds) <= known:
            raise InputError("unknown-architecture", f"{keys.where}: layer_types are not known")
        used = "sliding_attention" in kinds
    if window is None or (family.layered and not used):
        return None
    return keys.whole("sliding_window", window)


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
