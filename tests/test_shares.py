"""How tests are dealt to workers loses none."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import conftest
from tests.conftest import LONG, _dealt, _is_roomy
from tests.support.tools import free_port


@pytest.mark.parametrize("workers", [2, 3, 4, 8])
def test_each_test_is_dealt_once_and_each_share_begins_with_long_ones(workers: int) -> None:
    """Whatever is collected, in whatever order."""
    chance = random.Random(workers)
    paths = [f"/x/tests/{part}.py" for part in LONG for _ in range(9)]
    paths += [f"/x/tests/other/test_{number}.py" for number in range(1000)]
    chance.shuffle(paths)
    items = [SimpleNamespace(path=Path(path)) for path in paths]
    dealt = _dealt(items, workers)  # type: ignore[arg-type]
    assert sorted(map(id, dealt)) == sorted(map(id, items))
    for worker in range(workers):
        first = dealt[worker * (len(items) // workers)]
        assert any(part in first.path.as_posix() for part in LONG)


def test_every_long_module_is_there() -> None:
    """A module that was moved is still among the first."""
    here = Path(__file__).parent
    paths = [path.as_posix() for path in here.rglob("test_*.py")]
    assert [part for part in LONG if not any(part in path for path in paths)] == []


def test_files_are_kept_in_memory_only_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else on the disk, as where there is no such folder."""
    assert not _is_roomy(Path("/nowhere"))
    monkeypatch.setattr(conftest, "MEMORY_BYTES", 0)
    here = Path(__file__).parent
    assert _is_roomy(here)
    monkeypatch.setattr(conftest, "MEMORY_BYTES", 10**18)
    assert not _is_roomy(here)


def test_no_port_is_given_twice_nor_one_that_the_kernel_gives_to_clients() -> None:
    """The kernel's own range begins above."""
    given = [free_port() for _ in range(300)]
    assert len(set(given)) == len(given)
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if low < 32_768:
        pytest.skip(f"this machine gives ports from {low} on to clients")
    assert max(given) < low
