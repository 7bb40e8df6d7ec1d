"""Labels taught beside a model from a few examples: what is learnt and lost, how long it takes.

::

    python benchmarks/teach.py BUNDLE --examples FILE --test FILE
        [--shots 5] [--draws 5] [--json FILE]

BUNDLE never saw some labels. ``--examples`` has rows of those alone, of which each draw takes
``--shots`` a label; ``--test`` has rows of all labels. All are taught together, and each by itself.
Accuracy is of answers as a device gives them: ``unknown`` is wrong. The loss is of rows whose label
the model knows, in points of accuracy; the time is of one lesson, examples through the model
included. Nothing is trained here: nothing is, on a device.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from _figures import ROOT, machine, row, save, show

sys.path.insert(0, str(ROOT))
from agent.runtime.classifier import Classifier
from agent.runtime.lessons import Head
from contracts.bundle import Bundle
from contracts.labelled.load import load_rows

Rows = Sequence[tuple[str, str]]

UNITS: Final = {"lesson_ms": "ms", "answer_us": "us"}


def main() -> None:
    """Teaches, measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--examples", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one draw")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = Classifier(Bundle.open(args.bundle))
    facts = machine()
    examples, test = rows(args.examples), rows(args.test)
    labels = sorted({label for _, label in examples})
    known = [row for row in test if row[1] not in labels]
    new = [row for row in test if row[1] in labels]
    before = accuracy(model, known, None)
    found: dict[str, list[float]] = {}

    def add(figure: str, value: float) -> None:
        found.setdefault(figure, []).append(value)

    for draw in range(1 if args.quick else args.draws):
        chance = random.Random(draw)
        lessons = []
        for label in labels:
            texts = chance.sample([text for text, of in examples if of == label], args.shots)
            start = time.perf_counter()
            lesson = (label, [model.features(text) for text in texts])
            Head([lesson])
            add("lesson_ms", (time.perf_counter() - start) * 1000)
            lessons.append(lesson)
        head = Head(lessons)
        add("together_new", accuracy(model, new, head))
        add("together_lost", before - accuracy(model, known, head))
        for lesson in lessons:
            head = Head([lesson])
            add("alone_new", accuracy(model, [row for row in new if row[1] == lesson[0]], head))
            add("alone_lost", before - accuracy(model, known, head))
    start = time.perf_counter()
    accuracy(model, known, head)
    add("answer_us", (time.perf_counter() - start) / len(known) * 1e6)
    case = args.bundle.name
    shown = [row(case, "shoal", "accuracy_before", before, "ratio")]
    for name, all_ in found.items():
        unit = UNITS.get(name, "ratio")
        shown.append(row(case, "shoal", name, statistics.mean(all_), unit, len(all_)))
        if name.endswith(("_lost", "_ms")):
            shown.append(row(case, "shoal", f"{name}_worst", max(all_), unit, len(all_)))
    show(shown)
    save(args.json, "teach", shown, facts)


def rows(path: Path) -> list[tuple[str, str]]:
    """Texts and labels of a table."""
    return [(one.text, one.label) for one in load_rows(path)]


def accuracy(model: Classifier, test: Rows, head: Head | None) -> float:
    """Share of the rows that are answered with their label."""
    right = sum(model.classify(text, 1, head).label == label for text, label in test)
    return right / max(1, len(test))


if __name__ == "__main__":
    main()
