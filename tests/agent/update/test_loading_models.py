"""What loads: a bundle that passes its self-test does, and what does not is an error of ours."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.generate.litert_engine import LiteRtEngine
from agent.runtime import check, classifier, engine, litert, litert_library, model
from agent.runtime.litert_library import Library
from agent.serving.models import Models
from contracts.bundle import Bundle
from contracts.errors import InputError, RefusedError, ShoalError, UnavailableError
from contracts.manifest import TensorSpec
from tests.support.bundles import rewrite
from tests.support.controller import TINY
from tests.support.tiny_decoder import tiny_bundle

Shape = list[int]


def with_signature(folder: Path, shape: Shape, dtype: str = "int32", name: str = "") -> Bundle:
    """A bundle whose manifest has one signature more, which no golden text reaches."""
    Bundle.open(TINY).extract(folder)
    bundle = Bundle.open(folder)
    facts = bundle.manifest.model
    known = facts.signatures[0]
    ids = TensorSpec(known.inputs[0].name, shape, dtype)
    more = msgspec.structs.replace(known, inputs=[ids], name=name or known.name)
    changed = msgspec.structs.replace(facts, signatures=[*facts.signatures, more])
    return rewrite(bundle, model=changed)


def test_the_self_test_runs_what_no_golden_text_reaches(tmp_path: Path) -> None:
    """The agent does when it loads, and refused there what had passed here."""
    bundle = with_signature(tmp_path / "b", [1, 7])
    with pytest.raises(RefusedError, match=r"must be int32\[1, 96\], not int32\[1, 7\]") as caught:
        model.selftest(bundle)
    assert caught.value.code == "model-failed"


@pytest.mark.parametrize("dtype", ["nonsense", "", "object", "O", "U9", "datetime64[s]", "f8,f8"])
def test_a_dtype_that_no_tensor_has_is_refused_by_name(tmp_path: Path, dtype: str) -> None:
    """Before NumPy sees it, which knows more than tensors have, and raises what it likes."""
    bundle = with_signature(tmp_path / "b", [1, 7], dtype)
    for work in (model.load, model.selftest):
        with pytest.raises(InputError, match="'ids' of signature 'serving_default'") as caught:
            work(bundle)
        assert caught.value.code == "bad-manifest"
        assert repr(dtype) in str(caught.value)


@pytest.mark.parametrize("shape", [[-1], [1, 0], [1] * 9, [1, 2**31], [10**30]], ids=str)
def test_a_shape_that_no_tensor_has_is_refused_by_name(tmp_path: Path, shape: Shape) -> None:
    """The same for its dimensions."""
    bundle = with_signature(tmp_path / "b", shape)
    with pytest.raises(InputError, match="of signature 'serving_default' has the shape") as caught:
        model.load(bundle)
    assert caught.value.code == "bad-manifest"


def test_ids_without_a_length_are_refused_by_name(tmp_path: Path) -> None:
    """A number is a tensor, but no text."""
    with pytest.raises(RefusedError, match="the ids of 'serving_default' have no length"):
        model.load(with_signature(tmp_path / "b", []))


def test_an_array_that_cannot_be_is_refused(tmp_path: Path) -> None:
    """NumPy raises a ValueError for it, whatever the memory."""
    loaded = model.load(with_signature(tmp_path / "b", [2**31 - 1] * 3))
    with pytest.raises(RefusedError, match="warming up failed: ValueError"):
        loaded.warm_up()
    loaded.close()


def test_a_model_over_its_memory_limit_is_refused_by_the_child(tmp_path: Path) -> None:
    """A gigabyte of ids, where Python and the model may have half of it."""
    with_signature(tmp_path / "b", [1, 1 << 28])
    with pytest.raises(RefusedError, match="needs more than") as caught:
        check.run(tmp_path / "b", memory_bytes=1)
    assert caught.value.code == "selftest-memory"


class Panic(BaseException):
    """As the libraries in Rust have one."""


def raiser(error: BaseException) -> Callable[..., Any]:
    """A function that raises."""

    def raising(*_: Any, **__: Any) -> Any:
        raise error

    return raising


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (IndexError("list index out of range"), RefusedError, "model-failed"),
        (AttributeError("no such thing"), RefusedError, "model-failed"),
        (RecursionError("too deep"), RefusedError, "model-failed"),
        (Panic("unwrap"), RefusedError, "model-failed"),
        (ModuleNotFoundError("no tokenizers", name="tokenizers"), UnavailableError, "no-runtime"),
        (ImportError("libfoo.so: undefined symbol"), UnavailableError, "no-runtime"),
        (InputError("bad-tokenizer", "no vocabulary"), InputError, "bad-tokenizer"),
    ],
)
@pytest.mark.parametrize(
    ("owner", "part"),
    [(classifier, "open_front_end"), (engine, "open_model"), (litert.LiteRt, "run")],
    ids=["front end", "runtime", "warm-up"],
)
def test_whatever_loading_raises_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    part: str,
    error: BaseException,
    kind: type[ShoalError],
    code: str,
) -> None:
    """So that it ends no thread of the agent; its cause is in the message."""
    monkeypatch.setattr(owner, part, raiser(error))
    models = Models(model.Options())
    with pytest.raises(ShoalError) as caught:
        models.activate("classify", TINY)
    assert (type(caught.value), caught.value.code) == (kind, code)
    assert str(error) in str(caught.value) or "tokenizers, not installed" in str(caught.value)
    assert models.slots == []


@pytest.mark.parametrize(
    ("owner", "part"),
    [(classifier, "open_front_end"), (litert.LiteRt, "run")],
    ids=["loading", "warm-up"],
)
def test_no_memory_is_no_fault_of_the_bundle(
    monkeypatch: pytest.MonkeyPatch, owner: object, part: str
) -> None:
    """It is what the system refuses for now, as the disk does."""
    monkeypatch.setattr(owner, part, raiser(MemoryError()))
    with pytest.raises(OSError, match="no memory for") as caught:
        model.load(Bundle.open(TINY)).warm_up()
    assert caught.value.errno == errno.ENOMEM


def test_a_file_that_the_disk_does_not_give_is_no_fault_of_the_bundle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor is it the model's."""
    broken = raiser(OSError(errno.EIO, "Input/output error"))
    monkeypatch.setattr(litert_library, "view_signatures", broken)
    with pytest.raises(OSError, match="Input/output error"):
        model.load(Bundle.open(TINY))


