"""A recipe of ``task: generate`` to a bundle: data, training, int8, measurement."""

from __future__ import annotations

import importlib.metadata
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from tokenizers import Tokenizer

from contracts import codec
from contracts.bundle import SUFFIX, pack, sha256_of
from contracts.manifest import Provenance
from model_builder import lazy_tensorflow
from model_builder.files import check_folder, write_atomically
from model_builder.generate.chances import fitted, judged, reliability
from model_builder.generate.data import load_data
from model_builder.generate.encoded import Encoded, encode_pairs
from model_builder.generate.evaluate import Quality, measure
from model_builder.generate.fold import fold
from model_builder.generate.package import (
    GeneratorParts,
    Layout,
    golden_prompts,
    write_generator,
)
from model_builder.generate.pairs import Pair, Split
from model_builder.generate.quantize import calibrate, quantize
from model_builder.generate.value_grammar import answer_phrases, output_grammar
from model_builder.generate.vocabulary import END, train_tokenizer
from model_builder.generate.weights import DecoderConfig, DecoderWeights
from model_builder.recipes.generate import GenerateRecipe

if TYPE_CHECKING:
    from model_builder.generate.train import Trained

_CALIBRATION_PAIRS = 400
_GOLDEN_PAIRS = 24

Progress = Callable[[str], None]


class Built(msgspec.Struct, frozen=True):
    """What a build made."""

    bundle: Path
    archive: Path
    report: Path
    quality: Quality
    model_bytes: int
    seconds: float


def build(
    recipe: GenerateRecipe,
    recipe_bytes: bytes,
    folder: Path,
    out: Path,
    progress: Progress = lambda step: None,
) -> Built:
    """Builds the bundle, its archive and its report.

    Args:
        recipe: what to build.
        recipe_bytes: its canonical form, for the digest.
        folder: of the recipe; paths in it are relative to that.
        out: where the results go.
        progress: told each step.

    Raises:
        InputError: data or recipe are wrong.
        RefusedError, UnavailableError: a teacher or the built model cannot be used.
    """
    started = time.monotonic()
    progress("making the pairs")
    check_folder(out)
    split = load_data(recipe, folder, progress)
    phrases = answer_phrases(split.train) if recipe.data.kind == "home-commands" else []
    texts = [p.prompt + recipe.prompt_suffix for p in split.train]
    if not phrases:
        texts += [p.completion for p in split.train]
    tokenizer = train_tokenizer(texts, recipe.student.vocabulary, phrases)
    config = _config(recipe, tokenizer)
    length = recipe.student.context

    def encoded(pairs: list[Pair]) -> Encoded:
        return encode_pairs(tokenizer, pairs, "", recipe.prompt_suffix, length)

    data, validation, _ = map(encoded, (split.train, split.validation, split.test))
    # TensorFlow: after all that can be wrong with the data.
    lazy_tensorflow.load_quietly()
    from model_builder.generate.train import train

    progress("training")
    trained = train(
        config,
        data,
        validation,
        recipe.train,
        lambda step, loss: progress(f"training: step {step}, validation loss {loss:.4f}"),
    )
    progress("quantising and writing")
    return _finish(recipe, recipe_bytes, split, tokenizer, config, data, trained, out, started,
                   progress)  # fmt: skip


