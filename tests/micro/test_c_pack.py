"""The C pack compiles without a warning and gives TFLite Micro's bytes, here and in QEMU."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from contracts import board, codec
from contracts.board import Board
from contracts.bundle import Bundle
from contracts.errors import InputError, ShoalError
from contracts.text import NgramConfig, ngram_ids
from model_builder.export_c import engine, graph, measure, pack
from tests.micro import models
from tests.support.tools import need_tool

TINY = Path("tests/data/tiny-classifier-1.0.0")


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    """The C pack of the tiny classifier."""
    need_tool("gcc")
    need_tool("make")
    out = tmp_path_factory.mktemp("pack")
    pack.export(Bundle.open(TINY), out, board=board.load(board.names()[0]))
    return out


def test_every_golden_vector_is_equal_on_the_host(packed):
    """Gcc compiles it with warnings as errors; all vectors are equal byte by byte."""
    run = measure.run_host(packed)
    assert run.vectors == run.passed == len(Bundle.open(TINY).golden())


@pytest.mark.parametrize("cpu", ["cortex-m3", "cortex-m4"])
def test_every_golden_vector_is_equal_in_the_emulator(packed, cpu):
    """arm-none-eabi-gcc -Os compiles it; QEMU runs it, equal, and counts instructions."""
    need_tool("arm-none-eabi-gcc")
    need_tool("qemu-system-arm")
    run = measure.run_qemu(packed, cpu)
    assert run.vectors == run.passed
    assert run.model_instructions > run.front_end_instructions > 0
    sizes = measure.size(packed, cpu)
    assert 0 < sizes.engine_code <= 24 * 1024
    assert sizes.tables > 20_000
    assert (
        sizes.ram
        >= engine.Engine(graph.read((TINY / "model.tflite").read_bytes())).plan.arena_bytes
    )


def test_a_changed_weight_fails_the_vectors(packed, tmp_path):
    """The check can fail: one other weight in the tables is noticed."""
    shutil.copytree(packed, tmp_path / "pack", ignore=shutil.ignore_patterns("build"))
    source = (tmp_path / "pack" / "model.c").read_text()
    start = re.search(r"weights_[1-9]\d*\[", source).start()  # the table is 0
    at = source.index("{", start)
    (tmp_path / "pack" / "model.c").write_text(
        source[: at + 1] + "127, " + source[source.index(",", at) + 1 :]
    )
    with pytest.raises(ShoalError) as refused:
        measure.run_host(tmp_path / "pack")
    assert refused.value.code == "c-pack-failed"
    assert "differs" in str(refused.value)


@pytest.mark.parametrize("marks", [False, True])
def test_the_front_end_in_c_equals_the_builders(packed, tmp_path, marks):
    """Random and foreign texts give the same ids; broken UTF-8 is refused, not read past."""
    rng = random.Random(2)
    ranges = [(32, 127), (0x20, 0x600), (0x2000, 0x3100), (0xFF01, 0xFFEF), (0x10000, 0x11000)]
    texts = ["", "Turn ON the light!", "Ünïcode — ЖЖ 你好", "a b " * 200]
    texts += [
        "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(50)))
        for _ in range(60)
    ]
    config = NgramConfig(buckets=65537, length=64, char_min=2, char_max=4, marks=marks)
    program = tmp_path / "ids.c"
    program.write_text(
        '#include <stdio.h>\n#include "shoal_ngrams.h"\n'
        "int main(void) { static char text[65536]; int32_t ids[64];\n"
        "  size_t n = fread(text, 1, sizeof text, stdin);\n"
        f"  shoal_ngram_config c = {{65537u, 64, 2, 4, 1, {int(marks)}}};\n"
        '  int r = shoal_ngram_ids(&c, text, n, ids); printf("%d", r);\n'
        '  for (int i = 0; i < 64; i++) printf(" %d", (int)ids[i]); return 0; }\n'
    )
    binary = tmp_path / "ids"
    subprocess.run(
        ["gcc", "-std=c99", "-fsanitize=address,undefined", "-fno-sanitize-recover", "-I", packed,
         program, packed / "shoal_ngrams.c", "-o", binary],
        check=True,
    )  # fmt: skip

    def run(data: bytes) -> list[int]:
        done = subprocess.run([binary], input=data, capture_output=True, check=True)
        return [int(word) for word in done.stdout.split()]

    for text in texts:
        ids, truncated = ngram_ids(text, config)
        assert run(text.encode()) == [int(truncated), *ids]
    for broken in (b"\xff", b"a \xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xc0\xaf", b"x" * 300):
        assert run(broken)[0] == -1


def test_the_micro_glue_names_exactly_the_models_operators(packed):
    """The resolver of the TFLite Micro engine has the model's operators and its arena's bytes."""
    source = (packed / "tflm" / "tflm_engine.cc").read_text()
    model = graph.read((TINY / "model.tflite").read_bytes())
    names = {op.name for op in model.operators}
    assert source.count("resolver.Add") == len(names)
    assert f"MicroMutableOpResolver<{len(names)}>" in source
    arena = Bundle.open(TINY).manifest.model.arena_bytes
    assert arena is not None
    stated = int(source.split("kArenaBytes = ")[1].split(";")[0])
    assert arena <= stated <= 1.25 * arena + 16


def test_every_convolution_shape_is_equal(packed, tmp_path):
    """Even and odd filters, with and without padding, equal TFLM's outputs on random ids."""
    import numpy as np

    from model_builder import tflm

    for number, settings in enumerate(
        ({"padding": "VALID", "kernel": 4}, {"kernel": 2, "length": 9}, {"shape": "bag"})
    ):
        model = models.build(**{"shape": "conv", **settings})
        built = engine.Engine(graph.read(model))
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "model.h").write_text(built.header())
        (folder / "model.c").write_text(built.source())
        length = settings.get("length", 24)
        ids = np.random.default_rng(1).integers(0, 256, (30, length), dtype=np.int32)
        (folder / "main.c").write_text(
            '#include <stdio.h>\n#include "model.h"\nint main(void) {\n'
            "  while (fread(shoal_input_0(), 4, SHOAL_INPUT_0_COUNT, stdin)) {\n"
            "    if (shoal_invoke()) return 2;\n"
            "    fwrite(shoal_output_0(), 1, SHOAL_OUTPUT_0_COUNT, stdout); } return 0; }\n"
        )
        binary = folder / "run"
        subprocess.run(
            ["gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined",
             "-I", packed, "-I", folder, folder / "main.c", folder / "model.c",
             packed / "shoal_kernels.c", "-o", binary],
            check=True,
        )  # fmt: skip
        done = subprocess.run([binary], input=ids.tobytes(), capture_output=True, check=True)
        expected = tflm.measure(model, ids)[1]
        assert expected is not None
        assert done.stdout == expected.tobytes()


