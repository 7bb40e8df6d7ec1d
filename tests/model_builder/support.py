"""Small real things for the builder's tests: rows, files, an encoder on disk."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

PLACES = ["kitchen", "hall", "garage", "attic", "office", "cellar", "porch", "studio"]
SAYINGS = {
    "on": ["turn on the {} light", "light up the {}", "make the {} bright", "{} lamp on please"],
    "off": ["turn off the {} light", "make the {} dark", "{} lamp off", "no light in the {}"],
    "heat": ["make the {} warmer", "heat the {} please", "it is cold in the {}", "warm up the {}"],
}


def sentences() -> list[tuple[str, str]]:
    """96 texts with one of three labels."""
    return [
        (saying.format(place), label)
        for label, sayings in SAYINGS.items()
        for saying, place in itertools.product(sayings, PLACES)
    ]


def write_rows(path: Path, rows: list[tuple[str, str]] | None = None) -> Path:
    """The sentences as JSONL."""
    found = sentences() if rows is None else rows
    lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in found]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def write_recipe(folder: Path, **sections: Any) -> Path:
    """A recipe that builds in seconds, on the sentences, without a teacher."""
    document = {
        "name": "small",
        "seed": 3,
        "data": {"train": str(write_rows(folder / "rows.jsonl"))},
        "split": {"validation": 0.2, "test": 0.25},
        "teacher": {"source": "none"},
        "student": {
            "family": "ngram",
            "ngram": {"features": {"buckets": 512, "length": 64}, "dim": 16, "hidden": 16},
        },
        "distillation": {"fit": {"epochs": 30, "batch": 16, "rate": 0.02}},
        "quantisation": {"max_loss": 0.2},
        **sections,
    }
    # Each fold is a training; the tests that are about them ask for them.
    document["evaluation"] = {"folds": 0} | document.get("evaluation", {})
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")  # JSON is YAML
    return path


def write_encoder(folder: Path, hidden: int = 32, layers: int = 2) -> Path:
    """A tiny untrained encoder in Hugging Face's layout, with a word tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    words = sorted({word for text, _ in sentences() for word in text.split()})
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    vocabulary |= {word: index for index, word in enumerate(words, 4)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "vocab_size": len(vocabulary),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 2 * hidden,
        "max_position_embeddings": 64,
        "hidden_act": "gelu",
        "model_type": "bert",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return rng.normal(size=shape, scale=0.2).astype(np.float32)

    weights = {
        "embeddings.word_embeddings.weight": normal(len(vocabulary), hidden),
        "embeddings.position_embeddings.weight": normal(64, hidden),
        "embeddings.token_type_embeddings.weight": normal(2, hidden),
        "embeddings.LayerNorm.weight": np.ones(hidden, np.float32),
        "embeddings.LayerNorm.bias": np.zeros(hidden, np.float32),
    }
    shapes = {
        "attention.self.query": (hidden, hidden),
        "attention.self.key": (hidden, hidden),
        "attention.self.value": (hidden, hidden),
        "attention.output.dense": (hidden, hidden),
        "intermediate.dense": (2 * hidden, hidden),
        "output.dense": (hidden, 2 * hidden),
    }
    for layer in range(layers):
        prefix = f"encoder.layer.{layer}."
        for name, shape in shapes.items():
            weights[f"{prefix}{name}.weight"] = normal(*shape)
            weights[f"{prefix}{name}.bias"] = np.zeros(shape[0], np.float32)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            weights[f"{prefix}{name}.weight"] = np.ones(hidden, np.float32)
            weights[f"{prefix}{name}.bias"] = np.zeros(hidden, np.float32)
    save_file(weights, folder / "model.safetensors")
    return folder
