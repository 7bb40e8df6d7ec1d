"""Improvements that are started from the controller, as programs of their own; and how far all are.

``shoal improve`` does the work (:mod:`fleet.improve`). It outlives the controller, and what it
makes is on the disk after each step.
"""

from __future__ import annotations

import contextlib
import fcntl
import subprocess
import threading
from pathlib import Path
from typing import Any, Final

import msgspec

from contracts import codec, interpreter
from contracts.errors import RefusedError, ShoalError, UnavailableError
from contracts.topics import check_name
from fleet import durable
from fleet.folder import Fleet
from fleet.store import Store, audit
from fleet.store.entries import Actor

FOLDER: Final = "improve"
STATE: Final = "state.json"
LOCK: Final = ".lock"
CACHE: Final = "cache"
"""Of all versions of a model: what their teacher said of texts."""

VERDICT: Final = "verdict.json"
LOG: Final = "improve.log"


class Improving(msgspec.Struct, frozen=True):
    """A next version, made or being made.

    Attributes:
        name, version: of it.
        against: the version that ran when it began.
        step: ``begun``, ``built``, ``judged``, ``published``, ``rolling``, ``done``, ``stopped``.
        stops: why it was stopped.
        running: a program works on it now.
    """

    name: str
    version: str
    against: str
    step: str
    stops: list[str] = []
    running: bool = False


def every(fleet: Fleet) -> list[Improving]:
    """All of a fleet, the newest first."""
    found: list[tuple[int, Improving]] = []
    for path in (fleet.folder / FOLDER).glob(f"*/*/{STATE}"):
        with contextlib.suppress(ShoalError, OSError):  # being written, or not ours
            one = codec.decode(path.read_bytes(), Improving, what=str(path))
            found.append((path.stat().st_mtime_ns, one))
    newest: set[str] = set()
    listed = []
    for _, one in sorted(found, key=lambda pair: -pair[0]):
        running = one.name not in newest and is_busy(fleet.folder / FOLDER / one.name)
        newest.add(one.name)
        listed.append(msgspec.structs.replace(one, running=running))
    return listed


def is_busy(home: Path) -> bool:
    """Whether a program works on a model's next version."""
    try:
        with (home / LOCK).open("r") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def start(fleet: Fleet, store: Store, actor: Actor, model: str) -> None:
    """Starts it for a model whose recipe is known from the last time; it asks nobody.

    Raises:
        InputError: ``bad-name``.
        RefusedError: ``no-recipe``.
        UnavailableError: ``folder-busy``, ``program-failed``.
    """
    home = fleet.folder / FOLDER / check_name(model, "model")
    with audit.acting(store, actor, "model.improve", model):
        if not any(home.glob(f"*/{STATE}")):
            raise RefusedError(
                "no-recipe",
                f"the recipe of {model} is not known here yet: the first time, "
                f"`shoal improve {model} --recipe FILE` on the controller's machine",
            )
        if is_busy(home):
            raise UnavailableError("folder-busy", f"another process improves {model} now")
        durable.make_folder(home)
        command = interpreter.module(
            "fleet", "improve", model, "--yes", "--json", "--dir", str(fleet.folder.resolve())
        )
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "start_new_session": True}
        try:
            with (home / LOG).open("ab") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log, **options)
        except OSError as error:
            raise UnavailableError(
                "program-failed", f"shoal improve cannot be started: {error.strerror}"
            ) from None
    threading.Thread(target=process.wait, name="improve", daemon=True).start()
