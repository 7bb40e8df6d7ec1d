"""Makes the fixtures beside it: small random decoders with logits by the `transformers` library.

Run by ``make oracle`` in an environment of its own (torch and transformers are no dependencies
of this project). For each case: ``config.json`` as the library writes it today,
``config-v4.json`` as its fourth release wrote it where that differs, ``model.safetensors`` in
float16, ``logits.npy`` float32 ``[T, vocabulary]`` of ``ids.npy``.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from safetensors.torch import load_file

HERE = Path(__file__).parent
SIZES: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
IDS = np.random.default_rng(5).integers(3, 48, 48)


def turn(theta: float = 10000.0, kind: str = "default", **more: Any) -> dict[str, Any]:
    """Rotary parameters, as configurations take them today."""
    return {"rope_parameters": {"rope_theta": theta, "rope_type": kind, **more}}


LLAMA3 = turn(
    500000.0,
    "llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
YARN = turn(1e6, "yarn", factor=4.0, original_max_position_embeddings=32)
LONG = turn(
    10000.0,
    "longrope",
    short_factor=[1.0 + 0.1 * i for i in range(4)],
    long_factor=[2.0 + i for i in range(4)],
    original_max_position_embeddings=64,
)
CASES: dict[str, Any] = {
    "llama": lambda: hf.LlamaConfig(**SIZES, **turn(500000.0)),
    "llama-tied": lambda: hf.LlamaConfig(**SIZES, **turn(), tie_word_embeddings=True),
    "llama-llama3": lambda: hf.LlamaConfig(**SIZES, **LLAMA3),
    "llama-linear": lambda: hf.LlamaConfig(**SIZES, **turn(10000.0, "linear", factor=4.0)),
    "llama-dynamic": lambda: hf.LlamaConfig(**SIZES, **turn(10000.0, "dynamic", factor=4.0)),
    "llama-yarn": lambda: hf.LlamaConfig(**SIZES, **YARN),
    "llama-attention-bias": lambda: hf.LlamaConfig(**SIZES, **turn(), attention_bias=True),
    "llama-mlp-bias": lambda: hf.LlamaConfig(**SIZES, **turn(), mlp_bias=True),
    "mistral": lambda: hf.MistralConfig(**SIZES, **turn(1e6), sliding_window=128),
    "qwen2": lambda: hf.Qwen2Config(**{**SIZES, "hidden_size": 32}, **turn(1e6)),
    "qwen2-yarn": lambda: hf.Qwen2Config(**{**SIZES, "hidden_size": 32}, **YARN),
    "qwen3": lambda: hf.Qwen3Config(**SIZES, **turn(1e6), tie_word_embeddings=True),
    "qwen3-bias": lambda: hf.Qwen3Config(**SIZES, **turn(1e6), attention_bias=True),
    "smollm3": lambda: hf.SmolLM3Config(
        **{**SIZES, "hidden_size": 32, "num_hidden_layers": 4},
        **turn(2e6),
        no_rope_layer_interval=4,
    ),
    "phi3": lambda: hf.Phi3Config(**{**SIZES, "hidden_size": 32}, **turn()),
    "phi3-partial": lambda: hf.Phi3Config(
        **{**SIZES, "hidden_size": 32}, **turn(partial_rotary_factor=0.75)
    ),
    "phi3-longrope": lambda: hf.Phi3Config(
        **{**SIZES, "hidden_size": 32}, **LONG, original_max_position_embeddings=64
    ),
    "granite": lambda: hf.GraniteConfig(
        **{**SIZES, "hidden_size": 32},
        **turn(),
        embedding_multiplier=6.0,
        residual_multiplier=0.4,
        attention_multiplier=0.1,
        logits_scaling=3.0,
    ),
}


NEAR_AND_FAR: dict[str, Any] = {
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 64,
    "query_pre_attn_scalar": 24,
    "rope_parameters": {
        "sliding_attention": {"rope_theta": 100.0, "rope_type": "default"},
        "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
    },
}
GEMMA: dict[str, Any] = {
    **SIZES,
    **NEAR_AND_FAR,
    "tie_word_embeddings": True,
}
CASES |= {
    "olmo2": lambda: hf.Olmo2Config(**{**SIZES, "hidden_size": 32}, **turn(500000.0)),
    "gemma3": lambda: hf.Gemma3TextConfig(**GEMMA),
    "gemma3-plain": lambda: hf.Gemma3TextConfig(
        **{
            **GEMMA,
            "num_hidden_layers": 7,
            "hidden_size": 8,
            "layer_types": None,
            "query_pre_attn_scalar": 8,
            "rope_parameters": {
                "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
                "full_attention": {"rope_theta": 1e6, "rope_type": "default"},
            },
        }
    ),
    "olmo3": lambda: hf.Olmo3Config(
        **{**SIZES, "hidden_size": 32},
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=64,
        rope_parameters={
            "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
            "full_attention": {
                "rope_theta": 10000.0,
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "ministral": lambda: hf.MinistralConfig(
        **SIZES,
        **turn(1e6),
        sliding_window=64,
        layer_types=["sliding_attention", "full_attention"],
    ),
}


def randomise(model: Any, seed: int) -> None:
    """Weights of a size that every part of the model shows in its logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim >= 2:
                value.copy_(noise * (1.0 if "embed" in name else 1.2 / np.sqrt(value.shape[-1])))
            elif "norm" in name:
                value.add_(0.3 * noise)
            else:
                value.copy_(0.5 * noise)
            value.copy_(value.half().float())  # what the file holds


def as_fourth_release(config: dict[str, Any]) -> dict[str, Any]:
    """The same config.json, spelt as most checkpoints on the web are."""
    config = dict(config)
    rope = dict(config.pop("rope_parameters"))
    if "full_attention" in rope:
        if config["model_type"] != "olmo3":  # whose layers have one base
            config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = dict(rope["full_attention"])
        if (
            "_sliding_window_pattern" in config
            and config["num_hidden_layers"] > config["_sliding_window_pattern"]
        ):
            # The first releases with this family said only which layers are not local.
            config["sliding_window_pattern"] = config.pop("_sliding_window_pattern")
            del config["layer_types"]
    config["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    config["rope_scaling"] = None if rope.get("rope_type") == "default" else rope
    config["torch_dtype"] = config.pop("dtype", "float16")
    return config


def main() -> None:
    """Writes all cases, or those that are named."""
    for number, (name, make) in enumerate(CASES.items()):
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        model = hf.AutoModelForCausalLM.from_config(make(), attn_implementation="eager").float()
        randomise(model, number)
        model.eval()
        with torch.no_grad():
            logits = model(torch.tensor(IDS)[None]).logits[0].numpy()
        model.half().save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        assert load_file(folder / "model.safetensors")
        np.save(folder / "logits.npy", logits.astype(np.float32))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config-v4.json").write_text(
            json.dumps(as_fourth_release(config), indent=1, sort_keys=True) + "\n"
        )
        print(name, sum(p.numel() for p in model.parameters()))
    np.save(HERE / "ids.npy", IDS)
    versions = {"transformers": hf.__version__, "torch": torch.__version__}
    (HERE / "versions.json").write_text(json.dumps(versions) + "\n")


if __name__ == "__main__":
    main()
