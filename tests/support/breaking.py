"""Places of a program that fail when they are told to, with all that they were given.

The place whose name is in a file raises an error whose message, and whose locals, hold its
arguments; each time it adds a line to the file with the suffix ``.hits``. A name with a ``!``
before it raises what is no ``Exception``, as Rust's panics are; with ``!!`` it also writes the
message to file descriptor 2, as they do, past Python and its log. A place fails when it is given
the text behind its name in the file; with a ``*`` before the text whatever it is given.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class Panic(BaseException):
    """As of a library in Rust."""


def _given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    return repr([getattr(one, "payload", one) for one in (*args, *kwargs.values())])


def found(place: str) -> tuple[Any, str]:
    """What has a place, and its name there.

    Raises:
        AttributeError: it is not there: it has moved.
    """
    module, _, name = place.partition(":")
    owner: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    getattr(owner, last)
    return owner, last


def _break(place: str, control: Path) -> None:
    owner, last = found(place)
    whole = getattr(owner, last)

    @functools.wraps(whole)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        text = given = _given(args, kwargs)  # a local with the text, too
        wanted, _, marker = control.read_text().partition(" ")
        if marker.startswith("*"):
            text = given = marker
        if wanted.lstrip("!") == place and marker in given:
            with control.with_suffix(".hits").open("a") as hits:
                hits.write(place + "\n")
            if wanted.startswith("!!"):
                os.write(2, f"thread '<unnamed>' panicked at src/text.rs:7:5:\n{text}\n".encode())
            if wanted.startswith("!"):
                raise Panic(f"called `unwrap()` on {text}")
            raise ValueError(f"cannot work on {text}")
        return whole(*args, **kwargs)

    setattr(owner, last, wrapped)


def break_places(places: Iterable[str], control: Path) -> None:
    """Makes places (``module:name``) fail when the file says so."""
    for place in places:
        _break(place, control)
