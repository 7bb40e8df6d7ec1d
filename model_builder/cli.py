"""``python -m model_builder``: the builder's commands."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

# TensorFlow reads these once, at its import.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from contracts import board as boards
from contracts import codec, files, pipes
from contracts.errors import InputError, ShoalError
from contracts.labelled.tables import is_table
from model_builder import lazy_tensorflow
from model_builder.files import write_atomically
from model_builder.generate.cli import build_generator, import_command
from model_builder.recipes import file as recipe_file
from model_builder.tune.cli import tune_command, tune_document

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def _root() -> None:
    """Builds models for devices: labelled text and a teacher in, a checked bundle out."""


@app.command()
def build(
    recipe: Annotated[
        Path, typer.Argument(help="the recipe, a YAML file; or a table of texts with labels")
    ],
    out: Annotated[Path, typer.Option(help="folder for the bundle and the report")] = Path("out"),
    board: Annotated[
        list[str] | None, typer.Option(help="board profile that the bundle must fit; repeatable")
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the recipe; repeatable")
    ] = None,
    floor: Annotated[
        float | None, typer.Option(help="find the smallest student with this int8 accuracy")
    ] = None,
    export: Annotated[
        str | None, typer.Option(help="also write a pack: c (C sources with two engines)")
    ] = None,
    text: Annotated[str, typer.Option(help="of a table: its column of texts")] = "",
    label: Annotated[str, typer.Option(help="of a table: its column of labels")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="one JSON summary on stdout")] = False,
) -> None:
    """Builds a bundle and its report from a recipe."""
    if export not in (None, "c"):
        raise InputError("bad-option", f"--export {export[:40]}: only 'c' is known")
    others = [
        name
        for name, value in (("--board", board), ("--floor", floor), ("--export", export))
        if value is not None
    ]
    changes = list(change or [])
    if board:
        changes.append(f"budget.boards=[{', '.join(board)}]")
    if floor is not None:
        changes.append(f"budget.floor={floor}")
    if is_table(recipe):
        recipe = _recipe_of(recipe, out, text, label, quiet=as_json)
    elif text or label:
        raise InputError("bad-option", "--text and --label are for tables; a recipe names columns")
    document = recipe_file.read(recipe, changes)  # once: it may come through a pipe
    kind = recipe_file.kind_of(document)
    if kind != "classify":
        _classifiers_only(others, recipe)
        make = {"generate": build_generator, "tune": tune_document}.get(kind, _build_tiny)
        make(document, recipe, out, as_json)
        return
    from model_builder.lock import locked
    from model_builder.progress import bars
    from model_builder.recipes import classify as recipes

    loaded = recipes.parse(document, recipe)
    for name in loaded.budget.boards:
        boards.load(name)  # a wrong name is told before seconds go into loading TensorFlow
    with locked(out), bars(quiet=as_json and not sys.stderr.isatty()) as progress:
        lazy_tensorflow.load_quietly()
        if loaded.data.labels == "several":
            from model_builder.several.build import build as run
        else:
            from model_builder.classify.build import build as run

        result = run(loaded, out, progress)
    summary = {
        "bundle": str(result.bundle),
        "archive": str(result.archive),
        "report_json": str(result.report_json),
        "report_html": str(result.report_html),
        "name": loaded.name,
        "version": loaded.version,
        "headline": result.report["headline"],
        "accuracy": result.report["accuracy"],
        "model_bytes": result.report["size"]["model_bytes"],
        "arena_bytes": result.report["size"]["arena_bytes"],
        "train_texts": result.report["data"]["train"],
        "labels": result.report["data"]["labels"],
        "seconds": result.report["seconds"]["all"],
        "warnings": result.report["data"]["warnings"],
    }
    if export == "c":
        from model_builder.export_c.measure import export_and_report

        summary["c_pack"] = export_and_report(
            result.bundle, result.report_json, board[0] if board else None
        )
    if as_json:
        sys.stdout.write(codec.encode(summary).decode() + "\n")
        return
    table = Table(title=f"{loaded.name} {loaded.version}", show_header=False)
    for name, value in _lines(result.report):
        table.add_row(name, value)
    for key in ("bundle", "archive", "report_html"):
        table.add_row(key.replace("_", " "), str(summary[key]))
    _print(table)


@app.command(hidden=True)
def suggest(
    recipe: Annotated[Path, typer.Argument(help="the recipe, a YAML file")],
    cache: Annotated[Path, typer.Option(help="folder for what the teacher learnt")],
    change: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the recipe; repeatable")
    ] = None,
) -> None:
    """Says what the recipe's teacher takes texts for: JSON texts on stdin, JSON on stdout."""
    from model_builder.lock import locked
    from model_builder.progress import bars
    from model_builder.recipes import classify as recipes

    loaded = recipes.load(recipe, change or [])
    texts = codec.decode(sys.stdin.buffer.read(), list[str], what="texts", cap=64 * 1024 * 1024)
    with locked(cache), bars(quiet=not sys.stderr.isatty()) as progress:
        lazy_tensorflow.load_quietly()
        from model_builder.classify.suggest import suggest as run

        name, found = run(loaded, texts, cache, progress)
    sys.stdout.write(codec.encode({"teacher": name, "found": found}).decode() + "\n")