def _finish(
    recipe: GenerateRecipe,
    recipe_bytes: bytes,
    split: Split,
    tokenizer: Tokenizer,
    config: DecoderConfig,
    data: Encoded,
    trained: Trained,
    out: Path,
    started: float,
    progress: Progress,
) -> Built:
    from model_builder.generate.student import to_weights

    folder = out / f"{recipe.name}-{recipe.version}"
    weights = to_weights(trained.variables, config)
    constrained = recipe.constrain == "prompt-values"
    grammar = output_grammar(split.train, split.validation) if constrained else None
    parts = make_parts(recipe, weights, tokenizer, data, split, grammar)
    parts.provenance = Provenance(
        recipe_sha256=sha256_of(recipe_bytes),
        data_sha256=sha256_of(codec.encode(split)),
        teacher=recipe.teacher.source if recipe.teacher else "",
        seed=recipe.train.seed,
        versions={p: importlib.metadata.version(p) for p in ("numpy", "tokenizers")},
    )
    progress("measuring on the test pairs")
    with tempfile.TemporaryDirectory(prefix="shoal-build-") as name:
        trial = Path(name) / "bundle"
        write_generator(trial, parts)
        quality, answers = measure(trial, split.test, recipe.student.context)
        progress("calibrating on the validation pairs")
        parts.calibration = fitted(judged(trial, split.validation, recipe.student.context))
        told = reliability(judged(trial, split.test, recipe.student.context), parts.calibration)
    parts.metrics = {"quality": msgspec.to_builtins(quality)}
    bundle = write_generator(folder, parts)
    archive = out / f"{recipe.name}-{recipe.version}{SUFFIX}"
    pack(folder, archive)
    model_bytes = sum(e.size for e in bundle.manifest.files if e.path.endswith((".tflite", ".bin")))
    seconds = round(time.monotonic() - started, 1)
    report = out / f"{recipe.name}-{recipe.version}-report.json"
    document: dict[str, Any] = {
        "name": recipe.name,
        "version": recipe.version,
        "pairs": {k: len(getattr(split, k)) for k in ("train", "validation", "test")},
        "parameters": config.parameters,
        "model_bytes": model_bytes,
        "steps": trained.steps,
        "validation_perplexity": round(float(np.exp(trained.validation_loss)), 4),
        "train_seconds": round(trained.seconds, 1),
        "seconds": seconds,
        "quality": msgspec.to_builtins(quality),
        "confidence": {"knots": parts.calibration, **told},
        "wrong": [
            {"prompt": p.prompt, "expected": p.completion, "found": a}
            for p, a in zip(split.test, answers, strict=True)
            if a != p.completion
        ][:100],
    }
    write_atomically(report, codec.pretty(document))
    return Built(folder, archive, report, quality, model_bytes, seconds)


def make_parts(
    recipe: GenerateRecipe,
    weights: DecoderWeights,
    tokenizer: Tokenizer,
    data: Encoded,
    split: Split,
    grammar: str | None,
) -> GeneratorParts:
    """A trained student as the parts of a bundle; rounding is fitted to training pairs."""
    folded = fold(weights, seed=recipe.train.seed)
    used = (data.counts > 0).cumsum(1).argmax(1) + 2
    texts = [
        row[: int(n)].astype(np.int64)
        for row, n in zip(data.ids[:_CALIBRATION_PAIRS], used, strict=False)
    ]
    decoder = quantize(folded, calibrate(folded, texts))
    end = tokenizer.token_to_id(END)
    assert end is not None
    context = recipe.student.context
    return GeneratorParts(
        name=recipe.name,
        version=recipe.version,
        decoder=decoder,
        # A student's cache is small: int8 would only cost time.
        layout=Layout(
            contexts=[context],
            prompt=[16] if context >= 32 else [],
            prefill=[],
            cache="float32",
        ),
        tokenizer_json=tokenizer.to_str(),
        golden_prompts=_golden_prompts(recipe, split),
        eos_ids=[end],
        prompt_suffix=recipe.prompt_suffix,
        grammar=grammar,
    )


def _golden_prompts(recipe: GenerateRecipe, split: Any) -> list[str]:
    """Prompts of the product: sampled from its own templates, or general ones; never a user's."""
    if recipe.data.kind == "home-commands":
        return [pair.prompt for pair in split.validation[:_GOLDEN_PAIRS]]
    return golden_prompts()


def _config(recipe: GenerateRecipe, tokenizer: Tokenizer) -> DecoderConfig:
    s = recipe.student
    config = DecoderConfig(
        vocabulary=tokenizer.get_vocab_size(),
        layers=s.layers,
        width=s.width,
        hidden=s.hidden,
        heads=s.heads,
        kv_heads=s.heads,
        head_size=s.width // s.heads,
        trained_context=s.context,
    )
    config.check()
    return config
