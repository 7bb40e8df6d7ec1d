"""``shoal fleet logs``: lines of a device's log."""

from __future__ import annotations

import time
from typing import Annotated, cast

import typer

from contracts import limits
from contracts.errors import InputError
from contracts.requests import LogLevel
from fleet.api.models_logs import LogLineModel, LogPage, LogsAsked
from fleet.cli.options import AsJson, with_client
from fleet.cli.output import emit_line, safe
from fleet.client import Client
from fleet.logtail import MAX_FOLLOW_S

_LEVELS = ("info", "warning", "error")


@with_client
def logs(
    client: Client,
    device: Annotated[str, typer.Argument(help="Its name.")],
    follow: Annotated[bool, typer.Option("--follow", help="Goes on until Ctrl-C.")] = False,
    lines: Annotated[
        int, typer.Option(min=1, max=limits.MAX_LOG_LINES, help="The newest so many.")
    ] = 50,
    level: Annotated[str, typer.Option(help="The least: info, warning, error.")] = "info",
    as_json: AsJson = False,
) -> None:
    """Shows lines of a device's log, which the device redacts; who asks is in the audit log."""
    if level not in _LEVELS:
        raise InputError("bad-options", f"--level is one of {', '.join(_LEVELS)}")
    seconds = MAX_FOLLOW_S if follow else 0.0
    asked = LogsAsked(lines=lines, level=cast("LogLevel", level), follow_s=seconds)
    while True:
        for page in client.logs(device, asked):
            _show(page, as_json)
            after = page.last if page.last >= 0 else None
            asked = asked.model_copy(update={"after": after, "boot": page.boot})
        if not follow:
            return


def _show(page: LogPage, as_json: bool) -> None:
    if as_json:
        emit_line(page)
        return
    if page.missed:
        typer.echo(f"... {page.missed} lines are kept no more", err=True)
    for one in page.lines:
        typer.echo(said(one))


def said(line: LogLineModel) -> str:
    """A line for people."""
    try:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(line.at))
    except (OverflowError, ValueError, OSError):
        at = "unknown time"
    facts = "".join(f"  {key}={value}" for key, value in sorted(line.facts.items()))
    return safe(f"{at}  {line.level:7}  {line.event}{facts}")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("logs")(logs)