def test_a_runtime_that_is_not_whole_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its library was cut short: no bundle can help that."""
    (tmp_path / "libLiteRt.so").write_bytes(b"\x7fELF")
    monkeypatch.setattr(litert_library, "_file", lambda: tmp_path / "libLiteRt.so")
    with pytest.raises(UnavailableError, match=r"litert cannot be used: .*too short") as caught:
        model.load(Bundle.open(TINY))
    assert caught.value.code == "no-runtime"


@pytest.fixture
def environments(monkeypatch: pytest.MonkeyPatch) -> list[Library]:
    """LiteRT's environments that were not closed."""
    opened: list[Library] = []
    create, close = Library.__init__, Library.close

    def creating(self: Library, *means: Any, **more: Any) -> None:
        create(self, *means, **more)
        opened.append(self)

    def closing(self: Library) -> None:
        close(self)
        opened.remove(self)

    monkeypatch.setattr(Library, "__init__", creating)
    monkeypatch.setattr(Library, "close", closing)
    return opened


def test_a_manifest_that_does_not_fit_leaves_no_model_open(
    environments: list[Library], tmp_path: Path
) -> None:
    """It was opened before the signatures were looked for."""
    with pytest.raises(RefusedError, match="the manifest names a signature 'other'"):
        model.load(with_signature(tmp_path / "b", [1, 96], name="other"))
    assert environments == []


def packed_in_memory() -> set[str]:
    """Files of packed weights that this process holds, which have no name in any folder."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if "shoal-weights" in str(entry.readlink()):
                found.add(entry.name)
    return found


def test_weights_packed_in_memory_go_with_the_model(tmp_path: Path) -> None:
    """A device loads one model after the other for months."""
    bundle = tiny_bundle(tmp_path / "base")
    before = packed_in_memory()  # of models that other tests hold
    loaded = model.load(Bundle.open(bundle))
    assert packed_in_memory() - before
    loaded.close()
    assert not packed_in_memory() - before


@pytest.mark.parametrize("kind", [litert.LiteRt, partial(LiteRtEngine, whole=["decode_8"])])
def test_a_file_that_is_no_model_leaves_no_environment_open(
    environments: list[Library], tmp_path: Path, kind: Callable[..., Any]
) -> None:
    """An update that is offered again and again would fill the memory."""
    junk = tmp_path / "model.tflite"
    junk.write_bytes(b"x" * 4096)
    before = packed_in_memory()
    with pytest.raises((RuntimeError, ValueError)):
        kind(junk, threads=1, cache=None)
    assert environments == []
    assert not packed_in_memory() - before


def test_a_tensor_that_cannot_be_made_leaves_none_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its buffers are LiteRT's memory, which nobody else frees."""
    loaded = model.load(Bundle.open(TINY))
    made: list[litert.Buffer] = []
    buffer = litert.Buffer

    def second_fails(*arguments: Any) -> litert.Buffer:
        if made:
            raise RuntimeError("no buffer")
        made.append(buffer(*arguments))
        return made[0]

    monkeypatch.setattr(litert, "Buffer", second_fails)
    with pytest.raises(RefusedError, match="no buffer"):
        loaded.warm_up()
    assert made[0].handle.value is None
    loaded.close()
