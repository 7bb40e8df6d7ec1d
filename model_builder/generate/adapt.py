"""``shoal import ADAPTER --base BUNDLE``: an adapter of a bundle's source as a bundle of its own.

Apart: the adapter alone, in the basis of the base's matrices, for signatures of the base that take
one. Merged: a whole bundle, of the base's float weights with the adapter in them.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
from tokenizers import Tokenizer

from contracts import codec
from contracts.adapter import Adapter, encode, place_bytes
from contracts.bundle import SUFFIX, Bundle, file_entries, pack
from contracts.errors import InputError
from contracts.manifest import (
    AdapterFacts,
    BaseFrontEnd,
    GeneratorFacts,
    Golden,
    Manifest,
    ModelFacts,
    Provenance,
    TokenizerFrontEnd,
)
from model_builder.files import check_folder, write_atomically
from model_builder.generate.adapter_texts import AdapterTexts, read_texts
from model_builder.generate.basis import Basis, merged, native
from model_builder.generate.fidelity import Fidelity, compare, shipped_text, windows
from model_builder.generate.importer import (
    Imported,
    ImportOptions,
    bundle_name,
    check_names,
    import_pretrained,
)
from model_builder.generate.package import (
    GOLDEN_FILE,
    Layout,
    continued,
    golden_prompts,
    write_bundle,
)
from model_builder.generate.peft import PeftAdapter, Sizes, read_adapter
from model_builder.generate.runner import Runner
from model_builder.generate.source import Pretrained, load_pretrained
from model_builder.generate.weights import DecoderConfig, DecoderWeights
from model_builder.teachers.base import Progress, silent

ADAPTER_FILE: Final = "adapter.bin"
_WINDOW: Final = 256
_PREPARED: Final = 4
"""Times the bytes of an adapter's places: written, packed, and the tables of its signatures."""


class AdapterOptions(msgspec.Struct, frozen=True):
    """How to import an adapter.

    Attributes:
        name: of the bundle; empty: from the folder.
        version: of the bundle.
        weights_from: the base's source; with it an adapter apart is compared with the float model.
        prompt_prefix, prompt_suffix: around a prompt; None: what its training left beside it, or
            the base's.
        grammar: file with a Lark grammar; empty: likewise.
        golden: prompts for the golden vectors; empty: general ones.
        check_tokens: that are compared.
    """

    name: str = ""
    version: str = "1.0.0"
    weights_from: str = ""
    prompt_prefix: str | None = None
    prompt_suffix: str | None = None
    grammar: str = ""
    golden: tuple[str, ...] = ()
    check_tokens: int = 2048


class Adapted(msgspec.Struct, frozen=True):
    """What an import of an adapter made. `fidelity`: to the float model with the adapter."""

    bundle: Path
    archive: Path
    report: Path
    rank: int
    targets: list[str]
    bytes: int
    fidelity: Fidelity | None = None


