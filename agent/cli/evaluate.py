"""``shoal eval``: what a bundle answers on labelled data, and how often that is right."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import msgspec

from agent.cli import output
from contracts.bundle import Bundle
from contracts.errors import InputError
from contracts.histogram import Histogram
from contracts.labelled.load import load_rows
from contracts.labelled.rows import Log, Row
from contracts.messages import Classified


class Tally:
    """Counts of one evaluation.

    Args:
        labels: of the bundle.
        unknown: what it answers below its threshold.
    """

    def __init__(self, labels: list[str], unknown: str) -> None:
        self._unknown = unknown
        self._spelt = {label.casefold(): label for label in reversed(labels)}
        self._known = set(labels)
        self.rows = self.right = self.right_without = self.answered = 0
        self.strange: dict[str, int] = {}
        self._counts: dict[str, list[int]] = {}

    def add(self, label: str, answer: Classified) -> None:
        """Counts one answer to a text of `label`."""
        true = label if label in self._known else self._spelt.get(label.casefold(), label)
        if true not in self._known and true != self._unknown:
            self.strange[true] = self.strange.get(true, 0) + 1
        best = answer.top[0].label
        self.rows += 1
        self.right += answer.label == true
        self.right_without += best == true
        self.answered += answer.label != self._unknown
        self._counts.setdefault(true, [0, 0, 0])[0] += 1
        self._counts.setdefault(answer.label, [0, 0, 0])[1] += 1
        self._counts[true][2] += answer.label == true

    def figures(self) -> dict[str, Any]:
        """Accuracy as answered, without the threshold, and F1 by label."""
        f1 = {
            label: round(2 * hit / (true + said), 4) if true + said else 0.0
            for label, (true, said, hit) in sorted(self._counts.items())
            if label != self._unknown or true
        }
        return {
            "examples": self.rows,
            "accuracy": round(self.right / self.rows, 6),
            "accuracy_without_threshold": round(self.right_without / self.rows, 6),
            "answered_ratio": round(self.answered / self.rows, 6),
            "macro_f1": round(sum(f1.values()) / len(f1), 6),
            "labels_not_in_bundle": self.strange,
            "f1": f1,
        }


def evaluate(arguments: argparse.Namespace) -> int:
    """Accuracy, per-class figures and latency on labelled data."""
    from agent.runtime.classifier import UNKNOWN, Classifier

    bundle = Bundle.open(arguments.bundle)
    log = Log()
    rows: list[Row] = load_rows(arguments.data, text=arguments.text, label=arguments.label, log=log)
    facts = bundle.manifest.classifier
    if facts is None:
        raise InputError("wrong-task", f"{bundle.path} is a {bundle.manifest.task} bundle")
    model = Classifier(bundle, runtime=arguments.runtime, threads=arguments.threads)
    progress = output.Progress(len(rows), "evaluating")
    latency = Histogram("log8")
    tally = Tally(facts.labels, UNKNOWN)
    try:
        model.warm_up()
        for number, row in enumerate(rows, 1):
            answer = model.classify(row.text, 1)
            latency.add(answer.latency_us)
            tally.add(row.label, answer)
            progress(number)
    finally:
        model.close()
    figures = tally.figures()
    result = {
        "bundle": bundle.ref,
        "runtime": model.runtime,
        "latency_p50_us": latency.quantile(0.5),
        "latency_p95_us": latency.quantile(0.95),
        "notes": log.notes,
        "rows_left_out": log.left_out,
        "left_out": [msgspec.structs.asdict(problem) for problem in log.problems],
        **figures,
    }
    if arguments.json:
        output.document(result)
    else:
        _show(result)
    return 0


def _show(result: dict[str, Any]) -> None:
    for note in result["notes"]:
        sys.stderr.write(f"note: {note}\n")
    if strange := result["labels_not_in_bundle"]:
        count = sum(strange.values())
        sys.stderr.write(
            f"note: {count} rows have labels that the bundle lacks and count as wrong: "
            f"{', '.join(sorted(strange))[:300]}\n"
        )
    output.table(
        [
            ["bundle", f"{result['bundle']} in {result['runtime']}"],
            ["examples", str(result["examples"])],
            ["accuracy, as it answers", f"{result['accuracy']:.2%}"],
            ["accuracy without threshold", f"{result['accuracy_without_threshold']:.2%}"],
            ["above threshold", f"{result['answered_ratio']:.2%}"],
            ["macro F1", f"{result['macro_f1']:.4f}"],
            [
                "latency p50 / p95",
                f"{result['latency_p50_us']:.0f} / {result['latency_p95_us']:.0f} us",
            ],
        ]
    )
    worst = sorted(result["f1"].items(), key=lambda row: row[1])[:10]
    output.line("weakest labels")
    output.table([[f"  {label}", f"F1 {value:.3f}"] for label, value in worst])
