"""A full disk, for this process or for one that it starts."""

from __future__ import annotations

import io
import resource
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

ROOM = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
NO_ROOM = (0, resource.RLIM_INFINITY)
"""Limits of the size of a file: an empty one can be made, and no byte be added to any."""


def fill() -> None:
    """In a child before it becomes another program: every disk is full for that."""
    resource.setrlimit(resource.RLIMIT_FSIZE, NO_ROOM)


def take_room(pid: int) -> None:
    """As :func:`fill`, for a program that runs."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, NO_ROOM)


def make_room(pid: int) -> None:
    """Ends what :func:`fill` or :func:`take_room` began."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, ROOM)


@contextmanager
def full_disk() -> Iterator[io.StringIO]:
    """Every disk is full for this process; gives what is logged meanwhile."""
    said = io.StringIO()
    with redirect_stdout(said):  # pytest keeps output in a file
        fill()
        try:
            yield said
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, ROOM)
