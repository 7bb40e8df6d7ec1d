"""Releases of the agent that a fleet keeps: signed targets, each change with its entry."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from contracts import __version__, release
from contracts import board as boards
from contracts.release import ReleaseArchive
from fleet.folder import Fleet
from fleet.joining import micro, wheelhouse
from fleet.repository import releases
from fleet.repository.releases import Published
from fleet.store import audit
from fleet.store.audit import Act
from fleet.store.entries import Actor


def add(
    fleet: Fleet, archive: Path, *, replace: bool = False, actor: Actor | None = None
) -> Published:
    """Signs a release archive and keeps it.

    Raises:
        ShoalError: what the archive and the repository refuse.
    """
    with _acting(fleet, "agent.publish", archive.name, actor) as act:
        return _publish(fleet, archive, act, replace=replace)


def _publish(fleet: Fleet, archive: Path, act: Act, *, replace: bool) -> Published:
    opened = ReleaseArchive.open(archive)
    act.target = opened.release.target[:200]
    return releases.publish(fleet.open_repository(), opened, replace=replace)


def fetch(
    fleet: Fleet,
    platform: str,
    python: str,
    *,
    extra_indexes: Sequence[str] = (),
    replace: bool = False,
    quiet: bool = False,
) -> tuple[Published, bool]:
    """Fetches the wheels of this version of the agent for a platform, and signs them.

    What is signed already is not fetched again.

    Returns:
        The release, and whether it is new.

    Raises:
        ShoalError: what :func:`fleet.joining.wheelhouse.gather` and :func:`add` raise.
    """
    name = release.target(__version__, platform, python)
    known = {one.target: one for one in releases.published(fleet.open_repository())}
    if name in known and not replace:
        return known[name], False
    with (
        tempfile.TemporaryDirectory(dir=fleet.folder, prefix=".agent.") as folder,
        _acting(fleet, "agent.publish", name, None) as act,
    ):
        archive = Path(folder) / "release.zip"
        wheelhouse.gather(archive, platform, python, extra_indexes=extra_indexes, quiet=quiet)
        return _publish(fleet, archive, act, replace=replace), True


def compile_for(fleet: Fleet, board: str, *, replace: bool = False) -> tuple[Published, bool]:
    """Compiles the agent for a board with MicroPython, and signs it.

    Returns:
        The release, and whether it is new.

    Raises:
        ShoalError: what :func:`fleet.joining.micro.publish` raises.
    """
    repository, code = fleet.open_repository(), micro.code_of(board)
    for one in releases.published(repository):
        if (one.version, one.platform) == (__version__, code) and not replace:
            return one, False
    with _acting(fleet, "agent.publish", board, None) as act:
        found = micro.publish(repository, boards.load(board).architecture, replace=replace)
        act.target = found.target
        return found, True


def withdraw(fleet: Fleet, target: str, actor: Actor | None = None) -> None:
    """Takes a release out of the signed list.

    Raises:
        InputError: ``no-such-release``.
    """
    with _acting(fleet, "agent.withdraw", target, actor):
        releases.withdraw(fleet.open_repository(), target)


@contextlib.contextmanager
def _acting(fleet: Fleet, action: str, target: str, actor: Actor | None) -> Iterator[Act]:
    store = fleet.open_store()
    with (
        contextlib.closing(store),
        audit.acting(store, actor or audit.local(), action, target[:200]) as act,
    ):
        yield act
