"""Classification: this project's tiers beside fastText, TF-IDF and the teacher, on your data.

::

    python benchmarks/classification.py --data clinc150=train.jsonl:test.jsonl:oos_test.jsonl
        [--data reviews=train.csv:test.csv ...] [--seeds 3] [--systems shoal,tfidf-lr]
        [--validation clinc150=val.jsonl] [--oos-validation clinc150=oos_val.jsonl]
        [--text-column text] [--label-column label] [--out FOLDER] [--quick] [--json FILE]

Any number of sets. Without ``--data``: the home-intents sentences, written to files first. Each
tier is built by ``python -m model_builder build`` with the recipe in ``examples/``; a tier whose
bundle is already in ``--out`` is not built again. The fixed tiers (``shoal-512k``,
``shoal-256k``, ``shoal-quality``) are built where ``--systems`` names them. The last table says
how far ``shoal`` (the default recipe) is on the way from the best peer to the teacher. Every
system then labels the test split in a process of its own, in turns of a few hundred texts, on
one thread; memory is the process's peak above a bare one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _figures import ROOT, machine, save

sys.path.insert(0, str(ROOT))
from _systems import PEERS, SYSTEMS, TIERS, tier

DEFAULT = ("shoal", "teacher", "frozen-lr", *PEERS)
TURN = 250


def main() -> None:
    """Builds what is missing, measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", action="append", default=[], metavar="NAME=TRAIN:TEST[:OOS]")
    parser.add_argument("--validation", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--oos-validation", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--label-column", default="label")
    parser.add_argument("--out", type=Path, default=Path("out/benchmark"))
    parser.add_argument("--systems", default="")
    parser.add_argument("--seeds", type=int, default=1, help="builds of shoal, for the spread")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker[0], json.loads(args.worker[1]))
        return
    facts = machine()
    args.out.mkdir(parents=True, exist_ok=True)
    data = args.data or [home_data(args.out, args.quick)]
    named = {
        key: dict(item.split("=", 1) for item in getattr(args, key))
        for key in ("validation", "oos_validation")
    }
    rows: list[dict[str, Any]] = []
    for item in data:
        case, _, files = item.partition("=")
        train, test, *oos = files.split(":")
        job = {
            "case": case,
            "train": str(Path(train).resolve()),
            "test": str(Path(test).resolve()),
            "oos": str(Path(oos[0]).resolve()) if oos else "",
            "validation": named["validation"].get(case, ""),
            "oos_validation": named["oos_validation"].get(case, ""),
            "text": args.text_column,
            "label": args.label_column,
            "out": str((args.out / case).resolve()),
            "quick": args.quick,
            "seeds": args.seeds,
        }
        rows += measure(job, args.systems.split(",") if args.systems else [])
    print_table(rows)
    print_way(rows)
    save(args.json, "classification", rows, facts)


def measure(job: dict[str, Any], only: list[str]) -> list[dict[str, Any]]:
    """All systems on one data set."""
    known = [*TIERS, "teacher", "frozen-lr", *PEERS]
    systems = [name for name in known if name in (only or DEFAULT)]
    rows: list[dict[str, Any]] = []

    def add(system: str, figure: str, value: float | None, unit: str) -> None:
        if value is not None:
            rows.append(
                {
                    "case": job["case"],
                    "system": system,
                    "figure": figure,
                    "value": round(float(value), 4),
                    "unit": unit,
                    "runs": 1,
                }
            )

    for system in systems:
        if system in TIERS:
            report = tier(job, system)
            accuracy, size = report["accuracy"], report["size"]
            add(system, "accuracy_float", accuracy["float"], "ratio")
            add(system, "model_bytes", size["model_bytes"], "bytes")
            add(system, "arena_bytes", size["arena_bytes"], "bytes")
            add(system, "oos_auroc", report["out_of_scope"]["auroc"], "ratio")
            add(system, "ece", report["calibration"]["ece"], "ratio")
            add(system, "train_s", report["seconds"]["all"], "s")
        if system == "shoal" and job["seeds"] > 1:
            seeds = [tier(job, system, n)["accuracy"]["int8"] for n in range(1, job["seeds"] + 1)]
            add(system, "seeds_mean", statistics.mean(seeds), "ratio")
            add(system, "seeds_spread", statistics.stdev(seeds), "ratio")
    workers = {}
    for system in systems:
        worker = Worker(system, job)
        if worker.problem:
            print(f"{system}: left out: {worker.problem}", file=sys.stderr)
        else:
            workers[system] = worker
    while any(worker.more for worker in workers.values()):  # in turns, so that all see the machine
        for worker in workers.values():
            worker.turn()
    for system, worker in workers.items():
        figures = worker.finish()
        add(system, "accuracy", figures["accuracy"], "ratio")
        add(system, "latency_p50_us", figures["p50"], "us")
        add(system, "latency_p95_us", figures["p95"], "us")
        add(system, "peak_rss_mb", figures["rss_mb"], "MB")
        if system not in TIERS:
            add(system, "model_bytes", figures["bytes"], "bytes")
            add(system, "train_s", figures["train_s"], "s")
    return rows


