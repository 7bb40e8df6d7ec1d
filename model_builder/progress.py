"""Progress on stderr: bars on a terminal, elsewhere a line every ten seconds."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from model_builder.teachers.base import Progress as Report

INTERVAL_S: Final = 10.0
"""Seconds between two lines where there is no terminal."""


@contextlib.contextmanager
def bars(quiet: bool = False) -> Iterator[Report]:
    """Yields ``report(what, done, total)``; each `what` has a bar or line of its own."""
    console = Console(stderr=True, quiet=quiet)
    if not quiet and not console.is_terminal:
        with lines(sys.stderr) as told:
            yield told
        return
    tasks: dict[str, TaskID] = {}
    with Progress(
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=quiet,
    ) as progress:

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield report


class Lines:
    """What is being done, as a line when one is due.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._what = ""
        self._done = self._total = 0
        self._since = self._began
        self._first = 0

    def report(self, what: str, done: int, total: int) -> None:
        """Takes note; `what` may be a new thing, or one that begins anew."""
        if what != self._what or done < self._done:
            self._what, self._since, self._first = what, self._clock(), done
        self._done, self._total = done, total

    def line(self) -> str:
        """The line to print now."""
        now = self._clock()
        passed = f"{_spoken(now - self._began)} passed"
        if not self._what:
            return f"reading; {passed}"
        steps = self._done - self._first
        if self._done >= self._total:
            left = "done"
        elif steps > 0:
            seconds = (now - self._since) / steps * (self._total - self._done)
            left = f"about {_spoken(seconds)} left of this"
        else:
            left = "just begun"
        return f"{self._what}: {self._done} of {self._total}, {left}; {passed}"


def _spoken(seconds: float) -> str:
    whole = int(seconds + 0.5)
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


@contextlib.contextmanager
def lines(stream: TextIO, interval: float = INTERVAL_S) -> Iterator[Report]:
    """Writes a line every `interval` seconds, whether or not work reports meanwhile."""
    state = Lines()
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(interval):
            with contextlib.suppress(OSError, ValueError):  # nobody reads any more
                stream.write(state.line() + "\n")
                stream.flush()

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield state.report
    finally:
        stop.set()
        thread.join()
