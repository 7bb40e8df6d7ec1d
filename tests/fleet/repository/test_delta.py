"""Patches between versions: smaller, and exactly the new file."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.repository import Repository, delta
from tests.support.bundles import noise_bundle, rewrite


def apply(old: bytes, patch: bytes, size: int) -> bytes:
    """What a device does: the old file as the dictionary."""
    dictionary = zstandard.ZstdCompressionDict(old, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdDecompressor(dict_data=dictionary).decompress(patch, max_output_size=size)


@settings(max_examples=200, deadline=None)
@given(old=st.binary(max_size=3000), new=st.binary(max_size=3000))
def test_a_patch_makes_the_new_file_and_is_smaller(old: bytes, new: bytes) -> None:
    """Or there is none."""
    patch = delta.make(old, new)
    if patch is not None:
        assert len(patch) < len(new)
        assert apply(old, patch, len(new)) == new


def test_a_patch_of_a_retrained_part_is_a_fraction_of_the_file() -> None:
    """2 MB of noise of which a tenth changed, in one place and scattered."""
    noise = random.Random(0)
    old = noise.randbytes(2_000_000)
    new = bytearray(old)
    new[500_000:600_000] = noise.randbytes(100_000)
    for place in range(0, 2_000_000, 20_000):
        new[place] ^= 255
    patch = delta.make(old, bytes(new))
    assert patch is not None
    assert len(patch) < 0.1 * len(new)
    assert apply(old, patch, len(new)) == bytes(new)


def test_an_old_file_reaches_over_its_whole_length() -> None:
    """The first bytes of a large old file are found from the end of the new one."""
    old = random.Random(1).randbytes(9_000_000)
    new = old[5_000_000:] + old[:1_000_000]
    patch = delta.make(old, new)
    assert patch is not None and len(patch) < 10_000
    assert apply(old, patch, len(new)) == new


@pytest.mark.parametrize("old_new", [(b"", b"x" * 100), (b"x" * 100, b"")])
def test_there_is_no_patch_from_or_to_nothing(old_new: tuple[bytes, bytes]) -> None:
    """An empty file is fetched whole."""
    assert delta.make(*old_new) is None


def test_publishing_makes_patches_from_the_version_before(tmp_path: Path) -> None:
    """For files that changed; the patch is served under both hashes."""
    repository = Repository.create(tmp_path / "r", tmp_path / "k")
    old = noise_bundle(tmp_path / "a", size=50_000)
    repository.publish(old)
    new = noise_bundle(tmp_path / "b", size=50_000, version="1.1.0")
    model = new.path / "model.tflite"
    model.write_bytes(model.read_bytes()[:40_000] + random.Random(5).randbytes(10_000))
    from contracts.bundle import file_entries

    new = rewrite(new, files=file_entries([model, new.path / "golden.json"]))
    repository.publish(new)
    before, after = old.entry("model.tflite"), new.entry("model.tflite")
    deltas = list((repository.folder / "deltas").iterdir())
    assert [path.name for path in deltas] == [f"{before.sha256}-{after.sha256}.zst"]
    block = repository.read(f"deltas/{deltas[0].name}", 0, 10**6)
    assert block.total < 15_000
    assert apply(old.read("model.tflite"), block.data, after.size) == new.read("model.tflite")


def test_noise_gets_no_patch(tmp_path: Path) -> None:
    """Nothing in common: the whole file is smaller than a patch."""
    repository = Repository.create(tmp_path / "r", tmp_path / "k")
    repository.publish(noise_bundle(tmp_path / "a", seed=1))
    repository.publish(noise_bundle(tmp_path / "b", seed=2, version="1.1.0"))
    assert list((repository.folder / "deltas").iterdir()) == []
