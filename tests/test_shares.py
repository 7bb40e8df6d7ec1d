"""How tests are given to workers loses none."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests import conftest
from tests.conftest import _is_roomy
from tests.support import schedule
from tests.support.tools import free_port

TESTS = [
    "tests/fleet/test_short.py::test_a",
    "tests/faults/test_fuzz.py::test_no_content_of_a_file_breaks_its_reader[journal]",
    "tests/faults/test_fuzz.py::test_no_content_of_a_file_breaks_its_reader[spool.sqlite]",
    "tests/end_to_end/test_demo.py::test_every_step_of_the_demo_holds_and_nothing_is_left_running",
    "tests/browser/test_members.py::test_a[x::y.py]",
    "tests/fleet/test_many.py::test_a",
    *(f"tests/fleet/test_many.py::test_a[{number}]" for number in range(50)),
    "tests/browser/test_members.py::test_b",
    "tests/end_to_end/test_demo.py::test_a_rollout_finishes[a]",
    "tests/end_to_end/test_demo.py::test_a_rollout_finishes[b]",
]


def test_each_test_is_given_once_the_longest_units_first_and_none_in_pieces() -> None:
    """Whatever is collected, in whatever order."""
    tests = random.Random(1).sample(TESTS, len(TESTS))
    order = [tests[at] for at in schedule.ordered(tests)]
    assert sorted(order) == sorted(TESTS)
    units = [unit for unit, _ in itertools.groupby(order, schedule.unit)]
    assert len(set(units)) == len(units)
    alone = {one for one in TESTS if "test_demo.py" in one or "spool.sqlite" in one}
    assert {one for one in units if "::" in one} == alone
    assert units[:1] == [TESTS[3]]
    assert units[-2:] == ["tests/fleet/test_many.py", "tests/fleet/test_short.py"]


def test_tests_of_a_module_stay_in_their_order() -> None:
    """Else fixtures with parameters would be made again and again."""
    order = [TESTS[at] for at in schedule.ordered(TESTS)]
    module = [one for one in order if one.startswith("tests/fleet/test_many.py")]
    assert module == [one for one in TESTS if one in module]


def test_every_long_one_is_there() -> None:
    """A module or test that was moved is still among the first."""
    root = Path(__file__).parents[1]
    gone = []
    for entry in schedule.SECONDS:
        path, _, test = entry.partition("::")
        name = test.partition("[")[0]
        text = (root / path).read_text() if (root / path).is_file() else ""
        if not (root / path).exists() or (f"def {name}" not in text and name):
            gone.append(entry)
    assert gone == []


def test_workers_are_given_all_tests_by_whole_modules(tmp_path: Path) -> None:
    """As the makefile starts them: each runs once, and what is of one module on one worker."""
    here = Path(__file__).parent
    for name in ("test_a.py", "test_b.py"):
        (tmp_path / name).write_text(
            "import os, pytest\n\n\n@pytest.mark.parametrize('n', range(6))\n"
            "def test_it(n):\n    print('RAN', __name__, n, os.environ['PYTEST_XDIST_WORKER'])\n"
        )
    plugin = "from tests.conftest import pytest_collection_modifyitems, pytest_xdist_make_scheduler"
    (tmp_path / "conftest.py").write_text(f"{plugin}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadscope", "-rP", "-p",
         "no:cacheprovider", "--rootdir", str(tmp_path), "-c", os.devnull, str(tmp_path)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(here.parent)}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    ran = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("RAN ")]
    assert done.returncode == 0, done.stdout
    assert sorted((module, int(n)) for module, n, _ in ran) == [
        (module, n) for module in ("test_a", "test_b") for n in range(6)
    ]
    assert len({(module, worker) for module, _, worker in ran}) == 2


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
