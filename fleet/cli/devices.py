"""``shoal fleet devices | label | query | metrics``: look at the fleet, and ask it."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from contracts import codec, files
from contracts.errors import InputError
from contracts.topics import check_name
from fleet.api import models, models_devices
from fleet.cli.options import AsJson, with_client
from fleet.cli.output import ago, emit_json, emit_line, safe, table
from fleet.client import Client
from fleet.rollout import selector as selectors
from fleet.rollout.spec import describe


@with_client
def devices(
    client: Client,
    selector: Annotated[
        str, typer.Argument(help="Which; for example site=lyon, own:site=lyon.")
    ] = "all",
    clones: Annotated[
        bool, typer.Option("--clones", help="Identities that more than one device has.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Lists devices with what they run."""
    selectors.parse(selector)
    if clones:
        _clones(client.clones(), as_json)
        return
    found = list(client.devices(selector))
    if as_json:
        emit_json(found)
        return
    table(
        (
            "device",
            "board",
            "state",
            "seen",
            "models",
            "update",
            "waits for",
            "dropped",
            "labels",
            "says of itself",
        ),
        [
            (
                one.id,
                one.board,
                one.state,
                "now" if one.state == "online" else ago(one.seen_at),
                _models(one),
                one.last_update["state"] if one.last_update else "",
                "; ".join(wait.message for wait in one.waits),
                _dropped(one),
                _labels(one.labels, one.groups),
                _labels(one.own_labels, one.own_groups, "own:"),
            )
            for one in found
        ],
    )


def _dropped(device: models_devices.DeviceModel) -> str:
    """What was dropped of its data since yesterday, by place."""
    return ", ".join(f"{count} {place}" for place, count in device.dropped.items())


def _labels(labels: dict[str, str], groups: list[str], prefix: str = "") -> str:
    """Labels and groups as a selector asks for them."""
    pairs = [*sorted(labels.items()), *(("group", group) for group in groups)]
    return ",".join(f"{prefix}{key}={value}" for key, value in pairs)


