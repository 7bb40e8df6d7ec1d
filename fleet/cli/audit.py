"""``shoal fleet audit``: who changed what, and what was refused."""

from __future__ import annotations

import contextlib
import csv
import io
import re
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from contracts import codec
from contracts.errors import InputError
from fleet import durable
from fleet.cli.options import HERE, AsJson, Folder, TokenFile, TokenValue, Url, connect
from fleet.cli.output import emit_json, reported, safe, table
from fleet.folder import Fleet
from fleet.store import audit
from fleet.store.audit import Entry, Filter
from fleet.store.entries import DONE

_PAGE: Final = 1000
_AGO: Final = re.compile(r"(\d{1,6})(s|m|h|d|w)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_MOMENT: Final = "2026-05-31, 2026-05-31T08:00+02:00, or 90m, 24h, 7d for so long ago"
_Beginning = Annotated[str, typer.Option(help="The beginning of its name.")]


def show(
    actor: _Beginning = "",
    action: _Beginning = "",
    target: _Beginning = "",
    since: Annotated[str, typer.Option(help=_MOMENT)] = "",
    until: Annotated[str, typer.Option(help="As --since.")] = "",
    failed: Annotated[
        bool | None, typer.Option("--failed/--changes", help="Only what was refused, or was not.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="The newest so many.")] = 100,
    export: Annotated[
        Path | None, typer.Option(help="A new file, .jsonl or .csv, with all that is found.")
    ] = None,
    folder: Folder = HERE,
    url: Url = None,
    token_file: TokenFile = None,
    token: TokenValue = None,
    as_json: AsJson = False,
) -> None:
    """Shows who changed what, newest first: of the folder's database, or of the controller."""
    with reported(as_json), contextlib.ExitStack() as stack:
        wanted = Filter(actor, action, target, moment(since), moment(until), failed)
        if url is not None:
            client = stack.enter_context(connect(folder, url, token_file, token))
            found = client.audit_entries(wanted)
        else:
            store = stack.enter_context(contextlib.closing(Fleet.open(folder).open_store()))
            store.check()

            def page(before: int | None) -> tuple[list[Entry], int | None]:
                with store.read() as connection:
                    return audit.page(connection, before, _PAGE, wanted)

            found = _every(page)
        if export is not None:
            count = _export(found, export)
            if as_json:
                emit_json({"file": str(export), "entries": count})
            else:
                typer.echo(f"Wrote {count} entries to {export}")
            return
        entries = [entry for entry, _ in zip(found, range(limit), strict=False)]
        if as_json:
            emit_json(entries)
            return
        _table(entries)


def moment(text: str, now: float | None = None) -> float | None:
    """Seconds since the epoch of a moment as people write it; None of an empty text.

    Raises:
        InputError: ``bad-time``.
    """
    if not text:
        return None
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return (time.time() if now is None else now) - int(ago[1]) * _SECONDS[ago[2]]
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InputError("bad-time", f"{text[:40]!r} is no moment: expected {_MOMENT}") from None
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()


def _every(page: Callable[[int | None], tuple[list[Entry], int | None]]) -> Iterator[Entry]:
    before: int | None = None
    while True:
        entries, before = page(before)
        yield from entries
        if before is None:
            return


def _export(entries: Iterator[Entry], path: Path) -> int:
    """Writes all of it, or no file.

    Raises:
        InputError: ``bad-format``, ``file-exists``.
    """
    if path.suffix not in (".jsonl", ".csv"):
        raise InputError("bad-format", f"{path} should end in .jsonl or .csv")
    count = 0

    def lines() -> Iterator[bytes]:
        nonlocal count
        if path.suffix == ".csv":
            yield _row(Entry.__struct_fields__)
        for entry in entries:
            yield codec.encode(entry) + b"\n" if path.suffix == ".jsonl" else _cells(entry)
            count += 1

    with durable.staged(path, mode=0o600) as file:
        file.write_all(lines())
        try:
            file.swap(overwrite=False)
        except FileExistsError:
            raise InputError("file-exists", f"{path} exists: name another file") from None
    return count


def _cell(value: object) -> str:
    """A cell that no spreadsheet takes for a formula: names in the log are not all ours."""
    text = "" if value is None else str(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _cells(entry: Entry) -> bytes:
    fields = msgspec.structs.asdict(entry) | {"detail": codec.encode(entry.detail).decode()}
    return _row([_cell(value) for value in fields.values()])


def _row(cells: Iterable[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue().encode()


def _table(entries: list[Entry]) -> None:
    table(
        ("when", "who", "did what", "to", "details"),
        [
            (
                datetime.fromtimestamp(entry.at, timezone.utc).strftime("%Y-%m-%d %H:%M:%S"),
                f"{entry.actor} ({entry.role})",
                entry.action
                + ("" if entry.outcome == DONE else f" [{entry.outcome}]")
                + (f" x{entry.times}" if entry.times > 1 else ""),
                entry.target,
                safe(", ".join(f"{key}={value}" for key, value in entry.detail.items())),
            )
            for entry in entries
        ],
    )


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("audit")(show)
