"""A command whose reader has gone ends without a word, as ``| head -1`` expects."""

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
