"""Small random decoders as GGUF files, safetensors folders and bundles, made while testing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from contracts.bundle import MANIFEST
from model_builder.generate.importer import ImportOptions, import_model
from model_builder.generate.package import Layout
from model_builder.generate.vocabulary import train_tokenizer
from model_builder.generate.weights import Array, DecoderConfig, DecoderWeights, Layer
from tests.support import made

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


TOOLS_TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool.function.name }},{% endfor %}"
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>"
    "{% endfor %}\n{% endfor %}<assistant>"
    "{% if enable_thinking is defined and not enable_thinking %}dog{% endif %}"
)
TOOL_TAG = "<tool_call>"


def tiny_tokenizer(size: int = 300, phrases: list[str] | None = None) -> Tokenizer:
    """A byte-level tokenizer trained on a few words; it ends answers with ``<|end|>``."""
    texts = ["the quick brown fox jumps over the lazy dog", '{"name": "value", "count": 12}'] * 4
    return train_tokenizer(texts, size, phrases or [])


def byte_fallback() -> Tokenizer:
    """As Llama 2 and Mistral have it: what is no piece is a token a byte."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcé日"]
    made = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], unk_token="<unk>",
            fuse_unk=True, byte_fallback=True,
        )
    )  # fmt: skip
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    return made


def tiny_weights(
    *,
    seed: int = 0,
    bias: bool = False,
    tied: bool = True,
    vocabulary: int = 300,
    size: int = 1,
) -> DecoderWeights:
    """A random two-layer decoder; `bias` as Qwen2 has it. `size`: factor of all its widths."""
    rng = np.random.default_rng(seed)
    w, k, h = 64 * size, 32 * size, 96 * size
    c = DecoderConfig(
        vocabulary=vocabulary, layers=2, width=w, hidden=h, heads=4, kv_heads=2,
        head_size=16 * size,
        rope_base=10000.0, norm_epsilon=1e-5, trained_context=64,
    )  # fmt: skip

    def normal(*shape: int, scale: float = 0.15) -> Array:
        return rng.normal(0, scale, shape).astype(np.float32)

    def gain() -> Array:
        return (1 + rng.normal(0, 0.1, w)).astype(np.float32)

    layers = [
        Layer(
            attention_norm=gain(), q=normal(w, w), k=normal(k, w), v=normal(k, w),
            o=normal(w, w), ffn_norm=gain(), gate=normal(h, w), up=normal(h, w),
            down=normal(w, h), q_bias=normal(w) if bias else None,
            k_bias=normal(k) if bias else None, v_bias=normal(k) if bias else None,
        )
        for _ in range(2)
    ]  # fmt: skip
    embedding = normal(vocabulary, w, scale=0.3)
    head = embedding if tied else normal(vocabulary, w, scale=0.3)
    return DecoderWeights(c, embedding, layers, gain(), head)


