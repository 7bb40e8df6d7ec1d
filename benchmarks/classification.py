"""Classification: this project's tiers beside fastText, TF-IDF and the teacher, on your data.

::

    python benchmarks/classification.py --data clinc150=train.jsonl:test.jsonl:oos_test.jsonl
        [--validation clinc150=val.jsonl] [--oos-validation clinc150=oos_val.jsonl]
        [--text-column text] [--label-column label] [--out FOLDER] [--quick] [--json FILE]

Without ``--data``: the home-intents sentences, written to files first. Each tier is built by
``python -m model_builder build`` with the recipe in ``examples/``; a tier whose bundle is already
in ``--out`` is not built again. Every system then labels the test split in a process of its own,
in turns of a few hundred texts, on one thread; memory is the process's peak above a bare one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _figures import ROOT, machine, save

sys.path.insert(0, str(ROOT))

TIERS = {
    "shoal-512k": "intents-512k.yaml",
    "shoal-256k": "intents-256k.yaml",
    "shoal-quality": "sbc-quality.yaml",
}
TURN = 250
QUICK = [
    "teacher.mode=probe",
    "distillation.augment={dropout: 1}",
    "distillation.fit.steps=1500",
    "quantisation.max_loss=0.05",
]


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
        }
        rows += measure(job, args.systems.split(",") if args.systems else [])
    print_table(rows)
    save(args.json, "classification", rows, facts)


def measure(job: dict[str, Any], only: list[str]) -> list[dict[str, Any]]:
    """All systems on one data set."""
    systems = [*TIERS, "teacher", "fasttext", "fasttext-quantised", "tfidf-lr"]
    if job["quick"]:
        systems.remove("shoal-quality")
    systems = [name for name in systems if not only or name in only]
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


def tier(job: dict[str, Any], system: str) -> dict[str, Any]:
    """The report of a tier, which is built when it is not there."""
    out = Path(job["out"])
    name = f"{job['case']}-{system}"
    path = out / f"{name}-1.0.0-report.json"
    if not path.is_file():
        changes = [f"name={name}", f"data.train={job['train']}", f"data.test={job['test']}"]
        changes += [f"data.columns.text={job['text']}", f"data.columns.label={job['label']}"]
        if job["validation"]:
            changes.append(f"data.validation={Path(job['validation']).resolve()}")
        if job["oos"]:
            changes.append(f"data.out_of_scope_test={job['oos']}")
        if job["oos_validation"]:
            changes.append(f"data.out_of_scope={Path(job['oos_validation']).resolve()}")
        if job["quick"]:
            changes += QUICK
        command = [sys.executable, "-m", "model_builder", "build"]
        command += [str(ROOT / "examples" / TIERS[system]), "--out", str(out), "--json"]
        for change in changes:
            command += ["--set", change]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return json.loads(path.read_text(encoding="utf-8"))


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


def shoal(system: str, job: dict[str, Any]) -> Any:
    """A bundle in the device's own runtime: front end and model."""
    from agent.runtime.classifier import Classifier
    from contracts.bundle import Bundle

    bundle = Bundle.open(Path(job["out"]) / f"{job['case']}-{system}-1.0.0")
    classifier = Classifier(bundle, runtime="litert", threads=1)
    facts = bundle.manifest.classifier
    assert facts is not None
    return (lambda text: facts.labels[classifier.run(text).best]), {}


def fasttext(system: str, job: dict[str, Any]) -> Any:
    """FastText with word bigrams and character 2- to 5-grams; trained in a child process."""
    import fasttext as library

    folder = Path(job["out"])
    folder.mkdir(parents=True, exist_ok=True)
    plain, small, timing = (folder / name for name in ("ft.bin", "ft.ftz", "ft.json"))
    train = folder / "ft.txt"
    if not timing.is_file():
        if os.fork() == 0:  # training memory must not count as the model's
            rows = _train_rows(job)
            train.write_text(
                "".join(f"__label__{r.label.replace(' ', '_')} {_flat(r.text)}\n" for r in rows),
                encoding="utf-8",
            )
            start = time.monotonic()
            options = {"wordNgrams": 2, "minn": 2, "maxn": 5, "verbose": 0, "thread": 2}
            epochs = 5 if job["quick"] else 25
            model = library.train_supervised(str(train), lr=0.5, epoch=epochs, **options)
            seconds = time.monotonic() - start
            model.save_model(str(plain))
            model.quantize(str(train), retrain=True, cutoff=100_000, qnorm=True)
            model.save_model(str(small))
            timing.write_text(json.dumps([seconds, time.monotonic() - start]))
            os._exit(0)
        os.wait()
    path = small if system.endswith("quantised") else plain
    model = library.load_model(str(path))
    seconds = json.loads(timing.read_text())[system.endswith("quantised")]
    known = {f"__label__{r.label.replace(' ', '_')}": r.label for r in _train_rows(job)}
    facts = {"bytes": path.stat().st_size, "train_s": seconds}
    return (lambda text: known[model.predict(_flat(text))[0][0]]), facts


def tfidf(system: str, job: dict[str, Any]) -> Any:
    """TF-IDF of words and of characters, with logistic regression."""
    import pickle

    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    del system
    rows = _train_rows(job)
    start = time.monotonic()
    model = make_pipeline(
        make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        ),
        LogisticRegression(C=30, max_iter=30 if job["quick"] else 300),
    )
    model.fit([row.text for row in rows], [row.label for row in rows])
    seconds = time.monotonic() - start
    size = len(pickle.dumps(model))  # its own bytes, never read back
    return (lambda text: str(model.predict([text])[0])), {"bytes": size, "train_s": seconds}


def teacher(system: str, job: dict[str, Any]) -> Any:
    """The float encoder: accuracy from the build's report, latency of its float graph here."""
    import numpy as np
    import tensorflow as tf

    from model_builder.encoders.weights import fetch
    from model_builder.teachers.sentence import load_tokenizer

    del system
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    out = Path(job["out"])
    report = tier(job, "shoal-512k")
    import yaml

    recipe = yaml.safe_load((ROOT / "examples" / TIERS["shoal-512k"]).read_text())
    files = fetch(recipe["teacher"]["source"], recipe["teacher"]["sha256"], out / "cache")
    encoder = files.load()
    tokenizer = load_tokenizer(files.tokenizer, 64)
    forward = tf.function(
        lambda ids, mask: encoder(ids, mask),
        input_signature=[
            tf.TensorSpec([1, None], tf.int32),
            tf.TensorSpec([1, None], tf.float32),
        ],
    )
    head = np.zeros((encoder.config.hidden_size, report["data"]["labels"]), np.float32)

    def predict(text: str) -> str:
        ids = np.array([tokenizer.encode(text).ids], np.int32)
        hidden = forward(tf.constant(ids), tf.ones(ids.shape)).numpy()
        return str((hidden @ head).argmax())

    facts = {
        "accuracy": report["accuracy"]["teacher"],
        "bytes": report["teacher"]["bytes"],
        "train_s": report["seconds"]["teacher"],
    }
    return predict, facts


SYSTEMS = {
    "shoal": shoal,
    "fasttext": fasttext,
    "fasttext-quantised": fasttext,
    "tfidf-lr": tfidf,
    "teacher": teacher,
}


def _train_rows(job: dict[str, Any]) -> list[Any]:
    from contracts.labelled.load import load_rows

    return load_rows(Path(job["train"]), text=job["text"], label=job["label"])


def _flat(text: str) -> str:
    return " ".join(text.lower().split())


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
