"""Reads a GGUF file (Llama-family) into :class:`DecoderWeights` and its tokenizer's facts.

The file is hostile until checked: the reader of the `gguf` package maps it and may raise
anything on a broken one, which becomes one clear ``InputError``.
Format: GGUF specification of the ggml project, version 2 and 3.

Over 400 lines: one format, read from its first byte to its last.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gguf import GGUFReader, dequantize

from contracts.errors import InputError
from model_builder.generate.families import Multipliers, no_family
from model_builder.generate.gguf_header import check_header, unread_kind
from model_builder.generate.rope import Rope, plain, rope
from model_builder.generate.tensors import Packing, cut, multiplied, spread
from model_builder.generate.weights import (
    MAX_HEAD_SIZE,
    MAX_LAYERS,
    Array,
    DecoderConfig,
    DecoderWeights,
    Layer,
)

_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_MAX_SHARDS = 64


@dataclass(frozen=True)
class _Family:
    """What sets an architecture apart from Llama.

    Attributes:
        interleaved: its rotary pairs are (2i, 2i + 1) in the file.
        fused: one matrix holds q, k and v, one gate and up.
        unrotated_every: every so many layers, one has no positions.
        multipliers: it has factors of embedding, residuals, scores and logits.
        qk_norm: queries and keys are normalised, each head, or ``wide``: all together.
        norms: the names of a block's: before and after attention, before and after feed-forward.
        gemma: local layers turn by a base of their own; GELU, scaled embeddings.
    """

    interleaved: bool = False
    fused: bool = False
    unrotated_every: int = 0
    multipliers: bool = False
    qk_norm: Literal["", "heads", "wide"] = ""
    norms: tuple[str, str, str, str] = ("attn_norm", "", "ffn_norm", "")
    gemma: bool = False


ARCHITECTURES = {
    "llama": _Family(interleaved=True),
    "qwen2": _Family(),
    "qwen3": _Family(qk_norm="heads"),
    "smollm3": _Family(interleaved=True, unrotated_every=4),
    "granite": _Family(interleaved=True, multipliers=True),
    "phi3": _Family(fused=True),
    "olmo2": _Family(qk_norm="wide", norms=("", "post_attention_norm", "", "post_ffw_norm")),
    "gemma3": _Family(
        qk_norm="heads",
        norms=("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"),
        gemma=True,
    ),
}

_GEMMA_LOCAL = 6
"""Of so many layers of Gemma 3, the last looks at all; the format does not say it."""
_GEMMA_27B = 62
"""Layers of the one size whose scores are scaled by the width, not by the head's size."""

BEGINS_WITH_BOS = frozenset({"llama-bpe", "llama3", "llama-v3", "tekken", "falcon3"})
"""Cuts of text whose models begin every text with bos, unless the file says no."""