class Worker:
    """A system in a process of its own, which labels the next texts when it is told to."""

    def __init__(self, system: str, job: dict[str, Any]) -> None:
        command = [sys.executable, __file__, "--worker", system, json.dumps(job)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        first = self._read()
        self.problem = first.get("problem", "" if first else "the process ended")
        self.more = not self.problem

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        return {}

    def _send(self, word: str) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return self._read()

    def turn(self) -> None:
        """Labels the next few hundred texts."""
        if self.more:
            self.more = self._send("turn").get("more", False)

    def finish(self) -> dict[str, Any]:
        """The figures."""
        figures = self._send("end")
        self._process.communicate()
        return figures


def work(system: str, job: dict[str, Any]) -> None:
    """The worker's side."""
    from contracts.labelled.load import load_rows

    test = load_rows(Path(job["test"]), text=job["text"], label=job["label"])
    bare = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        predict, facts = SYSTEMS["shoal" if system in TIERS else system](system, job)
    except ImportError as error:
        print(json.dumps({"problem": str(error)}), flush=True)
        return
    for row in test[:20]:
        predict(row.text)
    print(json.dumps({"ready": True}), flush=True)
    times: list[float] = []
    right = done = 0
    for line in sys.stdin:
        if line.strip() == "end":
            break
        for row in test[done : done + TURN]:
            start = time.perf_counter_ns()
            label = predict(row.text)
            times.append((time.perf_counter_ns() - start) / 1000)
            right += label == row.label
        done = min(len(test), done + TURN)
        print(json.dumps({"more": done < len(test)}), flush=True)
    times.sort()
    peak = facts.pop("peak_kb", None) or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {
        "accuracy": facts.pop("accuracy", right / max(1, done)),
        "p50": times[len(times) // 2],
        "p95": times[int(len(times) * 0.95)],
        "rss_mb": max(0, peak - bare) / 1024,
        **facts,
    }
    print(json.dumps(figures), flush=True)


def home_data(out: Path, quick: bool) -> str:
    """The home-intents sentences as files, split by template."""
    from model_builder.data.home import sample
    from model_builder.data.split import split_off

    train, test = split_off(sample("en", 3000 if quick else 14_000, 7), 0.25, 7, "test")
    paths = []
    for name, rows in (("train", train), ("test", test)):
        path = out / f"home-{name}.jsonl"
        path.write_text(
            "".join(json.dumps({"text": r.text, "label": r.label}) + "\n" for r in rows),
            encoding="utf-8",
        )
        paths.append(str(path))
    return "home=" + ":".join(paths)


def print_way(rows: list[dict[str, Any]]) -> None:
    """How far the default is from the best peer to the teacher, a line a set and one for all."""
    values = {(r["case"], r["system"], r["figure"]): r["value"] for r in rows}
    ways = []
    print("\nset  best peer  shoal  teacher  share of the way  bytes  seconds")
    for case in dict.fromkeys(row["case"] for row in rows):
        found = {s: v for s in PEERS if (v := values.get((case, s, "accuracy"))) is not None}
        own = values.get((case, "shoal", "seeds_mean"), values.get((case, "shoal", "accuracy")))
        top = values.get((case, "teacher", "accuracy"))
        if not found or own is None or top is None:
            continue
        name = max(found, key=lambda s: found[s])
        way = "-"
        if top - found[name] > 0.003:  # nothing lies between otherwise
            ways.append((own - found[name]) / (top - found[name]))
            way = f"{ways[-1]:.0%}"
        size, seconds = (values.get((case, "shoal", f), 0) for f in ("model_bytes", "train_s"))
        print(
            f"{case}  {found[name]:.2%} ({name})  {own:.2%}  {top:.2%}  {way}  "
            f"{size:.0f}  {seconds:.0f}"
        )
    if ways:
        print(f"mean share of the way: {statistics.mean(ways):.0%} on {len(ways)} sets")


def print_table(rows: list[dict[str, Any]]) -> None:
    """A line a system and case."""
    figures = list(dict.fromkeys(row["figure"] for row in rows))
    keys = list(dict.fromkeys((row["case"], row["system"]) for row in rows))
    values = {(r["case"], r["system"], r["figure"]): r["value"] for r in rows}
    table = [["case", "system", *figures]]
    for case, system in keys:
        cells = (values.get((case, system, figure), "") for figure in figures)
        table.append([case, system, *(f"{c:g}" if c != "" else "" for c in cells)])
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


if __name__ == "__main__":
    main()
