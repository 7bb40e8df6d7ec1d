"""Files that lie about what they hold: one clear error, before time or memory is spent on them."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from contracts import tokenizer_probe
from contracts.bundle import Bundle
from contracts.errors import InputError
from model_builder.generate.gguf_header import MAX_ITEMS, check_header
from model_builder.generate.importer import ImportOptions, import_model
from model_builder.generate.package import Layout
from model_builder.generate.source import load_pretrained
from tests.support.tiny_decoder import tiny_tokenizer, tiny_weights, write_folder, write_gguf

ROOM = bytes(640)
TOKENS = "token_embd.weight"


def head(tensors: int, keys: int) -> bytes:
    """The first 24 bytes."""
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys)


def text(value: str) -> bytes:
    """A string as GGUF has it."""
    return struct.pack("<Q", len(value)) + value.encode()


def key(name: str, kind: int, value: bytes) -> bytes:
    """A key with its value."""
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str, shape: list[int], kind: int = 0, offset: int = 0) -> bytes:
    """What a header says of a tensor."""
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


LLAMA = key("general.architecture", 8, text("llama"))
GGUF = {
    "a string of 2**62 bytes": head(0, 1) + struct.pack("<Q", 1 << 62),
    "an array of 2**60 numbers": head(0, 1) + key("a", 9, struct.pack("<IQ", 4, 1 << 60)),
    "an array of 2**31 strings": head(0, 1) + key("a", 9, struct.pack("<IQ", 8, 1 << 31)),
    "many arrays": head(0, 9) + key("a", 9, struct.pack("<IQ", 0, MAX_ITEMS // 8) + ROOM) * 9,
    "arrays in arrays": head(0, 1) + key("a", 9, struct.pack("<IQ", 9, 1) * 5000),
    "a value of no type": head(0, 1) + key("a", 99, b""),
    "keys that are not there": head(0, 65536),
    "tensors that are not there": head(65536, 0),
    "dimensions whose product overflows": head(1, 1) + LLAMA + tensor(TOKENS, [1 << 32, 1 << 32]),
    "a dimension of 2**63": head(1, 1) + LLAMA + tensor(TOKENS, [1 << 63, 1 << 63]),
    "a hundred dimensions": head(1, 1) + LLAMA + tensor(TOKENS, [1] * 100),
    "2**31 dimensions": head(1, 1) + LLAMA + text(TOKENS) + struct.pack("<I", 1 << 31),
    "an offset of 2**62": head(1, 1) + LLAMA + tensor(TOKENS, [4, 4], 0, 1 << 62),
    "an offset before the file": head(1, 1) + LLAMA + tensor(TOKENS, [4, 4], 0, (1 << 64) - 64),
    "an unknown type": head(1, 1) + LLAMA + tensor(TOKENS, [4, 4], 77),
    "one tensor twice": head(2, 1) + LLAMA + tensor("a", [4, 4]) * 2,
    "one key twice": head(0, 2) + LLAMA * 2,
    "an alignment of 0": head(0, 1) + key("general.alignment", 4, struct.pack("<I", 0)),
    "an alignment of 3": head(0, 1) + key("general.alignment", 4, struct.pack("<I", 3)),
    "an alignment of 2 GB": head(0, 1) + key("general.alignment", 4, struct.pack("<I", 1 << 31)),
    "no architecture": head(0, 0),
    "an architecture that is a number": head(0, 1) + key("general.architecture", 4, b"\x07\0\0\0"),
    "version 1": b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "another format": b"PK\x03\x04",
}

_LOAD = """
import resource, sys
from contracts.errors import InputError
from model_builder.generate.source import load_pretrained
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        load_pretrained(path)
    except InputError as error:
        print(error.code)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
