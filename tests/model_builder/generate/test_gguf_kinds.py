"""GGUF files that strangers bring: every type of weights, SentencePiece's scores, other formats."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from contracts.errors import InputError
from model_builder.generate.gguf_source import GgufFile, GgufTokenizer
from model_builder.generate.tokenizer import build_tokenizer
from tests.support.tiny_decoder import tiny_tokenizer, tiny_weights, write_gguf

ORACLE = Path(__file__).parent / "oracle"
BLOCKS = dict(np.load(ORACLE / "ggml_blocks.npz"))
TYPES = sorted(int(name.removeprefix("blocks_")) for name in BLOCKS if name.startswith("blocks_"))
PIECES = json.loads((ORACLE / "sentencepiece.json").read_text())


def of_type(path: Path, kind: int, row: np.ndarray, number: int | None = None) -> Path:
    """A tiny model whose first matrix is rows of `row`; `number`: the type that the file says."""
    weights = tiny_weights(size=4)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(256)
    writer.add_feed_forward_length(384)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    rows = np.tile(row, (300, 1))
    writer.add_tensor("token_embd.weight", rows, raw_dtype=gguf.GGMLQuantizationType(kind))
    for i, layer in enumerate(weights.layers):
        for name, value in (
            ("attn_norm", layer.attention_norm), ("attn_q", layer.q), ("attn_k", layer.k),
            ("attn_v", layer.v), ("attn_output", layer.o), ("ffn_norm", layer.ffn_norm),
            ("ffn_gate", layer.gate), ("ffn_up", layer.up), ("ffn_down", layer.down),
        ):  # fmt: skip
            assert value is not None
            writer.add_tensor(f"blk.{i}.{name}.weight", value)
    writer.add_tensor("output_norm.weight", weights.final_norm)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if number is not None:
        data = bytearray(path.read_bytes())
        said = b"token_embd.weight" + struct.pack("<IQQ", 2, 256, 300)
        at = data.index(said) + len(said)
        assert data[at : at + 4] == struct.pack("<I", kind)
        data[at : at + 4] = struct.pack("<I", number)
        path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize("kind", TYPES)
def test_weights_are_what_llama_cpp_reads(kind: int, tmp_path: Path) -> None:
    """To the bit, in blocks that it made; by the type's number in the format."""
    path = of_type(tmp_path / "model.gguf", kind, BLOCKS[f"blocks_{kind}"])
    embedding = GgufFile(path).weights().embedding
    assert np.ptp(BLOCKS[f"values_{kind}"]) > 0
    np.testing.assert_array_equal(embedding, np.tile(BLOCKS[f"values_{kind}"], (300, 1)))


@pytest.mark.parametrize(
    ("kind", "number", "said"), [(2, 31, "Q4_0_4_4"), (2, 42, "Q2_0"), (2, 200, "200")]
)
def test_a_type_that_is_not_known_is_named(
    kind: int, number: int, said: str, tmp_path: Path
) -> None:
    """Given up by llama.cpp, or newer than our reader."""
    path = of_type(tmp_path / "model.gguf", kind, BLOCKS[f"blocks_{kind}"], number)
    with pytest.raises(InputError, match=rf"token_embd.weight is of the type {said}, .*Q8_0"):
        GgufFile(path)


def test_a_type_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """The reader knows its name and no more."""
    block = np.zeros(gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType.Q8_K][1], np.uint8)
    path = of_type(tmp_path / "model.gguf", gguf.GGMLQuantizationType.Q8_K, block)
    with pytest.raises(InputError, match="of the type Q8_K, which cannot be read here"):
        GgufFile(path).weights()


@pytest.mark.parametrize(
    ("said", "data"),
    [
        ("version 1 ", b"GGUF" + struct.pack("<IIII", 1, 3, 3, 0)),
        ("version 9", b"GGUF" + struct.pack("<IQQ", 9, 3, 3)),
        ("big-endian", b"GGUF" + struct.pack(">IQQ", 3, 3, 3)),
        ("before GGUF", b"tjgg" + struct.pack("<I", 3)),
        ("git lfs pull", b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n"),
        ("no GGUF file", b"PK\x03\x04"),
    ],
)
def test_another_format_is_called_by_its_name(said: str, data: bytes, tmp_path: Path) -> None:
    """With what to do about it, where something can be done."""
    (tmp_path / "model.gguf").write_bytes(data + bytes(64))
    with pytest.raises(InputError, match=said) as raised:
        GgufFile(tmp_path / "model.gguf")
    assert raised.value.code == "not-gguf"


def test_the_second_version_is_read_as_the_third(tmp_path: Path) -> None:
    """They differ in what bytes of another order mean."""
    weights = tiny_weights()
    path = write_gguf(tmp_path / "model.gguf", weights, tiny_tokenizer())
    data = bytearray(path.read_bytes())
    data[4:8] = struct.pack("<I", 2)
    path.write_bytes(bytes(data))
    np.testing.assert_array_equal(GgufFile(path).weights().embedding, weights.embedding)


def pieces(of: dict[str, Any], scores: list[float] | None = None) -> GgufTokenizer:
    """A vocabulary of SentencePiece as a file has it."""
    return GgufTokenizer(
        model="llama", pre="", tokens=of["pieces"], kinds=of["kinds"], merges=[],
        scores=scores or of["scores"], bos_id=1, end_ids=[2], add_bos=True,
        add_space_prefix=True, chat_template=None,
    )  # fmt: skip


def test_text_is_cut_as_sentencepiece_does() -> None:
    """Runs of one letter, spaces, what is in no piece."""
    tokenizer = build_tokenizer(pieces(PIECES["bpe"]))
    for text, ids in zip(PIECES["texts"], PIECES["bpe"]["ids"], strict=True):
        assert tokenizer.encode(text, add_special_tokens=False).ids == ids, text


def test_scores_that_are_probabilities_are_refused() -> None:
    """A unigram vocabulary has the same keys, and is not joined pair by pair."""
    with pytest.raises(InputError, match="unigram"):
        build_tokenizer(pieces(PIECES["unigram"]))


def test_one_score_for_all_pieces_is_refused() -> None:
    """As converters write it that had none: nobody knows what is joined first."""
    flat = pieces(PIECES["bpe"], [-1000.0] * len(PIECES["bpe"]["pieces"]))
    with pytest.raises(InputError, match="the same score"):
        build_tokenizer(flat)


def test_added_words_may_share_a_score() -> None:
    """They are found whole, as Gemma's and those that a fine-tune added."""
    grown = {**PIECES["bpe"]}
    more = ["ab", "the cat", "<|user|>"]
    grown["pieces"] = [*grown["pieces"], *(f"{word}¤" for word in more)]
    grown["kinds"] = [*grown["kinds"], 4, 4, 3]
    tokenizer = build_tokenizer(pieces(grown, [*grown["scores"], -1000.0, -1000.0, -1000.0]))
    assert tokenizer.encode("the cat¤", add_special_tokens=False).tokens[-1] == "the cat¤"
