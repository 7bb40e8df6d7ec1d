"""``shoal import``: a pretrained decoder to a generative bundle, checked against its source."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import Any, Literal

import msgspec
from tokenizers import Tokenizer

from contracts import board as boards
from contracts import codec, wording
from contracts.bundle import SUFFIX, Bundle, pack
from contracts.chat.template import MAX_CHARS, ChatTemplate
from contracts.errors import InputError, RefusedError
from contracts.manifest import MAX_ADAPTER_RANK, Provenance
from contracts.messages import Name, Version
from contracts.requests import ChatMessage
from model_builder.files import check_folder, write_atomically
from model_builder.generate import contexts
from model_builder.generate.adapter_texts import AdapterTexts
from model_builder.generate.basis import Basis
from model_builder.generate.equalise import equalised
from model_builder.generate.fidelity import Fidelity, Ids, compare, shipped_text, windows
from model_builder.generate.fold import fold, is_bound
from model_builder.generate.in_order import quantize_in_order
from model_builder.generate.package import (
    GeneratorParts,
    Layout,
    build_model,
    facts_of,
    golden_prompts,
    write_generator,
)
from model_builder.generate.quantize import QuantizedDecoder, calibrate, quantize
from model_builder.generate.runner import Runner
from model_builder.generate.source import Pretrained, load_pretrained
from model_builder.generate.weights import DecoderWeights
from model_builder.teachers.base import Progress, silent

_WINDOW = 256
_SHORTEST_CONTEXT = 8
_INT8_CHANGE = 0.05
_INT4_CHANGE = 0.3
_INT8_TOKENS, _INT4_TOKENS = 4096, 8192
_EQUALISING_TEXTS = 4
NO_TEMPLATE = "none"
"""``ImportOptions.chat_template`` that leaves out the source's."""

# A system message is not among them: some templates take none.
_CONVERSATIONS = (
    [ChatMessage("user", "Hello.")],
    [
        ChatMessage("user", "Hello."),
        ChatMessage("assistant", "Hi!"),
        ChatMessage("user", "How are you?"),
    ],
)


class ImportOptions(msgspec.Struct, frozen=True):
    """How to import.

    Attributes:
        name: of the bundle; empty: from the source.
        version: of the bundle.
        chat_template: file with a Jinja2 template in place of the source's; ``none``: the bundle
            has none; empty: the source's.
        layout: signatures; without contexts: those that the model and `boards` have room for.
        boards: profiles whose memory bounds the contexts that are chosen.
        weights: ``int8``, ``int4``, or ``auto``: int4 where its perplexity is accepted.
        rotate: turn the residual stream before quantising.
        calibration_tokens: that the rounding is fitted to; 0: round to nearest. None: 4,096, and
            8,192 for int4.
        check_tokens: that are compared with the float reference.
        max_perplexity_change: relative; more refuses the import. None: 0.05, and 0.3 for int4.
        seed: of the rotation.
        texts: around a prompt, and the grammar of the answers.
        golden: prompts for the golden vectors; empty: general ones.
    """

    name: str = ""
    version: str = "1.0.0"
    chat_template: str = ""
    layout: Layout = Layout()
    boards: tuple[str, ...] = ()
    weights: Literal["int8", "int4", "auto"] = "int8"
    rotate: bool = True
    calibration_tokens: int | None = None
    check_tokens: int = 2048
    max_perplexity_change: float | None = None
    seed: int = 0
    texts: AdapterTexts = AdapterTexts()
    golden: tuple[str, ...] = ()


class Imported(msgspec.Struct, frozen=True):
    """What an import made."""

    bundle: Path
    archive: Path
    report: Path
    fidelity: Fidelity


def import_model(
    source: str, out: Path, options: ImportOptions, progress: Progress = silent
) -> Imported:
    """Imports SOURCE into `out`: bundle folder, ``.shoal`` file and report.

    Raises:
        InputError: the source is wrong; ``bad-template``, its chat template cannot be used.
        RefusedError: ``fidelity``; the converted model is too far from its source.
        UnavailableError: ``download-failed``.
    """
    check_layout(options.layout)
    check_names(options.name or "x", options.version)
    for name in options.boards:
        boards.load(name)  # a wrong name is told first
    check_folder(out)
    progress("loading", 0, 1)
    pretrained = load_pretrained(source)
    progress("loading", 1, 1)
    return import_pretrained(
        pretrained, options.name or bundle_name(source), out, options, progress
    )


