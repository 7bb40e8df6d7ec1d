"""Commands on a bundle, without a fleet: ``classify``, ``eval``, ``inspect``."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from agent.cli import output
from contracts import board as boards
from contracts import limits
from contracts.bundle import Bundle
from contracts.errors import InputError, UnavailableError

MAX_ROWS: Final = 5_000_000
"""Rows of one data file."""


class Example(msgspec.Struct, frozen=True):
    """A labelled text."""

    text: str
    label: str


def read_examples(path: Path) -> Iterator[Example]:
    """Labelled texts of a JSONL, CSV or Parquet file.

    Raises:
        InputError: ``no-such-file``, ``bad-data`` with the row.
        UnavailableError: ``no-pyarrow``.
    """
    if not path.is_file():
        raise InputError("no-such-file", f"{path}: no such data file")
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError("bad-data", f"{path}: expected a name ending in .jsonl, .csv or .parquet")
    count = 0
    try:
        for row in reader(path):
            count += 1
            if count > MAX_ROWS:
                raise InputError("too-large", f"{path} has more than {MAX_ROWS} rows")
            try:
                yield msgspec.convert(row, Example)
            except msgspec.ValidationError as error:
                raise InputError(
                    "bad-data", f"{path}, row {count}: needs 'text' and 'label': {error}"
                ) from None
    except UnicodeDecodeError as error:
        raise InputError("bad-data", f"{path} is not UTF-8: {error}") from None
    if not count:
        raise InputError("bad-data", f"{path} has no rows")


def _jsonl(path: Path) -> Iterator[object]:
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise InputError(
                        "bad-data", f"{path}, line {number} is not JSON: {error}"
                    ) from None


def _csv(path: Path) -> Iterator[object]:
    with path.open(encoding="utf-8", newline="") as stream:
        try:
            for row in csv.DictReader(stream):
                yield {"text": row.get("text"), "label": row.get("label")}
        except csv.Error as error:
            raise InputError("bad-data", f"{path} is not CSV: {error}") from None


def _parquet(path: Path) -> Iterator[object]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise UnavailableError(
            "no-pyarrow", "reading Parquet needs pyarrow: pip install 'shoal[builder]'"
        ) from None
    try:
        table = pyarrow.parquet.read_table(path, columns=["text", "label"])
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise InputError("bad-data", f"{path}: {str(error)[:300]}") from None
    yield from table.to_pylist()


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
                best = f"{answer.label}  {answer.confidence:.3f}  {answer.latency_us:.0f} us"
                rest = ", ".join(f"{s.label} {s.confidence:.3f}" for s in answer.top[1:])
                note = "  (text cut to the model's window)" if answer.truncated else ""
                output.line(f"{best}  {('then ' + rest) if rest else ''}{note}".rstrip())
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


def evaluate(arguments: argparse.Namespace) -> int:
    """Accuracy, per-class figures and latency on labelled data."""
    from agent.runtime.classifier import UNKNOWN, Classifier
    from contracts.histogram import Histogram

    bundle = Bundle.open(arguments.bundle)
    examples = list(read_examples(arguments.data))
    model = Classifier(bundle, runtime=arguments.runtime, threads=arguments.threads)
    progress = output.Progress(len(examples), "evaluating")
    latency = Histogram("log8")
    counts: dict[str, list[int]] = {}
    right = answered = 0
    try:
        model.warm_up()
        for number, example in enumerate(examples, 1):
            answer = model.classify(example.text, 1)
            latency.add(answer.latency_us)
            best = answer.top[0].label
            right += best == example.label
            answered += answer.label != UNKNOWN
            counts.setdefault(example.label, [0, 0, 0])[0] += 1
            counts.setdefault(best, [0, 0, 0])[1] += 1
            counts[example.label][2] += best == example.label
            progress(number)
    finally:
        model.close()
    f1 = {
        label: round(2 * hit / (true + said), 4) if true + said else 0.0
        for label, (true, said, hit) in sorted(counts.items())
    }
    result = {
        "bundle": bundle.ref,
        "runtime": model.runtime,
        "examples": len(examples),
        "accuracy": round(right / len(examples), 6),
        "macro_f1": round(sum(f1.values()) / len(f1), 6),
        "answered_ratio": round(answered / len(examples), 6),
        "latency_p50_us": latency.quantile(0.5),
        "latency_p95_us": latency.quantile(0.95),
        "f1": f1,
    }
    if arguments.json:
        output.document(result)
        return 0
    output.table(
        [
            ["bundle", f"{bundle.ref} in {model.runtime}"],
            ["examples", str(len(examples))],
            ["accuracy", f"{right / len(examples):.2%}"],
            ["macro F1", f"{result['macro_f1']:.4f}"],
            ["above threshold", f"{answered / len(examples):.2%}"],
            [
                "latency p50 / p95",
                f"{result['latency_p50_us']:.0f} / {result['latency_p95_us']:.0f} us",
            ],
        ]
    )
    worst = sorted(f1.items(), key=lambda row: row[1])[:10]
    output.line("weakest labels")
    output.table([[f"  {label}", f"F1 {value:.3f}"] for label, value in worst])
    return 0


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
    if manifest.classifier is not None:
        labels = manifest.classifier
        rows.append(["labels", f"{len(labels.labels)}, threshold {labels.threshold:g}"])
    rows += [["file", f"{entry.path}  {entry.size:,} bytes"] for entry in manifest.files]
    for name, found in fits.items():
        rows.append([f"board {name}", "fits" if not found else "; ".join(map(str, found))])
    output.table(rows)
    return 0
