"""Every way to run a decoder gives the same logits, and holds only what it runs."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from agent.generate.cache_engine import BindingEngine
from agent.generate.litert_engine import LiteRtEngine
from agent.generate.litert_library import Library
from agent.generate.model import GenerativeModel
from agent.generate.signature_view import view_signatures
from agent.runtime.model import Options
from contracts.bundle import Bundle
from contracts.errors import RefusedError

IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4, 3, 3, 8, 3, 2, 7]


def logits(path: Path, options: Options) -> np.ndarray:
    """What follows a text that outgrows the first context of 32 tokens."""
    model = GenerativeModel(Bundle.open(path), options)
    try:
        model.decoder.prefill(IDS)
        for token in IDS[:4]:
            model.decoder.step(token)
        return model.decoder.step(5).copy()
    finally:
        model.close()


def engine_of(model: GenerativeModel) -> object:
    """The engine that a model runs in."""
    return model.decoder._engine


def test_all_engines_agree(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C API with packed weights on disk and without, Python binding, classic interpreter."""
    found = [
        logits(bundle_path, Options(cache=tmp_path / "weights")),
        logits(bundle_path, Options(cache=tmp_path / "weights")),  # written, now read
        logits(bundle_path, Options()),
        logits(bundle_path, Options(runtime="litert-interpreter")),
    ]
    monkeypatch.setattr(Library, "supports", staticmethod(lambda version: False))
    found.append(logits(bundle_path, Options(cache=tmp_path / "binding")))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-3, atol=1e-3)


def test_an_unknown_release_is_run_through_its_binding(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The C API of a release that we do not know is not called."""
    monkeypatch.setattr("ai_edge_litert.__version__", "9.0.0")
    model = GenerativeModel(Bundle.open(bundle_path))
    assert isinstance(engine_of(model), BindingEngine)
    model.close()


def test_only_the_signatures_of_one_context_are_loaded(bundle_path: Path, tmp_path: Path) -> None:
    """Growing the cache leaves the smaller size's signatures."""
    model = GenerativeModel(Bundle.open(bundle_path), Options(cache=tmp_path / "weights"))
    engine = engine_of(model)
    assert isinstance(engine, LiteRtEngine)
    assert sorted(engine.loaded) == ["decode_32", "prefill_8_32", "prompt_8"]
    model.decoder.prefill(IDS + IDS[:10])
    assert sorted(engine.loaded) == ["decode_64", "prefill_8_64"]
    model.close()


def test_a_view_is_a_whole_model_of_its_signatures(bundle_path: Path) -> None:
    """Any reader of the format finds the chosen signatures, and only them."""
    from ai_edge_litert.interpreter import Interpreter

    path = bundle_path / "model.tflite"
    view = view_signatures(path, ["prefill_8_64", "decode_32"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Interpreter(model_content=bytes(view)).get_signature_list()
    assert sorted(found) == ["decode_32", "prefill_8_64"]
    assert "k_0" in found["decode_32"]["inputs"]


def test_a_view_leaves_the_file_as_it_is(bundle_path: Path) -> None:
    """Only the process's own pages change."""
    path = bundle_path / "model.tflite"
    before = path.read_bytes()
    view = view_signatures(path, ["decode_64"])
    assert bytes(view) != before
    assert path.read_bytes() == before


def test_a_view_of_a_signature_that_is_not_there_is_an_error(bundle_path: Path) -> None:
    """The message names it."""
    with pytest.raises(ValueError, match="decode_7"):
        view_signatures(bundle_path / "model.tflite", ["decode_7"])


@pytest.mark.parametrize("data", [b"TFL3", b"\x10\0\0\0TFL3" + b"\xff" * 64, bytes(64)])
def test_a_view_of_another_file_is_an_error(data: bytes, tmp_path: Path) -> None:
    """Whatever stands in it."""
    (tmp_path / "model.tflite").write_bytes(data)
    with pytest.raises(ValueError, match="model"):
        view_signatures(tmp_path / "model.tflite", ["decode_7"])


def test_a_broken_model_is_refused(bundle_path: Path, tmp_path: Path) -> None:
    """LiteRT's refusal becomes ours; with packed weights on disk hashes are not checked again."""
    folder = tmp_path / "copy"
    Bundle.open(bundle_path).extract(folder)
    (folder / "model.tflite").write_bytes(b"\x10\0\0\0TFL3" + b"\xff" * 64)
    (tmp_path / "weights").write_bytes(b"")
    with pytest.raises(RefusedError) as raised:
        GenerativeModel(Bundle.open(folder), Options(cache=tmp_path / "weights"))
    assert raised.value.code == "model-failed"
