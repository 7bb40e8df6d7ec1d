"""The self-test in a child: what is the model's fault refuses it, what is the device's does not."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import structlog

from agent.children import helper, wire
from agent.children.helper import Helper
from agent.runtime import check
from agent.system.filesystem import Disk
from agent.update.machine import MAX_LOCAL_FAILURES
from contracts import codec
from contracts.answers import Selftested
from contracts.bundle import Bundle, file_entries
from contracts.errors import RefusedError, ShoalError
from tests.support.controller import TINY
from tests.support.engine import MemoryRepository, Rig
from tests.support.tiny_decoder import tiny_bundle

PATIENCE_S = 90.0


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Helper]:
    """A helper of the test's own, which has nothing loaded and soon ends."""
    one = Helper(idle_s=0.1)
    monkeypatch.setattr(helper, "start", one.start)
    yield one
    deadline = time.monotonic() + PATIENCE_S
    while one._process is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def no_verdict(caught: pytest.ExceptionInfo[ShoalError]) -> str:
    """The code of an error that the update engine tries again, and counts."""
    assert type(caught.value) is ShoalError
    return caught.value.code


def kill_instead_of_asking(
    own: Helper, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Sends a signal to the child of the first self-test; later ones go on."""
    send = wire.send

    def kill(*_: Any) -> None:
        monkeypatch.setattr(wire, "send", send)
        assert own._process is not None
        process = psutil.Process(own._process.pid)
        while not process.children():
            pass
        process.children()[0].send_signal(number)

    monkeypatch.setattr(wire, "send", kill)


def test_the_end_of_the_helper_is_no_verdict(own: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed before it forks the child, as the kernel may when memory is short."""
    with own.start("trust", 30):
        assert own._process is not None
        process = psutil.Process(own._process.pid)
        process.suspend()
        monkeypatch.setattr(wire, "send", lambda *_: process.kill())
        with pytest.raises(ShoalError, match="the helper was killed by signal 9") as caught:
            check.run(TINY)
    assert no_verdict(caught) == "selftest-interrupted"


def test_a_child_that_the_kernel_kills_is_no_verdict(
    own: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the model wants too much, or something else does for a while, nobody knows."""
    kill_instead_of_asking(own, monkeypatch, signal.SIGKILL)
    with pytest.raises(ShoalError, match="memory is short") as caught:
        check.run(TINY)
    assert no_verdict(caught) == "selftest-interrupted"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGILL])
def test_a_runtime_that_crashes_is_a_refusal(
    own: Helper, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """The next try would end as this one did."""
    kill_instead_of_asking(own, monkeypatch, number)
    with pytest.raises(RefusedError, match=f"killed by signal {number}: the model") as caught:
        check.run(TINY)
    assert caught.value.code == "selftest-crashed"


def test_an_error_of_the_disk_is_no_verdict(own: Helper, tmp_path: Path) -> None:
    """The child cannot read the manifest: EIO, as of a card that is worn out."""
    Bundle.open(TINY).extract(tmp_path / "bundle")
    manifest = tmp_path / "bundle" / "manifest.json"
    manifest.unlink()
    manifest.symlink_to("/proc/self/mem")
    with pytest.raises(ShoalError, match="Input/output error") as caught:
        check.run(tmp_path / "bundle")
    assert no_verdict(caught) == "disk-error"


BREAKS = """#!{python}
from agent.children import forks
from agent.runtime import model

def selftest(*_):
    raise {error}

model.selftest = selftest
forks.main()
"""
"""A Python that runs the helper with a self-test that raises an error."""


@pytest.mark.parametrize(
    ("error", "memory_bytes", "kind", "code", "message"),
    [
        ('ImportError("no libfoo")', 1, ShoalError, "selftest-interrupted", "verdict: ImportError"),
        ('TypeError("\\udcff")', 1, ShoalError, "selftest-interrupted", "verdict: TypeError"),
        ("BaseException(1)", 1, ShoalError, "selftest-interrupted", "verdict: BaseException"),
        ("MemoryError", 1, RefusedError, "selftest-memory", "needs more than 536870913 bytes"),
        ('OSError(12, "no")', 1, RefusedError, "selftest-memory", "needs more than"),
        ("MemoryError", 0, ShoalError, "no-memory", "no memory for"),
    ],
)
def test_what_goes_wrong_in_the_child_is_told_and_logged(
    own: Helper,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: str,
    memory_bytes: int,
    kind: type[ShoalError],
    code: str,
    message: str,
) -> None:
    """The reason says which kind of error it was, not what it says; the agent's log where."""
    python = tmp_path / "python"
    python.write_text(BREAKS.format(python=sys.executable, error=error))
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with structlog.testing.capture_logs() as logs, pytest.raises(ShoalError) as caught:
        check.run(TINY, memory_bytes=memory_bytes)
    assert (type(caught.value), caught.value.code) == (kind, code)
    assert message in str(caught.value)
    # Threads of tests before this one may log meanwhile.
    (said,) = (log for log in logs if "traceback" in log)
    assert said["log_level"] == "error"
    assert said["traceback"].endswith("selftest")
    assert "libfoo" not in str(logs) + str(caught.value)


@pytest.mark.parametrize(
    "line",
    [b"junk\n", b"{}\n", b'{"result": 1}\n', b"!junk\n", b'!{"error": "", "where": ""}\n' * 2],
)
def test_a_child_that_answers_nonsense_is_a_refusal(
    own: Helper, monkeypatch: pytest.MonkeyPatch, line: bytes
) -> None:
    """A model that runs wild in its process may write anything."""
    lines = iter(line.splitlines(keepends=True))
    monkeypatch.setattr(wire, "_line", lambda _: next(lines))
    with pytest.raises(RefusedError, match=r"no answer|empty answer") as caught:
        check.run(TINY)
    assert caught.value.code == "selftest-crashed"


def test_any_name_of_a_detail_is_an_error_of_ours(
    own: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that an argument has; a child that a model ran in may answer it."""
    detail = b'{"code": 1, "self": 2, "": 3}'
    answer = b'{"failure":{"kind":"refused","info":{"code":"a","message":"b","detail":%s}}}\n'
    monkeypatch.setattr(wire, "_line", lambda _: answer % detail)
    with pytest.raises(RefusedError, match="b") as caught:
        check.run(TINY)
    assert caught.value.info.detail == {"code": 1, "self": 2, "": 3}


def rig(folder: Path) -> Rig:
    """A device's engine whose self-tests run in children."""
    made = Rig(Disk(), folder, MemoryRepository(TINY), selftest=lambda bundle: check.run(bundle))
    made.engine.recover()
    made.want(Bundle.open(TINY).ref, 1)
    return made


def test_an_update_goes_on_after_a_self_test_without_verdict(
    own: Helper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A good bundle is not refused because a process was killed once."""
    kill_instead_of_asking(own, monkeypatch, signal.SIGKILL)
    device = rig(tmp_path)
    device.settle()
    device.close()
    assert device.events[-1].state == "committed"
    assert "selftest-interrupted" in [e.reason.code for e in device.events if e.reason]


def test_an_update_whose_self_tests_never_come_to_a_verdict_ends(tmp_path: Path) -> None:
    """A model that this device has no memory for is not tried for ever."""
    tries = 0

    def killed(_: Path) -> Selftested:
        nonlocal tries
        tries += 1
        raise check._interrupted("its process was killed")

    device = Rig(Disk(), tmp_path, MemoryRepository(TINY), selftest=killed)
    device.engine.recover()
    device.want(Bundle.open(TINY).ref, 1)
    device.settle()
    last = device.events[-1]
    assert (last.state, tries) == ("refused", MAX_LOCAL_FAILURES)
    assert last.reason is not None and last.reason.code == "selftest-interrupted"


def with_expression(source: Path, pattern: str) -> Path:
    """The bundle with a tokenizer that also splits at an expression."""
    path = source / "tokenizer.json"
    document = json.loads(path.read_text())
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
             "invert": False}  # fmt: skip
    document["pre_tokenizer"] = {
        "type": "Sequence", "pretokenizers": [split, document["pre_tokenizer"]],
    }  # fmt: skip
    path.write_text(json.dumps(document))
    manifest = Bundle.open(source).manifest
    entries = file_entries([source / entry.path for entry in manifest.files])
    changed = msgspec.structs.replace(manifest, files=entries)
    (source / "manifest.json").write_bytes(codec.encode(changed))
    return source


@pytest.mark.slow
def test_a_tokenizer_that_some_text_of_a_user_would_hang_is_refused_before_it_serves(
    tmp_path: Path,
) -> None:
    """Its own golden texts are harmless: the self-test tries others, and is ended by its limits."""
    bundle = tiny_bundle(tmp_path / "made")
    assert check.run(bundle, seconds=60).passed
    with_expression(bundle, r"[a-z]{0,600}[a-z]*[^a-z]{2}$")
    began = time.monotonic()
    with pytest.raises(RefusedError) as caught:
        check.run(bundle, seconds=20)
    assert caught.value.code == "selftest-timeout"
    assert time.monotonic() - began < 20 + PATIENCE_S


@pytest.mark.slow
def test_a_tokenizer_that_panics_is_refused_before_it_serves(tmp_path: Path) -> None:
    """The library gives one match up after so many steps, by a panic."""
    bundle = with_expression(tiny_bundle(tmp_path / "made"), r"(a|aa)+[^a]c")
    with pytest.raises(RefusedError) as caught:
        check.run(bundle, seconds=60)
    assert caught.value.code == "bad-tokenizer"