@app.command()
def init(
    data: Annotated[
        Path | None,
        typer.Argument(
            help="texts with labels: .csv, .xlsx, .tsv, .jsonl ...; or labels with descriptions"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="the recipe to write; default: the table's name, .yaml")
    ] = None,
    text: Annotated[str, typer.Option(help="column of the text; default: by its name")] = "",
    label: Annotated[str, typer.Option(help="column of the label; default: by its name")] = "",
    describe: Annotated[
        list[str] | None,
        typer.Option(help="without a table: LABEL=what it means; a model writes texts; repeatable"),
    ] = None,
    by: Annotated[str, typer.Option(help="who writes texts: openai:MODEL, or bundle:FOLDER")] = "",
    url: Annotated[str, typer.Option(help="of openai:, its endpoint, up to and with /v1")] = "",
    about: Annotated[str, typer.Option(help="what the written texts are")] = "",
) -> None:
    """Looks at a table and writes a recipe for it, with comments."""
    from model_builder.classify.initial import recipe_name, write
    from model_builder.data.written import described
    from model_builder.writing import initial

    if (data is None) == (not describe):
        raise InputError("bad-option", "expected a table, or --describe LABEL=MEANING for each")
    recipe = out or Path(f"{recipe_name(data or Path('classifier'))}.yaml")
    notes: list[str] = []
    if data is None or described(data):
        labels = initial.given(describe or []) if data is None else data
        content = initial.compose(labels, recipe, recipe_name(recipe), by, url, about)
        if recipe.exists():
            raise InputError("file-exists", f"{recipe} is there already; name another with --out")
        write_atomically(recipe, content.encode())
    else:
        if by or url or about:
            raise InputError(
                "bad-option",
                f"--by, --url and --about are for labels without texts, and {data} has texts",
            )
        notes = write(data, recipe, text, label)
    for note in notes:
        Console(stderr=True).print(f"note: {note}", markup=False, highlight=False)
    sys.stdout.write(f"Wrote {recipe}. Next: shoal build {files.typed(recipe)}\n")


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="a report (.json, .html), a build's folder, a bundle")],
    b: Annotated[Path, typer.Argument(help="the other")],
    labels: Annotated[int, typer.Option(help="labels to show, by change; --json has all")] = 15,
    as_json: Annotated[bool, typer.Option("--json", help="everything as JSON")] = False,
) -> None:
    """Compares two builds by every figure and label."""
    from model_builder.classify.compare import Figure, read
    from model_builder.classify.compare import compare as run

    found = run(read(a), read(b))
    if as_json:
        sys.stdout.write(codec.encode(found).decode() + "\n")
        return

    def shown(value: float | None, unit: str) -> str:
        if value is None:
            return "–"
        return f"{100 * value:.1f} %" if unit == "ratio" else f"{value:,.6g}"

    def lines(title: str, figures: list[Figure]) -> None:
        grid = Table("", found.a, found.b, "change", "", title=title, title_justify="left")
        for row in figures:
            change = ""
            if row.a is not None and row.b is not None and row.a != row.b:
                by = row.b - row.a
                change = f"{100 * by:+.1f} points" if row.unit == "ratio" else f"{by:+,.6g}"
            sure = {True: "sure", False: "within chance", None: ""}[row.sure if change else None]
            unit = row.unit if row.unit in ("bytes", "us", "s") else ""
            name = f"{row.name}, {unit}" if unit else row.name
            cells = [name, shown(row.a, row.unit), shown(row.b, row.unit), change, sure]
            grid.add_row(*(Text(cell) for cell in cells))
        _print(grid)

    lines("figures", found.figures)
    lines("labels by F1, largest change first", found.labels[: max(0, labels)])
    for note in found.notes:
        Console(stderr=True).print(f"note: {note}", markup=False, highlight=False)


def _print(table: Table) -> None:
    console = Console()
    with console.capture() as text:
        console.print(table)
    sys.stdout.write(text.get())


app.command("import")(import_command)
app.command("tune")(tune_command)


