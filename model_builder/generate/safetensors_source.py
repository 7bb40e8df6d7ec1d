"""Reads a Hugging Face folder (``config.json``, ``*.safetensors``, ``tokenizer.json``)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open

from contracts import codec, limits
from contracts.errors import InputError
from model_builder.generate.weights import Array, DecoderConfig, DecoderWeights, Layer

ARCHITECTURES = ("LlamaForCausalLM", "Qwen2ForCausalLM")
_MAX_JSON = 64 * limits.MIB


class HfConfig(msgspec.Struct, frozen=True):
    """What is read of ``config.json``."""

    architectures: Annotated[list[str], msgspec.Meta(min_length=1)]
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: Annotated[int, msgspec.Meta(ge=1)]
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = False
    hidden_act: str = "silu"
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None


class HfTokenizerConfig(msgspec.Struct, frozen=True):
    """What is read of ``tokenizer_config.json``."""

    chat_template: str | list[dict[str, str]] | None = None
    add_bos_token: bool | None = None


class HfFolder:
    """An opened folder.

    Raises:
        InputError: ``no-such-file``, ``unknown-architecture``, ``bad-message``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = codec.decode(
            self._read("config.json"), HfConfig, what=f"{path.name}/config.json", cap=_MAX_JSON
        )
        name = self.config_file.architectures[0]
        if name not in ARCHITECTURES or self.config_file.hidden_act != "silu":
            raise InputError(
                "unknown-architecture",
                f"{path.name} holds a {name[:60]!r} model; expected {' or '.join(ARCHITECTURES)}",
            )
        scaling = self.config_file.rope_scaling
        if scaling and scaling.get("rope_type", scaling.get("type")) not in (None, "default"):
            raise InputError(
                "unknown-architecture", f"{path.name} scales its positions; expected none"
            )

    def _read(self, name: str) -> bytes:
        file = self.path / name
        if not file.is_file():
            raise InputError("no-such-file", f"{self.path} has no {name}")
        if file.stat().st_size > _MAX_JSON:
            raise InputError("too-large", f"{file} is over {_MAX_JSON} bytes")
        return file.read_bytes()

    def config(self) -> DecoderConfig:
        """The decoder's shape."""
        f = self.config_file
        config = DecoderConfig(
            vocabulary=f.vocab_size,
            layers=f.num_hidden_layers,
            width=f.hidden_size,
            hidden=f.intermediate_size,
            heads=f.num_attention_heads,
            kv_heads=f.num_key_value_heads or f.num_attention_heads,
            head_size=f.head_dim or f.hidden_size // f.num_attention_heads,
            rope_base=f.rope_theta,
            norm_epsilon=f.rms_norm_eps,
            trained_context=f.max_position_embeddings,
        )
        config.check()
        return config

    def tokenizer_json(self) -> bytes:
        """``tokenizer.json`` as it is."""
        return self._read("tokenizer.json")

    def chat_template(self) -> str | None:
        """The chat template, where there is one."""
        file = self.path / "chat_template.jinja"
        if file.is_file():
            return self._read(file.name).decode("utf-8", "replace")
        if not (self.path / "tokenizer_config.json").is_file():
            return None
        config = codec.decode(
            self._read("tokenizer_config.json"),
            HfTokenizerConfig,
            what="tokenizer_config.json",
            cap=_MAX_JSON,
        )
        template = config.chat_template
        if isinstance(template, list):
            return next((t.get("template") for t in template if t.get("name") == "default"), None)
        return template

    def weights(self) -> DecoderWeights:
        """All weights as float32.

        Raises:
            InputError: ``bad-weights``.
        """
        c = self.config()
        where = _index(self.path)

        def get(name: str) -> Array:
            if name not in where:
                raise InputError("bad-weights", f"{self.path.name} lacks the tensor {name}")
            return _load(where[name], name)

        def maybe(name: str) -> Array | None:
            return get(name) if name in where else None

        layers = []
        for i in range(c.layers):
            at, attention = f"model.layers.{i}.", f"model.layers.{i}.self_attn."
            layers.append(
                Layer(
                    attention_norm=get(f"{at}input_layernorm.weight"),
                    q=get(f"{attention}q_proj.weight"),
                    k=get(f"{attention}k_proj.weight"),
                    v=get(f"{attention}v_proj.weight"),
                    o=get(f"{attention}o_proj.weight"),
                    ffn_norm=get(f"{at}post_attention_layernorm.weight"),
                    gate=get(f"{at}mlp.gate_proj.weight"),
                    up=get(f"{at}mlp.up_proj.weight"),
                    down=get(f"{at}mlp.down_proj.weight"),
                    q_bias=maybe(f"{attention}q_proj.bias"),
                    k_bias=maybe(f"{attention}k_proj.bias"),
                    v_bias=maybe(f"{attention}v_proj.bias"),
                )
            )
        if f"model.layers.{c.layers}.input_layernorm.weight" in where:
            raise InputError("bad-weights", f"{self.path.name} has more than {c.layers} layers")
        embedding = get("model.embed_tokens.weight")
        head = maybe("lm_head.weight")
        weights = DecoderWeights(
            c, embedding, layers, get("model.norm.weight"), embedding if head is None else head
        )
        weights.check()
        return weights


def _index(folder: Path) -> dict[str, Path]:
    """Tensor name -> the file that holds it."""
    found: dict[str, Path] = {}
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError("no-such-file", f"{folder} has no *.safetensors file")
    for file in files:
        try:
            with safe_open(file, framework="numpy") as tensors:
                found.update(dict.fromkeys(tensors.keys(), file))
        except (SafetensorError, OSError) as error:
            raise InputError("bad-weights", f"{file.name} is broken: {error}") from None
    return found


def _load(file: Path, name: str) -> Array:
    """A tensor in float32; bfloat16, which NumPy lacks, is widened by hand."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            part = tensors.get_slice(name)
            shape, kind = part.get_shape(), part.get_dtype()
            if kind != "BF16":
                return np.ascontiguousarray(tensors.get_tensor(name), dtype=np.float32)
        return _bfloat16(file, name, shape)
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise InputError("bad-weights", f"{file.name}: {name} is broken: {error}") from None


def _bfloat16(file: Path, name: str, shape: list[int]) -> Array:
    """Reads the upper halves of float32 values (safetensors: 8-byte length, JSON, data)."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = msgspec.json.decode(stream.read(min(length, 100 * limits.MIB)))
        start, stop = header[name]["data_offsets"]
        stream.seek(8 + length + start)
        halves = np.frombuffer(stream.read(stop - start), "<u2")
    return (halves.astype(np.uint32) << 16).view(np.float32).reshape(shape)
