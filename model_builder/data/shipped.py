"""Texts that come with the product: golden vectors are made of them, not of a user's texts."""

from __future__ import annotations

import re
from importlib import resources

import numpy as np


def sentences() -> list[str]:
    """A few thousand sentences of public-domain books, 20 to 200 characters each."""
    source = resources.files("model_builder.generate.texts") / "perplexity.txt"
    parts = re.split(r"(?<=[.!?;])\s+", " ".join(source.read_text("utf-8").split()))
    return list(dict.fromkeys(part for part in parts if 20 <= len(part) <= 200))


def drawn(count: int, rng: np.random.Generator) -> list[str]:
    """`count` of them, each once as long as there are so many."""
    found = sentences()
    order = [int(i) for i in rng.permutation(len(found))]
    return [found[order[i % len(order)]] for i in range(count)]
