"""The helper: children forked on demand, ended with the agent, and nothing left when idle.

Over 400 lines: one helper, and everything that its children may do to it.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from agent.children import forks, helper, wire
from agent.children.helper import Helper
from agent.runtime import check
from contracts import interpreter
from contracts.bundle import Bundle
from contracts.errors import RefusedError, ShoalError
from tests.support.controller import TINY

PATIENCE_S = 90.0


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Helper]:
    """A helper of the test's own, which has nothing loaded and soon ends."""
    one = Helper(idle_s=0.1)
    monkeypatch.setattr(helper, "start", one.start)
    yield one
    until(lambda: one._process is None)


def process_of(one: Helper) -> psutil.Process:
    """The process that runs now."""
    assert one._process is not None
    return psutil.Process(one._process.pid)


def until(condition: Callable[[], bool]) -> None:
    """Waits for another process; fails after a while."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def newest_child(one: Helper) -> psutil.Process:
    """The child that was forked last."""
    process = process_of(one)
    until(lambda: bool(process.children()))
    return process.children()[-1]


def test_children_of_one_helper_share_it(own: Helper) -> None:
    """A self-test and a check of signatures at a time: one process more."""
    with own.start("trust", 30):
        first = process_of(own)
        check.run(TINY)
        assert process_of(own) == first


def test_an_idle_helper_ends(own: Helper) -> None:
    """Its memory goes with it; the next job starts another."""
    check.run(TINY)
    process = process_of(own)
    until(lambda: own._process is None)
    assert not process.is_running()
    assert check.run(TINY).passed


def test_jobs_of_many_threads_get_their_own_answers(own: Helper, tmp_path: Path) -> None:
    """An error of one is not the result of another."""
    found: list[str] = []

    def test(folder: Path) -> None:
        try:
            found.append(str(check.run(folder).bundle))
        except RefusedError as error:
            found.append(error.code)

    threads = [
        threading.Thread(target=test, args=(TINY if n % 2 else tmp_path,)) for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert Counter(found) == {str(Bundle.open(TINY).ref): 6, "not-a-bundle": 6}


def test_a_child_has_no_connection_but_its_line(own: Helper) -> None:
    """Neither the helper's, nor another child's, nor this process's."""
    with own.start("trust", 30), own.start("trust", 30):
        until(lambda: len(process_of(own).children()) == 2)
        for process in process_of(own).children():
            folder = Path(f"/proc/{process.pid}/fd")
            # Silencing itself is the first thing that a child does when it is whole.
            until(lambda folder=folder: (folder / "2").readlink().name == "null")
            handles = {int(link.name): str(link.readlink()) for link in folder.iterdir()}
            assert sum(target.startswith("socket:") for target in handles.values()) == 1
            assert handles[0] == handles[1] == os.devnull


def test_a_child_that_goes_on_is_killed_when_its_agent_is_done_with_it(own: Helper) -> None:
    """The exit code is that of the kill, and no process stays."""
    with own.start("trust", 30) as child:
        process = newest_child(own)
        assert child.end() == -signal.SIGKILL
    assert not process.is_running()


def test_a_child_dies_at_its_time(own: Helper) -> None:
    """A self-test that hangs is a refusal of its own."""
    with own.start("trust", 1) as child:
        assert child.line.read() == b""
        assert child.end() == -signal.SIGALRM