def interleaved(value: Array, heads: int) -> Array:
    """Rotate-half rows to GGUF's interleaved pairs: what llama.cpp's converter does."""
    size = value.shape[0] // heads
    split = value.reshape(heads, 2, size // 2, *value.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(value.shape))


def write_gguf(
    path: Path,
    weights: DecoderWeights,
    tokenizer: Tokenizer,
    *,
    architecture: str = "llama",
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    template: str = TEMPLATE,
) -> Path:
    """Writes a decoder as GGUF, its matrices in `kind` where that divides their rows."""
    c = weights.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(c.layers)
    writer.add_context_length(c.trained_context)
    writer.add_embedding_length(c.width)
    writer.add_feed_forward_length(c.hidden)
    writer.add_head_count(c.heads)
    writer.add_head_count_kv(c.kv_heads)
    writer.add_rope_freq_base(c.rope_base)
    writer.add_rope_dimension_count(c.head_size)
    writer.add_layer_norm_rms_eps(c.norm_epsilon)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda row: row[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in vocabulary])
    added = tokenizer.get_added_tokens_decoder()
    kinds = {token: 3 if one.special else 4 for token, one in added.items()}
    writer.add_token_types([kinds.get(token, 1) for _, token in vocabulary])
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_eos_token_id(tokenizer.token_to_id("<|end|>"))
    writer.add_chat_template(template)

    def add(name: str, value: Array | None) -> None:
        if value is None:
            return
        plain = value.ndim == 1 or kind == gguf.GGMLQuantizationType.F32
        if plain:
            writer.add_tensor(name, value)
        else:
            writer.add_tensor(name, gguf.quantize(value, kind), raw_dtype=kind)

    def turned(value: Array | None, heads: int) -> Array | None:
        return value if value is None or architecture != "llama" else interleaved(value, heads)

    add("token_embd.weight", weights.embedding)
    for i, layer in enumerate(weights.layers):
        at = f"blk.{i}."
        add(f"{at}attn_norm.weight", layer.attention_norm)
        add(f"{at}attn_q.weight", turned(layer.q, c.heads))
        add(f"{at}attn_k.weight", turned(layer.k, c.kv_heads))
        add(f"{at}attn_v.weight", layer.v)
        add(f"{at}attn_q.bias", turned(layer.q_bias, c.heads))
        add(f"{at}attn_k.bias", turned(layer.k_bias, c.kv_heads))
        add(f"{at}attn_v.bias", layer.v_bias)
        add(f"{at}attn_output.weight", layer.o)
        add(f"{at}ffn_norm.weight", layer.ffn_norm)
        add(f"{at}ffn_gate.weight", layer.gate)
        add(f"{at}ffn_up.weight", layer.up)
        add(f"{at}ffn_down.weight", layer.down)
    add("output_norm.weight", weights.final_norm)
    if weights.head is not weights.embedding:
        add("output.weight", weights.head)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_folder(path: Path, weights: DecoderWeights, tokenizer: Tokenizer) -> Path:
    """Writes a decoder as a Hugging Face folder."""
    c = weights.config
    biased = weights.layers[0].q_bias is not None
    path.mkdir()
    config = {
        "architectures": ["Qwen2ForCausalLM" if biased else "LlamaForCausalLM"],
        "vocab_size": c.vocabulary, "hidden_size": c.width, "intermediate_size": c.hidden,
        "num_hidden_layers": c.layers, "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads, "rope_theta": c.rope_base,
        "rms_norm_eps": c.norm_epsilon, "max_position_embeddings": c.trained_context,
        "eos_token_id": tokenizer.token_to_id("<|end|>"),
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text(tokenizer.to_str())
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    names = {
        "attention_norm": "input_layernorm.weight", "q": "self_attn.q_proj.weight",
        "k": "self_attn.k_proj.weight", "v": "self_attn.v_proj.weight",
        "o": "self_attn.o_proj.weight", "ffn_norm": "post_attention_layernorm.weight",
        "gate": "mlp.gate_proj.weight", "up": "mlp.up_proj.weight",
        "down": "mlp.down_proj.weight", "q_bias": "self_attn.q_proj.bias",
        "k_bias": "self_attn.k_proj.bias", "v_bias": "self_attn.v_proj.bias",
    }  # fmt: skip
    tensors = {
        "model.embed_tokens.weight": weights.embedding,
        "model.norm.weight": weights.final_norm,
    }
    for i, layer in enumerate(weights.layers):
        for field, name in names.items():
            value = getattr(layer, field)
            if value is not None:
                tensors[f"model.layers.{i}.{name}"] = value
    if weights.head is not weights.embedding:
        tensors["lm_head.weight"] = weights.head
    save_file(tensors, path / "model.safetensors")
    return path


def tiny_bundle(
    folder: Path,
    *,
    contexts: tuple[int, ...] = (32, 64),
    cache: Literal["float32", "int8"] = "int8",
    tools: bool = False,
    template: str | None = None,
    special: str | None = None,
    adapters: int = 0,
    size: int = 1,
) -> Path:
    """A generative bundle of a random decoder, through the real import.

    With `tools` its template has them, and ``<tool_call>`` is one token. `template`: another
    one. `special`: a further special token. `adapters`: the rank of those that it takes. Its
    source is ``tiny.gguf`` in `folder`. `size`: factor of its widths.
    """

    def make(folder: Path) -> None:
        weights = tiny_weights(size=size)
        weights.config = replace(weights.config, trained_context=max(64, *contexts))
        one_token = [TOOL_TAG] if tools else [special] if special else []
        tokenizer = tiny_tokenizer(phrases=one_token)
        if special:
            tokenizer.add_special_tokens([AddedToken(special, special=True, normalized=False)])
        source = write_gguf(
            folder / "tiny.gguf",
            weights,
            tokenizer,
            template=template or (TOOLS_TEMPLATE if tools else TEMPLATE),
        )
        options = ImportOptions(
            layout=Layout(
                contexts=list(contexts), prompt=[8], prefill=[8], cache=cache, adapters=adapters
            ),
            calibration_tokens=0, check_tokens=64, max_perplexity_change=1.0,
        )  # fmt: skip
        import_model(str(source), folder / "out", options)

    what = [contexts, cache, tools, template, special, adapters, size]
    made.once(f"tiny bundle {what}", make, folder)
    (bundle,) = (path.parent for path in (folder / "out").glob(f"*/{MANIFEST}"))
    return bundle
