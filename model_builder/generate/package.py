"""A quantised decoder and its tokenizer to a generative bundle, whole or not there at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from tokenizers import Tokenizer

from contracts import codec
from contracts.bundle import MANIFEST, Bundle, file_entries
from contracts.chances import Knot
from contracts.folders import put_folder
from contracts.manifest import (
    AdapterRoom,
    GeneratorFacts,
    Golden,
    GoldenVector,
    Manifest,
    ModelFacts,
    Provenance,
    SignatureSpec,
    TensorSpec,
    TokenizerFrontEnd,
)
from model_builder.files import write_atomically
from model_builder.generate.basis import BASIS_FILE
from model_builder.generate.decoder_graph import DecoderModel
from model_builder.generate.measure import peak_rss
from model_builder.generate.quantize import QuantizedDecoder
from model_builder.generate.rope import plain
from model_builder.generate.runner import Runner
from model_builder.generate.tokenizer import slim
from model_builder.generate.weights import DecoderConfig

MODEL_FILE = "model.tflite"
EMBEDDING_FILE = "embedding.bin"
TOKENIZER_FILE = "tokenizer.json"
GOLDEN_FILE = "golden.json"

Kind = Literal["decode", "prefill", "prompt", "score"]

_GOLDEN_TOKENS = 8
_GOLDEN_MARGIN = 0.25
"""Logits that the best token must be ahead by, so that another processor's rounding of floats
does not change a golden vector."""


class Layout(msgspec.Struct, frozen=True):
    """Which signatures a bundle has.

    Attributes:
        contexts: cache sizes; the cache grows from one to the next.
        prompt, prefill, score: token counts, as in ``GeneratorFacts``.
        cache: how keys and values are kept.
        adapters: the highest rank of adapters that it takes; 0: none.
    """

    contexts: list[int] = msgspec.field(default_factory=lambda: [128, 256, 512])
    prompt: list[int] = msgspec.field(default_factory=lambda: [32, 128])
    prefill: list[int] = msgspec.field(default_factory=lambda: [64])
    score: list[int] = msgspec.field(default_factory=lambda: [8])
    cache: Literal["float32", "int8"] = "int8"
    adapters: int = 0


class GeneratorParts(msgspec.Struct):
    """All that goes into a generative bundle.

    Attributes:
        name, version: of the bundle.
        decoder: the quantised weights.
        layout: its signatures.
        tokenizer_json: text of the tokenizer.
        golden_prompts: texts whose greedy continuation becomes a golden vector.
        chat_template, bos_id, eos_ids: as in the front end.
        prompt_prefix, prompt_suffix, grammar: as in ``GeneratorFacts``.
        metrics: for the manifest.
        provenance: digests and versions.
        basis: where it takes adapters: file that says in which basis its matrices lie.
        calibration: as in ``GeneratorFacts``.
    """

    name: str
    version: str
    decoder: QuantizedDecoder
    layout: Layout
    tokenizer_json: str
    golden_prompts: list[str]
    chat_template: str | None = None
    bos_id: int | None = None
    eos_ids: list[int] = []
    prompt_prefix: str = ""
    prompt_suffix: str = ""
    grammar: str | None = None
    metrics: dict[str, Any] = {}
    provenance: Provenance = Provenance()
    basis: bytes = b""
    calibration: list[Knot] = []


def build_model(decoder: QuantizedDecoder, layout: Layout) -> tuple[bytes, list[str]]:
    """The model file and its operators."""
    facts = facts_of(decoder, layout)
    model = DecoderModel(
        decoder,
        f"decoder with dynamic int{decoder.head.bits} weights",
        compact=layout.cache == "int8",
    )
    for rank in (0, layout.adapters) if layout.adapters else (0,):

        def add(kind: Kind, tokens: int, context: int, *, logits: bool, rank: int = rank) -> None:
            name = facts.signature(kind, tokens, context, adapted=rank > 0)
            model.add(name, tokens, context, logits=logits, rank=rank)

        for context in layout.contexts:
            add("decode", 1, context, logits=True)
            for tokens in layout.prefill:
                add("prefill", tokens, context, logits=False)
            for tokens in layout.score:
                add("score", tokens, context, logits=True)
        for tokens in layout.prompt:
            add("prompt", tokens, 0, logits=False)
    return model.serialize(), model.writer.operators


def embedding_bytes(decoder: QuantizedDecoder) -> bytes:
    """The embedding file: int8 rows, then little-endian float32 scales."""
    table = decoder.embedding
    return table.values.tobytes() + table.scales.astype("<f4").tobytes()


def facts_of(decoder: QuantizedDecoder, layout: Layout) -> GeneratorFacts:
    """The manifest's facts of a decoder."""
    c = decoder.config
    return GeneratorFacts(
        vocabulary=c.vocabulary,
        width=c.width,
        layers=c.layers,
        kv_heads=c.kv_heads,
        head_size=c.head_size,
        rope_base=0.0 if _other_rope(c) else c.rope_base,
        rope_frequencies=_frequencies(c) if _other_rope(c) else [],
        rope_scale=c.rope_scale,
        contexts=layout.contexts,
        embedding=EMBEDDING_FILE,
        cache=layout.cache,
        prompt=layout.prompt,
        prefill=layout.prefill,
        score=layout.score,
        placed=bool(layout.score),
        adapters=AdapterRoom(layout.adapters, c.heads, c.hidden, BASIS_FILE)
        if layout.adapters
        else None,
    )