def test_a_self_test_without_end_is_refused(own: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child waits for a question that never comes: as long as one that hangs."""
    monkeypatch.setattr(wire, "send", lambda *_: None)
    with pytest.raises(RefusedError) as caught:
        check.run(TINY, seconds=1)
    assert caught.value.code == "selftest-timeout"


def test_a_helper_that_is_killed_is_a_failed_job_and_the_next_starts_another(own: Helper) -> None:
    """Nobody knows how its child does, which ends at its time, with nobody to end it."""
    with own.start("trust", 5) as child:
        orphan = newest_child(own)
        process_of(own).kill()
        with pytest.raises(ChildProcessError, match="the helper was killed by signal 9"):
            child.end()
        assert orphan.is_running()
        until(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE)
    assert check.run(TINY).passed


def test_signals_to_the_whole_group_leave_a_job_alone(own: Helper) -> None:
    """A service that stops, or control-C: the agent drains, and decides."""
    with own.start("trust", 30) as child:
        for process in (process_of(own), newest_child(own)):
            for number in (signal.SIGTERM, signal.SIGINT):
                process.send_signal(number)
        assert child.end() == -signal.SIGKILL


def test_no_process_for_the_child_is_an_error_of_the_system(
    own: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may work later: not a refusal of the bundle."""

    def refused() -> int:
        raise OSError(errno.EAGAIN, "no process")

    monkeypatch.setattr(os, "fork", refused)
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    serving = threading.Thread(target=forks.serve, args=(there,))
    serving.start()
    own._control, own._process = here, subprocess.Popen(["true"])
    with pytest.raises(ShoalError, match="unavailable") as caught:
        check.run(TINY)
    assert type(caught.value) is ShoalError
    until(lambda: own._process is None)
    serving.join(PATIENCE_S)
    there.close()


@pytest.fixture
def one_at_once(own: Helper, monkeypatch: pytest.MonkeyPatch) -> Helper:
    """A helper where the same work is done by one child, however long it takes."""
    monkeypatch.setattr(helper, "AT_ONCE", 1)
    monkeypatch.setattr(helper, "STALL_S", 10 * PATIENCE_S)
    return own


def next_of(one: Helper, work: str, seconds: int = 30) -> Callable[[], helper.Child]:
    """Waits for a turn in a thread of its own; the result joins it."""
    got: list[helper.Child] = []
    thread = threading.Thread(
        target=lambda: got.append(one.start("selftest", seconds, work=work)), daemon=True
    )
    thread.start()
    until(lambda: bool(one._works[("selftest", f"{seconds} {work}")].waiting) or bool(got))

    def child() -> helper.Child:
        thread.join(PATIENCE_S)
        return got[0]

    return child


def asked(child: helper.Child, folder: Path = TINY) -> str:
    """A self-test by this child; ``passed`` or the code of its error."""
    question = check.Question(str(folder), None, 1, 0, 300)
    wire.send(child.line, question)
    answer = wire.receive(child.line, check.Answer)
    return answer.failure.info.code if answer.failure else "passed"


def test_a_child_that_did_well_goes_on_with_the_same_work(one_at_once: Helper) -> None:
    """One process for two jobs; it ends with the second, when nobody waits."""
    with one_at_once.start("selftest", 30, work="a") as first:
        process = newest_child(one_at_once)
        later = next_of(one_at_once, "a")
        assert asked(first) == "passed"
        first.well = True
    with later() as second:
        assert second is first and second.used and not second.well
        assert process_of(one_at_once).children() == [process]
        assert asked(second) == "passed"
        second.well = True
    until(lambda: not process.is_running())


def test_a_child_rests_where_others_want_the_same_work(own: Helper) -> None:
    """The first job may be the only one: its child ends. The next ones share one, until idle."""
    own._idle_s = 10.0  # long enough for what is looked at before, beside other work
    processes = []
    for _ in range(3):
        with own.start("selftest", 30, work="a") as child:
            processes.append(newest_child(own))
            assert asked(child) == "passed"
            child.well = True
    last = time.monotonic()
    first, second, third = processes
    assert second == third != first
    assert not first.is_running()
    assert second.is_running()
    until(lambda: not second.is_running())
    until(lambda: own._process is None)
    assert time.monotonic() - last < 2 * own._idle_s
    assert not own._works


def test_a_child_that_did_not_do_well_never_rests(own: Helper) -> None:
    """Nor does one that did well before."""
    own._idle_s = 1.0
    for _ in range(2):
        with own.start("selftest", 30, work="a") as child:
            assert asked(child) == "passed"
            child.well = True
    with own.start("selftest", 30, work="a") as child:
        assert child.used
        process = newest_child(own)
    assert not process.is_running()
    with own.start("selftest", 30, work="a") as child:
        assert not child.used


def test_a_child_that_did_not_do_well_ends(one_at_once: Helper) -> None:
    """Who waited gets a new one."""
    with one_at_once.start("selftest", 30, work="a") as first:
        process = newest_child(one_at_once)
        later = next_of(one_at_once, "a")
    with later() as second:
        assert second is not first and not second.used
        assert asked(second) == "passed"
    assert not process.is_running()


def test_a_child_never_goes_on_with_other_work(one_at_once: Helper) -> None:
    """Neither another bundle, nor other limits, nor what is to be done apart."""
    with one_at_once.start("selftest", 30, work="a") as first:
        first.well = True
        with (
            one_at_once.start("selftest", 30, work="b") as other,
            one_at_once.start("selftest", 31, work="a") as longer,
            one_at_once.start("selftest", 30) as alone,
        ):
            assert len({id(child) for child in (first, other, longer, alone)}) == 4
            assert not (other.used or longer.used or alone.used)


def test_a_job_that_hangs_does_not_hold_the_others_up(
    one_at_once: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without progress there is one more child, and one more."""
    monkeypatch.setattr(helper, "STALL_S", 0.05)
    with (
        one_at_once.start("selftest", 30, work="a"),
        one_at_once.start("selftest", 30, work="a") as second,
        one_at_once.start("selftest", 30, work="a") as third,
    ):
        assert not (second.used or third.used)
        assert asked(third) == "passed"


def test_each_job_of_a_child_has_its_own_time(one_at_once: Helper) -> None:
    """Two jobs take longer than one may; beside other work each has time left."""
    with one_at_once.start("selftest", 16, work="a") as first:
        later = next_of(one_at_once, "a", 16)
        time.sleep(8.5)  # a job that takes long
        assert asked(first) == "passed"
        first.well = True
    with later() as second:
        time.sleep(8.5)
        assert second is first and asked(second) == "passed"


def test_what_a_used_child_refuses_a_fresh_one_judges(one_at_once: Helper) -> None:
    """What another job may have left behind in a child refuses nothing."""
    judges: list[bool] = []

    def converse(child: helper.Child) -> str:
        judges.append(child.used)
        if child.used:
            raise RefusedError("golden-mismatch", "left behind by another job")
        return asked(child)

    with one_at_once.start("selftest", 30, work="a") as first:
        found: list[str] = []
        thread = threading.Thread(
            target=lambda: found.append(helper.ask("selftest", 30, converse, work="a"))
        )
        thread.start()
        until(lambda: bool(one_at_once._works[("selftest", "30 a")].waiting))
        assert asked(first) == "passed"
        first.well = True
    thread.join(PATIENCE_S)
    assert (judges, found) == ([True, False], ["passed"])


def test_a_fresh_child_s_refusal_stands(own: Helper) -> None:
    """It is asked once."""
    judges: list[bool] = []

    def converse(child: helper.Child) -> str:
        judges.append(child.used)
        raise RefusedError("golden-mismatch", "wrong")

    with pytest.raises(RefusedError):
        helper.ask("selftest", 30, converse, work="a")
    assert judges == [False]


def test_self_tests_share_a_child_for_the_same_bundle_and_limits_alone(
    own: Helper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A model could speak for another one from a child that it ran in."""
    works: list[str] = []
    start = own.start

    def spy(job: wire.Name, seconds: int, *, work: str = "") -> helper.Child:
        works.append(work)
        return start(job, seconds, work=work)

    monkeypatch.setattr(helper, "start", spy)
    for options in ({}, {"digest": "a"}, {"digest": "b"}, {"digest": "a", "memory_bytes": 1 << 30}):
        assert check.run(TINY, **options).passed
    assert works[0] == "" and len(set(works)) == 4


LOOKED_FOR = """
import sys
from pathlib import Path
from agent.children import helper, wire
with helper.start("trust", 30) as child:
    wire.send(child.line, "no question")
    child.line.readline()
print(Path(helper.__file__).parents[2])
"""


def test_the_helper_imports_nothing_from_the_working_directory(tmp_path: Path) -> None:
    """Nor does the agent, where it is installed: what lies there may be anybody's."""
    for name in ("msgspec", "socket", "agent"):
        (tmp_path / f"{name}.py").write_text("open('found', 'a').write(__name__)")
    done = subprocess.run(
        interpreter.program(LOOKED_FOR),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not (tmp_path / "found").exists(), (tmp_path / "found").read_text()
    assert done.stdout


def test_the_helper_is_the_one_beside_the_agent(tmp_path: Path) -> None:
    """From a checkout that is not installed, where another one is: ``python -m agent``."""
    for name in ("agent", "contracts"):
        shutil.copytree(Path(__file__).parents[3] / name, tmp_path / name)
    with (tmp_path / "agent" / "children" / "helper.py").open("a") as file:
        file.write("open('loaded', 'a').write(f'{os.getppid() == int(os.environ[\"AGENT\"])} ')")
    program = "import os\nos.environ['AGENT'] = str(os.getpid())\n" + LOOKED_FOR
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(tmp_path)
    assert (tmp_path / "loaded").read_text() == "False True "


AGENT = """
import signal
from agent.children.helper import start
child = start("trust", 300)
print("here", flush=True)
signal.pause()
"""


def test_an_agent_that_is_killed_leaves_no_process() -> None:
    """Helper and children end when its connections do."""
    agent = subprocess.Popen([sys.executable, "-c", AGENT], stdout=subprocess.PIPE)
    assert agent.stdout is not None and agent.stdout.readline() == b"here\n"
    process = psutil.Process(agent.pid)
    until(lambda: len(process.children(recursive=True)) == 2)
    left = process.children(recursive=True)
    left[1].suspend()  # it cannot see the end of its line
    agent.kill()
    agent.wait()
    agent.stdout.close()
    gone, alive = psutil.wait_procs(left, PATIENCE_S)
    assert len(gone) == 2 and not alive
