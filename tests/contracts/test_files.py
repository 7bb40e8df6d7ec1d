"""Small files that somebody named are read whole, or refused in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from contracts import files
from contracts.errors import InputError


def test_a_file_is_read_whole_up_to_its_cap(tmp_path: Path) -> None:
    """One byte more is too many; a device without an end is told in no time."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert files.read_small(path, cap=100) == b"x" * 100
    for each in (path, Path("/dev/zero")):
        with pytest.raises(InputError, match="over 99 bytes") as raised:
            files.read_small(each, cap=99)
        assert raised.value.code == "too-large"


def test_what_cannot_be_read_says_why_and_what_to_do(tmp_path: Path) -> None:
    """Missing, a folder, a name that no file can have."""
    for path, reason in (
        (tmp_path / "none", "No such file"),
        (tmp_path, "Is a directory"),
        (Path("a\0b"), "null byte"),
    ):
        with pytest.raises(InputError, match=f"cannot read the thing .*{reason}.*; make one") as no:
            files.read_small(path, what="the thing", hint="make one", code="no-thing")
        assert no.value.code == "no-thing"


def test_a_pipe_is_read_to_its_end() -> None:
    """In several pieces, as its writer writes them."""
    reading, writing = os.pipe()
    program = "import os, sys, time\nfor _ in range(3): os.write(1, b'part'); time.sleep(0.05)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=writing):
        os.close(writing)
        assert files.read_small(Path(f"/dev/fd/{reading}")) == b"part" * 3
    os.close(reading)


@pytest.mark.parametrize(
    "command",
    [
        "agent run --config FILE",
        "agent status --config FILE",
        'agent.simulate --fleet f --mqtt {"host":"localhost"} --devices 1 --scenario FILE',
        "fleet fleet rollout create --file FILE --dir /nonexistent",
        "fleet boards files FILE",
        "model_builder build FILE",
    ],
)
def test_a_program_given_a_file_without_an_end_says_so(command: str) -> None:
    """It does not fill the memory first."""
    words = command.replace("FILE", "/dev/zero").split()
    done = subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "/dev/zero is over" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
