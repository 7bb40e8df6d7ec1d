"""What the device stores of its trust: durable, and never believed further than it is signed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.system.filesystem import Disk
from agent.trust.client import Trust
from contracts.errors import RefusedError
from tests.support.tuf_simulator import NOW, Simulator

ROLES = ("root_history/2.root", "timestamp", "snapshot", "targets")


class PowerCut(BaseException):
    """The machine stops."""


def new_trust(repository: Simulator, folder: Path) -> Trust:
    """A process on the disk `folder`."""
    return Trust(folder, repository.first_root, repository.fetch, clock=NOW.timestamp)


def change(repository: Simulator) -> None:
    """A new root with new online keys, a new bundle, all versions up."""
    repository.rotate("timestamp")
    repository.publish_root()
    repository.add_bundle(version=f"1.0.{repository.targets.version}")
    repository.publish()


@pytest.mark.parametrize("calls", range(20))
@pytest.mark.parametrize("operation", ["write", "fsync", "replace"])
def test_a_power_cut_at_any_step_leaves_trust_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, calls: int
) -> None:
    """Cut before each write, flush or rename in turn: then refreshed, and rollback is refused."""
    repository = Simulator()
    new_trust(repository, tmp_path).refresh()
    change(repository)
    count = 0

    def cut(*_: object, **__: object) -> None:
        nonlocal count
        if count == calls:
            raise PowerCut
        count += 1

    with monkeypatch.context() as patch:
        if operation == "replace":
            real_replace = Path.replace
            patch.setattr(Path, "replace", lambda self, to: (cut(), real_replace(self, to))[1])
        elif operation == "fsync":
            real_fsync = os.fsync
            patch.setattr(os, "fsync", lambda handle: (cut(), real_fsync(handle)))
        else:
            real_write = Disk.write

            def torn(self: Disk, path: Path, data: bytes) -> None:
                if count == calls:
                    real_write(self, path, data[:1])
                cut()
                real_write(self, path, data)

            patch.setattr(Disk, "write", torn)
        try:
            new_trust(repository, tmp_path).refresh()
            finished = True
        except PowerCut:
            finished = False
    # Five files are written: each written once, flushed twice (itself and its folder), and
    # the folder of roots is made.
    assert finished == (calls >= {"write": 5, "fsync": 11, "replace": 5}[operation])
    again = new_trust(repository, tmp_path)
    again.refresh()
    repository.timestamp.version -= 1
    repository.publish_timestamp()
    with pytest.raises(RefusedError) as caught:
        again.refresh()
    assert caught.value.code == "rollback"


@pytest.mark.parametrize("name", ROLES)
@pytest.mark.parametrize("damage", [b"", b"{", b"\x00" * 100, b"x" * (600 * 1024)])
def test_a_damaged_file_is_fetched_again(tmp_path: Path, name: str, damage: bytes) -> None:
    """Empty, cut, zeroed by a bad card, or grown: replaced by what the repository has."""
    repository = Simulator()
    change(repository)
    new_trust(repository, tmp_path).refresh()
    file = tmp_path / f"{name}.json"
    before = file.read_bytes()
    file.write_bytes(damage)
    new_trust(repository, tmp_path).refresh()
    assert file.read_bytes() == before


@pytest.mark.parametrize("name", ROLES)
def test_a_planted_file_of_another_fleet_is_not_believed(tmp_path: Path, name: str) -> None:
    """Whoever writes to the folder cannot make the device trust other keys."""
    mine, other = Simulator(), Simulator()
    for repository in (mine, other):
        change(repository)
    new_trust(mine, tmp_path / "mine").refresh()
    new_trust(other, tmp_path / "other").refresh()
    planted = (tmp_path / "other" / f"{name}.json").read_bytes()
    (tmp_path / "mine" / f"{name}.json").write_bytes(planted)
    trust = new_trust(mine, tmp_path / "mine")
    trust.refresh()
    assert (tmp_path / "mine" / f"{name}.json").read_bytes() != planted


def test_the_library_is_not_loaded_before_it_is_needed() -> None:
    """A device that does not update pays neither time nor memory for it."""
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from agent.trust.client import Trust; "
        "from agent.update.http import Http; "
        "Trust(Path('x'), b'', lambda path, cap: b''); "
        "sys.exit(any(name.split('.')[0] in ('tuf', 'urllib3', 'requests') "
        "for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
