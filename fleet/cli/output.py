"""What commands print: tables for people, JSON for machines, errors on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn

import msgspec
import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from contracts import codec, files, pipes
from contracts.errors import ErrorBody, ErrorInfo, ShoalError


def emit_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.buffer.write(codec.pretty(_plain(value)))
    sys.stdout.flush()


def emit_line(value: Any) -> None:
    """One JSON document on one line of stdout, at once."""
    sys.stdout.buffer.write(codec.encode(_plain(value)) + b"\n")
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return msgspec.to_builtins(value)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout; text from devices is shown as it is, never read as markup."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(safe(str(cell))) for cell in row))
    terminal = sys.stdout.isatty()
    console = Console(soft_wrap=not terminal, width=None if terminal else 200)
    with console.capture() as text:
        console.print(shown)
    sys.stdout.write(text.get())
    sys.stdout.flush()


def safe(text: str) -> str:
    """`text` without control characters: a device must not steer a person's terminal."""
    return "".join(c if c.isprintable() or c == " " else "\N{REPLACEMENT CHARACTER}" for c in text)


def ago(moment: float | None) -> str:
    """How long ago, for people."""
    if moment is None:
        return "never"
    seconds = max(0.0, time.time() - moment)
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds / 86400:.0f} d ago"


@contextlib.contextmanager
def reported(as_json: bool) -> Iterator[None]:
    """Turns errors into one line on stderr and the right exit code."""
    try:
        yield
    except ShoalError as error:
        fail(error.info, error.exit_code, as_json)
    except OSError as error:
        pipes.leave_if_unread(error)
        fail(ErrorInfo("file-error", files.reason(error)), 1, as_json)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def fail(info: ErrorInfo, code: int, as_json: bool) -> NoReturn:
    """Prints an error and leaves."""
    if as_json:
        sys.stderr.buffer.write(codec.encode(ErrorBody(info)) + b"\n")
    else:
        typer.echo(f"error: {safe(info.message)} [{info.code}]", err=True)
    raise typer.Exit(code)
