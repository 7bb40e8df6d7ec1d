"""``shoal improve``: the next version of a model, from hard examples that people labelled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from contracts import codec, files
from contracts.errors import InputError
from contracts.topics import check_name
from fleet.cli.options import HERE, AsJson, Folder, TokenFile, TokenValue, Url, connect
from fleet.cli.output import emit_json, reported, safe, table
from fleet.folder import Fleet
from fleet.improve import steps
from fleet.improve.steps import Improvement
from fleet.improve.verdict import Verdict, told
from fleet.improve.wish import Wish


def improve(
    name: Annotated[str, typer.Argument(help="The model: a bundle's name.")],
    recipe: Annotated[
        Path | None, typer.Option(help="Of the version that runs; else that of the last time.")
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the recipe; repeatable.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="OUT/cache of a build of the recipe: what its teacher and writer said is used.",
        ),
    ] = None,
    version: Annotated[str | None, typer.Option(help="Of the next; else the next minor.")] = None,
    on: Annotated[str | None, typer.Option("--on", help="Which devices, a selector.")] = None,
    max_loss: Annotated[
        float | None, typer.Option(help="That it may lose on the old test split.", min=0, max=1)
    ] = None,
    shadow_s: Annotated[
        float | None, typer.Option(help="Seconds in the shadow first; 0: none.", min=0)
    ] = None,
    rollout: Annotated[
        Path | None, typer.Option(help="Fields of the rollout: waves, gates, ... (YAML).")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before it is signed.")] = False,
    publish_only: Annotated[
        bool, typer.Option("--publish-only", help="Sign and publish; roll out by hand.")
    ] = False,
    folder: Folder = HERE,
    url: Url = None,
    token_file: TokenFile = None,
    token: TokenValue = None,
    as_json: AsJson = False,
) -> None:
    """Builds the next version from the recipe and the labelled texts of devices, and rolls it out.

    It is compared with the version that runs, on the old test split and on labelled texts that
    were kept out; where it is worse it ends there and says on which labels. Then it is signed,
    answers in the shadow, goes to a canary, and behind gates to all. What was interrupted goes on
    with the same command.
    """

    def say(text: str) -> None:
        typer.echo(safe(text), err=as_json)

    def wish(last: Wish | None) -> Wish:
        return _wish(name, last, recipe, change, on, max_loss, shadow_s, rollout)

    def agreed(found: Verdict) -> bool:
        if not as_json:
            table(("rows", "count", "right before", "right now"), told(found))
        if yes:
            return True
        if as_json:
            raise InputError("bad-options", "--json asks nobody: add --yes")
        return typer.confirm("Sign it, and roll it out?")

    with reported(as_json), connect(folder, url, token_file, token) as client:
        improvement = Improvement(Fleet.open(folder), client, check_name(name, "model"), say)
        with improvement.locked():
            if cache is not None:
                improvement.take_cache(cache)
            improvement.begin(wish, version)
            state = steps.run(improvement, agreed, roll_out=not publish_only)
        if as_json:
            emit_json(state)
        else:
            typer.echo(f"{name} {state.version}: {state.step}")


def _wish(
    name: str,
    last: Wish | None,
    recipe: Path | None,
    change: list[str] | None,
    on: str | None,
    max_loss: float | None,
    shadow_s: float | None,
    rollout: Path | None,
) -> Wish:
    """What is wanted; what is not said is as the last time."""
    if recipe is None and last is None:
        raise InputError("no-recipe", f"name the recipe of {name} with --recipe, the first time")
    before = last or Wish(recipe="")
    fields: dict[str, Any] = before.rollout
    if rollout is not None:
        found = codec.load_yaml(files.read_small(rollout), what=str(rollout))
        if not isinstance(found, dict):
            raise InputError("bad-rollout", f"{rollout}: expected fields of a rollout")
        fields = found
    return Wish(
        recipe=str(recipe.resolve()) if recipe is not None else before.recipe,
        changes=before.changes if change is None else change,
        selector=before.selector if on is None else on,
        max_loss=before.max_loss if max_loss is None else max_loss,
        shadow_s=before.shadow_s if shadow_s is None else shadow_s,
        rollout=fields,
    )


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("improve")(improve)
