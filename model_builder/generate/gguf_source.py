"""Reads a GGUF file (Llama-family) into :class:`DecoderWeights` and its tokenizer's facts.

The file is hostile until checked: the reader of the `gguf` package maps it and may raise
anything on a broken one, which becomes one clear ``InputError``.
Format: GGUF specification of the ggml project, version 2 and 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, dequantize

from contracts.errors import InputError
from model_builder.generate.gguf_header import check_header
from model_builder.generate.weights import Array, DecoderConfig, DecoderWeights, Layer

ARCHITECTURES = ("llama", "qwen2")


@dataclass(frozen=True)
class GgufTokenizer:
    """The tokenizer as the file has it, not yet interpreted."""

    model: str
    pre: str
    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    scores: list[float]
    bos_id: int | None
    eos_id: int | None
    add_bos: bool
    add_space_prefix: bool
    chat_template: str | None


class GgufFile:
    """An opened GGUF file.

    Args:
        path: the file.

    Raises:
        InputError: ``not-gguf`` (no GGUF file, or truncated), ``unknown-architecture``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        check_header(path)
        try:
            self._reader = GGUFReader(path)
        except Exception as error:  # noqa: BLE001 - the reader raises anything on broken files
            raise _broken(path, error) from None
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.architecture = str(self._field("general.architecture", str))
        if self.architecture not in ARCHITECTURES:
            raise InputError(
                "unknown-architecture",
                f"{path.name} holds a {self.architecture[:40]!r} model; "
                f"expected one of {', '.join(ARCHITECTURES)}",
            )

    def _field(self, key: str, kind: type, default: Any = None) -> Any:
        entry = self._reader.get_field(key)
        if entry is None:
            if default is None:
                raise InputError("not-gguf", f"{self.path.name} lacks the key {key}")
            return default
        try:
            return kind(entry.contents())
        except Exception as error:  # noqa: BLE001 - as above
            raise _broken(self.path, error) from None

    def _hyper(self, key: str, kind: type, default: Any = None) -> Any:
        return self._field(f"{self.architecture}.{key}", kind, default)

    def _matrix(self, name: str, rows: int, columns: int) -> Array:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise InputError("not-gguf", f"{self.path.name} lacks the tensor {name}")
        wanted = [columns, rows] if rows else [columns]
        if [int(n) for n in tensor.shape] != wanted:
            raise InputError(
                "bad-weights",
                f"{name} has the shape {[int(n) for n in tensor.shape]}; expected {wanted}",
            )
        try:
            values = dequantize(tensor.data, tensor.tensor_type)
        except Exception as error:  # noqa: BLE001 - as above; also a type it cannot dequantise
            raise _broken(self.path, error) from None
        shape = (rows, columns) if rows else (columns,)
        return np.ascontiguousarray(values, dtype=np.float32).reshape(shape)

    def _bias(self, name: str, size: int) -> Array | None:
        return self._matrix(name, 0, size) if name in self._tensors else None

    def config(self) -> DecoderConfig:
        """The decoder's shape."""
        heads = self._hyper("attention.head_count", int)
        width = self._hyper("embedding_length", int)
        embedding = self._tensors.get("token_embd.weight")
        if embedding is None or len(embedding.shape) != 2:
            raise InputError("not-gguf", f"{self.path.name} lacks the tensor token_embd.weight")
        if heads < 1:
            raise InputError("bad-weights", f"{self.path.name} says that it has {heads} heads")
        head_size = self._hyper("attention.key_length", int, width // heads)
        if self._hyper("rope.dimension_count", int, head_size) != head_size:
            raise InputError(
                "unknown-architecture", f"{self.path.name} rotates only a part of each head"
            )
        if self._reader.get_field(f"{self.architecture}.rope.scaling.type") is not None:
            scaling = str(self._hyper("rope.scaling.type", str))
            if scaling != "none":
                raise InputError(
                    "unknown-architecture",
                    f"{self.path.name} scales its positions ({scaling[:40]}); expected none",
                )
        if "rope_freqs.weight" in self._tensors:
            raise InputError(
                "unknown-architecture", f"{self.path.name} has its own rotary frequencies"
            )
        if self._hyper("expert_count", int, -1) > 0:
            raise InputError("unknown-architecture", f"{self.path.name} is a mixture of experts")
        config = DecoderConfig(
            vocabulary=int(embedding.shape[1]),
            layers=self._hyper("block_count", int),
            width=width,
            hidden=self._hyper("feed_forward_length", int),
            heads=heads,
            kv_heads=self._hyper("attention.head_count_kv", int, heads),
            head_size=head_size,
            rope_base=self._hyper("rope.freq_base", float, 10000.0),
            norm_epsilon=self._hyper("attention.layer_norm_rms_epsilon", float, 1e-5),
            trained_context=self._hyper("context_length", int, 2048),
        )
        config.check()
        return config

    def weights(self) -> DecoderWeights:
        """All weights, dequantised to float32.

        Raises:
            InputError: ``bad-weights``, ``not-gguf``.
        """
        c = self.config()
        queries, keys = c.heads * c.head_size, c.kv_heads * c.head_size
        # GGUF stores Llama's q and k for interleaved pairs; the others keep rotate-half.
        interleaved = self.architecture == "llama"

        def turned(value: Array | None, heads: int) -> Array | None:
            if value is None or not interleaved:
                return value
            return unpermute(value, heads)

        layers = []
        for index in range(c.layers):
            at = f"blk.{index}."
            q = turned(self._matrix(f"{at}attn_q.weight", queries, c.width), c.heads)
            k = turned(self._matrix(f"{at}attn_k.weight", keys, c.width), c.kv_heads)
            assert q is not None
            assert k is not None
            layers.append(
                Layer(
                    attention_norm=self._matrix(f"{at}attn_norm.weight", 0, c.width),
                    q=q,
                    k=k,
                    v=self._matrix(f"{at}attn_v.weight", keys, c.width),
                    o=self._matrix(f"{at}attn_output.weight", c.width, queries),
                    ffn_norm=self._matrix(f"{at}ffn_norm.weight", 0, c.width),
                    gate=self._matrix(f"{at}ffn_gate.weight", c.hidden, c.width),
                    up=self._matrix(f"{at}ffn_up.weight", c.hidden, c.width),
                    down=self._matrix(f"{at}ffn_down.weight", c.width, c.hidden),
                    q_bias=turned(self._bias(f"{at}attn_q.bias", queries), c.heads),
                    k_bias=turned(self._bias(f"{at}attn_k.bias", keys), c.kv_heads),
                    v_bias=self._bias(f"{at}attn_v.bias", keys),
                )
            )
        if f"blk.{c.layers}.attn_norm.weight" in self._tensors:
            raise InputError("bad-weights", f"{self.path.name} has more than {c.layers} layers")
        embedding = self._matrix("token_embd.weight", c.vocabulary, c.width)
        head = embedding
        if "output.weight" in self._tensors:
            head = self._matrix("output.weight", c.vocabulary, c.width)
        weights = DecoderWeights(
            c, embedding, layers, self._matrix("output_norm.weight", 0, c.width), head
        )
        weights.check()
        return weights

    def tokenizer(self) -> GgufTokenizer:
        """What the file says of its tokenizer."""
        at = "tokenizer.ggml."
        optional = self._reader.get_field
        template = optional("tokenizer.chat_template")
        return GgufTokenizer(
            model=str(self._field(f"{at}model", str)),
            pre=str(self._field(f"{at}pre", str, "default")),
            tokens=[str(t) for t in self._field(f"{at}tokens", list)],
            kinds=[int(k) for k in self._field(f"{at}token_type", list, ())],
            merges=[str(m) for m in self._field(f"{at}merges", list, ())],
            scores=[float(s) for s in self._field(f"{at}scores", list, ())],
            bos_id=self._id(f"{at}bos_token_id"),
            eos_id=self._id(f"{at}eos_token_id"),
            add_bos=bool(self._field(f"{at}add_bos_token", bool, False)),
            add_space_prefix=bool(self._field(f"{at}add_space_prefix", bool, True)),
            chat_template=None if template is None else str(template.contents()),
        )

    def _id(self, key: str) -> int | None:
        return int(self._field(key, int)) if self._reader.get_field(key) is not None else None


def unpermute(value: Array, heads: int) -> Array:
    """Rows of interleaved rotary pairs (2i, 2i+1) -> rotate-half order (i, i + size / 2).

    Args:
        value: ``[heads * head_size, ...]``.
        heads: of the matrix.
    """
    pairs = value.reshape(heads, value.shape[0] // heads // 2, 2, *value.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(value.shape))


def _broken(path: Path, error: Exception) -> InputError:
    return InputError(
        "not-gguf",
        f"{path.name} is broken or truncated: {type(error).__name__}: {str(error)[:200]}; "
        "get the file again",
    )
