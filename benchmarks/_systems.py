"""What labels text in ``benchmarks/classification.py``: each system as a function of a text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _figures import ROOT

TIERS = {
    "shoal": "text.yaml",
    "shoal-512k": "intents-512k.yaml",
    "shoal-256k": "intents-256k.yaml",
    "shoal-quality": "sbc-quality.yaml",
}
PEERS = ("fasttext", "fasttext-quantised", "tfidf-lr")
QUICK = [
    "teacher.mode=probe",
    "distillation.augment={dropout: 1}",
    "distillation.fit.steps=1500",
    "quantisation.max_loss=0.05",
]


def tier(job: dict[str, Any], system: str, seed: int = 1) -> dict[str, Any]:
    """The report of a tier, which is built when it is not there."""
    out = Path(job["out"])
    name = f"{job['case']}-{system}" + (f"-{seed}" if seed > 1 else "")
    path = out / f"{name}-1.0.0-report.json"
    if not path.is_file():
        changes = [
            f"name={name}",
            f"seed={seed}",
            f"data.train={job['train']}",
            f"data.test={job['test']}",
        ]
        changes += [f"data.columns.text={job['text']}", f"data.columns.label={job['label']}"]
        if job["validation"]:
            changes.append(f"data.validation={Path(job['validation']).resolve()}")
        if job["oos"]:
            changes.append(f"data.out_of_scope_test={job['oos']}")
        if job["oos_validation"]:
            changes.append(f"data.out_of_scope={Path(job['oos_validation']).resolve()}")
        if job["quick"]:
            changes += QUICK if system != "shoal" else ["teacher.mode=probe"]
        command = [sys.executable, "-m", "model_builder", "build"]
        command += [str(ROOT / "examples" / TIERS[system]), "--out", str(out), "--json"]
        for change in changes:
            command += ["--set", change]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return json.loads(path.read_text(encoding="utf-8"))


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
    report = tier(job, "shoal")
    files = fetch(*encoder_of(job), out / "cache")
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


def frozen(system: str, job: dict[str, Any]) -> Any:
    """Logistic regression on the frozen encoder's embeddings."""
    import numpy as np

    from model_builder.encoders.weights import fetch
    from model_builder.recipes.teachers import TeacherConfig
    from model_builder.teachers.sentence import SentenceTeacher

    del system
    out = Path(job["out"])
    files = fetch(*encoder_of(job), out / "cache")
    rows = _train_rows(job)
    labels = sorted({row.label for row in rows})
    config = TeacherConfig(mode="probe")
    silent = lambda *_: None  # noqa: E731
    model = SentenceTeacher(files, config, len(labels), out / "cache", 1, silent)
    start = time.monotonic()
    targets = np.array([labels.index(row.label) for row in rows], np.int64)
    model.train([row.text for row in rows], targets)
    seconds = time.monotonic() - start
    facts = {"bytes": model.size_bytes, "train_s": seconds}
    return (lambda text: labels[int(model.logits([text]).argmax())]), facts


SYSTEMS = {
    "frozen-lr": frozen,
    "shoal": shoal,
    "fasttext": fasttext,
    "fasttext-quantised": fasttext,
    "tfidf-lr": tfidf,
    "teacher": teacher,
}


def encoder_of(job: dict[str, Any]) -> tuple[str, str]:
    """The default recipe's encoder for these texts, and its sha256."""
    from model_builder.data.language import detect
    from model_builder.recipes.teachers import ENGLISH, MULTILINGUAL

    return ENGLISH if detect([row.text for row in _train_rows(job)]).english else MULTILINGUAL


def _train_rows(job: dict[str, Any]) -> list[Any]:
    from contracts.labelled.load import load_rows

    return load_rows(Path(job["train"]), text=job["text"], label=job["label"])


def _flat(text: str) -> str:
    return " ".join(text.lower().split())
