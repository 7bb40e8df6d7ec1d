"""``shoal fleet timeline``: what happened to one device."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from fleet.api import models_devices
from fleet.cli.options import AsJson, with_client
from fleet.cli.output import emit_json, table
from fleet.client import Client


@with_client
def timeline(
    client: Client,
    device: Annotated[str, typer.Argument(help="Its name, or the id of one that left.")],
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="The newest so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Shows what happened to a device, newest first: updates, connections, alerts, changes."""
    found: list[models_devices.HappenedModel] = []
    cursor: str | None = None
    while len(found) < limit:
        page = client.timeline(device, cursor, min(1000, limit - len(found)))
        found += page.items
        cursor = page.next
        if cursor is None:
            break
    if as_json:
        emit_json(found)
        return
    table(
        ("when", "kind", "what happened", "by"),
        [
            (
                time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(one.at)),
                one.kind,
                one.text,
                one.by,
            )
            for one in found
        ],
    )


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("timeline")(timeline)
