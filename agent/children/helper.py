"""The process that the agent's children are forked from.

Python, a model runtime and the libraries of signatures take a fifth of a second of processor
time to load, and many times what a child then does with them. The helper loads what a kind of
job needs once and forks children. It starts with the first job and ends
:data:`IDLE_S` seconds after the last, so that an idle agent does not hold its memory. All the
agents of a process share one.

The pages that a child copies after its fork cost more than its work. So where several agents
of a process want the same work done (:class:`Turns`), a child that did its job well goes on to
the next of them, and rests until it comes. Where the first of them was the only one, it ends.

A job is one message with two sockets. ``line`` is the child's: messages in JSON, both ways.
``end`` stays with the helper, which writes how the child ended. The agent done with ``end``
means: kill the child. The agent gone means: kill all of them. Children of a helper that was
killed end too, at their alarm at the latest.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from agent.children.quiet import loud
from agent.children.wire import MAX_REQUEST_BYTES, Ended, Name, Request
from contracts import codec, interpreter
from contracts.errors import ShoalError

if TYPE_CHECKING:
    from typing_extensions import Self

IDLE_S: Final = 2.0
"""Seconds without a job after which the helper ends."""

GRACE_S: Final = 10.0
"""Seconds beyond a job's own after which the agent gives it up."""

AT_ONCE: Final = 4
"""Children that do the same work at once, as long as there is progress."""

STALL_S: Final = 0.3
"""Seconds in which no child of a work ended a job after which there is one more of them."""

PROGRAM: Final = (
    "import sys\n"
    "if sys.argv[1] not in sys.path: sys.path.insert(0, sys.argv[1])\n"
    "from agent.children.forks import main\n"
    "main()\n"
)
"""What Python runs, with the folder of these packages as its argument.

``-m`` would look for every module in the working directory first, which the agent that is
installed does not: whoever can write there would run in the helper. The folder is on the path
already where the packages are installed; it is not where the agent runs from a checkout.
"""

T = TypeVar("T")


class Child:
    """A child at work. Leaving it as a context manager ends it, or hands it on.

    Attributes:
        line: to it and from it; a read that takes too long raises :class:`OSError`.
        used: it did a job before.
        well: set by who got a good answer: it may do another job of the same work.
    """

    def __init__(
        self,
        line: socket.socket,
        end: socket.socket,
        helper: subprocess.Popen[bytes],
        ended: Callable[[], None],
        hand_on: Callable[[Child], bool],
    ) -> None:
        self.line = line.makefile("rwb")
        self.used = False
        self.well = False
        self._socket = line
        self._end = end
        self._helper = helper
        self._ended = ended
        self._hand_on = hand_on
        self._code: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._hand_on(self):
            self.close()

    def close(self) -> None:
        """Ends it, and forgets it."""
        try:
            with suppress(OSError):
                self.end()
        finally:
            with suppress(OSError):
                self.line.close()
            self._socket.close()
            self._end.close()
            self._ended()

    def end(self) -> int:
        """Kills it if it still runs.

        Returns:
            Its exit code, or minus the signal that killed it.

        Raises:
            ChildProcessError: the helper ended, and nobody knows how the child does.
            OSError: there was no memory or process for it.
        """
        if self._code is None:
            with suppress(OSError):
                self._end.shutdown(socket.SHUT_WR)
            data = self._end.recv(MAX_REQUEST_BYTES)
            if not data:
                raise ChildProcessError(errno.ECHILD, f"the helper {self._end_of_helper()}")
            ended = codec.decode(data, Ended, what="the end of a child")
            if ended.errno:
                raise OSError(ended.errno, os.strerror(ended.errno))
            self._code = ended.code
        return self._code

    def _end_of_helper(self) -> str:
        try:
            return how_ended(self._helper.wait(GRACE_S))
        except subprocess.TimeoutExpired:
            return "hangs"


def how_ended(code: int) -> str:
    """What an exit code means: ``was killed by signal 9``, ``ended with code 1``."""
    return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"


class Turn:
    """Somebody's, to start a child or to go on with one."""

    def __init__(self) -> None:
        self.came = threading.Event()
        self.child: Child | None = None


class Turns:
    """Who does the same work now, and who waits to.

    Attributes:
        working: children.
        resting: children that did well and wait for the next job.
        waiting: first come, first served.
        well: jobs that were done well.
        ended: when a job did, in seconds of the monotonic clock.
    """

    def __init__(self) -> None:
        self.working = 0
        self.resting: list[Child] = []
        self.waiting: deque[Turn] = deque()
        self.well = 0
        self.ended = 0.0


