"""The field loop on a simulated fleet: is its accuracy true, its gate sharp, its queue good.

::

    python benchmarks/field_loop.py --data clinc150_full.json [--part truth canary loop]
        [--devices 1000] [--seeds 100] [--quick] [--work DIR] [--json FILE]

1,000 devices at eight sites answer texts of a public data set (CLINC150), which shift: new phrases,
new labels, and a site with a dialect. People judge 2 % of the answers; one verdict in ten is wrong.

* ``truth``: in how many of the seeds the accuracy that the controller tells has the truth in its
  95 % interval and within two points; where people judge right and wrong answers alike, and where
  they judge wrong ones four times as often.
* ``canary``: a version that has forgotten the dialect of one site, and one that is better, each
  rolled out to a tenth of the devices behind the gate of accuracy in the field.
* ``loop``: three rounds of hard examples, 100 labels each, and a build; how much of what the shift
  cost comes back on texts that nobody has heard. Beside it labels of texts picked by chance, twice
  as many.

What counts, sums, decides, chooses, orders and builds is the product's own code.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import structlog
from _figures import ROOT, Row, machine, row, save, show

sys.path.insert(0, str(ROOT))
import _field_canary as canary
import _field_rounds as rounds
import _field_truth as truth
import _shift
from _field_fleet import Model, People, answered
from _shift import SITES, Texts

from contracts import interpreter
from contracts.bundle import Bundle

LABELS: Final = 40
PARTS: Final = ("truth", "canary", "loop")
PEOPLE: Final = People(judge=0.02, noise=0.1)
ANSWERS: Final = 400.0
"""Answers of a device in a span of time, of which half give fewer."""

Weights = Callable[[str], npt.NDArray[np.float64]]


def main() -> None:
    """Runs the parts, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="CLINC150, clinc150_full.json")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--case", nargs="+", choices=list(truth.CASES), default=list(truth.CASES))
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--shift", type=int, default=1, help="which labels, which of them move")
    parser.add_argument("--quick", action="store_true", help="few seeds and devices, one round")
    parser.add_argument("--work", type=Path, help="keeps versions there; else a temporary folder")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.devices, args.seeds = 100, 3
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    facts = machine()
    texts = _shift.made(_shift.clinc(args.data), LABELS, args.shift)
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="field-loop-") as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        say(f"{len(texts.taught)} texts taught, {len(texts.heard)} heard, {len(texts.unseen)} kept")
        recipe = rounds.write_recipe(work, texts)
        first = build(work, recipe, "first")
        heard = [(one.text, one.label) for one in texts.heard]

        def weights(site: str) -> npt.NDArray[np.float64]:
            return _shift.after(texts.heard, site)

        if "truth" in args.part:
            model = answered(Bundle.open(first), heard)
            found += part_truth(work, model, weights, args.case, args.devices, args.seeds)
        if "canary" in args.part:
            found += part_canary(work, texts, recipe, heard, weights, args.devices, args.seeds)
        if "loop" in args.part:
            found += part_loop(work, texts, first, recipe, quick=args.quick)
    show(found)
    save(args.json, "field_loop", found, facts)


def say(text: str) -> None:
    """For whoever waits."""
    print(f"{time.strftime('%X')} {text}", file=sys.stderr, flush=True)


def build(work: Path, recipe: Path, name: str, *changes: str) -> Path:
    """A version, built as a program of its own; one that is there is taken."""
    out = work / name
    if not (out / "done").exists():
        command = interpreter.module("model_builder", "build", str(recipe), "--out", str(out))
        for change in changes:
            command += ["--set", change]
        done = subprocess.run([*command, "--json"], capture_output=True, check=False)
        if done.returncode != 0:
            raise SystemExit(done.stderr.decode(errors="replace")[-2000:])
        (out / "done").write_text(json.loads(done.stdout)["bundle"])
    return Path((out / "done").read_text())


