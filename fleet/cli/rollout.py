"""``shoal fleet rollout``: create, watch, steer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from contracts import codec, files
from contracts.errors import InputError
from fleet.api import models_rollouts
from fleet.cli.options import HERE, AsJson, Folder, TokenFile, TokenValue, Url, connect, with_client
from fleet.cli.output import ago, emit_json, reported, safe, table
from fleet.client import Client
from fleet.rollout.spec import RolloutSpec, describe, load, parse_waves
from fleet.rollout.state import ENDED, IN_FLIGHT

app = typer.Typer(no_args_is_help=True, help="Move devices to a version, in waves behind gates.")

_POLL_S = 0.5
_SHOWN = 20
Bundle = Annotated[str | None, typer.Argument(help="The bundle's name.")]
Version = Annotated[str | None, typer.Argument(help="Its version.")]
SpecFile = Annotated[Path | None, typer.Option("--file", "-f", help="YAML or JSON.")]
Selector = Annotated[str | None, typer.Option(help="Which devices; else all.")]
Waves = Annotated[
    str | None, typer.Option(help="Sizes counted from the start: 1,10%,50%,100%; ? asks first.")
]
Option = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any field: gates.max_latency_p95_us=20000; may be repeated."),
]
RolloutId = Annotated[str, typer.Argument(help="The rollout's id.")]


def _spec(
    bundle: str | None,
    version: str | None,
    file: Path | None,
    selector: str | None,
    waves: str | None,
    options: list[str],
) -> RolloutSpec:
    """The rollout that file and options describe together; options win."""
    document: dict[str, Any] = {}
    if file is not None:
        document = load(files.read_small(file)).model_dump(mode="json", exclude_unset=True)
    for key, value in (("bundle", bundle), ("version", version), ("selector", selector)):
        if value is not None:
            document[key] = value
    if waves is not None:
        document["waves"] = [w.model_dump(exclude_none=True) for w in parse_waves(waves)]
    for option in options:
        _set(document, option)
    if "bundle" not in document or "version" not in document:
        raise InputError("bad-rollout", "name the bundle and its version, or a file with --file")
    try:
        return RolloutSpec.model_validate(document)
    except ValidationError as error:
        raise InputError("bad-rollout", f"the rollout is not valid: {describe(error)}") from None


def _set(document: dict[str, Any], option: str) -> None:
    key, sign, text = option.partition("=")
    if not sign:
        raise InputError("bad-option", f"--set {option[:80]!r} is not key=value")
    target = document
    *parents, last = key.split(".")
    for parent in parents:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise InputError("bad-option", f"--set {key[:80]}: {parent} has no fields")
    target[last] = codec.load_yaml(text, what=f"--set {key[:80]}")


@app.command("create")
def create(
    bundle: Bundle = None,
    version: Version = None,
    file: SpecFile = None,
    selector: Selector = None,
    waves: Waves = None,
    option: Option = None,
    wait: Annotated[bool, typer.Option("--wait", help="Watch it until it ends.")] = False,
    allow_empty: Annotated[
        bool, typer.Option(help="Also where every device has the version: for late joiners.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Also a version that was stopped before.")
    ] = False,
    folder: Folder = HERE,
    url: Url = None,
    token_file: TokenFile = None,
    token: TokenValue = None,
    as_json: AsJson = False,
) -> None:
    """Creates a rollout. With --wait, exit code 0 only if it succeeds."""
    with reported(as_json):
        options = [*(option or []), *(["allow_empty=true"] if allow_empty else [])]
        spec = _spec(bundle, version, file, selector, waves, options)
        with connect(folder, url, token_file, token) as client:
            made = client.create_rollout(spec, again=again)
            if wait:
                made = _watch(client, made.id, quiet=as_json)
            if as_json:
                emit_json(made)
            else:
                _show(made)
            if wait and made.status != "succeeded":
                raise typer.Exit(1)


@app.command("plan")
def plan(
    bundle: Bundle = None,
    version: Version = None,
    file: SpecFile = None,
    selector: Selector = None,
    waves: Waves = None,
    option: Option = None,
    folder: Folder = HERE,
    url: Url = None,
    token_file: TokenFile = None,
    token: TokenValue = None,
    as_json: AsJson = False,
) -> None:
    """Shows what a rollout would do, without doing it."""
    with reported(as_json):
        spec = _spec(bundle, version, file, selector, waves, option or [])
        with connect(folder, url, token_file, token) as client:
            found = client.plan_rollout(spec)
        if as_json:
            emit_json(found)
            return
        typer.echo(f"{found.moving} of {found.matching} matching devices would get the version")
        table(
            ("wave", "size", "adds", "online", "bake s", "approval", "devices"),
            [
                (
                    index + 1,
                    wave.size,
                    wave.adds,
                    wave.online,
                    f"{wave.bake_s:g}",
                    "yes" if wave.approval else "",
                    ", ".join(wave.devices[:5]) + (" ..." if len(wave.devices) > 5 else ""),
                )
                for index, wave in enumerate(found.waves)
            ],
        )
        for device, why in list(found.left_out.items())[:50]:
            typer.echo(f"left out: {safe(device)}: {safe(why)}")
        for one in found.setbacks:
            said = one.reason or one.why
            typer.echo(
                f"before: {one.rollout} {one.status} in wave {one.wave + 1} of {one.waves}, "
                f"{one.failed} devices failed" + (f": {safe(said.message)}" if said else "")
            )


@app.command("list")
@with_client
def list_rollouts(
    client: Client,
    as_json: AsJson = False,
) -> None:
    """Lists rollouts, newest first."""
    found = client.rollouts()
    if as_json:
        emit_json(found)
        return
    table(
        ("rollout", "bundle", "status", "wave", "devices", "selector", "created"),
        [
            (
                one.id,
                f"{one.spec.bundle} {one.spec.version}",
                one.status,
                f"{one.wave + 1}/{len(one.spec.waves)}",
                _phases(one),
                one.spec.selector,
                ago(one.created_at),
            )
            for one in found
        ],
    )


@app.command("show")
@with_client
def show(
    client: Client,
    rollout: RolloutId,
    watch: Annotated[bool, typer.Option("--watch", help="Until it ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Shows a rollout: waves, gates, failed devices, history."""
    found = _watch(client, rollout, quiet=as_json) if watch else client.rollout(rollout)
    failed = list(client.members(rollout, "failed"))
    waiting = _waiting(client, found)
    events = client.events(rollout).items
    if as_json:
        document = found.model_dump(mode="json")
        document["failed"] = [one.model_dump(mode="json") for one in failed]
        document["waiting"] = [one.model_dump(mode="json") for one in waiting]
        document["events"] = [one.model_dump(mode="json") for one in events]
        emit_json(document)
        return
    _show(found)
    for member in waiting[:_SHOWN]:
        for wait in member.waits:
            since = f", {ago(wait.since)}" if wait.since else ""
            typer.echo(
                f"waits: {safe(member.device)} ({member.phase}{since}): {safe(wait.message)}"
            )
    if len(waiting) > _SHOWN:
        typer.echo(f"waits: {len(waiting) - _SHOWN} more devices")
    for member in failed[:_SHOWN]:
        why = (member.reason or {}).get("message", "no reason given")
        typer.echo(f"failed: {safe(member.device)}: {safe(str(why))}")
    for event in events[-15:]:
        typer.echo(f"{ago(event.at):>10}  {safe(event.message)}")


