"""What a database says of damage is told from what its disk refuses, on every Python."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from agent.telemetry.table import is_damage


def _no_database(path: Path) -> None:
    path.write_bytes(b"no database at all" * 500)
    _run(path, "SELECT * FROM message")


def _damaged_page(path: Path) -> None:
    _run(path, "CREATE TABLE message (a)", "INSERT INTO message VALUES (zeroblob(90000))")
    data = bytearray(path.read_bytes())
    data[100:4096] = b"\xff" * 3996
    path.write_bytes(data)
    _run(path, "SELECT * FROM message")


def _other_columns(path: Path) -> None:
    _run(path, "CREATE TABLE message (a)", "SELECT payload FROM message")


def _no_table(path: Path) -> None:
    _run(path, "SELECT payload FROM message")


def _full(path: Path) -> None:
    _run(
        path,
        "PRAGMA max_page_count = 3",
        "CREATE TABLE message (a)",
        "INSERT INTO message VALUES (zeroblob(90000))",
    )


def _locked(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as first:
        first.execute("CREATE TABLE message (a)")
        first.execute("BEGIN EXCLUSIVE")
        _run(path, "INSERT INTO message VALUES (1)")


def _read_only(path: Path) -> None:
    _run(path, "CREATE TABLE message (a)")
    _run(f"file:{path}?mode=ro", "INSERT INTO message VALUES (1)")


def _cannot_open(path: Path) -> None:
    _run(path / "none" / "telemetry.db", "SELECT 1")


def _run(path: Path | str, *statements: str) -> None:
    with closing(sqlite3.connect(path, timeout=0, uri=isinstance(path, str))) as opened:
        for statement in statements:
            opened.execute(statement).fetchall()
        opened.commit()


@pytest.mark.parametrize(
    ("provoke", "damage"),
    [
        (_no_database, True),
        (_damaged_page, True),
        (_other_columns, True),
        (_no_table, True),
        (_full, False),
        (_locked, False),
        (_read_only, False),
        (_cannot_open, False),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_damage_is_told_from_what_a_disk_refuses(
    tmp_path: Path, provoke: Callable[[Path], None], damage: bool
) -> None:
    """By SQLite's code, and where Python does not tell it, by class and message."""
    with pytest.raises(sqlite3.Error) as found:
        provoke(tmp_path / "telemetry.db")
    assert is_damage(found.value) is damage
    without_code = type(found.value)(str(found.value))
    assert is_damage(without_code) is damage, str(found.value)
