"""How near a converted decoder is to its float reference, on one text."""

from __future__ import annotations

from importlib import resources
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from contracts.errors import InputError
from model_builder.generate import reference
from model_builder.generate.runner import Runner
from model_builder.generate.weights import Array, DecoderWeights
from model_builder.teachers.base import Progress, silent

Ids = npt.NDArray[np.int64]
_SHORTEST = 8


class Fidelity(msgspec.Struct, frozen=True):
    """The result of the check on import.

    Attributes:
        tokens: that were compared, teacher-forced.
        weights: ``int8`` or ``int4``.
        perplexity_float, perplexity_quantised: on the same text.
        perplexity_change: relative, of the second to the first.
        agreement: share of positions with the same most likely token.
        max_difference, mean_difference: of the logits, absolute.
    """

    tokens: int
    perplexity_float: float
    perplexity_quantised: float
    perplexity_change: float
    agreement: float
    max_difference: float
    mean_difference: float
    weights: Literal["int8", "int4"] = "int8"


def shipped_text(name: str) -> str:
    """A text that comes with the package: ``calibration`` or ``perplexity``."""
    folder = resources.files("model_builder.generate.texts")
    return (folder / f"{name}.txt").read_text("utf-8")


def negative_log_likelihoods(logits: Array, ids: Ids) -> npt.NDArray[np.float64]:
    """``[T - 1]``: of each token after the first, in nats."""
    scores = logits[:-1].astype(np.float64)
    highest = scores.max(-1)
    total = np.log(np.exp(scores - highest[:, None]).sum(-1)) + highest
    result: npt.NDArray[np.float64] = total - scores[np.arange(len(ids) - 1), ids[1:]]
    return result


def compare(
    weights: DecoderWeights,
    runner: Runner,
    texts: list[Ids],
    progress: Progress = silent,
) -> Fidelity:
    """Runs texts through the float reference and the converted model.

    Args:
        weights: as they were imported, before folding.
        runner: of the converted model.
        texts: token ids, each at most a context long.
        progress: is told of each text.
    """
    losses: tuple[list[Array], list[Array]] = ([], [])
    same = total = 0
    largest, sum_of_differences, values = 0.0, 0.0, 0
    for number, ids in enumerate(texts, 1):
        expected, found = reference.logits(weights, ids), runner.logits(ids)
        for rows, logits in zip(losses, (expected, found), strict=True):
            rows.append(negative_log_likelihoods(logits, ids).astype(np.float32))
        same += int((expected.argmax(-1) == found.argmax(-1)).sum())
        total += len(ids)
        difference = np.abs(expected - found)
        largest = max(largest, float(difference.max()))
        sum_of_differences += float(difference.sum(dtype=np.float64))
        values += difference.size
        progress("comparing", number, len(texts))
    exact, quantised = (float(np.exp(np.concatenate(rows).mean())) for rows in losses)
    return Fidelity(
        tokens=total,
        perplexity_float=round(exact, 4),
        perplexity_quantised=round(quantised, 4),
        perplexity_change=round(quantised / exact - 1, 5),
        agreement=round(same / total, 5),
        max_difference=round(largest, 4),
        mean_difference=round(sum_of_differences / values, 5),
    )


def windows(ids: list[int], length: int, count: int, bos_id: int | None) -> list[Ids]:
    """`count` texts of `length` ids, each beginning with `bos_id` where the model wants it.

    Raises:
        InputError: ``bad-weights``; the model's context or its vocabulary gives none.
    """
    start = [] if bos_id is None else [bos_id]
    step = max(1, length - len(start))
    parts = [ids[at : at + step] for at in range(0, count * step, step)]
    found = [np.array([*start, *part], np.int64) for part in parts if len(part) >= _SHORTEST]
    if not found:
        raise InputError(
            "bad-weights",
            f"a text of {len(ids)} tokens in a context of {length} cannot be compared: "
            f"expected at least {_SHORTEST} of both",
        )
    return found