# Keys below the architecture's name that do not change what is computed.
_HARMLESS = frozenset({"vocab_size", "attention.layer_norm_epsilon"})


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
    end_ids: list[int]
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
        self.files = shards(path)
        readers = []
        for file in self.files:
            check_header(file)
            try:
                readers.append(GGUFReader(file))
            except Exception as error:  # noqa: BLE001 - the reader raises anything on broken files
                raise _broken(file, error) from None
        self._reader = readers[0]
        self._asked: set[str] = set()
        self._taken: set[str] = set()
        self._tensors: dict[str, Any] = {}
        for tensor in (tensor for reader in readers for tensor in reader.tensors):
            if tensor.name in self._tensors:
                raise InputError("bad-weights", f"{path.name} has {tensor.name[:100]} twice")
            self._tensors[tensor.name] = tensor
        place, stated = self._field("split.no", int, 0), self._field("split.count", int, 0)
        if place:
            raise InputError(
                "not-gguf",
                f"{path.name}: what should be the first part says that it is part {place + 1} of "
                f"{stated}; give the parts the names that they were split to",
            )
        self.architecture = str(self._field("general.architecture", str))
        if str(self._field("general.type", str, "model")) == "adapter":
            raise InputError(
                "unknown-architecture",
                f"{path.name} holds an adapter; import the folder that it was converted from "
                "(adapter_config.json), or merge it into its base first",
            )
        family = ARCHITECTURES.get(self.architecture)
        if family is None:
            raise InputError(
                "unknown-architecture",
                f"{path.name} holds a {self.architecture[:40]!r} model; "
                f"expected one of {', '.join(ARCHITECTURES)}{no_family(self.architecture)}",
            )
        self._family = family
        if stated > 1 and stated != len(self.files):
            raise InputError(
                "no-such-file",
                f"{path.name} is one of {stated} parts; expected them beside it, under the names "
                "that they were split to (...-00001-of-00003.gguf)",
            )

    def _field(self, key: str, kind: type, default: Any = None) -> Any:
        self._asked.add(key)
        entry = self._reader.get_field(key)
        if entry is None:
            if default is None:
                raise InputError("not-gguf", f"{self.path.name} lacks the key {key}")
            return default
        try:
            value = entry.contents()
            if isinstance(value, list) and kind is int and value and len(set(value)) == 1:
                value = value[0]  # one for each layer, all the same
            return kind(value)
        except Exception as error:  # noqa: BLE001 - as above
            raise _broken(self.path, error) from None

    def _hyper(self, key: str, kind: type, default: Any = None) -> Any:
        return self._field(f"{self.architecture}.{key}", kind, default)

    def _matrix(self, name: str, rows: int, columns: int) -> Array:
        self._taken.add(name)
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
        except NotImplementedError:
            raise unread_kind(self.path.name, name, tensor.tensor_type.name) from None
        except Exception as error:  # noqa: BLE001 - as above
            raise _broken(self.path, error) from None
        shape = (rows, columns) if rows else (columns,)
        return np.ascontiguousarray(values, dtype=np.float32).reshape(shape)

    def _bias(self, name: str, size: int) -> Array | None:
        return self._matrix(name, 0, size) if name in self._tensors else None

    def config(self) -> DecoderConfig:
        """The decoder's shape. Every key of the architecture is used, or refused.

        Raises:
            InputError: ``not-gguf``, ``bad-weights``, ``unknown-architecture``.
        """
        family = self._family
        heads = self._hyper("attention.head_count", int)
        width = self._hyper("embedding_length", int)
        layers = self._hyper("block_count", int)
        embedding = self._tensors.get("token_embd.weight")
        if embedding is None or len(embedding.shape) != 2:
            raise InputError("not-gguf", f"{self.path.name} lacks the tensor token_embd.weight")
        if heads < 1:
            raise InputError("bad-weights", f"{self.path.name} says that it has {heads} heads")
        head_size = self._hyper("attention.key_length", int, width // heads)
        if self._hyper("attention.value_length", int, head_size) != head_size:
            raise InputError(
                "unknown-architecture", f"{self.path.name} has values of another size than keys"
            )
        if self._hyper("expert_count", int, -1) > 0:
            raise InputError("unknown-architecture", f"{self.path.name} is a mixture of experts")
        if not (2 <= head_size <= MAX_HEAD_SIZE and 1 <= layers <= MAX_LAYERS):
            raise InputError(
                "bad-weights",
                f"{self.path.name} says {layers} layers with heads of {head_size} dimensions",
            )
        trained = self._hyper("context_length", int, 2048)
        rotary = self._hyper("rope.dimension_count", int, head_size)
        if not 2 <= rotary <= head_size or rotary % 2 or head_size % 2:
            raise InputError("bad-weights", f"{self.path.name}: {rotary} of {head_size} turn")
        if family.interleaved and rotary != head_size:
            raise InputError(
                "unknown-architecture", f"{self.path.name} rotates only a part of each head"
            )
        base = self._hyper("rope.freq_base", float, 10000.0)
        if not 1 < base < 1e12:
            raise InputError("bad-weights", f"{self.path.name}: the rotary base is {base}")
        turn = self._turn(base, rotary, trained)
        window = self._hyper("attention.sliding_window", int, 0)
        limits = [trained, *(n for n in (turn.longest, window) if n)]
        frequencies: tuple[float, ...] = ()
        if turn.base is None or rotary != head_size:
            rest = np.zeros((head_size - rotary) // 2)
            frequencies = tuple(float(f) for f in (*turn.frequencies, *rest))
        every = family.unrotated_every
        scale = self._hyper("attention.scale", float, 0.0) if family.multipliers else 0.0
        near: tuple[float, ...] = ()
        local: frozenset[int] = frozenset()
        if family.gemma:
            pattern = self._hyper("attention.sliding_window_pattern", int, _GEMMA_LOCAL)
            local = frozenset(i for i in range(layers) if pattern < 1 or (i + 1) % pattern)
            own = self._hyper("rope.freq_base_swa", float, 10000.0)
            near = tuple(float(f) for f in plain(own, head_size))
            scale = (width / heads if layers == _GEMMA_27B else head_size) ** -0.5
        config = DecoderConfig(
            vocabulary=int(embedding.shape[1]),
            layers=layers,
            width=width,
            hidden=self._hyper("feed_forward_length", int),
            heads=heads,
            kv_heads=self._hyper("attention.head_count_kv", int, heads),
            head_size=head_size,
            rope_base=turn.base or 10000.0,
            frequencies=frequencies,
            local_frequencies=near,
            local_layers=local,
            activation="gelu_tanh" if family.gemma else "silu",
            wide_norm=family.qk_norm == "wide",
            rope_scale=turn.scale,
            unrotated=frozenset(i for i in range(layers) if every and (i + 1) % every == 0),
            attention_scale=scale or None,
            norm_epsilon=self._hyper("attention.layer_norm_rms_epsilon", float, 1e-5),
            trained_context=min(limits),
        )
        config.check()
        self._multipliers()
        self._refuse_unread_keys()
        return config

    def packing(self) -> Packing:
        """How the matrices of the checkpoint that it was made of become the decoder's."""
        head_size = self.config().head_size
        rotary = self._hyper("rope.dimension_count", int, head_size)
        return Packing(rotary, self._multipliers().residual)

    def _multipliers(self) -> Multipliers:
        if self._family.gemma:
            return Multipliers(embedding=float(np.sqrt(self._hyper("embedding_length", int))))
        if not self._family.multipliers:
            return Multipliers()
        return Multipliers(
            self._hyper("embedding_scale", float, 1.0),
            self._hyper("residual_scale", float, 1.0),
            self._hyper("logit_scale", float, 1.0),
        )

    def _turn(self, base: float, rotary: int, trained: int) -> Rope:
        """The rotary embedding: a kind of scaling, or divisors in a tensor."""
        kind = str(self._hyper("rope.scaling.type", str, ""))
        factor = self._hyper("rope.scaling.factor", float, 0.0)
        old = self._hyper("rope.scale_linear", float, 0.0)
        original = self._hyper("rope.scaling.original_context_length", int, trained)
        attention = self._hyper("rope.scaling.attn_factor", float, 0.0)
        self._hyper("rope.scaling.finetuned", bool, False)
        # Readers of the format take a factor without a kind for linear.
        kind = kind or ("linear" if factor or old else "none")
        where = self.path.name
        stated: dict[str, Any] = {"rope_type": "default"}
        if kind == "linear" and (factor or old) not in (0.0, 1.0):
            stated = {"rope_type": "linear", "factor": factor or old}
        elif kind == "yarn":
            stated = {"rope_type": "yarn", "factor": factor or 1.0}
            stated["original_max_position_embeddings"] = original
            for key, name in (("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")):
                value = self._hyper(f"rope.scaling.{name}", float, 0.0)
                if value:
                    stated[key] = value
            if self._hyper("rope.scaling.yarn_log_multiplier", float, 0.0):
                raise InputError("unknown-architecture", f"{where}: yarn_log_multiplier")
        elif kind not in ("none", "linear", "longrope"):
            raise InputError(
                "unknown-architecture", f"{where} scales its positions by {kind[:40]!r}"
            )
        found = rope(stated, where, base, rotary, trained)
        divisors = self._divisors(rotary)
        if divisors is None:
            if kind == "longrope":
                raise InputError("bad-weights", f"{where} lacks the tensor rope_factors_short")
            if attention not in (0.0, 1.0):
                raise InputError(
                    "unknown-architecture",
                    f"{where} has the key {self.architecture}.rope.scaling.attn_factor beside "
                    f"positions of the kind {kind!r}; it is known beside rope_factors_short alone",
                )
            return found
        # Factors for short texts, beside others for long ones: contexts end where those begin.
        longest = original if "rope_factors_short.weight" in self._tensors else None
        return Rope(found.frequencies / divisors, scale=attention or found.scale, longest=longest)

    def _divisors(self, rotary: int) -> Array | None:
        for name in ("rope_freqs.weight", "rope_factors_short.weight"):
            if name in self._tensors:
                self._taken.add("rope_factors_long.weight")
                found = self._matrix(name, 0, rotary // 2)
                if not (np.isfinite(found).all() and (found > 0).all()):
                    raise InputError("bad-weights", f"{name} holds what is no divisor")
                return found
        return None

    def _refuse_unread_keys(self) -> None:
        for key, entry in self._reader.fields.items():
            if not key.startswith(f"{self.architecture}.") or key in self._asked:
                continue
            if key.removeprefix(f"{self.architecture}.") in _HARMLESS:
                continue
            value = entry.contents()
            if value is None or value is False or value == 0:
                continue
            raise InputError(
                "unknown-architecture",
                f"{self.path.name} has the key {key[:80]}, which is not known here and may change "
                "what the model computes",
            )

    def weights(self) -> DecoderWeights:
        """All weights, dequantised to float32. Every tensor is used, or refused.

        Raises:
            InputError: ``bad-weights``, ``not-gguf``, ``unknown-architecture``.
        """
        c = self.config()
        layers = [self._layer(c, index) for index in range(c.layers)]
        embedding = self._matrix("token_embd.weight", c.vocabulary, c.width)
        head = embedding
        if "output.weight" in self._tensors:
            head = self._matrix("output.weight", c.vocabulary, c.width)
        weights = multiplied(
            DecoderWeights(
                c, embedding, layers, self._matrix("output_norm.weight", 0, c.width), head
            ),
            self._multipliers(),
        )
        for name in sorted(self._tensors.keys() - self._taken):
            raise InputError(
                "bad-weights",
                f"{self.path.name} has the tensor {name[:100]}, which nothing of the "
                f"architecture {self.architecture} uses",
            )
        weights.check()
        return weights

    def _layer(self, c: DecoderConfig, index: int) -> Layer:
        family = self._family
        queries, keys = c.heads * c.head_size, c.kv_heads * c.head_size
        at = f"blk.{index}."

        def turned(value: Array, heads: int) -> Array:
            # Pairs are interleaved in files of Llama's kind; the others keep rotate-half.
            return unpermute(value, heads) if family.interleaved else value

        def turned_bias(name: str, heads: int) -> Array | None:
            value = self._bias(f"{at}attn_{name}.bias", heads * c.head_size)
            return None if value is None else turned(value, heads)

        if family.fused:
            joined = self._matrix(f"{at}attn_qkv.weight", queries + 2 * keys, c.width)
            q, k, v = cut(joined, (queries, keys, keys))
            gate, up = cut(
                self._matrix(f"{at}ffn_up.weight", 2 * c.hidden, c.width), (c.hidden, c.hidden)
            )
        else:
            q = turned(self._matrix(f"{at}attn_q.weight", queries, c.width), c.heads)
            k = turned(self._matrix(f"{at}attn_k.weight", keys, c.width), c.kv_heads)
            v = self._matrix(f"{at}attn_v.weight", keys, c.width)
            gate = self._matrix(f"{at}ffn_gate.weight", c.hidden, c.width)
            up = self._matrix(f"{at}ffn_up.weight", c.hidden, c.width)

        def gain(name: str, size: int = c.width) -> Array | None:
            return self._matrix(f"{at}{name}.weight", 0, size) if name else None

        norms = [gain(name) for name in family.norms]
        sizes = (queries, keys) if c.wide_norm else (c.head_size, c.head_size)
        gains = [
            gain(f"attn_{n}_norm" if family.qk_norm else "", size)
            for n, size in zip("qk", sizes, strict=True)
        ]
        layer = Layer(
            attention_norm=norms[0],
            post_attention_norm=norms[1],
            post_ffn_norm=norms[3],
            q=q,
            k=k,
            v=v,
            o=self._matrix(f"{at}attn_output.weight", c.width, queries),
            ffn_norm=norms[2],
            gate=gate,
            up=up,
            down=self._matrix(f"{at}ffn_down.weight", c.width, c.hidden),
            q_bias=turned_bias("q", c.heads),
            k_bias=turned_bias("k", c.kv_heads),
            v_bias=self._bias(f"{at}attn_v.bias", keys),
            o_bias=self._bias(f"{at}attn_output.bias", c.width),
            gate_bias=self._bias(f"{at}ffn_gate.bias", c.hidden),
            up_bias=self._bias(f"{at}ffn_up.bias", c.hidden),
            down_bias=self._bias(f"{at}ffn_down.bias", c.width),
            q_norm=gains[0],
            k_norm=gains[1],
        )
        rotary = self._hyper("rope.dimension_count", int, c.head_size)
        return spread(layer, c, rotary)

    def tokenizer(self) -> GgufTokenizer:
        """What the file says of its tokenizer."""
        at = "tokenizer.ggml."
        optional = self._reader.get_field
        model = str(self._field(f"{at}model", str))
        pre = str(self._field(f"{at}pre", str, ""))
        # What readers of the format take where the file does not say.
        begins = model == "llama" or pre in BEGINS_WITH_BOS
        template = optional("tokenizer.chat_template")
        return GgufTokenizer(
            model=model,
            pre=pre,
            tokens=[str(t) for t in self._field(f"{at}tokens", list)],
            kinds=[int(k) for k in self._field(f"{at}token_type", list, ())],
            merges=[str(m) for m in self._field(f"{at}merges", list, ())],
            scores=[float(s) for s in self._field(f"{at}scores", list, ())],
            bos_id=self._id(f"{at}bos_token_id"),
            end_ids=[
                i
                for i in (self._id(f"{at}{name}_token_id") for name in ("eos", "eot", "eom"))
                if i is not None
            ],
            add_bos=bool(self._field(f"{at}add_bos_token", bool, begins)),
            add_space_prefix=bool(self._field(f"{at}add_space_prefix", bool, True)),
            chat_template=None if template is None else str(template.contents()),
        )

    def _id(self, key: str) -> int | None:
        return int(self._field(key, int)) if self._reader.get_field(key) is not None else None


def shards(path: Path) -> list[Path]:
    """The files of a GGUF that was split, in order; one file: itself.

    Raises:
        InputError: ``no-such-file``.
    """
    match = _SHARD.fullmatch(path.name)
    if match is None:
        return [path]
    stem, _, count = match.groups()
    if not 1 <= int(count) <= _MAX_SHARDS:
        raise InputError("too-large", f"{path.name} is one of {count} parts")
    files = [path.with_name(f"{stem}-{i:05}-of-{count}.gguf") for i in range(1, int(count) + 1)]
    missing = next((file.name for file in files if not file.is_file()), None)
    if missing is not None:
        raise InputError(
            "no-such-file", f"{path.name} is one of {int(count)} parts; there is no {missing}"
        )
    return files


def in_folder(folder: Path) -> Path | None:
    """The one GGUF file of a folder, or the first of its parts; None: there is none.

    Raises:
        InputError: ``bad-source``; there are several models, which it lists.
    """
    files = sorted(folder.glob("*.gguf"))
    names = {m[1] if (m := _SHARD.fullmatch(file.name)) else file.name for file in files}
    if len(names) > 1:
        listed = ", ".join(file.name for file in files[:5])
        raise InputError("bad-source", f"{folder} has several models: name one of {listed}")
    return files[0] if files else None


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