def part_truth(
    work: Path, model: Model, weights: Weights, cases: Sequence[str], devices: int, seeds: int
) -> list[Row]:
    """Coverage, by who judges and by what the figure is made of."""
    found = []
    for case in cases:
        people = truth.CASES[case]
        with tempfile.TemporaryDirectory(dir=work) as folder:
            by = truth.run(
                Path(folder), model, weights, SITES, people,
                fleets=seeds, devices=devices, answers=ANSWERS,
            )  # fmt: skip
        for system, one in by.items():
            if not one.off:
                continue
            runs = len(one.off)
            found += [
                row(case, system, "near_and_inside", one.near / runs, "ratio", runs),
                row(case, system, "inside", one.inside / runs, "ratio", runs),
                row(case, system, "off_mean", float(np.mean(one.off)), "ratio", runs),
                row(case, system, "off_worst", float(np.max(np.abs(one.off))), "ratio", runs),
                row(case, system, "interval_width", float(np.mean(one.width)), "ratio", runs),
            ]
        say(f"truth, {case}: done")
    return found


def part_canary(
    work: Path,
    texts: Texts,
    recipe: Path,
    heard: Sequence[tuple[str, str]],
    weights: Weights,
    devices: int,
    seeds: int,
) -> list[Row]:
    """A version without the dialect after one with it, and the other way round."""

    def rows_file(name: str, kinds: Sequence[str]) -> str:
        path = work / name
        lines = [{"text": o.text, "label": o.label} for o in texts.heard if o.kind in kinds]
        path.write_text("".join(json.dumps(one) + "\n" for one in lines))
        return str(path.resolve())

    all_rows = rows_file("all.jsonl", ["phrases", "new", "dialect"])
    no_dialect = rows_file("forgets.jsonl", ["phrases", "new"])
    knows = answered(Bundle.open(build(work, recipe, "knows", f"data.field={all_rows}")), heard)
    forgets = answered(
        Bundle.open(build(work, recipe, "forgets", f"data.field={no_dialect}")), heard
    )
    found = []
    for site in (SITES[0], _shift.DIALECT_SITE):
        for name, model in (("knows", knows), ("forgets", forgets)):
            share = float(np.dot(_shift.after(texts.heard, site), model.right))
            found.append(row(f"canary-{site}", name, "accuracy", share, "ratio"))
    for case, old, new, wanted in (
        ("worse-at-one-site", knows, forgets, "stopped"),
        ("better", forgets, knows, "passed"),
        ("the-same", knows, knows, "passed"),
    ):
        with tempfile.TemporaryDirectory(dir=work) as folder:
            ended = canary.run(
                Path(folder), old, new, weights, SITES, PEOPLE,
                seeds=seeds, devices=devices, answers=ANSWERS,
            )  # fmt: skip
        for status in ("stopped", "passed", "open"):
            share = float(np.mean([one.status == status for one in ended]))
            found.append(row(case, "gate", status, share, "ratio", seeds))
        days = [one.days for one in ended if one.status == wanted]
        if days:
            found.append(row(case, "gate", f"days_until_{wanted}", float(np.mean(days)), "days"))
        say(f"canary, {case}: {ended[0]}")
    return found


def part_loop(work: Path, texts: Texts, first: Path, recipe: Path, *, quick: bool) -> list[Row]:
    """What comes back, by labels of the queue and by labels of chance."""
    counts = (100,) if quick else (100, 100, 100)
    rows = texts.unseen
    model = answered(Bundle.open(first), [(one.text, one.label) for one in rows])
    was = float(np.dot(_shift.before(rows), model.right))
    now = float(np.dot(_shift.everywhere(rows), model.right))
    found = [
        row("loop", "first", "accuracy_before_shift", was, "ratio"),
        row("loop", "first", "accuracy_after_shift", now, "ratio"),
    ]
    with tempfile.TemporaryDirectory(dir=work) as folder:
        here = Path(folder)
        devices = 40 if quick else 200
        queue = rounds.by_queue(here / "queue", texts, first, recipe, PEOPLE, counts, devices, say)
        chance = rounds.by_chance(
            here / "chance", texts, first, recipe, [2 * n for n in counts], say
        )
    for system, of in (("queue", queue), ("chance", chance)):
        for one in of[1:]:
            case = f"loop-{one.labels}-labels"
            back = (one.accuracy - now) / (was - now)
            found.append(row(case, system, "accuracy", one.accuracy, "ratio"))
            found.append(row(case, system, "recovered", back, "ratio"))
            for kind, share in one.by_kind.items():
                found.append(row(case, system, f"accuracy_{kind}", share, "ratio"))
            found += [
                row(case, system, f"labels_{k}", n, "labels") for k, n in one.labelled.items()
            ]
        say(f"loop, {system}: {msgspec.json.encode(of).decode()}")
    return found


if __name__ == "__main__":
    main()
