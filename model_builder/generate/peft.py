"""Reads an adapter as PEFT writes it: ``adapter_config.json``, ``adapter_model.safetensors``.

LoRA alone: ``y = W x + scale * B A x`` (Hu et al., "LoRA", 2021). What the configuration says is
used, harmless, or refused by its name. Format: the `peft` library's, release 0.21.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from safetensors import SafetensorError, safe_open

from contracts import codec
from contracts.errors import InputError
from contracts.manifest import MAX_ADAPTER_RANK, AdapterTarget
from model_builder.generate.safetensors_source import load_tensor
from model_builder.generate.weights import Array

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"

Parts = dict[tuple[int, AdapterTarget], "Factors"]
"""Layer and matrix -> its change."""

_MAX_CONFIG: Final = 1 << 20
_MAX_PATTERN: Final = 200
_SCALES: Final = 1e4

_USED: Final = frozenset(
    {"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"}
)
# How it was trained or saved, and where: the tensors say which matrices it changes.
_HARMLESS: Final = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "ensure_weight_tying",
    }
)
_STARTS: Final = (True, False, None, "gaussian", "eva", "orthogonal")
"""Of `init_lora_weights`: those that leave the base as it is."""

_NAMES: Final[dict[str, AdapterTarget]] = {
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.o_proj": "o",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
}
_JOINED: Final = ("self_attn.qkv_proj", "mlp.gate_up_proj")
_TENSOR: Final = re.compile(
    r"base_model\.model\.(?P<module>model\.layers\.(?P<layer>\d{1,3})\.(?P<part>[a-z_.]{1,40}))"
    r"\.lora_(?P<side>[AB])\.weight"
)


@dataclass(frozen=True)
class Factors:
    """The change of a matrix: ``b @ a``, the adapter's scale in `b`.

    `a` ``[rank, inputs]``, `b` ``[outputs, rank]``.
    """

    a: Array
    b: Array

    @property
    def rank(self) -> int:
        """Its rank."""
        return len(self.a)


@dataclass(frozen=True)
class Sizes:
    """Of the base that an adapter must fit."""

    layers: int
    width: int
    hidden: int
    queries: int
    keys: int

    def of(self, target: AdapterTarget) -> tuple[int, int]:
        """Outputs and inputs of a matrix."""
        return {
            "q": (self.queries, self.width),
            "k": (self.keys, self.width),
            "v": (self.keys, self.width),
            "o": (self.width, self.queries),
            "gate": (self.hidden, self.width),
            "up": (self.hidden, self.width),
            "down": (self.width, self.hidden),
        }[target]


@dataclass(frozen=True)
class PeftAdapter:
    """A read adapter.

    Attributes:
        parts: by layer and matrix, as the checkpoint of its base has them.
        origin: name of its folder.
        sha256: of its weights' file.
    """

    parts: Parts
    origin: str
    sha256: str

    @property
    def rank(self) -> int:
        """The highest rank."""
        return max(part.rank for part in self.parts.values())

    @property
    def targets(self) -> list[AdapterTarget]:
        """The matrices that it changes, in the order of a block."""
        found = {target for _, target in self.parts}
        return [target for target in _NAMES.values() if target in found]


def is_adapter(path: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (path / CONFIG).is_file()


def read_adapter(path: Path, sizes: Sizes) -> PeftAdapter:
    """Reads a folder.

    Args:
        path: the folder.
        sizes: of the base.

    Raises:
        InputError: ``no-such-file``; ``unsupported-adapter``, by the name of what it has;
            ``bad-adapter``, it is broken; ``wrong-base``, it belongs to a base of another shape.
    """
    config = _config(path)
    scale_of = _scales(config)
    file = path / WEIGHTS
    if not file.is_file():
        other = path / "adapter_model.bin"
        why = f"; {other.name} is a pickle, which is not read" if other.is_file() else ""
        raise InputError("no-such-file", f"{path} has no {WEIGHTS}{why}")
    try:
        with safe_open(file, framework="numpy") as tensors:
            names = sorted(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise InputError("bad-adapter", f"{file.name} is broken: {error}") from None
    found: dict[tuple[int, str, str], dict[str, Array]] = {}
    for name in names:
        match = _TENSOR.fullmatch(name)
        if match is None or match["part"] not in (*_NAMES, *_JOINED):
            raise InputError(
                "unsupported-adapter",
                f"{file.name} has {name[:120]}; expected lora_A and lora_B of "
                f"{', '.join(n.partition('.')[2] for n in (*_NAMES, *_JOINED))}",
            )
        key = (int(match["layer"]), match["part"], match["module"])
        found.setdefault(key, {})[match["side"]] = load_tensor(file, name)
    parts: Parts = {}
    for (layer, part, module), sides in sorted(found.items()):
        if set(sides) != {"A", "B"}:
            raise InputError("bad-adapter", f"{file.name} has one of two factors of {module}")
        a, b = sides["A"], sides["B"]
        rank, scale = scale_of(module)
        if a.ndim != 2 or b.ndim != 2 or not len(a) == b.shape[1] == rank:
            raise InputError(
                "bad-adapter",
                f"{module} has the factors {list(a.shape)} and {list(b.shape)}; by {CONFIG} their "
                f"rank is {rank}",
            )
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise InputError("bad-adapter", f"{module} holds values that are not finite numbers")
        if layer >= sizes.layers:
            raise InputError(
                "wrong-base", f"it changes layer {layer}; the base has {sizes.layers} layers"
            )
        for target, rows in _rows(part, sizes).items():
            piece = b[rows] if part in _JOINED else b
            wanted = sizes.of(target)
            have = (len(piece), a.shape[1])
            if have != wanted or (part in _JOINED and rows.stop > len(b)):
                raise InputError(
                    "wrong-base",
                    f"{module} changes a matrix of {len(b)} x {a.shape[1]}; that of the base is "
                    f"{wanted[0]} x {wanted[1]}: the adapter belongs to another one",
                )
            parts[layer, target] = Factors(a, np.asarray(piece * np.float32(scale), np.float32))
    if not parts:
        raise InputError("bad-adapter", f"{file.name} changes nothing")
    return PeftAdapter(parts, path.name, hashlib.sha256(file.read_bytes()).hexdigest())


def _rows(part: str, sizes: Sizes) -> dict[AdapterTarget, slice]:
    """Which rows of a module belong to which matrix."""
    if part == "self_attn.qkv_proj":
        q, k = sizes.queries, sizes.keys
        return {"q": slice(0, q), "k": slice(q, q + k), "v": slice(q + k, q + 2 * k)}
    if part == "mlp.gate_up_proj":
        h = sizes.hidden
        return {"gate": slice(0, h), "up": slice(h, 2 * h)}
    target = _NAMES[part]
    return {target: slice(0, sizes.of(target)[0])}


def _config(path: Path) -> dict[str, Any]:
    """``adapter_config.json``, of which nothing is left that changes what is computed."""
    file = path / CONFIG
    if not file.is_file():
        raise InputError("no-such-file", f"{path} has no {CONFIG}")
    if file.stat().st_size > _MAX_CONFIG:
        raise InputError("too-large", f"{file} is over {_MAX_CONFIG} bytes")
    config = codec.decode(
        file.read_bytes(), dict[str, Any], what=f"{path.name}/{CONFIG}", cap=_MAX_CONFIG
    )
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InputError(
            "unsupported-adapter", f"{path.name} is of the kind {str(kind)[:40]!r}; expected 'LORA'"
        )
    if config.get("use_dora"):
        raise InputError(
            "unsupported-adapter",
            f"{path.name} is a DoRA (use_dora): it rescales the base's matrices. Train it without, "
            "or merge it with PEFT and import the model",
        )
    start = config.get("init_lora_weights")
    if not any(start is known or start == known for known in _STARTS):
        raise InputError(
            "unsupported-adapter",
            f"{path.name} began as {str(start)[:40]!r} (init_lora_weights), which changes the "
            "base; save it with path_initial_model_for_weight_conversion",
        )
    bias = config.get("bias", "none")
    if bias != "none":
        raise InputError(
            "unsupported-adapter", f"{path.name} has biases (bias: {str(bias)[:40]!r})"
        )
    for key, value in sorted(config.items()):
        known = key in _USED or key in _HARMLESS or key in ("bias", "init_lora_weights", "use_dora")
        if not known and value:
            raise InputError(
                "unsupported-adapter", f"{path.name} has {key[:60]}, which is not understood here"
            )
    return config


def _scales(config: dict[str, Any]) -> Any:
    """A function that gives rank and scale of a module."""
    ranks = _patterns(config, "rank_pattern")
    alphas = _patterns(config, "alpha_pattern")
    rank, alpha, rooted = config.get("r"), config.get("lora_alpha"), config.get("use_rslora", False)
    if not _is_number(rank) or not _is_number(alpha) or not isinstance(rooted, bool):
        raise InputError("bad-adapter", f"{CONFIG} needs numbers r and lora_alpha")

    def of(module: str) -> tuple[int, float]:
        own = _matching(ranks, module, cast(float, rank))
        if own != int(own) or not 1 <= own <= MAX_ADAPTER_RANK:
            raise InputError(
                "unsupported-adapter",
                f"{module} has the rank {own:g}; expected 1 to {MAX_ADAPTER_RANK}",
            )
        scale = _matching(alphas, module, cast(float, alpha)) / (math.sqrt(own) if rooted else own)
        if not abs(scale) < _SCALES:
            raise InputError("bad-adapter", f"{module} has the scale {scale:g}")
        return int(own), scale

    return of


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _patterns(config: dict[str, Any], key: str) -> list[tuple[re.Pattern[str], float]]:
    """Names, or expressions for their ends, and what holds for them, as PEFT matches them."""
    stated = config.get(key) or {}
    if not isinstance(stated, dict) or len(stated) > 1000:
        raise InputError("bad-adapter", f"{CONFIG}: {key} is no mapping of names")
    found = []
    for name, value in stated.items():
        # A group that is repeated can take for ever on a name.
        if len(name) > _MAX_PATTERN or re.search(r"\)\s*[*+{]", name) or not _is_number(value):
            raise InputError(
                "unsupported-adapter", f"{CONFIG}: {key} has {name[:80]!r}: {str(value)[:40]}"
            )
        try:
            found.append((re.compile(rf"(.*\.)?({name})$"), float(value)))
        except re.error as error:
            raise InputError("bad-adapter", f"{CONFIG}: {key} has {name[:80]!r}: {error}") from None
    return found


def _matching(patterns: list[tuple[re.Pattern[str], float]], module: str, default: float) -> float:
    return next((value for pattern, value in patterns if pattern.match(module)), default)
