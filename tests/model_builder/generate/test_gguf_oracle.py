"""GGUF files of the oracle's models: every architecture read as the library computed it.

The files are written here as converters write them: names, pairs of heads interleaved for the
families of Llama's kind, factors and divisors of positions under their keys.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from contracts.errors import InputError
from model_builder.generate import reference
from model_builder.generate.gguf_source import GgufFile, in_folder
from tests.model_builder.generate.test_oracle import IDS, ORACLE, expected

NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# Where a block's parts are normalised after them, the same name is another norm's.
POST_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
AFTER = {"olmo2", "gemma3"}
WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "SmolLM3ForCausalLM": "smollm3",
    "GraniteForCausalLM": "granite",
    "Phi3ForCausalLM": "phi3",
    "Olmo2ForCausalLM": "olmo2",
    "Gemma3ForCausalLM": "gemma3",
}
INTERLEAVED = {"llama", "smollm3", "granite"}
CASES = [
    "llama",
    "llama-tied",
    "llama-llama3",
    "llama-linear",
    "llama-yarn",
    "llama-attention-bias",
    "llama-mlp-bias",
    "mistral",
    "qwen2",
    "qwen2-yarn",
    "qwen3",
    "smollm3",
    "phi3",
    "phi3-partial",
    "phi3-longrope",
    "granite",
    "olmo2",
    "gemma3-plain",
]


def interleaved(value: np.ndarray, heads: int) -> np.ndarray:
    """Rows in rotate-half order -> pairs side by side."""
    halves = value.reshape(heads, 2, len(value) // heads // 2, *value.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(value.shape))


def llama3_divisors(config: dict[str, Any]) -> np.ndarray:
    """What a converter writes for the llama3 rule."""
    rope, size = config["rope_parameters"], config["head_dim"]
    exact = rope["rope_theta"] ** (-np.arange(0, size, 2) / size)
    found = []
    for frequency in exact:
        length = 2 * np.pi / frequency
        low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
        high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
        if length < high:
            found.append(1.0)
        elif length > low:
            found.append(rope["factor"])
        else:
            smooth = (rope["original_max_position_embeddings"] / length - 1.0) / 3.0
            found.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(found, np.float32)


def write(case: str, path: Path, extra: dict[str, Any] | None = None, split: int = 0) -> Path:
    """A case as a GGUF file; `extra`: more keys; `split`: tensors a part."""
    config = json.loads((ORACLE / case / "config.json").read_text())
    arch = ARCHITECTURES[config["architectures"][0]]
    rope = config["rope_parameters"]
    rope = rope.get("full_attention", rope)
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer = gguf.GGUFWriter(path, arch, split_max_tensors=split)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(int(head * rope.get("partial_rotary_factor", 1)))
    writer.add_vocab_size(config["vocab_size"])
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(config))
    if rope["rope_type"] == "longrope":
        original = rope["original_max_position_embeddings"]
        factor = config["max_position_embeddings"] / original
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(factor) / np.log(original))))
        for name in ("short", "long"):
            values = np.array(rope[f"{name}_factor"], np.float32)
            writer.add_tensor(f"rope_factors_{name}.weight", values)
    if arch == "granite":
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    for key, value in (extra or {}).items():
        writer.add_float32(f"{arch}.{key}", value)
    for name, stored in load_file(ORACLE / case / "model.safetensors").items():
        value = stored.astype(np.float32)
        if name in WHOLE:
            if arch == "gemma3" and name == "model.norm.weight":
                value = value + 1
            writer.add_tensor(WHOLE[name], value)
            continue
        _, _, layer, *middle, kind = name.split(".")
        target = (NAMES | POST_NORMS if arch in AFTER else NAMES)[".".join(middle)]
        if arch == "gemma3" and "norm" in target:
            value = value + 1  # gains are whole in these files
        if arch in INTERLEAVED and target in ("attn_q", "attn_k"):
            heads = "num_attention_heads" if target == "attn_q" else "num_key_value_heads"
            value = interleaved(value, config[heads])
        writer.add_tensor(f"blk.{layer}.{target}.{kind}", value)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("case", CASES)
def test_float_logits_are_the_librarys(case: str, tmp_path: Path) -> None:
    """From GGUF as from safetensors."""
    weights = GgufFile(write(case, tmp_path / "model.gguf")).weights()
    assert np.abs(reference.logits(weights, IDS) - expected(case)).max() < 1e-3


def test_a_split_file_is_read_whole(tmp_path: Path) -> None:
    """By any of its parts; a part that is not there is named."""
    write("qwen2", tmp_path / "model.gguf", split=9)
    parts = sorted(tmp_path.glob("model-*.gguf"))
    assert len(parts) == 3
    for part in parts:
        weights = GgufFile(part).weights()
        assert np.abs(reference.logits(weights, IDS) - expected("qwen2")).max() < 1e-3
    assert in_folder(tmp_path) == parts[0]
    parts[1].unlink()
    with pytest.raises(InputError, match="there is no model-00002-of-00003"):
        GgufFile(parts[0])


def test_an_adapter_is_called_one(tmp_path: Path) -> None:
    """Its architecture is its base's."""
    writer = gguf.GGUFWriter(tmp_path / "lora.gguf", "llama")
    writer.add_type("adapter")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match="holds an adapter"):
        GgufFile(tmp_path / "lora.gguf")


def test_parts_that_changed_places_are_told(tmp_path: Path) -> None:
    """Only the first has the model's keys."""
    write("qwen2", tmp_path / "model.gguf", split=9)
    first, second, _ = sorted(tmp_path.glob("model-*.gguf"))
    second.replace(tmp_path / "kept")
    first.replace(second)
    (tmp_path / "kept").replace(first)
    with pytest.raises(InputError, match="says that it is part 2 of 3"):
        GgufFile(first)


@pytest.mark.parametrize(
    "key", ["logit_scale", "attn_logit_softcapping", "embedding_scale", "attention.clamp_kqv"]
)
def test_a_key_that_is_not_known_is_refused(key: str, tmp_path: Path) -> None:
    """It may change what the model computes; 0 is off."""
    with pytest.raises(InputError, match=key):
        GgufFile(write("llama", tmp_path / "model.gguf", {key: 2.0})).weights()
    (tmp_path / "off").mkdir()
    GgufFile(write("llama", tmp_path / "off" / "model.gguf", {key: 0.0})).weights()


def test_a_factor_without_a_kind_is_linear(tmp_path: Path) -> None:
    """As readers of the format take it."""
    path = write("llama-linear", tmp_path / "a.gguf")
    exact = GgufFile(path).config().frequencies
    config = GgufFile(write("llama", tmp_path / "b.gguf", {"rope.scaling.factor": 4.0})).config()
    assert len(config.frequencies) == len(exact) > 0
