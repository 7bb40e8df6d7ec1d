"""Accelerators are tried in a child: what answers alike and faster passes, and nothing else."""

from __future__ import annotations

from pathlib import Path

import ai_edge_litert
import pytest

from agent.children import helper
from agent.children.helper import Helper
from agent.runtime import acceleration
from agent.runtime.litert_library import HARDWARE, Library
from contracts.bundle import Bundle
from contracts.messages import Acceleration
from tests.support.fake_accelerator import WHEEL, fake_accelerator

OUTCOMES = {
    "WRONG": "accelerator-wrong",
    "SLOW": "accelerator-slow",
    "CRASH_AT_LOAD": "accelerator-crashed",
    "CRASH_AT_RUN": "accelerator-crashed",
    "NO_SYMBOL": "accelerator-failed",
    "REFUSES": "accelerator-failed",
}
"""How a library behaves -> the code of the reason why it is not used."""


def code(found: Acceleration) -> str:
    """Of the reason why it is not used."""
    assert not found.used
    assert found.reason is not None
    return found.reason.code


def test_a_delegate_that_answers_alike_and_faster_is_used(
    slow_model: Bundle, tmp_path: Path
) -> None:
    """It is named by its file, and its speed is said as a ratio."""
    library = fake_accelerator(tmp_path / "libfake.so", slow_model, "WORKS")
    found = acceleration.attempt(slow_model.path, str(library))
    assert found.used, found
    assert found.name == "libfake.so"
    assert found.speedup >= acceleration.GAIN
    assert found.max_steps == 0
    assert found.reason is None


def test_answers_within_the_tolerance_count_as_alike(slow_model: Bundle, tmp_path: Path) -> None:
    """Two steps off in every output, all labels the same."""
    library = fake_accelerator(tmp_path / "libfake.so", slow_model, "NEAR")
    found = acceleration.attempt(slow_model.path, str(library))
    assert found.used, found
    assert found.max_steps == acceleration.MAX_STEPS


@pytest.mark.parametrize("behaviour", OUTCOMES)
def test_a_delegate_that_misbehaves_is_not_used(
    slow_model: Bundle, tmp_path: Path, behaviour: str
) -> None:
    """And this process lives on."""
    library = fake_accelerator(tmp_path / "libfake.so", slow_model, behaviour)
    assert code(acceleration.attempt(slow_model.path, str(library))) == OUTCOMES[behaviour]


@pytest.mark.parametrize("behaviour", ["HANG_AT_LOAD", "HANG_AT_RUN"])
def test_a_delegate_that_hangs_is_killed(
    slow_model: Bundle, tmp_path: Path, behaviour: str
) -> None:
    """After the seconds that it has."""
    library = fake_accelerator(tmp_path / "libfake.so", slow_model, behaviour)
    found = acceleration.attempt(slow_model.path, str(library), seconds=8)
    assert code(found) == "accelerator-timeout"


def test_a_library_that_is_not_there_or_none_is_said(slow_model: Bundle, tmp_path: Path) -> None:
    """The message names it."""
    (tmp_path / "libtext.so").write_text("not a library")
    for name in ("libnone.so", "libtext.so"):
        found = acceleration.attempt(slow_model.path, str(tmp_path / name))
        assert code(found) == "accelerator-failed"
        assert found.reason is not None
        assert name in found.reason.message


def test_what_litert_offers_itself_is_tried(
    slow_model: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel with an accelerator's library that LiteRT finds before its own."""
    for behaviour, wanted in {"WORKS": "", "WRONG": "accelerator-wrong"}.items():
        site = tmp_path / behaviour
        wheel = site / "ai_edge_litert"
        wheel.mkdir(parents=True)
        for file in WHEEL.iterdir():
            (wheel / file.name).symlink_to(file)
        fake_accelerator(site / "libLiteRtGpuAccelerator.so", slow_model, behaviour, wheel)
        (wheel / "libLiteRtGpuAccelerator.so").symlink_to(site / "libLiteRtGpuAccelerator.so")
        with monkeypatch.context() as patched:
            patched.setenv("PYTHONPATH", str(site))
            one = Helper(idle_s=0.1)
            patched.setattr(helper, "start", one.start)
            found = acceleration.attempt(slow_model.path, "gpu")
        assert found.name == "gpu"
        assert found.used == (not wanted), found
        assert not wanted or code(found) == wanted


def test_the_processor_alone_is_offered_unless_asked_for_more() -> None:
    """No library of an accelerator is looked for where none was asked for."""
    library = Library(1, None)
    try:
        assert list(library.offered().values()) == [1]
    finally:
        library.close()


@pytest.mark.skipif(not ai_edge_litert.__version__.startswith("2.3."), reason="of release 2.3")
def test_the_real_wheel_is_asked_and_nothing_of_it_harms(slow_model: Bundle) -> None:
    """It has a library for GPUs; this machine has no driver for it, or a slow one, or a fast one.

    Whatever it is, there is an answer, and a reason wherever it is not used.
    """
    for kind in HARDWARE:
        found = acceleration.attempt(slow_model.path, kind)
        assert found.used or code(found).startswith("accelerator-")
