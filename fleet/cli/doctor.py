"""``shoal fleet doctor``: what is wrong here, and the one command that mends it."""

from __future__ import annotations

import typer

from fleet.cli.options import HERE, AsJson, Folder
from fleet.cli.output import emit_json, reported, safe


def doctor(folder: Folder = HERE, as_json: AsJson = False) -> None:
    """Looks at every link of the fleet and says what mends each. Exit code 1: something is broken.

    It changes nothing and sends nothing to devices. Run it on the controller's machine.
    """
    from fleet.doctor import examine
    from fleet.doctor.examine import CHECKS

    with reported(as_json):
        looked: list[str] = []
        found = list(examine(folder, begins=looked.append))
    if as_json:
        emit_json({"findings": found, "checks": looked})
    else:
        for finding in found:
            mark = "BROKEN" if finding.level == "broken" else "soon  "
            typer.echo(f"{mark} {finding.part}: {safe(finding.message)} [{finding.code}]")
            typer.echo(f"       mend: {safe(finding.cure)}")
        typer.echo(f"{len(looked)} of {len(CHECKS) + 1} parts looked at, {len(found)} findings")
    if any(finding.level == "broken" for finding in found):
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("doctor")(doctor)