class Helper:
    """Starts the process when there is a job, and ends it when there was none for a while.

    Args:
        idle_s: seconds until then.
    """

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._running = 0
        self._works: dict[tuple[Name, str], Turns] = {}
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._last = 0.0
        self._timer: threading.Timer | None = None

    def start(self, job: Name, seconds: int, *, work: str = "") -> Child:
        """Starts a child, or waits for one that goes on with the same work.

        Args:
            job: what it does.
            seconds: of the wall clock that it has.
            work: what jobs must have in common for a child to do one after the other; empty:
                the child does this one alone.

        Raises:
            OSError: the helper cannot be started.
        """
        key = (job, f"{seconds} {work}")
        if not work:
            return self._fork(job, seconds, lambda _: False)
        child = self._turn(key)
        if child is not None:
            return child
        try:
            return self._fork(job, seconds, lambda child: self._hand_on(key, child))
        except BaseException:
            self._hand_on(key, None)
            raise

    def _turn(self, key: tuple[Name, str]) -> Child | None:
        """Waits until there is a child to go on with, or room to start one: None."""
        with self._lock:
            turns = self._works.setdefault(key, Turns())
            if turns.working < AT_ONCE:
                turns.working += 1
                turns.ended = time.monotonic()
                return turns.resting.pop() if turns.resting else None
            turn = Turn()
            turns.waiting.append(turn)
        while not turn.came.wait(STALL_S):
            with self._lock:
                now = time.monotonic()
                if not turn.came.is_set() and now - turns.ended >= STALL_S:
                    turns.ended = now  # the others look again in a while
                    turns.waiting.remove(turn)
                    turns.working += 1
                    return None
        return turn.child

    def _hand_on(self, key: tuple[Name, str], child: Child | None) -> bool:
        """Gives a place, and the child if it is well, to who waits; False: the child is to end."""
        with self._lock:
            turns = self._works[key]
            turns.ended = time.monotonic()
            on = child is not None and child.well
            if child is not None and on:
                child.used, child.well = True, False
                turns.well += 1
            if turns.waiting:
                turn = turns.waiting.popleft()
                turn.child = child if on else None
                turn.came.set()
                return on
            turns.working -= 1
            self._sweep_later()
            if child is not None and on and turns.well > 1:
                turns.resting.append(child)
                return True
            return False

    def _fork(self, job: Name, seconds: int, hand_on: Callable[[Child], bool]) -> Child:
        request = codec.encode(Request(job, seconds))
        line, line_there = socket.socketpair()
        end, end_there = socket.socketpair()
        with line_there, end_there:
            try:
                with self._lock:
                    helper = self._send(request, [line_there.fileno(), end_there.fileno()])
                    self._running += 1
            except BaseException:
                line.close()
                end.close()
                raise
        line.settimeout(seconds + GRACE_S)
        end.settimeout(GRACE_S)
        return Child(line, end, helper, self._ended, hand_on)

    def _send(self, request: bytes, handles: list[int]) -> subprocess.Popen[bytes]:
        if self._process is not None and self._control is not None:
            with suppress(ConnectionError):  # it was killed
                socket.send_fds(self._control, [request], handles)
                return self._process
            self._stop()
        self._control, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with there, os.fdopen(loud(), "wb") as errors:  # a model may be loading meanwhile
            self._process = subprocess.Popen(
                interpreter.program(PROGRAM, str(Path(__file__).absolute().parents[2])),
                stdin=there.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=errors,
                # No threads at the fork: the children of a classifier have no use for them.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
        with suppress(ConnectionError):  # it died at once: its exit code will say so
            socket.send_fds(self._control, [request], handles)
        return self._process

    def _ended(self) -> None:
        with self._lock:
            self._running -= 1
            self._last = time.monotonic()
            self._sweep_later()

    def _sweep_later(self) -> None:
        """With the lock: sweeps when the first thing that has nothing to do had that for long."""
        idle = [turns.ended for turns in self._works.values() if turns.working == 0]
        if self._running == 0 and self._process is not None:
            idle.append(self._last)
        if idle and self._timer is None:
            wait = max(0.0, min(idle) + self._idle_s - time.monotonic())
            self._timer = threading.Timer(wait, self._sweep)
            self._timer.daemon = True
            self._timer.start()

    def _sweep(self) -> None:
        """Ends what had nothing to do for a while: children that rest, then the helper."""
        tired: list[Child] = []
        with self._lock:
            self._timer = None
            before, last = time.monotonic() - self._idle_s, self._last
            for key, turns in list(self._works.items()):
                if turns.working == 0 and turns.ended <= before:
                    tired += turns.resting
                    del self._works[key]
        for child in tired:
            child.close()
        with self._lock:
            # The end of a child that rested is no job's.
            if self._running == 0 and self._process is not None and last <= before:
                self._stop()
            self._sweep_later()

    def _stop(self) -> None:
        assert self._control is not None and self._process is not None
        self._control.close()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._control = self._process = None


start = Helper().start
"""Starts a child of the helper that this process's agents share."""


def ask(job: Name, seconds: int, converse: Callable[[Child], T], *, work: str) -> T:
    """Has a job done, by a child that may have done the same work for others.

    What such a child could not do well, a fresh one does again: nothing that an earlier job left
    behind in it is ever an answer's reason.

    Args:
        job: as of :meth:`Helper.start`.
        seconds: as there.
        work: as there.
        converse: asks the child and gives its answer; what it raises is no good answer.

    Raises:
        OSError: the helper cannot be started.
    """
    with start(job, seconds, work=work) as child:
        used = child.used
        try:
            answer = converse(child)
            child.well = True
            return answer
        except ShoalError:
            if not used:
                raise
    with start(job, seconds) as child:
        return converse(child)
