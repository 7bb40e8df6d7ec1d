"""Commands on a bundle, without a fleet: ``classify``, ``inspect``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import msgspec

from agent.cli import output
from contracts import board as boards
from contracts import limits
from contracts.answers import Classified
from contracts.bundle import Bundle
from contracts.errors import InputError


def classify(arguments: argparse.Namespace) -> int:
    """Classifies texts, from the command line or the lines of stdin."""
    from agent.runtime.classifier import Classifier

    bundle = Bundle.open(arguments.bundle)
    model = Classifier(bundle, runtime=arguments.runtime, threads=arguments.threads)
    try:
        model.warm_up()
        for text in arguments.text or _stdin_lines():
            answer = model.classify(text, arguments.top)
            if arguments.json:
                sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
            else:
                won = answer.label if answer.best is None else f"{answer.label} ({answer.best}?)"
                if answer.labels is not None:
                    output.line(_several(answer))
                    continue
                best = f"{won}  {answer.confidence:.3f}  {answer.latency_us:.0f} us"
                rest = ", ".join(f"{s.label} {s.confidence:.3f}" for s in answer.top[1:])
                note = "  (text cut to the model's window)" if answer.truncated else ""
                output.line(f"{best}  {('then ' + rest) if rest else ''}{note}".rstrip())
    finally:
        model.close()
    return 0


def _several(answer: Classified) -> str:
    """An answer that may have several labels, as a line; what is near too, after them."""
    given = ", ".join(f"{one.label} {one.confidence:.3f}" for one in answer.labels or [])
    said = set(answer.said)
    rest = ", ".join(
        f"{one.label} {one.confidence:.3f}" for one in answer.top if one.label not in said
    )
    note = "  (text cut to the model's window)" if answer.truncated else ""
    near = f"  not {rest}" if rest else ""
    return f"{given or 'unknown'}  {answer.latency_us:.0f} us{near}{note}"


def embed(arguments: argparse.Namespace) -> int:
    """Texts as vectors, from the command line or the lines of stdin: a JSON document a line."""
    from agent.runtime.classifier import Classifier

    model = Classifier(
        Bundle.open(arguments.bundle), runtime=arguments.runtime, threads=arguments.threads
    )
    try:
        for text in arguments.text or _stdin_lines():
            answer = model.embed(text)
            found = answer if arguments.json else answer.embedding
            sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    finally:
        model.close()
    return 0


def _stdin_lines() -> Iterator[str]:
    data = sys.stdin.buffer
    while line := data.readline(limits.MAX_TEXT_BYTES + 2):
        try:
            text = line.decode().rstrip("\n")
        except UnicodeDecodeError:
            raise InputError("bad-text", "standard input is not UTF-8") from None
        if text:
            yield text


def inspect(arguments: argparse.Namespace) -> int:
    """Manifest, sizes, operators, memory, and the boards that a bundle fits."""
    bundle = Bundle.open(arguments.bundle)
    bundle.verify()
    manifest = bundle.manifest
    fits = {name: boards.misfits(manifest, boards.load(name)) for name in boards.names()}
    if arguments.json:
        output.document(
            {
                "bundle": bundle.ref,
                "manifest": manifest,
                "boards": {name: [str(m) for m in found] for name, found in fits.items()},
            }
        )
        return 0
    model = manifest.model
    arena = "does not run there" if model.arena_bytes is None else f"{model.arena_bytes:,} bytes"
    rows = [
        ["bundle", str(bundle.ref)],
        ["manifest sha256", bundle.ref.manifest_sha256],
        ["task", manifest.task],
        ["model", f"{model.parameters:,} parameters, {model.quantization}"],
        ["operators", ", ".join(model.operators)],
        ["signatures", ", ".join(s.name for s in model.signatures)],
        ["front end", str(manifest.front_end.__struct_config__.tag)],
        ["arena (TFLite Micro)", arena],
        ["golden vectors", str(manifest.golden.count)],
    ]
    if model.peak_rss_bytes is not None:
        rows.append(["memory", f"{model.peak_rss_bytes:,} bytes"])
    if manifest.adapter is not None:
        own = manifest.adapter
        rows.append(["adapter of", f"{own.base} ({own.base.manifest_sha256})"])
        rows.append(["changes", f"{', '.join(own.targets)} by rank {own.rank}"])
    if manifest.generator is not None and manifest.generator.adapters is not None:
        rows.append(["takes adapters", f"up to rank {manifest.generator.adapters.rank}"])
    if manifest.classifier is not None:
        labels = manifest.classifier
        kind = f"threshold {labels.threshold:g}"
        if labels.cuts:
            kind = "a text may have several, or none; a threshold for each"
        rows.append(["labels", f"{len(labels.labels)}, {kind}"])
    rows += [["file", f"{entry.path}  {entry.size:,} bytes"] for entry in manifest.files]
    for name, found in fits.items():
        rows.append([f"board {name}", "fits" if not found else "; ".join(map(str, found))])
    output.table(rows)
    return 0
