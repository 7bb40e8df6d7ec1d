"""``shoal fleet backup | restore | ingest | token``: running a fleet for a long time."""

from __future__ import annotations

import contextlib
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import structlog
import typer

from contracts.errors import InputError
from contracts.topics import check_name
from fleet.cli import noted
from fleet.cli.options import HERE, AsJson, Folder
from fleet.cli.output import emit_json, reported
from fleet.cli.serve import configure_logs
from fleet.folder import Fleet


def backup(
    target: Annotated[Path, typer.Argument(help="The file to write, for example fleet.tar.gz.")],
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Writes a consistent backup, also while the controller runs. It holds the keys."""
    from fleet import backup as backups

    with reported(as_json):
        fleet = Fleet.open(folder)
        with noted.acting(fleet, "fleet.backup", str(target.absolute())) as act:
            size = backups.backup(fleet, target)
            act.detail["bytes"] = size
        if as_json:
            emit_json({"file": str(target), "bytes": size})
        else:
            typer.echo(f"Wrote {target} ({size} bytes). It holds private keys: keep it safe.")


def restore(
    source: Annotated[Path, typer.Argument(help="A file that `backup` wrote.")],
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    as_json: AsJson = False,
) -> None:
    """Makes a fleet's folder from a backup."""
    from fleet import backup as backups

    with reported(as_json):
        todo: list[str] = []
        fleet = backups.restore(source, folder, tell=todo.append)
        if as_json:
            emit_json({"dir": str(fleet.folder), "fleet": fleet.config.fleet, "todo": todo})
            return
        typer.echo(f"Restored fleet {fleet.config.fleet} to {fleet.folder}")
        for sentence in todo:
            typer.echo(sentence, err=True)


def ingest(
    name: Annotated[str, typer.Argument(help="Of this process: each has a session of its own.")],
    folder: Folder = HERE,
    log_level: Annotated[str, typer.Option(help="debug, info, warning, error.")] = "info",
) -> None:
    """Runs one more ingest process beside the controller (needs `shared_ingest: true`)."""
    from fleet.ingest import Consumer
    from fleet.ingest.writer import Writer

    with reported(as_json=False), contextlib.ExitStack() as stack:
        configure_logs(log_level)
        fleet = Fleet.open(folder)
        if not fleet.config.shared_ingest:
            raise InputError(
                "not-shared",
                "set shared_ingest: true in fleet.yaml, and restart the controller: else every "
                "process would take every message",
            )
        if check_name(name, "process") == "main":
            raise InputError("bad-name", "'main' is the controller's own: choose another name")
        store = fleet.open_store()
        stack.callback(store.close)
        store.check()
        consumer = Consumer(
            fleet.topics,
            fleet.controller_mqtt(),
            Writer(store, admit_unknown=fleet.config.admit_unknown),
            name=name,
            secret=fleet.session_secret(),
            primary=False,
            shared=True,
            quota=fleet.config.quota,
        )
        stopped = threading.Event()

        def stop(_number: int, _frame: FrameType | None) -> None:
            stopped.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        consumer.start()
        log = structlog.get_logger("ingest")
        log.info("ingest started", process=name)
        stopped.wait()
        consumer.stop()
        log.info("ingest stopped", process=name, messages=consumer.counters.messages)


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (backup, restore, ingest):
        app.command(command.__name__)(command)
