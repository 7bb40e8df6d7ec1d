"""Board profiles: all load, and a bundle's misfit is named."""

from pathlib import Path

import msgspec
import pytest

from contracts import board
from contracts.bundle import Bundle
from contracts.errors import InputError
from tests.support.bundles import noise_bundle

DATA = Path("tests/data")


@pytest.mark.parametrize("name", board.names())
def test_a_profile_is_valid_and_has_a_source(name: str) -> None:
    """Every file follows the schema and says where its figures come from."""
    profile = board.load(name)
    assert profile.source
    assert profile.threads <= profile.cores
    assert profile.model_ram_bytes <= profile.ram_bytes


@pytest.mark.parametrize("name", board.names())
def test_a_profile_says_where_each_of_its_figures_is_from(name: str) -> None:
    """Cores, memory and flash have a line of their own; the reference machine is our own."""
    profile = board.load(name)
    if name == "generic-x86-64":
        return
    figures = ["cores", "ram_bytes"] + ["flash_bytes"] * (profile.flash_bytes > 0)
    for figure in figures:
        assert any(figure in line.split(":")[0] for line in profile.source), figure


@pytest.mark.parametrize("name", board.names())
def test_the_kind_of_a_board_is_that_of_its_runtimes(name: str) -> None:
    """An agent's kind needs that agent's runtime; without an agent there is C alone."""
    profile = board.load(name)
    assert ("micropython" in profile.runtimes) == (profile.kind == "micropython")
    linux = {"litert", "tflite-runtime"} & set(profile.runtimes)
    assert bool(linux) == (profile.kind == "linux")


def test_a_board_without_an_agent_joins_no_fleet() -> None:
    """It is a profile for the C pack; the error says so."""
    assert board.load_for_agent("pico-2-w").kind == "micropython"
    with pytest.raises(InputError, match="no agent runs on nucleo-f446re") as refused:
        board.load_for_agent("nucleo-f446re")
    assert refused.value.code == "wrong-board"


def test_a_board_without_an_agent_holds_classifiers_in_c_alone() -> None:
    """A microcontroller's arena counts; a generator has no C pack."""
    nucleo = board.load("nucleo-f446re")
    classifier = Bundle.open(DATA / "tiny-classifier-1.0.0").manifest
    generator = Bundle.open(DATA / "status-lines-1.0.0").manifest
    assert board.misfits(classifier, nucleo) == []
    small = msgspec.structs.replace(nucleo, model_ram_bytes=1000)
    assert [m.what for m in board.misfits(classifier, small)] == ["memory"]
    assert [m.what for m in board.misfits(generator, nucleo)] == ["front end"]
    assert board.misfits(generator, board.load("pico-2-w")) == []


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
