"""The agent's wheels for other machines: pip's choice, told the other machine's conditions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from contracts import __version__, release
from contracts.errors import InputError, UnavailableError
from contracts.release import ReleaseArchive
from fleet.cli.app import app
from fleet.folder import Fleet
from fleet.joining import own_wheel, wheelhouse
from fleet.repository import releases
from tests.support.wheels import make_wheel

NEEDS = [
    "needed>=1",
    "for-arm>=1; platform_machine == 'aarch64'",
    "for-intel>=1; platform_machine == 'x86_64'",
    "for-old>=1; python_version < '3.13'",
]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all that pip knows, and an agent that needs some of them."""
    folder = tmp_path / "index"
    arm = "cp313-cp313-manylinux_2_28_aarch64"
    make_wheel(folder, "needed", "1.1", tag=arm)
    make_wheel(folder, "needed", "1.2", tag="cp313-cp313-manylinux_2_28_x86_64")
    make_wheel(folder, "for_arm", "1.0", tag=arm, requires=("deeper; sys_platform == 'linux'",))
    make_wheel(folder, "deeper", "1.0")
    make_wheel(folder, "pip", "99.0")
    monkeypatch.setattr(own_wheel, "requirements", lambda: NEEDS)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """A fleet's folder."""
    done = CliRunner().invoke(app, ["fleet", "init", str(tmp_path / "home")])
    assert done.exit_code == 0, done.stderr
    return tmp_path / "home"


def _fetch(fleet: Path, *options: str) -> subprocess.CompletedProcess[str]:
    done = CliRunner().invoke(app, ["fleet", "agent", "fetch", *options, "--dir", str(fleet)])
    return subprocess.CompletedProcess([], done.exit_code, done.stdout, done.stderr)


def test_conditions_are_judged_for_the_board_and_not_for_this_machine(
    index: Path, fleet: Path
) -> None:
    """Each wheel is the board's, with what it needs there; sizes are shown."""
    done = _fetch(fleet, "--platform", "raspberry-pi-5", "--python", "3.13")
    assert done.returncode == 0, done.stderr
    assert "for aarch64 and Python 3.13, 5 wheels" in done.stdout
    listed = json.loads(
        CliRunner().invoke(app, ["fleet", "agent", "list", "--json", "--dir", str(fleet)]).stdout
    )
    assert [one["target"] for one in listed] == [f"agent/{__version__}/aarch64-cp313.zip"]
    found = ReleaseArchive.open(fleet / "repository" / listed[0]["path"])
    assert sorted(one.file.split("-")[0] for one in found.release.wheels) == [
        "deeper", "for_arm", "needed", "pip", "shoal",
    ]  # fmt: skip
    again = _fetch(fleet, "--platform", "aarch64", "--python", "cp313")
    assert "Signed already" in again.stdout


def test_a_wheel_that_is_nowhere_is_named_with_what_needs_it(index: Path, fleet: Path) -> None:
    """And nothing is signed, nothing is left behind."""
    for file in index.glob("for_arm*"):
        file.unlink()
    done = _fetch(fleet, "--platform", "aarch64", "--python", "3.13")
    assert done.returncode == 2
    assert "no ready-made wheel of for-arm>=1" in done.stderr
    assert "for aarch64 and Python 3.13" in done.stderr
    assert "[no-wheel]" in done.stderr
    assert not list(fleet.glob(".agent*"))
    assert not list((fleet / "repository/blobs").iterdir())


def test_a_board_for_which_nothing_runs_models_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, index: Path, fleet: Path
) -> None:
    """By what this installation needs: before a byte is fetched, whatever index is given."""
    monkeypatch.undo()
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # the refusal needs none
    for version in ("3.12", "3.13", "3.14"):
        done = _fetch(fleet, "--platform", "raspberry-pi-zero-2w-32", "--python", version)
        assert done.returncode == 2
        assert "ai-edge-litert or tflite-runtime for armv7l" in done.stderr
        assert "[no-wheel]" in done.stderr
    for platform, python in [("armv7l", "cp311"), ("aarch64", "cp314"), ("x86-64", "cp314")]:
        wheelhouse._check_runtime(platform, python)