sys.exit(f"grew by {grown} KB" if grown > 50_000 else 0)
"""


def test_no_header_of_gguf_costs_time_or_memory(tmp_path: Path) -> None:
    """In a child with limits: a reader that believes such a file does not come back."""
    paths = []
    for number, data in enumerate(GGUF.values()):
        paths.append(tmp_path / f"{number}.gguf")
        paths[-1].write_bytes(data + ROOM)
    paths.append(tmp_path / "empty.gguf")
    paths[-1].touch()
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, *map(str, paths)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr, done.stdout)
    codes = done.stdout.split()
    assert len(codes) == len(paths)
    assert set(codes) == {"not-gguf", "unknown-architecture"}


def test_no_truncation_of_gguf_passes_the_check_of_its_header(tmp_path: Path) -> None:
    """The whole file is needed for what its header names; the check alone finds it."""
    path = write_gguf(tmp_path / "m.gguf", tiny_weights(), tiny_tokenizer())
    whole = path.read_bytes()
    check_header(path)
    for cut in [*range(0, 4000, 37), *range(4000, len(whole), len(whole) // 50)]:
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError) as raised:
            check_header(path)
        assert raised.value.code == "not-gguf"


def changed_gguf(path: Path, name: str, value: int) -> str:
    """The tiny model with one number of 32 bits replaced."""
    write_gguf(path, tiny_weights(), tiny_tokenizer())
    data = bytearray(path.read_bytes())
    at = data.index(text(name)) + len(text(name)) + 4
    data[at : at + 4] = struct.pack("<I", value)
    path.write_bytes(bytes(data))
    return str(path)


def quick(source: str, out: Path) -> None:
    """An import without what takes long."""
    layout = Layout(contexts=[32], prompt=[8], prefill=[8])
    options = ImportOptions(layout=layout, calibration_tokens=0, check_tokens=64)
    import_model(source, out, options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("llama.block_count", 0),
        ("llama.block_count", 1),
        ("llama.block_count", 0xFFFFFFFF),
        ("llama.context_length", 0),
        ("llama.context_length", 1),
        ("llama.context_length", 5),
        ("llama.embedding_length", 0x7FFFFFFF),
        ("llama.feed_forward_length", 0),
        ("llama.attention.head_count", 0),
        ("llama.attention.head_count", 0xFFFFFFFF),
        ("llama.attention.head_count_kv", 3),
        ("llama.rope.freq_base", 0x7FC00000),  # not a number
        ("llama.attention.layer_norm_rms_epsilon", 0x7F800000),  # infinite
    ],
)
def test_gguf_hyperparameters_that_cannot_be_are_refused(
    name: str, value: int, tmp_path: Path
) -> None:
    """Also fewer layers than the file has weights for."""
    with pytest.raises(InputError) as raised:
        quick(changed_gguf(tmp_path / "m.gguf", name, value), tmp_path / "out")
    assert raised.value.code in ("bad-weights", "unknown-architecture")
    assert not (tmp_path / "out").exists()


def folder(path: Path, **config: object) -> Path:
    """The tiny model as a folder, its configuration changed."""
    made = write_folder(path, tiny_weights(), tiny_tokenizer())
    known = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps(known | config))
    return made


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("config.json checkpoint-20/config.json", "checkpoint-20 in it has one: name that folder"),
        ("model.safetensors pytorch_model.bin", "pytorch_model.bin may run code"),
        ("tokenizer.json tokenizer.model", "has no tokenizer.json; transformers writes one"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused_with_what_to_do(
    change: str, told: str, tmp_path: Path
) -> None:
    """As trainers leave theirs: checkpoints inside, pickled weights, another tokenizer."""
    source = folder(tmp_path / "model")
    before, after = ((source / name) for name in change.split())
    after.parent.mkdir(exist_ok=True)
    before.rename(after)
    with pytest.raises(InputError, match=told):
        quick(str(source), tmp_path / "out")


@pytest.mark.parametrize("value", [0, -1, 1, 3, 10**9, 10**30, 1e308, None, "x"])
@pytest.mark.parametrize(
    "name", ["vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings"]
)
def test_a_folder_whose_configuration_lies_is_refused(
    name: str, value: object, tmp_path: Path
) -> None:
    """Sizes are compared with the weights before anything is made of them."""
    with pytest.raises(InputError) as raised:
        quick(str(folder(tmp_path / "f", **{name: value})), tmp_path / "out")
    assert raised.value.code in ("bad-weights", "bad-message")


@pytest.mark.parametrize(
    "lie",
    [
        {"data_offsets": [-4, 100]},
        {"data_offsets": [0, 1 << 62]},
        {"data_offsets": [0, 64]},
        {"shape": [1 << 62, 1 << 62]},
        {"shape": [-1, 4]},
        {"shape": [1, 1]},
        {"shape": []},
        {"dtype": "F64"},
        {"dtype": "NONE"},
    ],
)
def test_a_safetensors_header_that_lies_is_refused(lie: dict[str, object], tmp_path: Path) -> None:
    """Offsets, shapes and types are held against the file."""
    made = folder(tmp_path / "f")
    file = made / "model.safetensors"
    whole = file.read_bytes()
    (length,) = struct.unpack_from("<Q", whole)
    header = json.loads(whole[8 : 8 + length])
    header["model.embed_tokens.weight"] |= lie
    written = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(written)) + written + whole[8 + length :])
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_pretrained(str(made))


@pytest.mark.parametrize("length", [0, 1, 1 << 40, (1 << 64) - 1])
def test_a_safetensors_header_of_an_absurd_length_is_refused(length: int, tmp_path: Path) -> None:
    """It is not read into memory first."""
    made = folder(tmp_path / "f")
    file = made / "model.safetensors"
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_pretrained(str(made))


@pytest.mark.parametrize(
    "tokenizer", [b"", b"{}", b"\xff" * 100, b"[" * 100_000,
                  b'{"model":{"type":"BPE","vocab":{},"merges":[]}}'],
)  # fmt: skip
def test_a_tokenizer_that_is_none_is_refused(tokenizer: bytes, tmp_path: Path) -> None:
    """Also one without a word."""
    made = folder(tmp_path / "f")
    (made / "tokenizer.json").write_bytes(tokenizer)
    with pytest.raises(InputError) as raised:
        quick(str(made), tmp_path / "out")
    assert raised.value.code in ("bad-tokenizer", "bad-weights")


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [r"[a-z]{0,600}[a-z]*[^a-z]{2}$", r"(a|aa)+[^a]c"])
def test_a_tokenizer_that_would_not_come_to_an_end_is_refused(
    pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bounded time: its expression is tried in a process with limits, before any text is."""
    monkeypatch.setattr(tokenizer_probe, "SECONDS", 4)
    made = folder(tmp_path / "f")
    path = made / "tokenizer.json"
    document = json.loads(path.read_text())
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
             "invert": False}  # fmt: skip
    document["pre_tokenizer"] = {
        "type": "Sequence", "pretokenizers": [split, document["pre_tokenizer"]],
    }  # fmt: skip
    path.write_text(json.dumps(document))
    with pytest.raises(InputError) as raised:
        quick(str(made), tmp_path / "out")
    assert raised.value.code == "bad-tokenizer"


@pytest.mark.parametrize(
    "source", ["", "a\0b", "/dev/zero", "/none", "/etc/passwd", "\udcff.gguf", "pypi:--help==1"]
)
def test_what_is_no_source_is_refused(source: str) -> None:
    """The error says what a source is."""
    with pytest.raises(InputError):
        load_pretrained(source)


_FULL = """
import resource, signal, sys
from model_builder.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
main()
"""


@pytest.mark.parametrize("size", [1, 20_000, 200_000])
def test_what_cannot_be_written_is_one_line_and_nothing_half_made_stays(
    tmp_path: Path, size: int
) -> None:
    """The system takes no more of a file, as a full disk does: the first one, or a later one."""
    write_gguf(tmp_path / "tiny.gguf", tiny_weights(), tiny_tokenizer())
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-c", _FULL, str(size), "import", str(tmp_path / "tiny.gguf")]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, check=False)
    said = [line for line in done.stderr.decode().splitlines() if line.startswith("error: ")]
    assert done.returncode == 1, done.stderr.decode()[-500:]
    assert len(said) == 1
    assert said[0].endswith("make room and run it again")
    assert "Traceback" not in done.stderr.decode()
    for made in out.iterdir():  # the folder is there before its archive
        Bundle.open(made).verify()
