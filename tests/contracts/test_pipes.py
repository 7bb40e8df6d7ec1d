"""Standard streams that nobody reads, that are closed, or whose disk is full."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from contracts import pipes
from fleet.config import FleetConfig
from fleet.folder import Fleet

TINY = Path(__file__).parents[1] / "data" / "tiny-classifier-1.0.0"
TABLE = Path(__file__).parents[2] / "docs" / "tutorials" / "data" / "support.csv"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet's folder."""
    folder = tmp_path_factory.mktemp("pipes") / "home"
    Fleet.init(folder, FleetConfig(fleet="home"))
    return folder


def run_unread(*arguments: str, both: bool = False) -> tuple[int, bytes]:
    """The status and the errors of a program whose output nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer if both else subprocess.PIPE,
            timeout=120,
            check=False,
        )
    finally:
        os.close(writer)
    return done.returncode, done.stderr or b""


@pytest.mark.parametrize(
    "arguments",
    [
        ("fleet", "boards", "list"),
        ("fleet", "boards", "list", "--json"),
        ("fleet", "fleet", "enroll", "kitchen", "--board", "generic-x86-64", "--dir", "HOME"),
        ("fleet", "fleet", "token", "garden", "--board", "generic-x86-64", "--dir", "HOME"),
        ("fleet", "fleet", "tokens", "list", "--dir", "HOME"),
        ("fleet", "fleet", "tokens", "list", "--json", "--dir", "HOME"),
        ("fleet", "fleet", "audit", "--dir", "HOME"),
        ("fleet", "inspect", str(TINY)),
        ("fleet", "inspect", str(TINY), "--json"),
        ("fleet", "classify", str(TINY), "lights on"),
    ],
    ids=lambda given: " ".join(given[1:3]) + (" json" if "--json" in given else ""),
)
def test_commands_end_without_a_word(home: Path, arguments: tuple[str, ...]) -> None:
    """No message, and the status of a program that SIGPIPE ended."""
    status, errors = run_unread(*(str(home) if one == "HOME" else one for one in arguments))
    assert (status, errors) == (pipes.STATUS, b"")


def test_an_error_that_nobody_reads_ends_the_program_too() -> None:
    """With both streams in the pipe."""
    status, _ = run_unread("fleet", "fleet", "devices", "--dir", "/nowhere", both=True)
    assert status in (pipes.STATUS, 1, 2)


def test_a_pipe_of_another_kind_that_breaks_is_an_error() -> None:
    """A broker that broke off is told."""
    with pytest.raises(BrokenPipeError), pipes.quiet():
        reader, writer = os.pipe()
        os.close(reader)
        try:
            os.write(writer, b"x")
        finally:
            os.close(writer)


@pytest.mark.parametrize(
    "arguments",
    [
        ("fleet", "boards", "list"),
        ("fleet", "boards", "list", "--json"),
        ("fleet", "--help"),
        ("fleet", "fleet", "tokens", "list", "--dir", "HOME"),
        ("fleet", "inspect", str(TINY)),
        ("fleet", "classify", str(TINY), "lights on"),
        ("model_builder", "--help"),
    ],
    ids=lambda given: " ".join(Path(one).name for one in given),
)
def test_output_onto_a_full_disk_is_one_error(home: Path, arguments: tuple[str, ...]) -> None:
    """The device that is always full is what a full disk is."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", *(str(home) if one == "HOME" else one for one in arguments)],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=120,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    line, _, rest = done.stderr.partition("\n")
    assert "No space left on device; make room and run it again" in line
    assert not rest


@pytest.mark.parametrize(
    "arguments",
    [
        ("fleet", "boards", "list"),
        ("fleet", "--version"),
        ("fleet", "fleet", "enroll", "cellar", "--board", "generic-x86-64", "--dir", "HOME"),
        ("fleet", "fleet", "tokens", "list", "--dir", "HOME"),
        ("fleet", "inspect", str(TINY)),
        ("fleet", "classify", str(TINY), "lights on"),
        ("fleet", "classify", str(TINY)),
        ("fleet", "init", str(TABLE), "--out", "RECIPE"),
        ("agent", "classify", str(TINY)),
        ("model_builder", "--help"),
    ],
    ids=lambda given: " ".join(Path(one).name for one in given),
)
def test_a_program_without_standard_streams_does_its_work(
    home: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """As a service manager or a script with ``<&- >&- 2>&-`` starts it."""
    places = {"HOME": str(home), "RECIPE": str(tmp_path / "recipe.yaml")}
    command = [sys.executable, "-m", *(places.get(one, one) for one in arguments)]
    done = subprocess.run(
        ["bash", "-c", '"$@" <&- >&- 2>&-', "bash", *command], timeout=120, check=False
    )
    assert done.returncode == 0


def test_what_a_library_prints_is_not_written_into_a_file(tmp_path: Path) -> None:
    """The first file that is opened has the number of a closed stream else."""
    place = tmp_path / "file"
    program = (
        "import os, sys; from contracts import pipes; pipes.complete(); "
        "stream = open(sys.argv[1], 'w'); os.write(1, b'1'); os.write(2, b'2'); stream.write('own')"
    )
    subprocess.run(
        ["bash", "-c", '"$@" <&- >&- 2>&-', "bash", sys.executable, "-c", program, str(place)],
        timeout=120,
        check=True,
    )
    assert place.read_text() == "own"
