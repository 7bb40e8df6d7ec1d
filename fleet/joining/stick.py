"""A folder for a USB stick: a board installs and becomes its device without the controller.

The installer is the one that boards fetch; beside it lie the signed releases for the board's
platform and the device's ``agent.yaml``, whose key was made here. After the board has taken it, the
installer takes it off the stick: it is for one board.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from contracts.errors import InputError
from fleet import durable
from fleet.folder import Fleet
from fleet.joining import installer, wheelhouse
from fleet.joining.invitations import Wanted, check_board
from fleet.membership import replacing
from fleet.repository import releases
from fleet.repository.releases import Published
from fleet.store.entries import Actor

INSTALL: Final = "install.py"
CONFIG: Final = "agent.yaml"


def write(
    fleet: Fleet, wanted: Wanted, folder: Path, *, replace: bool = False, actor: Actor | None = None
) -> list[str]:
    """Enrols a device and writes its folder; the names of its files.

    Raises:
        InputError: ``no-release``, ``file-exists``, and what enrolling raises.
    """
    check_board(wanted.board)
    found = _releases(fleet, wanted.board)
    if (folder / CONFIG).exists():
        raise InputError(
            "file-exists",
            f"{folder / CONFIG} is of a device that was not installed yet: use an empty folder",
        )
    durable.make_folder(folder)
    repository = fleet.open_repository()
    # The key comes last: without it the folder makes no device.
    for one in found:
        durable.write(folder / f"{one.sha256}.zip", (repository.folder / one.path).read_bytes())
    plan: dict[str, Any] = {
        "fleet": fleet.config.fleet,
        "device": wanted.device,
        "board": wanted.board,
        "releases": [
            {
                "version": one.version,
                "platform": one.platform,
                "python": one.python,
                "sha256": one.sha256,
                "size": one.size,
            }
            for one in found
        ],
    }
    durable.write(folder / INSTALL, installer.render(fleet, plan).encode())
    replacing.admit(
        fleet,
        wanted.device,
        wanted.board,
        labels=wanted.labels,
        groups=wanted.groups,
        out=folder / CONFIG,
        replace=replace,
        actor=actor,
    )
    return sorted(path.name for path in folder.iterdir())


def _releases(fleet: Fleet, board: str) -> list[Published]:
    """The newest release for each Python of a board's platform."""
    platform = wheelhouse.platform_of(board)
    repository = fleet.open_repository()
    pythons = {one.python for one in releases.published(repository) if one.platform == platform}
    found = [releases.newest(repository, platform, python) for python in sorted(pythons)]
    kept = [one for one in found if one is not None]
    if not kept:
        raise InputError(
            "no-release",
            f"the fleet keeps no agent for {platform}: run first `shoal fleet agent fetch "
            f"--platform {board} --python VERSION` with the Python of the board",
        )
    return kept