def test_what_is_not_for_a_microcontroller_is_refused(tmp_path):
    """A float model, and bytes that are no model, are named as the problem."""
    with pytest.raises(InputError, match="not a readable"):
        graph.read(b"not a model at all")
    whole = graph.read((TINY / "model.tflite").read_bytes())
    strange = graph.Graph(
        whole.tensors,
        (*whole.operators, graph.Operator("LSTM", (0,), (0,))),
        whole.inputs,
        whole.outputs,
    )
    with pytest.raises(InputError, match="LSTM"):
        engine.Engine(strange)


def test_a_board_that_lacks_a_field_is_refused():
    """Board profiles are checked before a header is written from them."""
    with pytest.raises(InputError):
        codec.convert_yaml(b"name: x", Board, what="a board")


def test_the_pack_goes_beside_the_bundle_and_its_figures_into_the_report(tmp_path):
    """What ``build --export c`` does after the build: folder, golden run, sizes, instructions."""
    need_tool("arm-none-eabi-gcc")
    need_tool("qemu-system-arm")
    bundle = tmp_path / "tiny-classifier-1.0.0"
    shutil.copytree(TINY, bundle)
    report = tmp_path / "report.json"
    report.write_text('{"size": {}}')
    measure.export_and_report(bundle, report, "pico-2-w")
    figures = codec.decode(report.read_bytes(), dict, what="the report")["c_pack"]
    assert figures["cortex-m3"]["qemu_passed"] == figures["host_passed"] == figures["vectors"]
    assert figures["cortex-m4"]["engine_code_bytes"] <= 24 * 1024
    header = (tmp_path / "tiny-classifier-1.0.0-c" / "board.h").read_text()
    assert "SHOAL_BOARD_MODEL_RAM_BYTES 65536u" in header