def import_pretrained(
    pretrained: Pretrained,
    name: str,
    out: Path,
    options: ImportOptions,
    progress: Progress = silent,
) -> Imported:
    """As :func:`import_model`, of a decoder that is loaded already."""
    config, layout = pretrained.weights.config, options.layout
    if not layout.contexts:
        size = config.parameters // (1 if options.weights == "int8" else 2)
        named = [boards.load(name) for name in options.boards]
        layout = msgspec.structs.replace(
            layout, contexts=contexts.chosen(config, layout.cache, size, named)
        )
    layout = _within(layout, config.trained_context)
    options = msgspec.structs.replace(options, layout=layout)
    tokenizer = Tokenizer.from_str(pretrained.tokenizer_json)
    chat_template = _chat_template(pretrained, tokenizer, options.chat_template)
    decoder, fidelity = _fitting(pretrained, tokenizer, options, progress)
    progress("writing", 0, 1)
    folder = out / f"{name}-{options.version}"
    bundle = write_generator(
        folder,
        GeneratorParts(
            name=name,
            version=options.version,
            decoder=decoder,
            layout=options.layout,
            tokenizer_json=pretrained.tokenizer_json,
            golden_prompts=list(options.golden) or golden_prompts(),
            chat_template=chat_template,
            prompt_prefix=options.texts.prompt_prefix or "",
            prompt_suffix=options.texts.prompt_suffix or "",
            grammar=options.texts.grammar,
            bos_id=pretrained.bos_id,
            eos_ids=pretrained.eos_ids,
            metrics={"fidelity": msgspec.to_builtins(fidelity)},
            provenance=Provenance(
                teacher=pretrained.origin,
                teacher_sha256=pretrained.sha256,
                seed=options.seed,
                versions={
                    p: importlib.metadata.version(p) for p in ("ai-edge-litert", "gguf", "numpy")
                },
            ),
            basis=_basis(pretrained, options),
        ),
    )
    archive = out / f"{name}-{options.version}{SUFFIX}"
    pack(folder, archive)
    progress("writing", 1, 1)
    report = out / f"{name}-{options.version}-report.json"
    write_atomically(report, codec.pretty(_report(bundle, pretrained, options, fidelity)))
    return Imported(folder, archive, report, fidelity)


def _basis(pretrained: Pretrained, options: ImportOptions) -> bytes:
    """Where the matrices will lie, if it is to take adapters."""
    if not options.layout.adapters:
        return b""
    return Basis.of(
        pretrained.weights, pretrained.packing, rotate=options.rotate, seed=options.seed
    ).to_bytes()


def _within(layout: Layout, longest: int) -> Layout:
    """The layout with contexts that the model holds: its window, or what it was trained on."""
    contexts = [c for c in layout.contexts if c <= longest]
    if contexts == layout.contexts:
        return layout
    if longest < _SHORTEST_CONTEXT:
        raise InputError("bad-weights", f"the model's context has {longest} positions")
    contexts = sorted({*contexts, longest})
    most = contexts[-1]
    return msgspec.structs.replace(
        layout,
        contexts=contexts,
        prompt=[t for t in layout.prompt if t <= most],
        prefill=[t for t in layout.prefill if t <= most],
        score=[t for t in layout.score if t <= most],
    )


def check_names(name: str, version: str) -> None:
    """Raises ``InputError`` ``bad-option`` when they cannot be a bundle's."""
    for what, value, kind in (("name", name, Name), ("version", version, Version)):
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            more = wording.whole(value) if what == "version" else ""
            raise InputError(
                "bad-option", f"--{what} {value[:80]!r}: {wording.of(error)}{more}"
            ) from None


def _chat_template(pretrained: Pretrained, tokenizer: Tokenizer, instead: str) -> str | None:
    """The template for the bundle: the source's or the one of the file, after a trial."""
    if instead == NO_TEMPLATE:
        return None
    source = _read_template(Path(instead)) if instead else pretrained.chat_template
    if source is None:
        return None
    bos, eos = (
        "" if i is None else tokenizer.id_to_token(i) or ""
        for i in (pretrained.bos_id, next(iter(pretrained.eos_ids), None))
    )
    try:
        template = ChatTemplate(source, bos, eos)
        for conversation in _CONVERSATIONS:
            template.render(conversation)
    except InputError as error:
        raise InputError(
            "bad-template",
            f"{error}; give another with --chat-template FILE, or leave it out with "
            f"--chat-template {NO_TEMPLATE}",
        ) from None
    return source


def _read_template(path: Path) -> str:
    if not path.is_file():
        raise InputError("no-such-file", f"{path}: no such chat template")
    with path.open("rb") as stream:
        data = stream.read(4 * MAX_CHARS + 1)  # a character has at most four bytes
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError("bad-template", f"{path} is not UTF-8: {error}") from None


