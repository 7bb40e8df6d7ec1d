"""What the store remembers of slots and links is what is on the disk, whoever asks when."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.system.filesystem import Disk
from agent.update.store import Store
from contracts.bundle import MANIFEST, Bundle
from tests.support.controller import TINY

SHA256 = Bundle.open(TINY).ref.manifest_sha256
OTHER = "0" * 64


class Watched(Disk):
    """Calls something before a rename, as another thread could; counts reads."""

    def __init__(self) -> None:
        self.before: Callable[[], object] = lambda: None
        self.reads = 0

    def rename(self, old: Path, new: Path) -> None:
        """As the disk."""
        self.before()
        super().rename(old, new)

    def link_target(self, path: Path) -> str | None:
        """As the disk."""
        self.reads += 1
        return super().link_target(path)


@pytest.fixture
def disk() -> Watched:
    """A disk that is watched."""
    return Watched()


@pytest.fixture
def store(disk: Watched, tmp_path: Path) -> Store:
    """A store with the tiny bundle's release, current in one slot."""
    one = Store(disk, tmp_path)
    one.prepare()
    one.fs.make_folder(one.folder(SHA256))
    one.fs.write(one.folder(SHA256) / MANIFEST, (TINY / MANIFEST).read_bytes())
    one.link("classify", "current", SHA256)
    return one


def test_what_does_not_change_is_read_once(store: Store, disk: Watched) -> None:
    """Reports are asked for many times in an update."""
    first = store.reports()
    assert first["classify"].active == Bundle.open(TINY).ref
    disk.reads = 0
    assert store.reports() == first
    assert disk.reads == 0


def test_a_change_is_seen(store: Store) -> None:
    """Another link, another slot, none, a release that is gone."""
    assert store.report("classify").previous is None
    store.link("classify", "previous", SHA256)
    assert store.report("classify").previous == Bundle.open(TINY).ref
    store.link("generate", "current", OTHER)
    assert store.slots() == ["classify", "generate"]
    store.link("classify", "previous", None)
    assert store.linked("classify", "previous") is None
    store.drop_damaged(SHA256)
    assert store.report("classify").active is None


def test_who_asks_in_the_middle_of_a_change_remembers_nothing_old(
    store: Store, disk: Watched
) -> None:
    """The network thread reports while the updater links."""
    disk.before = store.reports
    store.link("classify", "current", OTHER)
    assert store.linked("classify", "current") == OTHER


def test_who_reads_while_a_change_happens_remembers_nothing_old(
    store: Store, disk: Watched
) -> None:
    """The reading is slower than the whole change."""
    store._forget()
    real = disk.link_target

    def slow(path: Path) -> str | None:
        target = real(path)
        disk.link_target = real  # type: ignore[method-assign]
        store.link("classify", "current", OTHER)
        return target

    disk.link_target = slow  # type: ignore[method-assign]
    assert store.linked("classify", "current") == SHA256
    assert store.linked("classify", "current") == OTHER


def test_a_change_that_fails_is_read_again(store: Store, disk: Watched) -> None:
    """Whether it reached the disk or not."""

    def refuse() -> None:
        raise OSError(errno.EIO, "refused")

    store.report("classify")
    disk.before = refuse
    with pytest.raises(OSError, match="refused"):
        store.link("classify", "current", OTHER)
    assert store.linked("classify", "current") == SHA256