def test_a_board_with_micropython_is_compiled_for_and_its_release_is_one_like_others(
    fleet: Path,
) -> None:
    """Signed by the native code of the board; a Python is asked for of Linux boards alone."""
    done = _fetch(fleet, "--platform", "esp32-s3")
    assert done.returncode == 0, done.stderr
    assert f"Signed: agent {__version__} for MicroPython, xtensawin and mpy6" in done.stdout
    assert "Signed already" in _fetch(fleet, "--platform", "esp32-s3").stdout
    (found,) = releases.published(Fleet.open(fleet).open_repository())
    words = ["fleet", "agent", "withdraw", __version__, "--platform", "esp32-s3"]
    gone = CliRunner().invoke(app, [*words, "--python", found.python, "--dir", str(fleet)])
    assert gone.exit_code == 0, gone.stderr
    assert "[bad-python]" in _fetch(fleet, "--platform", "raspberry-pi-5").stderr


def test_a_wheel_that_broke_off_is_no_part_of_a_release(index: Path, fleet: Path) -> None:
    """Pip reads what it got; half a file is none."""
    (file,) = index.glob("for_arm*")
    file.write_bytes(file.read_bytes()[:-200])
    done = _fetch(fleet, "--platform", "aarch64", "--python", "3.13")
    assert done.returncode == 1
    assert "pip could not fetch the wheels" in done.stderr
    assert not list((fleet / "repository/blobs").iterdir())


@pytest.mark.parametrize(
    ("name", "platform"),
    [
        ("raspberry-pi-5", "aarch64"),
        ("raspberry-pi-zero-2w-32", "armv7l"),
        ("jetson-orin-nano", "aarch64"),
        ("generic-x86-64", "x86-64"),
        ("armv7l", "armv7l"),
    ],
)
def test_a_board_has_a_platform(name: str, platform: str) -> None:
    """Board profiles and platforms are both understood."""
    assert wheelhouse.platform_of(name) == platform


def test_boards_and_pythons_that_have_no_release_are_refused() -> None:
    """Each with what is expected."""
    with pytest.raises(InputError, match=r"unknown platform 'pi'; known: x86-64, .*raspberry-pi-5"):
        wheelhouse.platform_of("pi")
    with pytest.raises(InputError, match="runs no Python agent"):
        wheelhouse.platform_of("esp32-s3")
    assert wheelhouse.python_of("3.13") == wheelhouse.python_of("3.13.2") == "cp313"
    for text in ("2.7", "3.9", "cp39", "3.99", "three"):
        with pytest.raises(InputError, match=r"expected one of 3\.10"):
            wheelhouse.python_of(text)


def test_the_own_wheel_is_an_agent_without_the_rest(tmp_path: Path) -> None:
    """Pip installs it; the agent's command runs from it alone, beside what it needs."""
    wheel = own_wheel.build(tmp_path)
    before = wheel.read_bytes()
    assert own_wheel.build(tmp_path).read_bytes() == before
    assert release.WheelEntry(wheel.name, "0" * 64, 1).runs_on("armv7l", "cp311")
    there = tmp_path / "there"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--disable-pip-version-check", "--target", str(there), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    assert not (there / "fleet").exists()
    assert (there / "firmware_configs/linux/shoal-agent.service").is_file()
    done = subprocess.run(
        [sys.executable, "-c", "import agent, sys; print(agent.__file__)"],
        env={"PYTHONPATH": str(there), "PATH": os.environ["PATH"]},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(there))
    assert not any("extra" in line for line in own_wheel.requirements())


@pytest.mark.slow
def test_the_index_has_what_the_agent_needs_on_a_raspberry_pi(tmp_path: Path) -> None:
    """Really fetched, for 64-bit ARM and the Python of Raspberry Pi OS 13."""
    _need_index(tmp_path)
    archive = tmp_path / "release.zip"
    try:
        found = wheelhouse.gather(archive, "aarch64", "cp313", quiet=True)
    except UnavailableError as error:
        pytest.skip(f"no package index here: {error}")
    ReleaseArchive.open(archive, platform="aarch64", python="cp313").verify()
    names = {one.distribution for one in found.wheels}
    assert {"shoal", "pip", "ai-edge-litert", "numpy", "cryptography", "tuf"} <= names
    assert not {"tensorflow", "fastapi", "tflite-runtime"} & names


def _need_index(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "idna"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--retries=0", "--timeout=5", "-d", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no package index here: {done.stderr[-200:]}")
