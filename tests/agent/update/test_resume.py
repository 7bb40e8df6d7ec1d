"""Progress is never thrown away: attempts, rollouts and restarts go on where the last one ended.

Over 400 lines: every interruption is of the same download.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from agent.system.clock import EARLIEST
from agent.system.filesystem import Disk
from agent.update import delta as apply_delta
from agent.update import leftovers
from agent.update.download import SYNC_S, WRITE_S
from agent.update.fetch import Transfer
from contracts import board as boards
from contracts.bundle import MANIFEST, Bundle, file_entries
from contracts.errors import RefusedError, UnavailableError
from contracts.messages import BundleRef
from fleet.repository import delta
from tests.support.bundles import rewrite
from tests.support.controller import TINY, TINY_NEXT
from tests.support.engine import MemoryRepository, Rig

OLD = Bundle.open(TINY).ref
SIZE = 400_000


class Breaking(MemoryRepository):
    """Breaks off a file after some bytes, while it is told to."""

    def __init__(self, *folders: Path) -> None:
        super().__init__(*folders)
        self.left: int | None = None
        self.then: Callable[[], None] = self._cut

    def _cut(self) -> None:
        raise UnavailableError("repository-unreachable", "cut")

    def open(self, path: str, offset: int = 0) -> Transfer:
        """As the repository, for so many bytes of all files."""
        transfer = super().open(path, offset)

        def pieces() -> object:
            for piece in transfer.chunks:
                yield piece
                if self.left is not None:
                    self.left -= len(piece)
                    if self.left <= 0:
                        self.left = None
                        self.then()

        return Transfer(transfer.total, pieces())  # type: ignore[arg-type]


@pytest.fixture
def big(tmp_path: Path) -> Bundle:
    """The tiny bundle with 400 KB more."""
    return _bundle(tmp_path / "big", "3.0.0", 0)


def _bundle(folder: Path, version: str, seed: int, size: int = SIZE) -> Bundle:
    Bundle.open(TINY_NEXT).extract(folder)
    (folder / "extra.bin").write_bytes(random.Random(seed).randbytes(size))
    files = file_entries(p for p in folder.iterdir() if p.name != MANIFEST)
    return rewrite(Bundle.open(folder), version=version, files=files)


def _start(folder: Path, repository: MemoryRepository, **options: object) -> Rig:
    root = folder / "state"
    root.mkdir(exist_ok=True)
    rig = Rig(Disk(), root, repository, **options)
    rig.engine.recover()
    return rig


def _running(folder: Path, repository: MemoryRepository, **options: object) -> Rig:
    rig = _start(folder, repository, **options)
    rig.want(OLD, 1)
    rig.settle()
    return rig


def _begin_and_take_back(rig: Rig, repository: Breaking, ref: BundleRef, revision: int) -> None:
    """A rollout of `ref` that gets half way and is taken back, as after a deadline."""
    repository.left = SIZE // 2
    repository.then = lambda: rig.want(OLD, revision + 1)
    rig.want(ref, revision)
    rig.settle()
    assert rig.active() == OLD and rig.engine.journal.reached == revision + 1


@pytest.mark.parametrize("restart", [False, True])
def test_another_attempt_goes_on_where_the_one_that_was_taken_back_ended(
    tmp_path: Path, big: Bundle, restart: bool
) -> None:
    """A newer document ends the download; the next one that wants it fetches only the rest."""
    repository = Breaking(TINY, big.path)
    rig = _running(tmp_path, repository)
    before = repository.sent
    _begin_and_take_back(rig, repository, big.ref, 2)
    if restart:
        rig.close()
        rig = _start(tmp_path, repository)
        rig.settle()
    rig.want(big.ref, 4)
    rig.settle()
    assert rig.active() == big.ref
    assert repository.sent - before == sum(e.size for e in big.manifest.files)


def test_another_version_in_between_costs_nothing(tmp_path: Path, big: Bundle) -> None:
    """Nor does the update that it is for: files are found by their content."""
    repository = Breaking(TINY, big.path, TINY_NEXT)
    rig = _running(tmp_path, repository)
    _begin_and_take_back(rig, repository, big.ref, 2)
    rig.want(Bundle.open(TINY_NEXT).ref, 4)
    rig.settle()
    before = repository.sent
    rig.want(big.ref, 5)
    rig.settle()
    assert rig.active() == big.ref
    assert repository.sent - before <= SIZE // 2 + 8192


def test_a_bundle_that_was_refused_is_not_fetched_again(tmp_path: Path, big: Bundle) -> None:
    """Its files are whole and checked: a second chance costs the manifest alone."""
    repository = MemoryRepository(TINY, big.path)
    rig = _running(tmp_path, repository)
    real = rig.engine._selftest

    def fails(folder: Path) -> object:
        raise RefusedError("selftest-failed", "not today")

    rig.engine._selftest = fails  # type: ignore[assignment]
    rig.want(big.ref, 2)
    rig.settle()
    assert rig.events[-1].state == "refused"
    rig.engine._selftest = real
    before = repository.sent
    rig.want(big.ref, 3)
    rig.settle()
    assert (rig.active(), repository.sent) == (big.ref, before)


def test_what_ended_well_leaves_nothing(tmp_path: Path, big: Bundle) -> None:
    """No note, no partial file, and no blob of what is no longer linked."""
    repository = MemoryRepository(TINY, big.path, TINY_NEXT)
    rig = _running(tmp_path, repository)
    for revision, ref in enumerate((big.ref, Bundle.open(TINY_NEXT).ref, OLD), 2):
        rig.want(ref, revision)
        rig.settle()
    assert list((tmp_path / "state" / "partial").iterdir()) == []
    extra = big.entry("extra.bin").sha256
    assert not (tmp_path / "state" / "blobs" / extra).exists()


def _partials(folder: Path) -> list[int]:
    found = (folder / "state" / "partial").iterdir()
    return sorted(p.stat().st_size for p in found if p.suffix != leftovers.SUFFIX)


def test_leftovers_are_bounded_by_bytes_the_oldest_go_first(tmp_path: Path) -> None:
    """Ten attempts at ten versions do not fill the disk."""
    bundles = [_bundle(tmp_path / f"b{n}", f"3.0.{n}", n) for n in range(4)]
    board = msgspec.structs.replace(boards.load("raspberry-pi-5"), model_flash_bytes=1_200_000)
    repository = Breaking(TINY, *(one.path for one in bundles))
    rig = _running(tmp_path, repository, board=board)
    for number, one in enumerate(bundles):
        rig.clock.now += 3600
        _begin_and_take_back(rig, repository, one.ref, 2 + 2 * number)
    assert 0 < sum(_partials(tmp_path)) <= board.model_flash_bytes // 2
    kept = {p.stem for p in (tmp_path / "state" / "partial").glob("*.json")}
    assert kept == {one.ref.manifest_sha256 for one in bundles[-2:]}


def test_leftovers_go_with_time(tmp_path: Path, big: Bundle) -> None:
    """A week later nobody will want them; the engine looks by itself while it is idle."""
    repository = Breaking(TINY, big.path)
    rig = _running(tmp_path, repository)
    _begin_and_take_back(rig, repository, big.ref, 2)
    rig.clock.now += leftovers.MAX_AGE_S - 3600
    rig.engine.step()
    assert len(_partials(tmp_path)) == 1
    rig.clock.now += 2 * 3600
    rig.engine.step()
    assert _partials(tmp_path) == []


def test_a_clock_that_is_set_makes_nothing_old(tmp_path: Path, big: Bundle) -> None:
    """A board that boots in 1970 keeps its progress when it learns what year it is."""
    repository = Breaking(TINY, big.path)
    rig = _running(tmp_path, repository)
    rig.clock.now = 50.0
    _begin_and_take_back(rig, repository, big.ref, 2)
    rig.clock.now = EARLIEST + 1e6
    rig.engine.step()
    assert len(_partials(tmp_path)) == 1
    rig.clock.now += leftovers.MAX_AGE_S + 4000
    rig.engine.step()
    assert _partials(tmp_path) == [], "and then it gets old as any other does"


def test_leftovers_give_way_to_a_bundle_that_needs_the_room(
    tmp_path: Path, big: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the disk, and in the board's share of it."""
    other = _bundle(tmp_path / "other", "3.1.0", 1, size=2 * SIZE)
    board = msgspec.structs.replace(boards.load("raspberry-pi-5"), model_flash_bytes=1_000_000)
    repository = Breaking(TINY, big.path, other.path)
    rig = _running(tmp_path, repository, board=board)
    rig.engine._selftest = _refuses  # type: ignore[assignment]
    rig.want(big.ref, 2)  # whole, and refused: it stays
    rig.settle()
    assert (tmp_path / "state" / "blobs" / big.entry("extra.bin").sha256).exists()
    rig.want(other.ref, 3)
    rig.settle()
    assert rig.events[-1].reason is not None
    assert rig.events[-1].reason.code == "selftest-failed", "it was fetched: there was room"