@with_client
def label(
    client: Client,
    device: Annotated[str, typer.Argument(help="The device's name.")],
    change: Annotated[
        list[str] | None, typer.Argument(help="KEY=VALUE gives a label, KEY- takes it away.")
    ] = None,
    join: Annotated[
        list[str] | None, typer.Option("--group", help="A group to add; may be repeated.")
    ] = None,
    leave: Annotated[
        list[str] | None, typer.Option("--no-group", help="A group to take away; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Changes the labels and groups that operators give a device; shows them without a change.

    What the device reports of itself stays: a selector asks for that with own:KEY.
    """
    found = client.device(device)
    labels = dict(found.labels)
    for one in change or []:
        key, equals, value = one.partition("=")
        if equals:
            labels[check_name(key, "label")] = value
        elif one.endswith("-"):
            labels.pop(one[:-1], None)
        else:
            raise InputError("bad-label", f"{one[:80]!r} is neither KEY=VALUE nor KEY-")
    dropped = set(leave or [])
    groups = list(dict.fromkeys(g for g in [*found.groups, *(join or [])] if g not in dropped))
    if change or join or leave:
        found = client.change_device(
            device,
            labels=labels if change else None,
            groups=groups if join or leave else None,
            version=found.version,
        )
    if as_json:
        emit_json(found)
        return
    table(
        ("device", "labels", "says of itself"),
        [
            (
                found.id,
                _labels(found.labels, found.groups),
                _labels(found.own_labels, found.own_groups, "own:"),
            )
        ],
    )


def _clones(found: list[models_devices.CloneModel], as_json: bool) -> None:
    if as_json:
        emit_json(found)
        return
    rows = [
        (one.device, one.count, ago(one.since), ago(one.at), " ".join(one.addresses) or "unknown")
        for one in found
    ]
    table(("device", "signs", "since", "last", "addresses"), rows)
    for one in found:
        typer.echo(safe(one.message), err=True)


def _models(device: models_devices.DeviceModel) -> str:
    parts = []
    for name, slot in device.slots.items():
        active = f"{slot.active.name} {slot.active.version}" if slot.active else "nothing"
        if slot.problem is not None:
            active += f" ({slot.problem.code})"
        trial = " (trial)" if slot.trial else ""
        wanted = slot.desired
        differs = wanted is not None and wanted != slot.active and slot.desired_mode == "active"
        arrow = f" -> {wanted.version}" if wanted is not None and differs else ""
        parts.append(f"{name}: {active}{trial}{arrow}")
    return "; ".join(parts)


@with_client
def query(
    client: Client,
    selector: Annotated[str, typer.Argument(help="A device, several, or a selector.")],
    op: Annotated[str, typer.Argument(help="classify, embed, generate, selftest or status.")],
    text: Annotated[str | None, typer.Argument(help="The text; - reads stdin.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds.", min=0.1, max=600)] = 10.0,
    max_tokens: Annotated[int | None, typer.Option(help="For generate.")] = None,
    temperature: Annotated[float | None, typer.Option(help="For generate.")] = None,
    seed: Annotated[int | None, typer.Option(help="For generate.")] = None,
    json_schema: Annotated[Path | None, typer.Option(help="For generate.")] = None,
    slot: Annotated[str | None, typer.Option(help="Whose model; default: of the task.")] = None,
    adapter: Annotated[
        str | None, typer.Option(help="For generate: an adapter's slot or name.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Asks devices over MQTT. `generate` streams; exit code 1 when no device answered."""
    selectors.parse(selector)
    options: dict[str, Any] = {
        key: value
        for key, value in (
            ("max_tokens", max_tokens),
            ("temperature", temperature),
            ("seed", seed),
            ("slot", slot),
            ("adapter", adapter),
        )
        if value is not None
    }
    if json_schema is not None:
        options["json_schema"] = _json_file(json_schema)
    asked = _query(selector, op, _text(text), timeout, options)
    if op == "generate":
        _generate(client.stream(asked), as_json)
        return
    result = client.query(asked)
    if as_json:
        emit_json(result)
    else:
        _show(result)
    if not result.answered:
        raise typer.Exit(1)


def _text(text: str | None) -> str:
    if text != "-":
        return text or ""
    with contextlib.suppress(UnicodeDecodeError):
        return sys.stdin.buffer.read(16 * 1024 + 1).decode()
    raise InputError("bad-text", "the text on stdin is not UTF-8")


def _json_file(path: Path) -> Any:
    try:
        return json.loads(files.read_small(path, what="the schema", code="bad-schema"))
    except (ValueError, RecursionError) as error:
        raise InputError("bad-schema", f"{path} is not a JSON schema: {error}") from None


def _query(
    selector: str, op: str, text: str, timeout: float, options: dict[str, Any]
) -> models.Query:
    codec.encode_given([text, options], what="the query")
    try:
        return models.Query.model_validate(
            {
                "selector": selector,
                "op": op,
                "text": text,
                "timeout_s": timeout,
                "options": options,
            }
        )
    except ValidationError as error:
        raise InputError("bad-query", f"the query is not valid: {describe(error)}") from None


def _answered(found: dict[str, Any]) -> str:
    """The label of an answer, or its labels."""
    if found.get("best") is not None:
        return f"{found['label']} ({found['best']}?)"
    return ", ".join(one["label"] for one in found.get("labels") or []) or found["label"]


def _show(result: models.QueryResult) -> None:
    rows = []
    for one in result.answers:
        if one.error:
            rows.append((one.device, "", "", "", one.error.message))
        elif one.classified:
            c = one.classified
            bundle = f"{c['bundle']['name']} {c['bundle']['version']}"
            rows.append(
                (
                    one.device,
                    _answered(c),
                    f"{c['confidence']:.3f}",
                    f"{c['latency_us'] / 1000:.2f}",
                    bundle,
                )
            )
        else:
            found = one.embedded or one.selftested or one.reported or one.generated or {}
            rows.append((one.device, "", "", "", json.dumps(found)[:400]))
    table(("device", "label", "confidence", "ms", "by"), rows)
    judged = [one.id for one in result.answers if one.classified]
    if judged:
        typer.echo(f"\nright or wrong? shoal fleet feedback DEVICE {judged[0]} --right | --label L")
    if result.votes and result.asked > 1:
        votes = result.votes
        typer.echo(
            f"\n{safe(votes.label)} by {votes.agreement:.0%} of {votes.answered} devices "
            f"({result.failed} gave no answer)"
        )


def _generate(answers: Any, as_json: bool) -> None:
    """Chunks as they come; with several devices, each line is begun with the device's name."""
    succeeded = False
    last = ""
    for one in answers:
        if as_json:
            emit_line(one.model_dump(exclude_none=True))
        elif one.error:
            typer.echo(f"error: {safe(one.error.message)} [{one.error.code}]", err=True)
        elif one.chunk is not None or one.call:
            if one.device != last and last:
                typer.echo(f"\n[{one.device}] ", nl=False)
            call = one.call or {}
            name = f"\n{call['name']} " if call.get("name") else ""
            text = (one.chunk or "") + name + call.get("arguments", "")
            typer.echo("\n".join(safe(line) for line in text.split("\n")), nl=False)
            last = one.device
        elif one.generated:
            total = one.generated
            typer.echo(
                f"\n({one.device}: {total['tokens']} tokens, {total.get('tokens_per_s', 0):.1f} "
                f"tokens/s, {total['finish_reason']}; feedback: {one.id})",
                err=True,
            )
        succeeded = succeeded or (one.done and one.error is None)
    if not succeeded:
        raise typer.Exit(1)


@with_client
def metrics(
    client: Client,
    selector: Annotated[str | None, typer.Argument(help="Which devices; else all.")] = None,
    seconds: Annotated[float, typer.Option(help="Of the last how many.", min=1)] = 3600.0,
    as_json: AsJson = False,
) -> None:
    """Shows what devices measured with each model."""
    found = client.metrics(seconds, selector)
    if as_json:
        emit_json(found)
        return
    typer.echo("devices: " + ", ".join(f"{n} {s}" for s, n in sorted(found.devices.items())))
    if found.dropped:
        places = ", ".join(f"{count} {place}" for place, count in found.dropped.items())
        typer.echo(f"dropped since yesterday by {found.devices_dropping} devices: {places}")
    for device, refused in found.over_quota.items():
        emit_line(f"over its quota today: {device}, {refused} messages refused")
    table(
        ("slot", "model", "requests", "errors", "unknown", "p50 ms", "p95 ms", "confidence"),
        [
            (
                one.slot,
                one.name or one.bundle[:12],
                one.requests,
                one.errors,
                one.unknown,
                _milli(one.latency_p50_us),
                _milli(one.latency_p95_us),
                "" if one.confidence_mean is None else f"{one.confidence_mean:.3f}",
            )
            for one in found.models
            if one.bundle
        ],
    )


def _milli(us: float | None) -> str:
    return "" if us is None else f"{us / 1000:.2f}"


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (devices, label, query, metrics):
        app.command(command.__name__)(command)
