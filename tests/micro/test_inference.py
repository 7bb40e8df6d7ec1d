"""The MicroPython interpreter gives the bytes that TensorFlow Lite Micro gives."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import numpy as np
import pytest

from contracts.bundle import Bundle
from contracts.text import NgramConfig, ngram_ids
from model_builder import tflm
from model_builder.export_c.arithmetic import multiplier
from tests.micro import device, models

TINY = Path("tests/data/tiny-classifier-1.0.0")
SHAPES = {
    "convolution": {"shape": "conv"},
    "an even filter without padding": {"shape": "conv", "padding": "VALID", "kernel": 4},
    "a wide filter": {"shape": "conv", "kernel": 7, "width": 9, "channels": 5, "length": 9},
    "a bag of n-grams": {"shape": "bag"},
}


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES.keys())
def case(request, tmp_path_factory):
    """A model file with inputs and TFLM's outputs."""
    folder = tmp_path_factory.mktemp("model")
    settings = request.param
    model = models.build(**settings)
    (folder / "model.tflite").write_bytes(model)
    ids = np.random.default_rng(5).integers(
        0, 256, (40, settings.get("length", 24)), dtype=np.int32
    )
    (folder / "inputs.json").write_text(json.dumps(ids.tolist()))
    outputs = tflm.measure(model, ids)[1]
    assert outputs is not None
    return folder, outputs.tolist()


@pytest.mark.parametrize("memory", [40960, 9216], ids=["weights in memory", "weights in the file"])
def test_outputs_equal_those_of_tflite_micro(case, memory):
    """Every output byte is equal, whether weights are kept in memory or read from the file."""
    folder, expected = case
    found = device.run(
        "infer.py", str(folder / "model.tflite"), str(folder / "inputs.json"), str(memory)
    )
    assert found["outputs"] == expected


def test_weights_are_used_in_place_in_memory_mapped_flash(case):
    """From a read-only file system nothing is copied: memory for the tensors is enough."""
    folder, expected = case
    model, inputs = str(folder / "model.tflite"), str(folder / "inputs.json")
    found = device.run("infer.py", model, inputs, "9216", "rom")
    assert found["in_place"]
    assert found["outputs"] == expected


def test_the_builders_bundle_runs_bit_exact(tmp_path):
    """The golden texts of a built bundle give TFLM's bytes, and LiteRT's within one step."""
    bundle = Bundle.open(TINY)
    config = bundle.manifest.front_end.config
    ids = np.array([ngram_ids(v.text, config)[0] for v in bundle.golden()], np.int32)
    (tmp_path / "inputs.json").write_text(json.dumps(ids.tolist()))
    file = TINY / bundle.manifest.model.file
    found = device.run("infer.py", str(file), str(tmp_path / "inputs.json"))
    reference = tflm.measure(file.read_bytes(), ids)[1]
    assert reference is not None
    assert found["outputs"] == reference.tolist()
    golden = np.array([v.output for v in bundle.golden()])
    assert np.abs(golden - reference).max() <= 1


def test_the_front_end_equals_the_builders(tmp_path):
    """Ids and the truncation mark are equal on ordinary, foreign, broken and random texts."""
    rng = random.Random(7)
    texts = ["", "Turn ON the light!", "Ünïcode — ЖЖ 你好 ½ß İ Ａｂ", "don’t", "𝒳 😀 é", "a" * 900]
    ranges = [(1, 128), (1, 0x600), (0x2000, 0x3100), (0xFF00, 0xFFEF), (0x10000, 0x11000)]
    texts += [
        "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(60)))
        for _ in range(40)
    ]
    configs = [
        NgramConfig(buckets=1024, length=96),
        NgramConfig(buckets=2**24, length=200, char_min=1, char_max=8),
        NgramConfig(buckets=65537, length=16, char_max=0),
        NgramConfig(buckets=999, length=24, char_min=2, char_max=3, pairs=False),
        NgramConfig(buckets=60_000, length=100, char_max=5, marks=True),
    ]
    cases = [(config, text) for config in configs for text in texts]
    names = ("buckets", "length", "char_min", "char_max", "pairs", "marks")
    plain = [({name: getattr(c, name) for name in names}, text) for c, text in cases]
    file = tmp_path / "cases.json"
    file.write_text(json.dumps(plain, ensure_ascii=False))
    found = device.run("featurize.py", str(file), heap="8M")
    expected = [list(ngram_ids(text, config)) for config, text in cases]
    assert found == expected


def test_multipliers_in_integers_equal_those_in_double_precision(tmp_path):
    """Scales of all magnitudes give the multiplier that TFLite computes with doubles."""
    rng = random.Random(3)
    scales = [
        struct.unpack("<f", struct.pack("<f", rng.uniform(0.5, 2) * 2.0 ** rng.randrange(-12, 3)))[
            0
        ]
        for _ in range(900)
    ]
    triples = [scales[i : i + 3] for i in range(0, 900, 3)]
    file = tmp_path / "cases.json"
    bits = [[struct.unpack("<I", struct.pack("<f", s))[0] for s in t] for t in triples]
    file.write_text(json.dumps(bits))
    expected = [list(multiplier(a * b / c)) for a, b, c in triples]
    assert device.run("multipliers.py", str(file)) == expected


def test_an_id_outside_of_the_table_is_refused(case, tmp_path):
    """The model's memory is never read with an index that the text did not give."""
    folder, _ = case
    length = len(json.loads((folder / "inputs.json").read_text())[0])
    for wrong in (256, -1, 2**31 - 1):
        (tmp_path / "inputs.json").write_text(json.dumps([[wrong] + [0] * (length - 1)]))
        found = device.run("infer.py", str(folder / "model.tflite"), str(tmp_path / "inputs.json"))
        assert found["refused"] == "bad-input"


def test_damaged_models_are_refused_and_never_crash(tmp_path):
    """Truncated files and files with flipped bytes give a refusal or a result, not a traceback."""
    whole = (TINY / "model.tflite").read_bytes()
    rng = random.Random(11)
    cases = [b"", b"TFL3", whole[:100], whole[: len(whole) // 2], b"\0" * 5000]
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 4, 40])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        cases.append(bytes(damaged))
    for number, data in enumerate(cases):
        (tmp_path / f"{number}.tflite").write_bytes(data)
    found = device.run("damaged.py", str(tmp_path), str(len(cases)), heap="1M")
    assert found["crashed"] == []
    assert found["refused"] >= 5
