"""Board profiles: all load, and a bundle's misfit is named."""

from pathlib import Path

import msgspec
import pytest

from contracts import board
from contracts.errors import InputError
from tests.support.bundles import noise_bundle


@pytest.mark.parametrize("name", board.names())
def test_a_profile_is_valid_and_has_a_source(name: str) -> None:
    """Every file follows the schema and says where its figures come from."""
    profile = board.load(name)
    assert profile.source
    assert profile.threads <= profile.cores
    assert profile.model_ram_bytes <= profile.ram_bytes


def test_an_unknown_board_lists_the_known_ones() -> None:
    """The error helps."""
    with pytest.raises(InputError, match=r"known: .*raspberry-pi-5"):
        board.load("raspbery-pi-5")


@pytest.mark.parametrize("name", ["../pyproject", "", "a/b"])
def test_a_board_name_is_no_path(name: str) -> None:
    """Only known names are read."""
    with pytest.raises(InputError):
        board.load(name)


def test_a_misfit_names_what_is_missing(tmp_path: Path) -> None:
    """Too little memory and storage, no runtime, another board."""
    manifest = noise_bundle(tmp_path / "b").manifest
    profile = board.load("raspberry-pi-5")
    assert board.misfits(manifest, profile) == []
    tight = msgspec.structs.replace(
        profile, model_ram_bytes=10, model_flash_bytes=10, quantizations=["float32"]
    )
    assert [m.what for m in board.misfits(manifest, tight)] == ["quantisation", "memory", "storage"]
    other = msgspec.structs.replace(manifest, boards=["esp32-s3"])
    assert [m.what for m in board.misfits(other, profile)] == ["board"]
    assert "needs esp32-s3, the board has raspberry-pi-5" in str(board.misfits(other, profile)[0])
