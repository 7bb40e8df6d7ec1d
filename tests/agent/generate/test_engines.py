"""Every way to run a decoder gives the same logits, and holds only what it runs."""

from __future__ import annotations

import warnings
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.generate.cache_engine import InterpreterEngine
from agent.generate.litert_engine import LiteRtEngine
from agent.generate.model import GenerativeModel
from agent.runtime.litert_library import Library
from agent.runtime.model import Options
from agent.runtime.signature_view import view_signatures
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


@pytest.mark.parametrize("kind", ["bundle_path", "float_bundle_path"])
def test_all_engines_agree(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C API with packed weights on disk and without, Python binding, classic interpreter."""
    bundle_path = request.getfixturevalue(kind)
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


def test_a_compact_cache_computes_nearly_the_same(
    bundle_path: Path, float_bundle_path: Path
) -> None:
    """Rounding keys and values to int8 moves the logits by little."""
    floats = logits(float_bundle_path, Options())
    difference = np.abs(logits(bundle_path, Options()) - floats).max()
    assert 0 < difference < 0.05 * np.ptp(floats)


@pytest.mark.parametrize("kind", ["bundle_path", "float_bundle_path"])
def test_a_snapshot_goes_on_where_it_was_taken(kind: str, request: pytest.FixtureRequest) -> None:
    """In either kind of cache, also from a prefix of the snapshot."""
    model = GenerativeModel(Bundle.open(request.getfixturevalue(kind)))
    decoder = model.decoder
    decoder.prefill(IDS[:20])
    snapshot = decoder.snapshot(20)
    assert snapshot.nbytes == decoder.bytes_of(20)
    expected = decoder.step(IDS[20]).copy()
    decoder.truncate(0)
    decoder.prefill(IDS[5:15])
    decoder.restore(snapshot, 20)
    near = 0.05 * np.ptp(expected)
    assert np.abs(decoder.step(IDS[20]) - expected).max() < near
    decoder.restore(snapshot, 12)
    for token in IDS[12:20]:
        decoder.step(token)
    assert np.abs(decoder.step(IDS[20]) - expected).max() < near
    model.close()


def test_an_agent_that_knows_only_float_caches_refuses_a_compact_one(bundle_path: Path) -> None:
    """It looks for signatures that are not there, and leaves a field that it does not know."""
    manifest = Bundle.open(bundle_path).manifest
    assert manifest.generator is not None
    older = msgspec.structs.replace(manifest.generator, cache="float32")
    named = {spec.name for spec in manifest.model.signatures}
    assert older.signature("decode", 1, 32) not in named
    assert manifest.generator.signature("decode", 1, 32) in named


def test_an_unknown_release_is_run_in_the_classic_interpreter(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The C API of a release that we do not know is not called."""
    monkeypatch.setattr("ai_edge_litert.__version__", "9.0.0")
    model = GenerativeModel(Bundle.open(bundle_path))
    assert isinstance(engine_of(model), InterpreterEngine)
    model.close()


def test_only_the_signatures_of_one_context_are_loaded(bundle_path: Path, tmp_path: Path) -> None:
    """Growing the cache leaves the smaller size's signatures."""
    model = GenerativeModel(Bundle.open(bundle_path), Options(cache=tmp_path / "weights"))
    engine = engine_of(model)
    assert isinstance(engine, LiteRtEngine)
    assert sorted(engine.loaded) == ["decode8_32", "placed8_8_32", "prefill8_8_32", "prompt_8"]
    model.decoder.prefill(IDS + IDS[:10])
    assert sorted(engine.loaded) == ["decode8_64", "prefill8_8_64"]
    model.decoder.verify(IDS[:3])
    assert sorted(engine.loaded) == ["decode8_64", "placed8_8_64", "prefill8_8_64"]
    model.close()


def everything(model: GenerativeModel) -> list[np.ndarray]:
    """Logits of every signature, in two sizes of the cache."""
    found = []
    for count in (6, 20, 50):
        text = (IDS + IDS)[:count]
        model.decoder.truncate(0)
        model.decoder.prefill(text)
        found += [model.decoder.step(5).copy(), model.decoder.verify(IDS[:3]).copy()]
    return found


def test_a_warm_start_prepares_what_a_short_text_runs(bundle_path: Path, tmp_path: Path) -> None:
    """The others when they are first run, with the same logits to the bit."""
    options = Options(cache=tmp_path / "weights")
    cold = GenerativeModel(Bundle.open(bundle_path), options)
    expected = everything(cold)
    cold.close()
    packed = (tmp_path / "weights").stat()
    warm = GenerativeModel(Bundle.open(bundle_path), options)
    engine = engine_of(warm)
    assert isinstance(engine, LiteRtEngine)
    warm.warm_up()
    warm.decoder.prefill(IDS[:6])
    warm.decoder.step(5)
    assert sorted(engine.loaded) == ["decode8_32", "prompt_8"]
    for row, one in zip(everything(warm), expected, strict=True):
        np.testing.assert_array_equal(row, one)
    assert (tmp_path / "weights").stat() == packed
    warm.close()


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_packed_weights_that_were_cut_are_packed_again_whole(
    kept: float, bundle_path: Path, tmp_path: Path
) -> None:
    """As after a power cut; and what lacks the weights of other signatures does not stay."""
    options = Options(cache=tmp_path / "weights")
    whole = GenerativeModel(Bundle.open(bundle_path), options)
    expected = everything(whole)
    whole.close()
    packed = (tmp_path / "weights").read_bytes()
    (tmp_path / "weights").write_bytes(packed[: int(kept * len(packed))])
    for _ in range(2):
        model = GenerativeModel(Bundle.open(bundle_path), options)
        for row, one in zip(everything(model), expected, strict=True):
            np.testing.assert_array_equal(row, one)
        model.close()
        assert len((tmp_path / "weights").read_bytes()) == len(packed)


def test_packed_weights_that_went_away_do_not_come_back_in_part(
    bundle_path: Path, tmp_path: Path
) -> None:
    """A signature that is prepared later would leave a file without the weights of others."""
    options = Options(cache=tmp_path / "weights")
    GenerativeModel(Bundle.open(bundle_path), options).close()
    model = GenerativeModel(Bundle.open(bundle_path), options)
    expected = model.decoder.step(5).copy()
    (tmp_path / "weights").unlink()
    model.decoder.verify(IDS[:3])
    model.decoder.truncate(0)
    np.testing.assert_array_equal(model.decoder.step(5), expected)
    model.close()
    assert not (tmp_path / "weights").exists()


def test_a_model_answers_again_after_its_cache_could_not_grow(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed preparation ends one text, not the model."""
    model = GenerativeModel(Bundle.open(bundle_path), Options(cache=tmp_path / "weights"))
    decoder = model.decoder
    decoder.prefill(IDS[:20])
    expected = decoder.step(IDS[20]).copy()
    with monkeypatch.context() as patch:

        def fail(*arguments: object) -> None:
            raise RuntimeError("no memory")

        patch.setattr("agent.generate.litert_engine.Model", fail)
        with pytest.raises(RefusedError, match="no memory"):
            decoder.prefill(IDS)
    assert decoder.ids == []
    decoder.prefill(IDS[:20])
    np.testing.assert_allclose(decoder.step(IDS[20]), expected, rtol=1e-3, atol=1e-3)
    model.close()


def test_a_view_is_a_whole_model_of_its_signatures(bundle_path: Path) -> None:
    """Any reader of the format finds the chosen signatures, and only them."""
    from ai_edge_litert.interpreter import Interpreter

    path = bundle_path / "model.tflite"
    view = view_signatures(path, ["prefill8_8_64", "decode8_32"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Interpreter(model_content=bytes(view)).get_signature_list()
    assert sorted(found) == ["decode8_32", "prefill8_8_64"]
    assert "k_0" in found["decode8_32"]["inputs"]


def test_a_view_leaves_the_file_as_it_is(bundle_path: Path) -> None:
    """Only the process's own pages change."""
    path = bundle_path / "model.tflite"
    before = path.read_bytes()
    view = view_signatures(path, ["decode8_64"])
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