def _other_rope(c: DecoderConfig) -> bool:
    return bool(c.frequencies or c.local_frequencies) or c.rope_scale != 1


def _frequencies(c: DecoderConfig) -> list[float]:
    found = list(c.frequencies) or [float(f) for f in plain(c.rope_base, c.head_size)]
    return found + list(c.local_frequencies)


def write_generator(folder: Path, parts: GeneratorParts) -> Bundle:
    """Writes the bundle folder; what was there before is replaced when all is written."""
    model, operators = build_model(parts.decoder, parts.layout)
    facts = msgspec.structs.replace(
        facts_of(parts.decoder, parts.layout),
        prompt_prefix=parts.prompt_prefix,
        prompt_suffix=parts.prompt_suffix,
        grammar=parts.grammar,
        calibration=parts.calibration,
    )
    vectors = _golden(parts, model, facts)
    files = {
        MODEL_FILE: model,
        EMBEDDING_FILE: embedding_bytes(parts.decoder),
        TOKENIZER_FILE: slim(parts.tokenizer_json).encode(),
        GOLDEN_FILE: codec.encode(vectors),
    }
    if facts.adapters is not None:
        files[facts.adapters.basis] = parts.basis

    def manifest(staging: Path) -> Manifest:
        runtimes: list[Literal["litert", "tflite-runtime", "tflm"]] = ["litert"]
        return Manifest(
            schema=1,
            name=parts.name,
            version=parts.version,
            task="generate",
            files=file_entries(staging / name for name in files),
            model=ModelFacts(
                file=MODEL_FILE,
                quantization="dynamic-int4" if parts.decoder.head.bits == 4 else "dynamic-int8",
                signatures=_signatures(facts),
                operators=operators,
                parameters=parts.decoder.config.parameters,
                peak_rss_bytes=peak_rss(
                    staging / MODEL_FILE, facts.signature("decode", 1, facts.contexts[-1])
                ),
                runtimes=runtimes,
            ),
            front_end=TokenizerFrontEnd(
                file=TOKENIZER_FILE,
                chat_template=parts.chat_template,
                bos_id=parts.bos_id,
                eos_ids=parts.eos_ids,
            ),
            golden=Golden(GOLDEN_FILE, len(vectors), min_label_agreement=0.9),
            generator=facts,
            metrics=parts.metrics,
            provenance=parts.provenance,
        )

    return write_bundle(folder, files, manifest)