def _recipe_of(data: Path, out: Path, text: str, label: str, *, quiet: bool) -> Path:
    """Writes the recipe of a table beside what is built of it."""
    from model_builder.classify.initial import compose, recipe_name
    from model_builder.data.written import described

    if described(data):
        raise InputError(
            "bad-data",
            f"{data} has labels with descriptions and no texts; a model can write them: "
            f"shoal init {files.typed(data)} --by openai:MODEL --url ENDPOINT",
        )
    recipe = out / f"{recipe_name(data)}.yaml"
    content, notes = compose(data, recipe, text, label)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(recipe, content.encode())
    if not quiet:
        for note in [*notes, f"the recipe is {recipe}"]:
            Console(stderr=True).print(f"note: {note}", markup=False, highlight=False)
    return recipe


def _classifiers_only(options: list[str], recipe: Path) -> None:
    """Refuses options that a generator's recipe would pass over in silence."""
    if options:
        raise InputError(
            "bad-option",
            f"{' and '.join(options)}: only for classifiers, and {recipe} makes a generator; "
            "leave it out and check the bundle with `shoal boards check`",
        )


def _build_tiny(document: dict[str, Any], path: Path, out: Path, as_json: bool) -> None:
    """Builds a tiny generator, see :mod:`model_builder.generate_tiny`."""
    from model_builder.recipes.status_lines import parse

    loaded = parse(document, path)
    lazy_tensorflow.load_quietly()
    from model_builder.generate_tiny.build import build as build_tiny

    def say(step: int, loss: float) -> None:
        sys.stderr.write(f"step {step}: loss {loss:.4f}\n")

    summary = build_tiny(loaded, out, say)
    sys.stdout.write(codec.encode(summary).decode() + "\n" if as_json else f"{summary}\n")


def _lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    if report.get("labels_kind") == "several":
        return _lines_of_several(report)
    accuracy, size, cost = report["accuracy"], report["size"], report["cost"]
    headline = report["headline"]
    low, high = headline["interval"]
    rows = [
        ("training texts", f"{report['data']['train']} in {report['data']['labels']} labels"),
        (
            "right, as it answers",
            f"{headline['accuracy']:.1%} ({low:.1%} to {high:.1%}), {headline['how']}",
        ),
        ("right, always answering", f"{headline['without_threshold']:.1%}"),
        (
            "threshold",
            f"{report['out_of_scope']['threshold']}: {report['out_of_scope']['chosen_by']}",
        ),
        ("accuracy int8", f"{accuracy['int8']:.4f}"),
        ("accuracy float", f"{accuracy['float']:.4f}"),
    ]
    if "teacher" in accuracy:
        rows.append(("accuracy teacher", f"{accuracy['teacher']:.4f}"))
    if "nearest_description" in accuracy:
        rows.append(("nearest description", f"{accuracy['nearest_description']:.4f}"))
    arena = size["arena_bytes"]
    return [
        *rows,
        ("model", f"{size['model_bytes']} bytes"),
        ("arena", f"{arena} bytes" if arena else "does not run on microcontrollers"),
        ("latency p50 / p95", f"{cost['latency_p50_us']} / {cost['latency_p95_us']} us"),
        ("time", f"{report['seconds']['all']} s"),
    ]


def _lines_of_several(report: dict[str, Any]) -> list[tuple[str, str]]:
    found, peer, data = report["headline"], report["peer"], report["data"]
    size, cost = report["size"], report["cost"]
    low, high = found["interval"]
    return [
        (
            "training texts",
            f"{data['train']} in {data['labels']} labels, {data['labels_a_text']:.2f} a text",
        ),
        ("F1 over all labels", f"{found['micro_f1']:.4f} ({low} to {high}), {found['how']}"),
        ("mean F1 of a label", f"{found['macro_f1']:.4f}"),
        ("all labels of a text right", f"{found['exact']:.1%}"),
        (
            "one TF-IDF model a label",
            "F1 {:.4f} from one half, {:.4f} with thresholds".format(
                *(peer[kind]["micro_f1"] for kind in ("from_one_half", "with_thresholds"))
            ),
        ),
        ("F1 int8 / float", f"{report['accuracy']['int8']} / {report['accuracy']['float']}"),
        ("model", f"{size['model_bytes']} bytes"),
        ("arena", f"{size['arena_bytes']} bytes"),
        ("latency p50 / p95", f"{cost['latency_p50_us']} / {cost['latency_p95_us']} us"),
        ("time", f"{report['seconds']['all']} s"),
    ]


def main() -> None:
    """Runs the program; known errors become one line and an exit code."""
    try:
        with pipes.quiet():
            app(prog_name="shoal", standalone_mode=False)
    except ShoalError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        sys.stderr.write(f"error: {files.reason(error)}\n")
        sys.exit(1)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(130)
    except Exception as error:
        # click's own usage errors know how to show themselves
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        sys.exit(2)