def import_adapter(
    source: Path, base: Path, out: Path, options: AdapterOptions, progress: Progress = silent
) -> Adapted:
    """Imports an adapter apart from its base.

    Args:
        source: the folder that PEFT wrote.
        base: the bundle that it belongs to.
        out: folder for the bundle, the ``.shoal`` file and the report.
        options: how.
        progress: is told of each step.

    Raises:
        InputError: ``no-adapters``, the base takes none; ``wrong-base``; and what
            :func:`model_builder.generate.peft.read_adapter` raises.
    """
    check_names(options.name or "x", options.version)
    check_folder(out)
    bundle = Bundle.open(base)
    facts = _facts(bundle)
    assert facts.adapters is not None
    basis = Basis.from_bytes(bundle.read(facts.adapters.basis))
    found = read_adapter(source, basis.sizes)
    own = _own_facts(found, bundle, _texts(source, options))
    parts = basis.placed(basis.native(found.parts))
    data = encode({key: (part.a, part.b) for key, part in parts.items()})
    adapter = Adapter(data, own, facts)
    progress("writing", 0, 1)
    runner = _runner(bundle, facts, adapter)
    front = bundle.manifest.front_end
    assert isinstance(front, TokenizerFrontEnd)
    tokenizer = Tokenizer.from_str(bundle.read(front.file).decode())
    vectors = continued(
        runner, tokenizer, adapted_facts(facts, own), list(options.golden) or golden_prompts(),
        front.bos_id, replayed=True,
    )  # fmt: skip
    fidelity = None
    if options.weights_from:
        whole = _merged(_source(bundle, options.weights_from), source)
        fidelity = _compare(whole, runner, tokenizer, facts, front.bos_id, options, progress)
    name = options.name or bundle_name(str(source))
    folder = out / f"{name}-{options.version}"
    files = {ADAPTER_FILE: data, GOLDEN_FILE: codec.encode(vectors)}

    def manifest(staging: Path) -> Manifest:
        return Manifest(
            schema=1,
            name=name,
            version=options.version,
            task="generate",
            files=file_entries(staging / file for file in files),
            model=ModelFacts(
                file=ADAPTER_FILE,
                quantization=bundle.manifest.model.quantization,
                signatures=[],
                operators=[],
                parameters=sum(p.a.size + p.b.size for p in parts.values()),
                peak_rss_bytes=_PREPARED * place_bytes(facts) + len(data),
                runtimes=bundle.manifest.model.runtimes,
            ),
            front_end=BaseFrontEnd(),
            golden=Golden(GOLDEN_FILE, len(vectors), min_label_agreement=0.9),
            adapter=own,
            boards=bundle.manifest.boards,
            metrics={} if fidelity is None else {"fidelity": msgspec.to_builtins(fidelity)},
            provenance=Provenance(
                teacher=found.origin,
                teacher_sha256=found.sha256,
                versions={"numpy": importlib.metadata.version("numpy")},
            ),
        )

    made = write_bundle(folder, files, manifest)
    archive = out / f"{name}-{options.version}{SUFFIX}"
    pack(folder, archive)
    progress("writing", 1, 1)
    report = out / f"{name}-{options.version}-report.json"
    write_atomically(report, codec.pretty(_report(made, found, options, fidelity)))
    return Adapted(
        folder,
        archive,
        report,
        found.rank,
        list(found.targets),
        made.manifest.total_bytes,
        fidelity,
    )


def import_merged(
    source: Path, base: Path, out: Path, options: AdapterOptions, progress: Progress = silent
) -> Imported:
    """Imports an adapter in its base's float weights, rounded anew: a whole bundle.

    Raises:
        InputError: ``needs-weights``, the base's source was not given; ``wrong-base``.
    """
    bundle = Bundle.open(base)
    facts = bundle.manifest.generator
    if facts is None:
        raise _no_base(bundle)
    if not options.weights_from:
        raise InputError(
            "needs-weights",
            f"{bundle.ref} holds rounded weights; an adapter is merged into those that they were "
            f"made of ({bundle.manifest.provenance.teacher or 'its source'}): name them with "
            "--weights-from SOURCE",
        )
    check_names(options.name or "x", options.version)
    check_folder(out)
    texts = _texts(source, options)
    pretrained = _source(bundle, options.weights_from)
    whole = replace(pretrained, weights=_merged(pretrained, source))
    bits: Literal["int8", "int4"] = (
        "int4" if bundle.manifest.model.quantization == "dynamic-int4" else "int8"
    )
    layout = Layout(facts.contexts, facts.prompt, facts.prefill, facts.score, facts.cache)
    name = options.name or bundle_name(str(source))
    wanted = ImportOptions(
        version=options.version,
        layout=layout,
        weights=bits,
        check_tokens=options.check_tokens,
        seed=bundle.manifest.provenance.seed,
        texts=texts,
        golden=options.golden,
    )
    return import_pretrained(whole, name, out, wanted, progress)


def adapted_facts(base: GeneratorFacts, adapter: AdapterFacts) -> GeneratorFacts:
    """The facts of a base that runs with an adapter."""
    own = {
        key: value
        for key in ("prompt_prefix", "prompt_suffix", "grammar")
        if (value := getattr(adapter, key)) is not None
    }
    return msgspec.structs.replace(base, **own)


def _no_base(bundle: Bundle) -> InputError:
    what = (
        "an adapter" if bundle.manifest.adapter is not None else f"a {bundle.manifest.task} bundle"
    )
    return InputError("wrong-base", f"{bundle.ref} is {what}; expected a generator as the base")


def _facts(bundle: Bundle) -> GeneratorFacts:
    facts = bundle.manifest.generator
    if facts is None:
        raise _no_base(bundle)
    named = {spec.name for spec in bundle.manifest.model.signatures}
    first = facts.signature("decode", 1, facts.contexts[0], adapted=True)
    if facts.adapters is None or first not in named:
        raise InputError(
            "no-adapters",
            f"{bundle.ref} takes no adapters as they are today: import it again with --adapters "
            "RANK, or merge this one into it with --merged",
        )
    return facts


