"""``shoal fleet backup | restore | takeover | ingest``: running a fleet for a long time."""

from __future__ import annotations

import contextlib
import secrets
import time
from pathlib import Path
from typing import Annotated

import structlog
import typer

from contracts.errors import InputError
from contracts.files import typed
from contracts.stopping import Stop
from contracts.topics import check_name
from fleet.cli import noted
from fleet.cli.options import HERE, AsJson, Folder
from fleet.cli.output import emit_json, reported
from fleet.folder import Fleet
from fleet.logs import configure_logs
from fleet.store import audit, ownership


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
        with noted.trying_in(folder, "fleet.restore"):
            fleet = backups.restore(source, folder, tell=todo.append)
        if as_json:
            emit_json({"dir": str(fleet.folder), "fleet": fleet.config.fleet, "todo": todo})
            return
        typer.echo(f"Restored fleet {fleet.config.fleet} to {fleet.folder}")
        todo.append(
            "If another controller has had this fleet since, at the same broker, this one sends "
            f"nothing until you run `shoal fleet takeover --dir {typed(folder)}`"
        )
        for sentence in todo:
            typer.echo(sentence, err=True)


def takeover(
    folder: Folder = HERE,
    as_json: AsJson = False,
) -> None:
    """Takes the fleet from a controller with another database, for the controller of this folder.

    At once when it runs, else at its next start. The other one sends nothing from then on.
    """
    with reported(as_json):
        fleet = Fleet.open(folder)
        name, actor = fleet.config.fleet, audit.local()
        with (
            noted.trying(fleet, "fleet.takeover", name),
            contextlib.closing(fleet.open_store()) as store,
        ):
            store.check()
            with store.write() as connection:
                ownership.grant(connection, actor.name, time.time())
                audit.note_by(connection, actor, "fleet.takeover", name, time.time())
        if as_json:
            emit_json({"fleet": name, "granted": True})
            return
        typer.echo(
            f"The controller of {fleet.folder} takes the fleet {name} from whoever has it: at "
            "once when it runs, else at its next start."
        )


def ingest(
    name: Annotated[str, typer.Argument(help="Of this process: each has a session of its own.")],
    folder: Folder = HERE,
    log_level: Annotated[str, typer.Option(help="debug, info, warning, error.")] = "info",
) -> None:
    """Runs one more ingest process beside the controller (needs `shared_ingest: true`)."""
    from fleet.ingest import Consumer
    from fleet.ingest.writer import Writer
    from fleet.ownership import Keeper

    with reported(as_json=False), contextlib.ExitStack() as stack:
        configure_logs(log_level)
        fleet = Fleet.open(folder)
        with noted.trying(fleet, "ingest.start", name[:64]):
            if not fleet.config.shared_ingest:
                raise InputError(
                    "not-shared",
                    "set shared_ingest: true in fleet.yaml, and restart the controller: else "
                    "every process would take every message",
                )
            if check_name(name, "process") == "main":
                raise InputError("bad-name", "'main' is the controller's own: choose another name")
            store = fleet.open_store()
            stack.callback(store.close)
            store.check()
        stop = stack.enter_context(Stop())  # first: whoever reads of a start may end it at once
        noted.begun(store, "ingest.start", name)
        stack.callback(noted.begun, store, "ingest.stop", name)
        mqtt, secret = fleet.controller_mqtt(), fleet.session_secret()
        writer = Writer(store, admit_unknown=fleet.config.admit_unknown)

        def consume() -> Consumer:
            return Consumer(
                fleet.topics,
                mqtt,
                writer,
                name=name,
                secret=secret,
                primary=False,
                shared=True,
                quota=fleet.config.quota,
            )

        log = structlog.get_logger("ingest")
        instance = secrets.token_hex(8)
        keeper = Keeper(
            store,
            fleet.topics,
            mqtt,
            f"shoal-{fleet.config.fleet}-{instance}-{secret}",
            instance,
            candidate=False,
            on_change=lambda _speaks: stop.wake(),
        )
        stack.callback(keeper.stop)
        keeper.start()
        running: Consumer | None = None
        messages = 0
        told = False
        while not told:
            told = stop.wait()
            # Messages are for the fleet's owner: another database must not have them.
            wanted = keeper.speaks and not told
            if wanted and running is None:
                running = consume()
                running.start()
                log.info("ingest started", process=name)
            elif not wanted and running is not None:
                running.stop()
                messages += running.counters.messages
                running = None
                log.info("ingest stopped", process=name, messages=messages)


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (backup, restore, takeover, ingest):
        app.command(command.__name__)(command)
