"""The TFLite Micro glue of a C pack compiles, and runs the golden vectors on the real kernels.

No package ships TFLM's headers, so `tests/micro/tflm` declares what the glue uses. Its kernels
come from the package tflite-micro: an extension module that exports TFLM's functions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from contracts.bundle import Bundle
from model_builder.export_c import engine, graph, pack, tflm_glue
from tests.support.tools import need_tool

CLASSIFIER = Path("tests/data/tiny-classifier-1.0.0")
GENERATOR = Path("tests/data/status-lines-1.0.0")
HEADERS = Path("tests/micro/tflm").resolve()
LAYOUTS = {"tflite": [], "tflite::micro": ["-DTFLM_IN_MICRO"]}

# Kernels first, their names global; then the pack, whose undefined names are those.
LOAD = """\
import ctypes, pathlib, sys
from tflite_micro.python.tflite_micro import runtime
kernels = pathlib.Path(runtime.__file__).parent / "_runtime.so"
ctypes.CDLL(str(kernels), mode=ctypes.RTLD_GLOBAL)
pack = ctypes.CDLL(sys.argv[1])
"""


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    """The C pack of the tiny classifier."""
    need_tool("g++")
    out = tmp_path_factory.mktemp("pack")
    pack.export(Bundle.open(CLASSIFIER), out)
    return out


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> Path:
    """The glue of the tiny generator: a model of two inputs and two outputs."""
    need_tool("g++")
    out = tmp_path_factory.mktemp("generator")
    (out / "tflm").mkdir()
    bundle = Bundle.open(GENERATOR)
    model = bundle.read(bundle.manifest.model.file)
    read = graph.read(model)
    (out / "model.h").write_text(engine.Engine(read).header())
    assert bundle.manifest.model.arena_bytes is not None
    glue = tflm_glue.source(read, bundle.manifest.model.arena_bytes)
    (out / "tflm/tflm_engine.cc").write_text(glue)
    header, source = pack.model_data(model)
    (out / "tflm/model_data.h").write_text(header)
    (out / "tflm/model_data.c").write_text(source)
    return out


def _compile(folder: Path, glue: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-I", str(HEADERS), "-I", str(folder),
         "-I", str(folder / "tflm"), *words, str(glue)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def _link(folder: Path, glue: Path, out: Path) -> Path:
    """A shared library of a pack, on the layout that the package tflite-micro has."""
    done = _compile(folder, glue, "-O1", "-fPIC", "-DTFLM_IN_MICRO", "-c", "-o", str(out / "e.o"))
    assert done.returncode == 0, done.stderr
    sources = [folder / "tflm/model_data.c", *(folder.glob("shoal_[bn]*.c"))]
    sources += folder.glob("golden*.c")
    library = out / "pack.so"
    subprocess.run(
        ["gcc", "-std=c99", "-O1", "-fPIC", "-shared", "-I", folder, *sources, out / "e.o",
         "-lstdc++", "-o", library],
        check=True,
    )  # fmt: skip
    return library


def _run(library: Path, script: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: where the declarations are wrong, it may crash."""
    return subprocess.run(
        [sys.executable, "-c", LOAD + script, str(library)],
        capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["classifier", "generator"])
def test_the_glue_compiles_on_both_layouts_of_tflm(name, layout, request):
    """Names, arguments and types are those of TFLM before and after it moved its classes."""
    folder = request.getfixturevalue(name)
    glue = folder / "tflm/tflm_engine.cc"
    done = _compile(folder, glue, *LAYOUTS[layout], "-fsyntax-only")
    assert done.returncode == 0, done.stderr


def test_the_classifiers_golden_vectors_are_equal_on_the_real_kernels(classifier, tmp_path):
    """Text to scores through the pack's own functions, byte by byte."""
    library = _link(classifier, classifier / "tflm/tflm_engine.cc", tmp_path)
    done = _run(library, "sys.exit(pack.main())")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["passed"] == result["vectors"] == len(Bundle.open(CLASSIFIER).golden())


def test_the_generator_steps_as_in_tflm_itself(generator, tmp_path):
    """Each input and output of the glue is the one that the model has at its place."""
    library = _link(generator, generator / "tflm/tflm_engine.cc", tmp_path)
    steps = 20
    rng = np.random.default_rng(5)
    states = rng.integers(-128, 128, (steps, 128), dtype=np.int8)
    np.save(tmp_path / "states.npy", states)
    model = GENERATOR / "model.tflite"
    done = _run(
        library,
        f"""\
import numpy as np
states = np.load({str(tmp_path / "states.npy")!r})
reference = runtime.Interpreter.from_file({str(model)!r}, arena_size=65536)
for name in ("input_0", "input_1", "output_0", "output_1"):
    getattr(pack, "shoal_" + name).restype = ctypes.c_void_p
for token, state in enumerate(states):
    reference.set_input(np.array([token], np.int32).reshape({_shape(0)}), 0)
    reference.set_input(state.reshape({_shape(1)}), 1)
    reference.invoke()
    ctypes.memmove(pack.shoal_input_0(), np.array([token], np.int32).tobytes(), 4)
    ctypes.memmove(pack.shoal_input_1(), state.tobytes(), 128)
    assert pack.shoal_invoke() == 0
    for number, count in ((0, 41), (1, 128)):
        got = ctypes.string_at(getattr(pack, f"shoal_output_{{number}}")(), count)
        assert got == reference.get_output(number).tobytes(), (token, number)
print("equal")
""",
    )
    assert done.stdout.strip() == "equal", done.stdout + done.stderr


def _shape(number: int) -> tuple[int, ...]:
    read = graph.read((GENERATOR / "model.tflite").read_bytes())
    return tuple(read.tensors[read.inputs[number]].shape)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("AddReduceMax()", "AddReduceMaximum()"),
        ("resolver, arena,", "arena, resolver,"),
        ("int8_t* shoal_output_0", "uint8_t* shoal_output_0"),
        ("typed_output_tensor<int8_t>(0)", "typed_output_tensor<int8_t>()"),
    ],
)
def test_a_wrong_name_argument_or_type_does_not_compile(classifier, tmp_path, old, new):
    """The declarations are narrow enough to notice."""
    source = (classifier / "tflm/tflm_engine.cc").read_text()
    assert old in source
    glue = tmp_path / "engine.cc"
    glue.write_text(source.replace(old, new))
    done = _compile(classifier, glue, "-DTFLM_IN_MICRO", "-fsyntax-only")
    assert done.returncode != 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  if (!Ok(resolver.AddGather())) return nullptr;\n", ""),
        ("kArenaBytes = ", "kArenaBytes = 4096 + 0 * "),
    ],
)
def test_a_model_that_tflm_cannot_load_is_an_error_and_no_crash(classifier, tmp_path, old, new):
    """An operator or memory is missing: every text is refused, nothing is written to."""
    source = (classifier / "tflm/tflm_engine.cc").read_text()
    assert old in source
    glue = tmp_path / "engine.cc"
    glue.write_text(source.replace(old, new))
    done = _run(_link(classifier, glue, tmp_path), 'print(pack.shoal_classify(b"hello", 5))')
    assert done.stdout.splitlines()[-1:] == ["-1"], done.stdout + done.stderr