def _own_facts(found: PeftAdapter, bundle: Bundle, texts: AdapterTexts) -> AdapterFacts:
    room = bundle.manifest.generator.adapters if bundle.manifest.generator else None
    assert room is not None
    if found.rank > room.rank:
        raise InputError(
            "wrong-base",
            f"{found.origin} has rank {found.rank}; {bundle.ref} takes those up to {room.rank}: "
            f"import the base again with --adapters {found.rank}, or merge this one (--merged)",
        )
    fields = {
        "base": msgspec.to_builtins(bundle.ref),
        "rank": found.rank,
        "targets": list(found.targets),
        **msgspec.structs.asdict(texts),
    }
    try:
        return msgspec.convert(fields, AdapterFacts)
    except msgspec.ValidationError as error:
        raise InputError("bad-option", f"the options cannot be used: {error}") from None


def _texts(source: Path, options: AdapterOptions) -> AdapterTexts:
    """Those of the options, else those that it was trained within."""
    beside = read_texts(source)
    given = {"prompt_prefix": options.prompt_prefix, "prompt_suffix": options.prompt_suffix}
    given["grammar"] = _grammar(options.grammar)
    return msgspec.structs.replace(beside, **{k: v for k, v in given.items() if v is not None})


def _grammar(path: str) -> str | None:
    if not path:
        return None
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("no-such-file", f"cannot read the grammar {path}: {error}") from None


def _runner(bundle: Bundle, facts: GeneratorFacts, adapter: Adapter) -> Runner:
    """The base with the adapter, as a device runs it."""
    assert facts.adapters is not None
    turns = facts.turns()
    config = DecoderConfig(
        vocabulary=facts.vocabulary,
        layers=facts.layers,
        width=facts.width,
        hidden=facts.adapters.hidden,
        heads=facts.adapters.heads,
        kv_heads=facts.kv_heads,
        head_size=facts.head_size,
        frequencies=tuple(turns[0]),
        local_frequencies=tuple(turns[1]) if len(turns) > 1 else (),
        local_layers=frozenset({0} if len(turns) > 1 else ()),
        rope_scale=facts.rope_scale,
    )
    data = np.frombuffer(bundle.read(facts.embedding), np.uint8)
    cells = facts.vocabulary * facts.width
    rows = data[:cells].view(np.int8).reshape(facts.vocabulary, facts.width)
    table = rows * data[cells:].view(np.float32)[:, None]
    model = bundle.read(bundle.manifest.model.file)
    return Runner(model, table, config, facts, adapter=adapter)


def _source(bundle: Bundle, source: str) -> Pretrained:
    """The float weights that a bundle was made of.

    Raises:
        InputError: ``wrong-base``; it was made of others.
    """
    pretrained = load_pretrained(source)
    expected = bundle.manifest.provenance.teacher_sha256
    if pretrained.sha256 != expected:
        raise InputError(
            "wrong-base",
            f"{bundle.ref} was not made of {source[:100]} (sha256 {pretrained.sha256[:12]}..., "
            f"expected {expected[:12] or 'unknown'}...)",
        )
    return pretrained


def _merged(pretrained: Pretrained, source: Path) -> DecoderWeights:
    c = pretrained.weights.config
    sizes = Sizes(c.layers, c.width, c.hidden, c.heads * c.head_size, c.kv_heads * c.head_size)
    parts = native(read_adapter(source, sizes).parts, pretrained.packing, c)
    whole = merged(pretrained.weights, parts)
    whole.check()
    return whole


def _compare(
    whole: DecoderWeights,
    runner: Runner,
    tokenizer: Tokenizer,
    facts: GeneratorFacts,
    bos_id: int | None,
    options: AdapterOptions,
    progress: Progress,
) -> Fidelity:
    length = min(_WINDOW, facts.contexts[-1])
    ids = tokenizer.encode(shipped_text("perplexity"), add_special_tokens=False).ids
    texts = windows(ids, length, max(1, options.check_tokens // length), bos_id)
    return compare(whole, runner, texts, progress)


def _report(
    bundle: Bundle, found: PeftAdapter, options: AdapterOptions, fidelity: Fidelity | None
) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "source": {"name": found.origin, "sha256": found.sha256},
        "adapter": msgspec.to_builtins(manifest.adapter),
        "parameters": manifest.model.parameters,
        "bytes": {entry.path: entry.size for entry in manifest.files},
        "options": msgspec.to_builtins(options),
        "fidelity": msgspec.to_builtins(fidelity),
    }
