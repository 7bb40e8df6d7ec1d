"""Old 64-bit ARM processors never get the binding that kills the agent there."""

from __future__ import annotations

import platform
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.runtime import processor

# What Linux tells a process there: AT_PAGESZ, AT_HWCAP, AT_NULL.
CORTEX_A72 = struct.pack("<6Q", 6, 4096, 16, 0x887, 0, 0)
"""Raspberry Pi 4: fp asimd evtstrm crc32 cpuid."""
CORTEX_A76 = struct.pack("<6Q", 6, 4096, 16, 0x119FFF, 0, 0)
"""Raspberry Pi 5: also aes, sha2, atomics, half precision, lrcpc, asimddp."""


@pytest.fixture
def old_processor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A board whose processor is not known to be new enough."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(processor, "missing_features", lambda _: ["atomics"])
    processor.runs_binding.cache_clear()
    yield
    processor.runs_binding.cache_clear()


def test_features_are_read_from_the_auxiliary_vector() -> None:
    """By name, as /proc/cpuinfo calls them; a vector without them has none."""
    assert processor.missing_features(CORTEX_A76) == []
    lacks = processor.missing_features(CORTEX_A72)
    assert {"atomics", "asimddp"} <= set(lacks)
    assert "crc32" not in lacks
    assert len(processor.missing_features(b"")) == 9
    assert len(processor.missing_features(CORTEX_A76[:21])) == 9


def test_a_process_may_read_its_own_vector() -> None:
    """It is where the code looks for it, and has the page size in it."""
    vector = Path("/proc/self/auxv").read_bytes()
    assert dict(struct.iter_unpack("@NN", vector))[6] >= 4096


def test_an_old_processor_runs_no_binding(old_processor: None) -> None:
    """Whatever the machine of the tests has."""
    assert not processor.runs_binding()


def test_other_machines_may_use_the_binding() -> None:
    """x86-64, where the tests run."""
    processor.runs_binding.cache_clear()
    if platform.machine() != "aarch64":
        assert processor.runs_binding()
