"""``shoal eval``: what a bundle answers on labelled data, and how often that is right."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Any

import msgspec

from agent.cli import output
from contracts.answers import Classified
from contracts.bundle import Bundle
from contracts.errors import InputError
from contracts.histogram import Histogram
from contracts.labelled.folders import TO_JUDGE
from contracts.labelled.load import load_rows
from contracts.labelled.rows import Log, Row
from contracts.labelled.several import Several


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


class SeveralTally:
    """Counts of one evaluation of a bundle that gives a text several labels.

    Args:
        labels: of the bundle.
        unknown: what it answers where no label is over its threshold.
    """

    def __init__(self, labels: list[str], unknown: str) -> None:
        self._unknown = unknown
        self._spelt = {label.casefold(): label for label in reversed(labels)}
        self._known = set(labels)
        self.rows = self.exact = self.answered = 0
        self.strange: dict[str, int] = {}
        self._counts: dict[str, list[int]] = {}

    def add(self, labels: Iterable[str], answer: Classified) -> None:
        """Counts one answer to a text that has `labels`."""
        true = {
            label if label in self._known else self._spelt.get(label.casefold(), label)
            for label in labels
        }
        said = set(answer.said) - {self._unknown}
        self.rows += 1
        self.exact += said == true
        self.answered += bool(said)
        for label in true - self._known:
            self.strange[label] = self.strange.get(label, 0) + 1
        for label in true | said:
            counts = self._counts.setdefault(label, [0, 0, 0])
            counts[0] += label in true
            counts[1] += label in said
            counts[2] += label in true and label in said

    def figures(self) -> dict[str, Any]:
        """F1 over all labels, the mean of a label's, and how often all labels are right."""
        rows = {
            label: {
                "precision": round(hit / said, 4) if said else 0.0,
                "recall": round(hit / true, 4) if true else 0.0,
                "f1": round(2 * hit / (true + said), 4),
                "support": true,
            }
            for label, (true, said, hit) in sorted(self._counts.items())
        }
        true, said, hit = (sum(one[i] for one in self._counts.values()) for i in range(3))
        judged = [row["f1"] for row in rows.values() if row["support"]]
        return {
            "examples": self.rows,
            "accuracy": round(self.exact / self.rows, 6),
            "micro_f1": round(2 * hit / (true + said), 6) if true + said else 1.0,
            "macro_f1": round(sum(judged) / len(judged), 6) if judged else 1.0,
            "micro_precision": round(hit / said, 6) if said else 0.0,
            "micro_recall": round(hit / true, 6) if true else 0.0,
            "answered_ratio": round(self.answered / self.rows, 6),
            "labels_not_in_bundle": self.strange,
            "f1": {label: row["f1"] for label, row in rows.items()},
            "labels": rows,
        }


def evaluate(arguments: argparse.Namespace) -> int:
    """Accuracy, per-class figures and latency on labelled data."""
    from agent.runtime.classifier import UNKNOWN, Classifier

    bundle = Bundle.open(arguments.bundle)
    log = Log()
    facts = bundle.manifest.classifier
    if facts is None:
        raise InputError("wrong-task", f"{bundle.path} is a {bundle.manifest.task} bundle")
    several = Several(known=frozenset(facts.labels)) if facts.cuts else None
    rows: list[Row] = load_rows(
        arguments.data,
        text=arguments.text,
        label=arguments.label,
        log=log,
        several=several,
        splits=TO_JUDGE,
    )
    model = Classifier(bundle, runtime=arguments.runtime, threads=arguments.threads)
    progress = output.Progress(len(rows), "evaluating")
    latency = Histogram("log8")
    one, more = Tally(facts.labels, UNKNOWN), SeveralTally(facts.labels, UNKNOWN)
    try:
        model.warm_up()
        for number, row in enumerate(rows, 1):
            answer = model.classify(row.text, 1)
            latency.add(answer.latency_us)
            if several is None:
                one.add(row.label, answer)
            else:
                more.add(row.labels, answer)
            progress(number)
    finally:
        model.close()
    figures = one.figures() if several is None else more.figures()
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
    if "micro_f1" in result:
        right = [
            ["F1 over all labels", f"{result['micro_f1']:.4f}"],
            ["mean F1 of a label", f"{result['macro_f1']:.4f}"],
            ["all labels of a text right", f"{result['accuracy']:.2%}"],
            ["any label given", f"{result['answered_ratio']:.2%}"],
        ]
    else:
        right = [
            ["accuracy, as it answers", f"{result['accuracy']:.2%}"],
            ["accuracy without threshold", f"{result['accuracy_without_threshold']:.2%}"],
            ["above threshold", f"{result['answered_ratio']:.2%}"],
            ["macro F1", f"{result['macro_f1']:.4f}"],
        ]
    output.table(
        [
            ["bundle", f"{result['bundle']} in {result['runtime']}"],
            ["examples", str(result["examples"])],
            *right,
            [
                "latency p50 / p95",
                f"{result['latency_p50_us']:.0f} / {result['latency_p95_us']:.0f} us",
            ],
        ]
    )
    worst = sorted(result["f1"].items(), key=lambda row: row[1])[:10]
    output.line("weakest labels")
    output.table([[f"  {label}", f"F1 {value:.3f}"] for label, value in worst])