def write_bundle(
    folder: Path, files: dict[str, bytes], manifest: Callable[[Path], Manifest]
) -> Bundle:
    """Writes a bundle's folder whole, or not at all.

    Args:
        folder: what was there before is replaced when all is written.
        files: by name.
        manifest: makes it, of a folder with the files.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for name, data in files.items():
            write_atomically(staging / name, data)
        write_atomically(staging / MANIFEST, codec.pretty(manifest(staging)))
        staging.chmod(0o755)
        put_folder(staging, folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return Bundle.open(folder)


def _golden(parts: GeneratorParts, model: bytes, facts: GeneratorFacts) -> list[GoldenVector]:
    """Greedy continuations of the model itself."""
    runner = Runner(model, parts.decoder.embedding.restore(), parts.decoder.config, facts)
    tokenizer = Tokenizer.from_str(parts.tokenizer_json)
    return continued(runner, tokenizer, facts, parts.golden_prompts, parts.bos_id)


def continued(
    runner: Runner,
    tokenizer: Tokenizer,
    facts: GeneratorFacts,
    prompts: list[str],
    bos_id: int | None,
    *,
    replayed: bool = False,
) -> list[GoldenVector]:
    """Greedy continuations of prompts, those that are not close calls.

    With `replayed` nor may they be when the whole text is run at once, as a device does it.
    """
    kept: list[tuple[float, GoldenVector]] = []
    for prompt in prompts:
        text = facts.prompt_prefix + prompt + facts.prompt_suffix
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if bos_id is not None:
            ids = [bos_id, *ids]
        if not ids or len(ids) + _GOLDEN_TOKENS > facts.contexts[-1]:
            continue
        tokens, margin = runner.greedy(ids, _GOLDEN_TOKENS)
        if replayed:
            margin = min(margin, _lead(runner, ids, tokens))
        kept.append((margin, GoldenVector(prompt, tokens=tokens)))
    kept.sort(key=lambda row: -row[0])
    clear = [vector for margin, vector in kept if margin >= _GOLDEN_MARGIN]
    return clear or [vector for _, vector in kept[:1]]


def _lead(runner: Runner, ids: list[int], tokens: list[int]) -> float:
    """How far the tokens are ahead of the best others, at their closest, in a run of all."""
    text = np.array([*ids, *tokens[:-1]], np.int64)
    rows = runner.logits(text)[len(ids) - 1 :]
    taken = np.arange(len(tokens)), np.array(tokens)
    own = rows[taken].copy()
    rows[taken] = -np.inf
    return float((own - rows.max(-1)).min())


def _signatures(facts: GeneratorFacts) -> list[SignatureSpec]:
    plain = _signatures_of(facts, adapted=False)
    return plain + (_signatures_of(facts, adapted=True) if facts.adapters is not None else [])


def _signatures_of(facts: GeneratorFacts, *, adapted: bool) -> list[SignatureSpec]:
    def name(kind: Kind, tokens: int, context: int) -> str:
        return facts.signature(kind, tokens, context, adapted=adapted)

    specs = [_signature(facts, name("prompt", t, 0), t, 0, logits=False) for t in facts.prompt]
    for c in facts.contexts:
        specs.append(_signature(facts, name("decode", 1, c), 1, c, logits=True))
        specs += [
            _signature(facts, name("prefill", t, c), t, c, logits=False) for t in facts.prefill
        ]
        specs += [_signature(facts, name("score", t, c), t, c, logits=True) for t in facts.score]
    return specs


def _signature(
    facts: GeneratorFacts, name: str, tokens: int, context: int, *, logits: bool
) -> SignatureSpec:
    """The signature without its per-layer tensors, which the facts describe."""
    inputs = [
        TensorSpec("x", [tokens, facts.width], "float32"),
        TensorSpec("cos", [tokens, 1, facts.head_size], "float32"),
        TensorSpec("sin", [tokens, 1, facts.head_size], "float32"),
    ]
    if len(facts.turns()) > 1:
        inputs += [msgspec.structs.replace(spec, name=f"{spec.name}_local") for spec in inputs[1:]]
    if context:
        inputs.append(TensorSpec("mask", [1, 1, context], "float32"))
    if facts.placed and logits and tokens > 1:
        inputs.append(TensorSpec("place", [facts.kv_heads, context, tokens], "float32"))
    outputs = [TensorSpec("logits", [tokens, facts.vocabulary], "float32")] if logits else []
    return SignatureSpec(name, inputs, outputs)


def golden_prompts() -> list[str]:
    """Texts for the golden vectors of a general model."""
    return [
        "The capital of France is",
        "Once upon a time there was a",
        "1, 2, 3, 4, 5, 6,",
        "The opposite of hot is",
        "Monday, Tuesday, Wednesday,",
        "def add(a, b):\n    return",
        "Water freezes at a temperature of",
        "The quick brown fox jumps over the lazy",
        "To be, or not to be,",
        "Roses are red, violets are",
    ]
