"""ai-edge-litert, tflite-runtime and TFLite Micro give the same labels on golden vectors.

tflite-runtime lives in an environment of its own (``make .venv-tflite``), because it needs
numpy below 2.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.runtime import engine
from agent.runtime.classifier import Classifier
from agent.runtime.front_end import open_front_end
from contracts.bundle import Bundle
from contracts.errors import InputError, RefusedError, UnavailableError
from tests.support.controller import TINY, TINY_NEXT

ROOT = Path(__file__).parents[3]
MAX_STEPS = 0
EXTRA = os.environ.get("SHOAL_TEST_BUNDLE", "")
BUNDLES = [TINY, TINY_NEXT, *([Path(EXTRA)] if EXTRA else [])]


def tflite_python() -> str:
    """The Python that has tflite-runtime."""
    python = Path(os.environ.get("SHOAL_TFLITE_VENV", ROOT / ".venv-tflite")) / "bin" / "python"
    if python.is_file():
        return str(python)
    message = "no environment with tflite-runtime: run 'make .venv-tflite'"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def outputs(python: str, bundle: Path, runtime: str) -> dict[str, Any]:
    """Raw outputs of every golden vector."""
    run = subprocess.run(
        [python, str(Path(__file__).with_name("runtime_outputs.py")), str(bundle), runtime],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def micro_outputs(bundle: Bundle) -> list[dict[str, Any]]:
    """The same from the interpreter with the kernels of a microcontroller."""
    from tflite_micro import runtime

    model = runtime.Interpreter.from_bytes(bundle.read(bundle.manifest.model.file))
    front = open_front_end(bundle)
    rows = []
    for vector in bundle.golden():
        model.set_input(front.encode(vector.text).ids, 0)
        model.invoke()
        output = model.get_output(0).reshape(-1)
        rows.append({"best": int(np.argmax(output)), "output": [int(v) for v in output]})
    return rows


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda p: p.name)
def test_three_runtimes_agree_on_golden_vectors(folder: Path) -> None:
    """The same int8 outputs, bit for bit, for every vector."""
    bundle = Bundle.open(folder)
    litert = outputs(sys.executable, folder, "litert")
    tflite = outputs(tflite_python(), folder, "tflite-runtime")
    micro = micro_outputs(bundle)
    assert bundle.manifest.golden.max_steps <= MAX_STEPS
    for result in (litert, tflite):
        assert result["passed"] == result["vectors"] == bundle.manifest.golden.count
    expected = bundle.golden()
    labels = bundle.manifest.classifier.labels if bundle.manifest.classifier else []
    for row, (vector, *runs) in enumerate(
        zip(expected, litert["rows"], tflite["rows"], micro, strict=True)
    ):
        for run in runs:
            steps = np.abs(np.array(run["output"]) - np.array(vector.output)).max()
            assert steps <= MAX_STEPS, f"vector {row}: {steps} steps"
            assert labels[run["best"]] == vector.label


def test_a_runtime_that_is_not_installed_is_named() -> None:
    """With what is installed."""
    with pytest.raises(UnavailableError, match="installed: litert"):
        engine.open_model(TINY / "model.tflite", runtime="tflite-runtime")


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    """With an error of ours."""
    junk = tmp_path / "model.tflite"
    junk.write_bytes(b"junk" * 100)
    with pytest.raises(RefusedError, match="cannot load"):
        engine.open_model(junk)


def test_a_wrong_input_is_refused() -> None:
    """Shape and dtype are checked before the runtime sees them."""
    model = engine.open_model(TINY / "model.tflite")
    with pytest.raises(RefusedError, match=r"must be int32\[1, 96\]"):
        model.run("serving_default", {"ids": np.zeros((1, 5), np.int32)})
    with pytest.raises(RefusedError, match="LiteRT"):
        model.run("no-such-signature", {})
    model.close()


def test_two_threads_get_their_own_answers() -> None:
    """The buffers of a signature are one thread's at a time."""
    model = Classifier(Bundle.open(TINY))
    texts = ["turn on the light", "what is the weather like"]
    alone = [model.run(text).output.tolist() for text in texts]
    assert alone[0] != alone[1]

    def runs(text: str) -> list[list[int]]:
        return [model.run(text).output.tolist() for _ in range(2000)]

    with ThreadPoolExecutor(2) as threads:
        for expected, found in zip(alone, threads.map(runs, texts), strict=True):
            assert all(row == expected for row in found)
    model.close()


def test_an_archive_is_classified_like_its_folder(tmp_path: Path) -> None:
    """A ``.shoal`` file works wherever a folder does."""
    from contracts.bundle import pack

    pack(TINY, tmp_path / "b.shoal")
    model = Classifier(Bundle.open(tmp_path / "b.shoal"))
    assert model.classify("turn on the light").label == "lights-on"
    model.close()


@pytest.mark.parametrize(
    "text",
    ["", " ", "🦈" * 100, "a" * 16_384, "\0", "ЁЖ", "turn " * 3000],
    ids=["empty", "space", "emoji", "one-word", "nul", "cyrillic", "many-words"],
)
def test_odd_texts_are_classified(text: str) -> None:
    """Empty, long, of any script: an answer with shares that make one."""
    model = Classifier(Bundle.open(TINY))
    answer = model.classify(text, 20)
    assert sum(s.confidence for s in answer.top) == pytest.approx(1, abs=1e-4)
    assert answer.truncated == (len(text) > 50)
    model.close()


def test_a_text_over_the_cap_or_not_a_text_is_refused() -> None:
    """By bytes, not characters."""
    model = Classifier(Bundle.open(TINY))
    with pytest.raises(InputError, match="at most 16384"):
        model.classify("é" * 10_000)
    with pytest.raises(InputError, match="surrogate"):
        model.classify("\ud800")
    model.close()
