"""Small random adapters as PEFT writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors.numpy import save_file

from contracts import codec
from contracts.bundle import Bundle, file_entries
from model_builder.generate.weights import DecoderWeights
from tests.support.bundles import rewrite

MODULES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def write_adapter(
    folder: Path,
    weights: DecoderWeights,
    *,
    rank: int = 4,
    seed: int = 1,
    size: float = 0.5,
    targets: tuple[str, ...] = tuple(MODULES),
    **config: Any,
) -> Path:
    """Writes a random LoRA of a decoder, whose part of the answers is large.

    Args:
        folder: is made.
        weights: of the base.
        rank: of all its matrices.
        seed: of the random numbers.
        size: of its part.
        targets: matrices that it changes.
        config: more keys of ``adapter_config.json``.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    tensors = {}
    for index, layer in enumerate(weights.layers):
        for target in targets:
            outputs, inputs = getattr(layer, target).shape
            name = f"base_model.model.model.layers.{index}.{MODULES[target]}"
            a = rng.normal(0, 1 / np.sqrt(inputs), (rank, inputs))
            b = rng.normal(0, size / np.sqrt(rank), (outputs, rank))
            tensors[f"{name}.lora_A.weight"] = a.astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = b.astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    document = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "r": rank,
        "lora_alpha": rank, "target_modules": "all-linear", "base_model_name_or_path": "tiny",
        **config,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(document))
    return folder


def untrue(folder: Path, adapter: Bundle, version: str) -> Bundle:
    """A copy of an adapter in `folder`, as another version, whose golden vectors do not hold."""
    adapter.extract(folder)
    wrong = [
        msgspec.structs.replace(vector, tokens=[(token + 1) % 200 for token in vector.tokens])
        for vector in adapter.golden()
    ]
    (folder / adapter.manifest.golden.file).write_bytes(codec.encode(wrong))
    files = file_entries(folder / entry.path for entry in adapter.manifest.files)
    return rewrite(Bundle.open(folder), version=version, files=files)