def _refuses(folder: Path) -> object:
    raise RefusedError("selftest-failed", "no")


def test_leftovers_leave_the_disk_to_others(
    tmp_path: Path, big: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it runs short, they go before anything else has to."""
    repository = Breaking(TINY, big.path)
    rig = _running(tmp_path, repository)
    _begin_and_take_back(rig, repository, big.ref, 2)
    monkeypatch.setattr(Disk, "free_bytes", lambda *_: leftovers.MIN_FREE_BYTES - SIZE)
    rig.clock.now += 3600
    rig.engine.step()
    assert _partials(tmp_path) == []


@pytest.mark.parametrize("damage", [b"", b"{", b'{"at":1,"files":["../../x"]}', b"\xff" * 99])
def test_a_note_that_is_damaged_costs_bytes_alone(
    tmp_path: Path, big: Bundle, damage: bytes
) -> None:
    """A power cut while it was written: everything is fetched again, and nothing else happens."""
    repository = Breaking(TINY, big.path)
    rig = _running(tmp_path, repository)
    _begin_and_take_back(rig, repository, big.ref, 2)
    for note in (tmp_path / "state" / "partial").glob("*.json"):
        note.write_bytes(damage)
    rig.close()
    rig = _start(tmp_path, repository)
    rig.want(big.ref, 4)
    rig.settle()
    assert rig.active() == big.ref


def test_on_a_slow_link_a_kill_costs_seconds(tmp_path: Path, big: Bundle) -> None:
    """Written by time and not only by bytes; synced by time, too, for a power cut."""

    class Watched(Disk):
        def __init__(self) -> None:
            self.syncs: list[float] = []

        def sync(self, path: Path) -> None:
            if path.parent.name == "partial" and path.suffix != leftovers.SUFFIX:
                self.syncs.append(rig.clock.now)
            super().sync(path)

    repository = Breaking(TINY, big.path)
    rig = _running(tmp_path, repository)
    rig.close()
    disk = Watched()
    rig = Rig(disk, tmp_path / "state", repository, clock=rig.clock)
    rig.engine.recover()
    began = rig.clock.now
    sent = repository.sent

    class Killed(BaseException):
        """As SIGKILL: nothing of the process runs any more."""

    def slow() -> None:
        rig.clock.now += 2.0
        if rig.clock.now - began > SYNC_S + 20:
            raise Killed
        repository.left = 1

    repository.left, repository.then = 1, slow
    rig.want(big.ref, 2)
    with pytest.raises(Killed):
        rig.settle()
    came = repository.sent - sent
    per_s = came / (rig.clock.now - began)
    extra = tmp_path / "state" / "partial" / big.entry("extra.bin").sha256
    there = extra.stat().st_size + sum(
        p.stat().st_size for p in (tmp_path / "state" / "blobs").iterdir()
    )
    old = sum(e.size for e in Bundle.open(TINY).manifest.files)
    assert came - (there - old) <= (WRITE_S + 2.1) * per_s
    assert len([s for s in disk.syncs if s - began >= SYNC_S]) == 1


def _delta_repository(tmp_path: Path) -> tuple[Breaking, Bundle, Bundle, str]:
    """Two bundles whose large file differs a little, and a delta that is large all the same."""
    old = _bundle(tmp_path / "old", "3.0.0", 0)
    folder = tmp_path / "new"
    old.extract(folder)
    data = bytearray((folder / "extra.bin").read_bytes())
    data[: SIZE // 2] = random.Random(9).randbytes(SIZE // 2)
    (folder / "extra.bin").write_bytes(data)
    files = file_entries(p for p in folder.iterdir() if p.name != MANIFEST)
    new = rewrite(Bundle.open(folder), version="3.1.0", files=files)
    repository = Breaking(old.path, new.path)
    patch = delta.make(old.read("extra.bin"), bytes(data))
    assert patch is not None and SIZE // 3 < len(patch) < SIZE
    path = apply_delta.path(old.entry("extra.bin").sha256, new.entry("extra.bin").sha256)
    repository.files[path] = patch
    return repository, old, new, path


@pytest.mark.parametrize("how", ["cut", "taken back", "taken back, restarted"])
def test_a_delta_goes_on_where_it_ended(tmp_path: Path, how: str) -> None:
    """Half a delta is neither fetched again nor given up for the whole file."""
    repository, old, new, path = _delta_repository(tmp_path)
    rig = _start(tmp_path, repository)
    rig.want(old.ref, 1)
    rig.settle()
    before = repository.sent
    repository.left = len(repository.files[path]) // 2
    if how != "cut":
        repository.then = lambda: rig.want(old.ref, 3)
    rig.want(new.ref, 2)
    rig.settle()
    if how.endswith("restarted"):
        rig.close()
        rig = _start(tmp_path, repository)
    if how != "cut":
        assert rig.active() == old.ref
        rig.want(new.ref, 4)
        rig.settle()
    assert rig.active() == new.ref
    assert repository.sent - before == len(repository.files[path])
    assert _partials(tmp_path) == []


def test_a_delta_that_changed_in_between_means_the_whole_file(tmp_path: Path) -> None:
    """Deltas are not signed: two halves of two of them give nothing, and that is noticed."""
    repository, old, new, path = _delta_repository(tmp_path)
    rig = _start(tmp_path, repository)
    rig.want(old.ref, 1)
    rig.settle()
    good = repository.files[path]
    repository.left = len(good) // 2

    def change() -> None:
        repository.files[path] = good[:-1000]
        raise UnavailableError("repository-unreachable", "cut")

    repository.then = change
    rig.want(new.ref, 2)
    rig.settle()
    assert rig.active() == new.ref


def test_a_delta_that_gives_nothing_gives_way_to_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that fails on deltas alone must not keep a device from its update for ever."""
    repository, old, new, path = _delta_repository(tmp_path)
    rig = _start(tmp_path, repository)
    rig.want(old.ref, 1)
    rig.settle()
    real = repository.open

    def fails(wanted: str, offset: int = 0) -> Transfer:
        if wanted == path:
            raise UnavailableError("repository-unreachable", "error 500")
        return real(wanted, offset)

    monkeypatch.setattr(repository, "open", fails)
    rig.want(new.ref, 2)
    rig.settle()
    assert rig.active() == new.ref


def test_progress_of_a_delta_is_told_as_a_share_of_its_file(tmp_path: Path) -> None:
    """Who waits for a deadline must see that a delta gets on."""
    repository, old, new, _ = _delta_repository(tmp_path)
    rig = _start(tmp_path, repository)
    rig.want(old.ref, 1)
    rig.settle()
    rig.events.clear()

    def later() -> None:
        rig.clock.now += 3
        repository.left = 20_000

    repository.left, repository.then = 1, later
    rig.want(new.ref, 2)
    rig.settle()
    done = [e.done_bytes for e in rig.events if e.state == "downloading" and e.total_bytes]
    assert len(done) > 3 and done == sorted(set(done))
    assert done[-1] <= new.manifest.total_bytes