def _waiting(
    client: Client, one: models_rollouts.RolloutModel
) -> list[models_rollouts.MemberModel]:
    """Devices that are under way and say what they wait for."""
    phases = [phase for phase in sorted(IN_FLIGHT) if one.phases.get(phase)]
    return [m for phase in phases for m in client.members(one.id, phase) if m.waits]


def _command(name: Literal["approve", "pause", "resume", "abort"], text: str) -> None:
    @app.command(name, help=text)
    def command(
        rollout: RolloutId,
        wait: Annotated[bool, typer.Option("--wait", help="Watch it until it ends.")] = False,
        folder: Folder = HERE,
        url: Url = None,
        token_file: TokenFile = None,
        token: TokenValue = None,
        as_json: AsJson = False,
    ) -> None:
        with reported(as_json), connect(folder, url, token_file, token) as client:
            found = client.command_rollout(rollout, name)
            if wait:
                found = _watch(client, rollout, quiet=as_json)
            if as_json:
                emit_json(found)
            else:
                _show(found)


_command("approve", "Lets the wave that waits begin.")
_command("pause", "No further device gets the version until it is resumed.")
_command("resume", "Goes on after a pause.")
_command("abort", "Ends the rollout and gives devices their previous version back.")


def _watch(client: Client, rollout: str, *, quiet: bool) -> models_rollouts.RolloutModel:
    """Follows a rollout until it ends, printing what happens."""
    cursor: str | None = None
    while True:
        found = client.rollout(rollout)
        page = client.events(rollout, cursor)
        cursor = page.next
        if not quiet:
            for event in page.items:
                typer.echo(f"{time.strftime('%H:%M:%S')}  {safe(event.message)}", err=True)
        if found.status in ENDED:
            return found
        time.sleep(_POLL_S)


def _phases(one: models_rollouts.RolloutModel) -> str:
    return ", ".join(f"{count} {phase}" for phase, count in sorted(one.phases.items()))


def _show(one: models_rollouts.RolloutModel) -> None:
    typer.echo(
        f"{one.id}: {one.spec.bundle} {one.spec.version} on {safe(one.spec.selector)}: {one.status}"
        f", wave {one.wave + 1} of {len(one.spec.waves)}"
        + (f" ({safe(one.waiting)})" if one.waiting else "")
    )
    if one.reason:
        typer.echo(f"why: {safe(one.reason.message)}")
    if one.waves:
        table(
            ("wave", "size", "devices"),
            [
                (
                    int(wave) + 1,
                    str(one.spec.waves[int(wave)]),
                    ", ".join(f"{count} {phase}" for phase, count in sorted(counts.items())),
                )
                for wave, counts in one.waves.items()
            ],
        )
    for reading in one.readings:
        value = reading.get("value")
        shown = "no evidence yet" if value is None else f"{value:.6g}"
        holds = {True: "holds", False: "FAILS", None: "open"}[reading.get("holds")]
        typer.echo(
            f"gate, wave {reading['wave'] + 1}: {reading['gate']} {shown} "
            f"(limit {reading['limit']:.6g}): {holds}"
            + (f", {safe(reading['why'])}" if reading.get("why") else "")
        )
