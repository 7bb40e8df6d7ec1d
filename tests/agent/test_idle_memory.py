"""What an agent with a classifier holds: one runtime, and no library that it does not need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent.runtime import engine, litert, litert_library, model
from agent.runtime.litert_library import Library
from contracts.bundle import Bundle
from tests.support.controller import TINY

PROGRAM = """
import sys
from pathlib import Path
import agent.daemon
from agent.system import log
from agent.runtime import model
from contracts.bundle import Bundle

log.configure()
loaded = model.load(Bundle.open(Path(sys.argv[1])))
loaded.classify("turn on the light")
print(*sys.modules)
print(*{line.split()[-1].rpartition("/")[2] for line in Path("/proc/self/maps").open()})
"""

NOT_NEEDED = {
    "ai_edge_litert.compiled_model",  # the runtime once more, and a GPU library
    "ai_edge_litert.interpreter",
    "cryptography",
    "importlib.metadata",
    "jinja2",
    "ml_dtypes",
    "multiprocessing",
    "rich",
    "tokenizers",
    "tuf",
    "urllib3",
    "zipfile",
}


@pytest.fixture
def held() -> tuple[set[str], set[str]]:
    """Modules, and names of mapped files, of a process that classified a text."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(TINY)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    modules, files = done.stdout.splitlines()
    return set(modules.split()), set(files.split())


def test_an_agent_with_a_classifier_holds_one_runtime(held: tuple[set[str], set[str]]) -> None:
    """LiteRT's library; not its Python binding, and nothing for rare work or another task."""
    modules, files = held
    assert not NOT_NEEDED & modules
    assert "libLiteRt.so" in files
    assert not {name for name in files if "pywrap" in name or "Accelerator" in name}


def test_a_release_with_an_unknown_c_api_runs_in_the_classic_interpreter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under the same name, with the same golden outputs."""
    assert isinstance(engine.open_model(TINY / "model.tflite"), litert.LiteRt)
    monkeypatch.setattr(Library, "supports", staticmethod(lambda version: False))
    opened = engine.open_model(TINY / "model.tflite")
    assert type(opened).__name__ == "TfliteRuntime"
    assert opened.name == "litert"
    opened.close()
    result = model.selftest(Bundle.open(TINY))
    assert result.passed == result.vectors


def test_a_wheel_without_the_library_of_linux_runs_in_the_classic_interpreter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On macOS it is a ``.dylib``."""
    monkeypatch.setattr(litert_library, "_file", lambda: tmp_path / "libLiteRt.so")
    opened = engine._opener("litert")(TINY / "model.tflite", threads=1, cache=None)
    assert type(opened).__name__ == "TfliteRuntime"
    opened.close()


def test_numpy_starts_no_threads_in_an_agent() -> None:
    """They would spin for tens of milliseconds, and have nothing to do."""
    program = (
        "import argparse, os, sys\n"
        "from pathlib import Path\n"
        "from agent.cli import device\n"
        "from contracts.errors import InputError\n"
        "try: device.run(argparse.Namespace(config=Path('/nowhere'), debug=False))\n"
        "except InputError: print('numpy' in sys.modules, len(os.listdir('/proc/self/task')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "True 1\n"