def _fitting(
    pretrained: Pretrained, tokenizer: Tokenizer, options: ImportOptions, progress: Progress
) -> tuple[QuantizedDecoder, Fidelity]:
    """The decoder in the bits that were asked for, near enough to its source."""
    tries: tuple[Literal["int8", "int4"], ...] = (
        ("int4", "int8") if options.weights == "auto" else (options.weights,)
    )
    for weights in tries:
        most = options.max_perplexity_change
        if most is None:
            most = _INT4_CHANGE if options.weights == "int4" else _INT8_CHANGE
        texts = _calibration(pretrained, tokenizer, options, weights)
        decoder = _quantised(pretrained.weights, texts, weights, options, progress)
        fidelity = check(pretrained, tokenizer, decoder, options, progress)
        fidelity = msgspec.structs.replace(fidelity, weights=weights)
        if fidelity.perplexity_change <= most:
            return decoder, fidelity
    better = "; --weights int8 keeps nearer to it" if weights == "int4" else ""
    raise RefusedError(
        "fidelity",
        f"the converted model's perplexity is {fidelity.perplexity_change:+.1%} of its "
        f"source's; at most {most:+.1%} is accepted{better}",
    )


def _quantised(
    source: DecoderWeights,
    texts: list[Ids],
    weights: Literal["int8", "int4"],
    options: ImportOptions,
    progress: Progress,
) -> QuantizedDecoder:
    """The decoder in int8 or int4, fitted to `texts` if there are any."""
    # Elsewhere it gives nothing: a turned stream has no loud channels, and in four bits the
    # weights' own errors are what counts. What an adapter changes is placed by the turns alone.
    wanted = weights == "int8" and is_bound(source) and not options.layout.adapters
    if wanted and texts:
        source = equalised(source, texts[:_EQUALISING_TEXTS], progress)
    folded = fold(source, rotate=options.rotate, seed=options.seed)
    if weights == "int4" and texts:
        return quantize_in_order(folded, texts, progress)
    grams = calibrate(folded, texts, progress) if texts else None
    return quantize(folded, grams, progress, bits=4 if weights == "int4" else 8)


def _calibration(
    pretrained: Pretrained, tokenizer: Tokenizer, options: ImportOptions, weights: str
) -> list[Ids]:
    """The shipped text in pieces of a context, as much as was asked for."""
    tokens = options.calibration_tokens
    if tokens is None:
        tokens = _INT4_TOKENS if weights == "int4" else _INT8_TOKENS
    if not tokens:
        return []
    ids = tokenizer.encode(shipped_text("calibration"), add_special_tokens=False).ids
    length = min(_WINDOW, pretrained.weights.config.trained_context)
    return windows(ids, length, -(-tokens // length), pretrained.bos_id)


def check(
    pretrained: Pretrained,
    tokenizer: Tokenizer,
    decoder: QuantizedDecoder,
    options: ImportOptions,
    progress: Progress = silent,
) -> Fidelity:
    """Compares the converted model with the float reference on the shipped text."""
    length = min(_WINDOW, pretrained.weights.config.trained_context)
    layout = Layout(
        contexts=[length],
        prompt=[],
        prefill=[],
        score=[min(64, length)],
        cache=options.layout.cache,
    )
    model, _ = build_model(decoder, layout)
    runner = Runner(model, decoder.embedding.restore(), decoder.config, facts_of(decoder, layout))
    ids = tokenizer.encode(shipped_text("perplexity"), add_special_tokens=False).ids
    count = max(1, options.check_tokens // length)
    texts = windows(ids, length, count, pretrained.bos_id)
    return compare(pretrained.weights, runner, texts, progress)


def check_layout(layout: Layout) -> None:
    """Raises ``InputError`` ``bad-layout`` when sizes are absurd."""
    for what, sizes, most in (
        ("context sizes", layout.contexts, 1 << 16),
        ("prompt sizes", layout.prompt, 1024),
        ("prefill sizes", layout.prefill, 1024),
        ("score sizes", layout.score, 1024),
    ):
        if sizes != sorted(set(sizes)) or any(not 2 <= s <= most for s in sizes):
            raise InputError("bad-layout", f"{what} {sizes} must ascend and be from 2 to {most}")
    if not 0 <= layout.adapters <= MAX_ADAPTER_RANK:
        raise InputError(
            "bad-layout", f"adapters of rank {layout.adapters}: expected 1 to {MAX_ADAPTER_RANK}"
        )
    if any(size < 8 for size in layout.contexts) or len(layout.contexts) > 16:
        raise InputError("bad-layout", "expected 1 to 16 context sizes of at least 8")


def bundle_name(source: str) -> str:
    """A legal bundle name from a source."""
    stem = (
        source.removeprefix("pypi:").split("==")[0]
        if source.startswith("pypi:")
        else (Path(source).name.removesuffix(".gguf"))
    )
    name = re.sub(r"[^a-z0-9.-]+", "-", stem.lower()).strip("-.")[:60]
    return name or "imported"


def _report(
    bundle: Bundle, pretrained: Pretrained, options: ImportOptions, fidelity: Fidelity
) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "source": {"name": pretrained.origin, "sha256": pretrained.sha256},
        "parameters": manifest.model.parameters,
        "bytes": {entry.path: entry.size for entry in manifest.files},
        "peak_rss_bytes": manifest.model.peak_rss_bytes,
        "options": msgspec.to_builtins(options),
        "fidelity": msgspec.to_builtins(fidelity),
        "operators": manifest.model.operators,
    }
