"""Commands at a device: ``run``, ``selftest``, ``status``, ``forget``."""

from __future__ import annotations

import argparse
import os
import threading
import time
from pathlib import Path
from typing import Final

import msgspec

from agent.cli import output
from contracts import codec, files
from contracts.config import AgentConfig
from contracts.errors import ShoalError, UnavailableError
from contracts.stopping import Stop

_TAKEN = (
    "TAKEN OVER {} times by another client with the same identity: two devices have this "
    "agent.yaml; enrol one of them anew"
)

INSTALLED: Final = Path("/etc/shoal/agent.yaml")
"""Where what joins a board puts its configuration, and where the service keeps its state."""

STATE: Final = Path("/var/lib/shoal")


def read_config(path: Path) -> AgentConfig:
    """Reads ``agent.yaml``.

    The installed service may write below :data:`STATE` alone, and a file that is put in place of
    the installed one, as after another name, knows nothing of that.

    Raises:
        InputError: ``no-such-file``, ``too-large``, ``bad-message``.
    """
    data = files.read_small(path, what="the configuration", hint="'shoal fleet enroll' writes one")
    config = codec.convert_yaml(data, AgentConfig, what=str(path))
    if path.resolve() == INSTALLED and not Path(config.state_dir).is_absolute():
        return msgspec.structs.replace(config, state_dir=str(STATE))
    return config


def run(arguments: argparse.Namespace) -> int:
    """Runs the agent until SIGTERM or SIGINT."""
    # Nothing here multiplies matrices with numpy, whose threads spin for 40 ms at its import.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from agent.daemon import Agent
    from agent.release.home import AGAIN, Started
    from agent.system import log, stderr, systemd

    config = read_config(arguments.config)
    log.configure(debug=arguments.debug)
    stop = Stop()
    again = threading.Event()

    def restart() -> None:
        again.set()
        stop.wake()

    file = arguments.config.resolve()
    try:
        agent = Agent(config, file.parent, file=file, restart=restart)
        agent.start()
    except OSError as error:
        raise UnavailableError(
            "bad-state-folder", f"the state folder cannot be used: {error}"
        ) from None
    while not stop.wait() and not again.is_set():
        pass
    told = stop.wait(0)
    agent.stop()
    started = Started.read()
    if told or started is None or not again.is_set():
        return 0
    systemd.notify("WATCHDOG=1")  # the next one has as long as this one had
    if not started.watched:
        os.dup2(stderr.own(), 2)  # as it was, for the next one
        os.execv(started.argv[0], started.argv)  # noqa: S606  # its own command line
    return AGAIN


def selftest(arguments: argparse.Namespace) -> int:
    """Replays the golden vectors of every active bundle, each in a process of its own."""
    from agent.runtime import check
    from agent.system.filesystem import Disk
    from agent.update.store import Store
    from contracts import board as boards

    config = read_config(arguments.config)
    root = arguments.config.resolve().parent / config.state_dir
    board = boards.load(config.board)
    store = Store(Disk(), root)
    slots = [slot for slot in store.slots() if store.linked(slot, "current")]
    if not slots:
        raise UnavailableError("no-model", f"no bundle is active below {root}")
    code = 0
    rows: list[list[str]] = []
    results = []
    for slot in slots:
        sha256 = store.linked(slot, "current")
        assert sha256 is not None
        try:
            result = check.run(
                store.folder(sha256),
                threads=config.serving.threads or board.threads,
                memory_bytes=board.model_ram_bytes,
            )
        except ShoalError as error:
            code = 1
            rows.append([slot, sha256[:12], "FAILED", str(error)])
            results.append({"slot": slot, "error": error.info})
        else:
            held = f"{result.passed} of {result.vectors} hold, at most {result.max_steps} steps off"
            rows.append([slot, str(result.bundle), "ok", f"{held} ({result.runtime})"])
            results.append({"slot": slot, "selftested": result})
    if arguments.json:
        output.document(results)
    else:
        output.table(rows)
    return code


def status(arguments: argparse.Namespace) -> int:
    """What runs, what happened last, what it waits for. Exit code 1 when no agent runs."""
    from agent.system import statusfile

    config = read_config(arguments.config)
    folder = arguments.config.resolve().parent / config.state_dir
    found = statusfile.read(folder / "status.json")
    running = statusfile.alive(found) and not found.waits_for.startswith("nothing")
    if arguments.json:
        output.document({"running": running, "status": found})
        return 0 if running else 1
    reported = found.reported
    ago = max(0.0, time.time() - found.at)
    rows = [
        ["device", f"{config.device} in fleet {config.fleet}, {reported.board}"],
        ["agent", f"{'runs' if running else 'DOES NOT RUN'} (pid {found.pid}, {ago:.0f} s ago)"],
        ["broker", f"{found.broker} ({'connected' if found.connected else 'not connected'})"],
        *([["identity", _TAKEN.format(found.takeovers)]] if found.takeovers else []),
        ["runtime", reported.runtime],
        ["clock", reported.clock],
    ]
    for slot, report in sorted(reported.slots.items()):
        trial = " (on trial)" if report.trial else ""
        rows.append([f"slot {slot}", f"{report.active or 'serves nothing'}{trial}"])
        if report.problem is not None:
            rows.append(["  because", report.problem.message])
        if report.acceleration is not None:
            rows.append(["  accelerator", report.acceleration.words()])
        if report.previous is not None:
            rows.append(["  before", str(report.previous)])
        if report.shadow is not None:
            rows.append(["  shadow", str(report.shadow)])
    last = reported.last_update
    if last is not None:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last.at))
        why = f": {last.reason.message}" if last.reason else ""
        rows.append(["last update", f"{last.bundle} {last.state} at {when}{why}"])
    rows.append(["waiting", f"{found.queue} requests, {found.spool} messages to send"])
    rows.append(["waits for", found.waits_for])
    output.table(rows)
    return 0 if running else 1


def forget(arguments: argparse.Namespace) -> int:
    """Forgets which desired document counted last; what is installed stays and serves.

    For a device that was sent a fence so high that no controller gets above it.
    """
    import msgspec

    from agent.system.filesystem import Disk
    from agent.system.state import StateFolder
    from agent.update.journal import JournalFiles

    config = read_config(arguments.config)
    folder = StateFolder(arguments.config.resolve().parent / config.state_dir)
    try:
        files_ = JournalFiles(Disk(), folder.path)
        journal = files_.load()
        files_.save(msgspec.structs.replace(journal, desired=None, reached=0))
    except OSError as error:
        raise UnavailableError(
            "disk-error", f"the journal below {folder.path} cannot be written: {error}"
        ) from None
    finally:
        folder.close()
    known = journal.desired
    found = {"fence": known.fence if known else 0, "revision": known.revision if known else 0}
    if arguments.json:
        output.document({"forgotten": found})
    else:
        output.table([["forgotten", f"fence {found['fence']}, revision {found['revision']}"]])
    return 0
