"""``shoal fleet serve`` that ends at a step as by a power cut: ``python FILE STEP FOLDER``."""

from __future__ import annotations

import os
import sys
from typing import Any, Final, NoReturn

from fleet.cli import serve
from fleet.cli.app import main
from fleet.controller import Controller
from fleet.folder import Fleet
from fleet.mqtt.link import Link
from fleet.ownership.keeper import Keeper
from fleet.store import desired, ownership

CRASH: Final = 77
"""The exit code of a crash."""


def _crash(*_arguments: object, **_options: object) -> NoReturn:
    os._exit(CRASH)


def _after(owner: Any, name: str) -> None:
    whole = getattr(owner, name)

    def cut(*arguments: object, **options: object) -> NoReturn:
        whole(*arguments, **options)
        _crash()

    setattr(owner, name, cut)


def _before(owner: Any, name: str) -> None:
    setattr(owner, name, _crash)


STEPS: Final = {
    "ports are taken": lambda: _after(serve, "listen"),
    "the database is open": lambda: _after(Fleet, "open_store"),
    "the lease and the fence are there": lambda: _after(ownership, "take"),
    "the broker has been read": lambda: _before(Keeper, "_claim"),
    "the word is to be said": lambda: _before(Link, "publish"),
    "the word has been said": lambda: _after(Link, "publish"),
    "it may speak": lambda: _before(Controller, "_on_ownership"),
    "all parts have started": lambda: _after(Controller, "_on_ownership"),
    "documents are sent and not marked": lambda: _before(desired, "mark_sent"),
}
"""On the way of a controller to the fleet, in order."""

TAKING: Final = {
    "a fence was given to take the fleet": lambda: _after(ownership, "outrun"),
    "the word is to be said": STEPS["the word is to be said"],
    "the word has been said": STEPS["the word has been said"],
    "the person's word is to be settled": lambda: _before(ownership, "settle"),
}
"""On the way of one that takes it from another."""

if __name__ == "__main__":
    (STEPS | TAKING)[sys.argv[1]]()
    sys.argv = ["shoal", "fleet", "serve", "--dir", sys.argv[2]]
    main()
