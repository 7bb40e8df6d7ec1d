"""The helper's own side: a program that forks children, and what each of them does.

See :mod:`agent.children.helper`, which starts it.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from io import BufferedRWPair
from typing import Final

from agent.children.wire import MAX_REQUEST_BYTES, Ended, Name, Request, tell
from contracts import codec

JOBS: Final[dict[Name, str]] = {
    "selftest": "agent.runtime.check",
    "accelerator": "agent.runtime.acceleration",
    "trust": "agent.trust.child",
    "certificate": "agent.certificates.child",
}
"""Job -> module with ``preload()``, for the helper, and ``main(line) -> code``, for the child."""


def serve(control: socket.socket) -> None:
    """Forks children until the agent is gone."""
    running: dict[int, int] = {}  # handle of a child's end -> process id
    ready: set[Name] = set()
    poll = select.poll()
    poll.register(control.fileno(), select.POLLIN)
    while True:
        for handle, _ in poll.poll():
            if handle != control.fileno():
                poll.unregister(handle)
                _finish(handle, running.pop(handle))
                continue
            data, handles, _, _ = socket.recv_fds(control, MAX_REQUEST_BYTES, 2)
            if not data:
                for pid in running.values():
                    os.kill(pid, signal.SIGKILL)
                return
            request = codec.decode(data, Request, what="a job")
            line, end = handles
            module = importlib.import_module(JOBS[request.job])
            if request.job not in ready:
                ready.add(request.job)
                with suppress(Exception):  # what is missing, the child says
                    module.preload()
                gc.collect()
                gc.freeze()  # what is loaded stays shared with the children
            try:
                pid = os.fork()
            except OSError as error:
                _say(end, Ended(0, error.errno or 0))
            else:
                if pid == 0:
                    for other in (end, *running):
                        os.close(other)
                    _work(module.main, line, request.seconds)
                running[end] = pid
                poll.register(end, select.POLLIN)
            os.close(line)


def _work(main: Callable[[BufferedRWPair], int], line: int, seconds: int) -> None:
    """The child: a job, and the next one if there is any; each has its own time."""
    code = 1
    try:
        os.dup2(1, 0)  # the helper's connection, by nothing
        stream = socket.socket(fileno=line).makefile("rwb")
        while True:
            code = 1
            signal.alarm(seconds)
            code = main(stream)
            if code:
                break
    except (EOFError, ConnectionError):
        pass  # the agent is done with it
    except BaseException as error:  # noqa: BLE001  # Rust's panics too
        with suppress(Exception):
            tell(stream, error)
    finally:
        os._exit(code)  # closes the line: its end means that the child has ended


def _finish(end: int, pid: int) -> None:
    """Kills a child that the agent is done with, if it still runs, and says how it ended."""
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    _say(end, Ended(os.waitstatus_to_exitcode(status)))


def _say(end: int, ended: Ended) -> None:
    with suppress(OSError):  # the agent did not wait for it
        os.write(end, codec.encode(ended))
    os.close(end)


def main() -> None:
    """The program."""
    os.nice(5)
    for ignored in (signal.SIGINT, signal.SIGTERM):  # sent to the agent's whole group: it decides
        signal.signal(ignored, signal.SIG_IGN)
    serve(socket.socket(fileno=0))
    os._exit(0)  # nothing to tidy up, and unloading a runtime takes time
