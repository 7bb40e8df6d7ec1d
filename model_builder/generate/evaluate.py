"""Measures a generator on pairs, through the program that devices run."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from contracts import codec, limits
from contracts.answers import Generated
from contracts.errors import InputError, RefusedError
from model_builder.generate.pairs import Pair


class Quality(msgspec.Struct, frozen=True):
    """How good completions are.

    Attributes:
        pairs: that were measured.
        exact_match: share of completions that are the expected text.
        token_f1: mean F1 of words and punctuation, order aside.
        valid_json: share that parse as JSON.
        errors: completions that failed (a constraint that was not met in time).
        tokens_per_s: mean of the answers.
    """

    pairs: int
    exact_match: float
    token_f1: float
    valid_json: float
    errors: int
    tokens_per_s: float


class _Line(msgspec.Struct):
    generated: Generated | None = None


def run_generator(
    bundle: Path,
    prompts: Sequence[str | dict[str, Any]],
    max_tokens: int,
    *,
    confident: bool = False,
) -> list[Generated | None]:
    """Greedy completions by ``python -m agent generate``; None for one that failed.

    Args:
        bundle: its folder.
        prompts: texts, or what a chat's request has: ``messages``, and ``tools``.
        max_tokens: of an answer.
        confident: with the confidence of each answer, which tools have none of.

    Raises:
        RefusedError: ``model-failed``; the program ended with an error.
    """
    rows = [{"prompt": p} if isinstance(p, str) else p for p in prompts]
    with tempfile.TemporaryDirectory(prefix="shoal-evaluate-") as folder:
        file = Path(folder) / "prompts.jsonl"
        file.write_bytes(b"".join(codec.encode(row) + b"\n" for row in rows))
        command = [sys.executable, "-m", "agent", "generate", str(bundle), "--batch", str(file)]
        command += ["--max-tokens", str(max_tokens), "--threads", "2"]
        command += ["--min-confidence", "0"] if confident else []
        done = subprocess.run(command, capture_output=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode or len(lines) != len(prompts):
        raise RefusedError(
            "model-failed",
            f"the agent could not run {bundle}: {done.stderr.decode(errors='replace')[-500:]}",
        )
    cap = 4 * limits.MAX_MESSAGE_BYTES
    return [codec.decode(line, _Line, what="an answer", cap=cap).generated for line in lines]


def measure(bundle: Path, pairs: list[Pair], max_tokens: int) -> tuple[Quality, list[str]]:
    """Completions of all prompts, compared with the expected ones.

    Returns:
        The quality, and the completions (empty for one that failed).
    """
    if not pairs:
        raise InputError("bad-data", "there are no pairs to measure with")
    answers = run_generator(bundle, [pair.prompt for pair in pairs], max_tokens)
    texts = ["" if answer is None else answer.text for answer in answers]
    count = len(pairs)
    rates = [a.tokens_per_s for a in answers if a is not None and a.tokens_per_s]
    return (
        Quality(
            pairs=count,
            exact_match=sum(t == p.completion for t, p in zip(texts, pairs, strict=True)) / count,
            token_f1=sum(f1(t, p.completion) for t, p in zip(texts, pairs, strict=True)) / count,
            valid_json=sum(is_json(t) for t in texts) / count,
            errors=sum(answer is None for answer in answers),
            tokens_per_s=round(sum(rates) / len(rates), 1) if rates else 0.0,
        ),
        texts,
    )


def words(text: str) -> list[str]:
    """Words and single other characters."""
    spaced = "".join(c if c.isalnum() else f" {c} " for c in text)
    return spaced.split()


def f1(found: str, expected: str) -> float:
    """Harmonic mean of the shares of words that are right and that were found."""
    a, b = Counter(words(found)), Counter(words(expected))
    common = (a & b).total()
    return 2 * common / (a.total() + b.total()) if common else float(not a and not b)


def is_json(text: str) -> bool:
    """Whether a text is one JSON document."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, (dict, list, str, int, float, bool)) or value is None
