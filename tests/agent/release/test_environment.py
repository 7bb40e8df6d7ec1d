"""Making an environment for a release: what is refused, and that nothing is left of it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent.release import environment
from agent.release.environment import Venvs
from contracts.errors import InputError, RefusedError, UnavailableError
from tests.support.program_wheels import archive


@pytest.fixture
def venvs(tmp_path: Path) -> Venvs:
    """Of this environment."""
    (tmp_path / "home").mkdir()
    scratch = tmp_path / "home/scratch"
    return Venvs(tmp_path / "agent.yaml", Path(sys.prefix), scratch, threading.Event())


def test_what_fills_an_environment_ends_with_its_parent_however_early_that_was() -> None:
    """An agent that is killed must not leave a pip behind, beside that of the next start."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", environment._HUMBLY, "1", sys.executable, "-c", "print(7)"],
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0
    assert done.stdout == b""


def test_an_archive_of_another_version_is_refused(venvs: Venvs, tmp_path: Path) -> None:
    """A name that was signed for other content."""
    made = archive(tmp_path / "w", "0.2.0")
    with pytest.raises(RefusedError, match=r"0\.2\.0"):
        venvs.build(made.path, tmp_path / "made", "0.3.0")
    assert not (tmp_path / "made").exists()


def test_a_wheel_that_is_not_the_listed_one_is_refused(venvs: Venvs, tmp_path: Path) -> None:
    """Before anything of it is installed."""
    made = archive(tmp_path / "w", "0.2.0").path
    data = bytearray(made.read_bytes())
    data[len(data) // 2] ^= 1
    made.write_bytes(data)
    with pytest.raises(InputError, match=r"shoal-0\.2\.0|not a release archive"):
        venvs.build(made, tmp_path / "made", "0.2.0")
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / "home/scratch").exists()


def test_wheels_that_lack_what_they_need_are_refused_and_leave_nothing(
    venvs: Venvs, tmp_path: Path
) -> None:
    """In pip's words: no index is asked for the rest."""
    made = archive(tmp_path / "w", "0.2.0", needs="nothing-like-this")
    with pytest.raises(RefusedError) as caught:
        venvs.build(made.path, tmp_path / "made", "0.2.0")
    assert caught.value.code == "release-install"
    assert "nothing-like-this" in str(caught.value)
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / "home/scratch").exists()


def test_an_agent_that_stops_ends_what_it_is_making(tmp_path: Path) -> None:
    """And goes on with it at its next start."""
    stop = threading.Event()
    stop.set()
    (tmp_path / "home").mkdir()
    venvs = Venvs(tmp_path / "agent.yaml", Path(sys.prefix), tmp_path / "home/scratch", stop)
    with pytest.raises(UnavailableError) as caught:
        venvs.build(archive(tmp_path / "w", "0.2.0").path, tmp_path / "made", "0.2.0")
    assert caught.value.code == "shutting-down"
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "no answer"),
        (b"Traceback", "no answer"),
        (b"[]", "classify: no answer"),
        (b'[{"slot": "classify", "error": {"code": "x", "message": "golden"}}]', "golden"),
        (b'[{"slot": "other", "selftested": {}}]', "classify: no answer"),
    ],
)
def test_a_self_test_that_does_not_vouch_for_a_slot_is_a_failure(said: bytes, why: str) -> None:
    """Whatever it says, or leaves out."""
    assert why in "; ".join(environment._failing(said, ["classify"]))


def test_a_self_test_may_fail_in_a_slot_that_did_not_serve_before() -> None:
    """A release that mends what is broken must get through."""
    said = (
        b'[{"slot": "classify", "selftested": {}},'
        b' {"slot": "broken", "error": {"code": "x", "message": "y"}}]'
    )
    assert environment._failing(said, ["classify"]) == []
