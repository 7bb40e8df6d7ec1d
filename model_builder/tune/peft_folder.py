"""Writes trained factors as the `peft` library writes an adapter, and puts them into matrices.

Format: ``adapter_config.json`` and ``adapter_model.safetensors`` of the `peft` library, release
0.21; read by :mod:`model_builder.generate.peft`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from contracts import codec
from contracts.errors import InputError
from contracts.folders import put_folder
from model_builder.files import write_atomically
from model_builder.generate.adapter_texts import TEXTS, AdapterTexts
from model_builder.generate.basis import native
from model_builder.generate.peft import CONFIG, WEIGHTS, Sizes, read_adapter
from model_builder.generate.source import Pretrained
from model_builder.generate.tensors import spread_rows
from model_builder.generate.weights import Array, DecoderWeights
from model_builder.recipes.tune import BaseStudent

_MODULES = {
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
    arrays: dict[str, Array],
    student: BaseStudent,
    pretrained: Pretrained,
    texts: AdapterTexts,
) -> None:
    """Writes the folder; what was there before is replaced when all is written.

    Args:
        folder: of the adapter.
        arrays: ``LAYER.MATRIX.a`` ``[inputs, rank]``, ``LAYER.MATRIX.b`` ``[rank, outputs]``.
        student: rank, alpha, targets.
        pretrained: the base, whose checkpoint's matrices the adapter is for.
        texts: that it was trained within, for an import of it.
    """
    tensors: dict[str, Array] = {}
    for name, value in arrays.items():
        layer, target, side = name.split(".")
        at = f"base_model.model.model.layers.{layer}.{_MODULES[target]}.lora_{side.upper()}.weight"
        part = value.T
        if side == "b":
            part = _own(part, target, pretrained)
        tensors[at] = np.ascontiguousarray(part, np.float32)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": pretrained.origin,
        "r": student.rank,
        "lora_alpha": student.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(_MODULES[t].rpartition(".")[2] for t in student.targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        write_atomically(staging / CONFIG, codec.pretty(config))
        write_atomically(staging / WEIGHTS, save(tensors, {"format": "pt"}))
        write_atomically(staging / TEXTS, codec.pretty(texts))
        staging.chmod(0o755)
        put_folder(staging, folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def read_factors(folder: Path, student: BaseStudent, pretrained: Pretrained) -> dict[str, Array]:
    """What :func:`write_adapter` wrote, or the `peft` library, as arrays to go on from.

    Raises:
        InputError: as of :func:`model_builder.generate.peft.read_adapter`; ``wrong-base``, rank or
            matrices are not those of the recipe.
    """
    c = pretrained.weights.config
    sizes = Sizes(c.layers, c.width, c.hidden, c.heads * c.head_size, c.kv_heads * c.head_size)
    parts = native(read_adapter(folder, sizes).parts, pretrained.packing, c)
    wanted = {(layer, target) for layer in range(c.layers) for target in student.targets}
    if set(parts) != wanted or any(len(part.a) != student.rank for part in parts.values()):
        raise InputError(
            "wrong-base",
            f"{folder}: expected factors of rank {student.rank} for "
            f"{', '.join(student.targets)} of {c.layers} layers, as the recipe says",
        )
    found: dict[str, Array] = {}
    for (layer, target), part in parts.items():
        found[f"{layer}.{target}.a"] = np.ascontiguousarray(part.a.T, np.float32)
        found[f"{layer}.{target}.b"] = np.ascontiguousarray(part.b.T / student.scale, np.float32)
    return found


def mean(trained: Sequence[dict[str, Array]]) -> dict[str, Array]:
    """The mean of what several trainings ended with, matrix by matrix.

    Trainings that go on from one another end at places that are not far apart, and the mean is
    better than most of them: "Averaging weights leads to wider optima" (Izmailov et al., 2018).

    Args:
        trained: arrays of the same names and shapes.
    """
    return {name: np.mean([one[name] for one in trained], 0, np.float32) for name in trained[0]}


def _own(b: Array, target: str, pretrained: Pretrained) -> Array:
    """Rows of the checkpoint's own matrix; undoes :func:`model_builder.generate.basis.native`."""
    packing, c = pretrained.packing, pretrained.weights.config
    if target in ("q", "k") and packing.rotary != c.head_size:
        order = spread_rows(np.arange(len(b), dtype=np.float32), c.head_size, packing.rotary)
        back = np.empty_like(b)
        back[order.astype(np.int64)] = b
        return back
    return b / np.float32(packing.residual) if target in ("o", "down") else b


def merged(weights: DecoderWeights, arrays: dict[str, Array], scale: float) -> DecoderWeights:
    """The decoder with what was trained in its matrices."""
    layers = []
    for i, layer in enumerate(weights.layers):
        changed: dict[str, Array] = {}
        for target in _MODULES:
            site = f"{i}.{target}"
            if site in arrays:
                changed[target] = np.ascontiguousarray(arrays[site].T)
            elif f"{site}.a" in arrays:
                change = (arrays[f"{site}.a"] @ arrays[f"{site}.b"]).T
                changed[target] = getattr(layer, target) + np.float32(scale) * change
        layers.append(replace(layer, **changed))
    whole = DecoderWeights(
        weights.config, weights.embedding, layers, weights.final_norm, weights.head
    )
    whole.check()
    return whole
