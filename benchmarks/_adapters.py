"""The rows of ``generation.py`` on adapters: beside their base and merged into it, taking turns."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

Add = Callable[[str, str, str, float, str, int], None]

PROMPT = 32
TOKENS = 48
SWITCHES = 8


def run(
    bundle: Path, adapters: list[Path], merged: Path, ids: list[int], folder: Path, rounds: int,
    add: Add,
) -> None:  # fmt: skip
    """Adds the rows.

    Args:
        bundle: a base that takes adapters.
        adapters: two of it; the first is the one that is merged.
        merged: the base with the first in its weights.
        ids: a text.
        folder: for packed weights.
        rounds: in which the three take turns.
        add: takes a row.
    """
    from agent.generate.adapted import AdaptedModel
    from agent.generate.model import GenerativeModel
    from agent.runtime.model import Options
    from contracts.bundle import Bundle

    for threads in (1, 2):
        case = f"smollm2-135m-adapter-t{threads}"

        def load(path: Path, name: str, threads: int = threads) -> Any:
            options = Options(threads=threads, cache=folder / f"{name}-{threads}")
            return GenerativeModel(Bundle.open(path), options)

        base, whole = load(bundle, "base"), load(merged, "merged")
        first, second = (AdaptedModel(base, Bundle.open(path)) for path in adapters)
        systems = {
            "shoal-base": (base, base), "shoal-apart": (first, base), "shoal-merged": (whole, whole)
        }  # fmt: skip
        found: dict[tuple[str, str], list[float]] = {}
        for _ in range(rounds):
            for name, (model, runs) in systems.items():
                model.warm_up()
                wall, used = decode(runs.decoder, ids[:PROMPT])
                found.setdefault((name, "decode_tok_s"), []).append(1 / wall)
                found.setdefault((name, "decode_cpu_tok_s"), []).append(1 / used)
        for (name, figure), values in found.items():
            add(case, name, figure, statistics.median(values), "tok/s", rounds)
        for figure in ("decode_tok_s", "decode_cpu_tok_s"):
            pairs = zip(found["shoal-apart", figure], found["shoal-merged", figure], strict=True)
            ratio = statistics.median(apart / other for apart, other in pairs)
            add(case, "shoal-apart", f"{figure}_of_merged", ratio, "ratio", rounds)
        for figure, (one, other) in {
            "switch_ms": (first, second), "switch_base_ms": (first, base)
        }.items():  # fmt: skip
            add(case, "shoal-apart", figure, switch(one, other), "ms", SWITCHES)
        base.close()
        whole.close()
    add(case, "shoal-apart", "bundle_bytes", Bundle.open(adapters[0]).manifest.total_bytes, "B", 1)


def decode(decoder: Any, ids: list[int]) -> tuple[float, float]:
    """Seconds a token, by the clock and of processor time."""
    decoder.truncate(0)
    decoder.prefill(ids[:-1])
    token = int(decoder.step(ids[-1]).argmax())
    began, used = time.perf_counter(), time.process_time()
    for _ in range(TOKENS):
        token = int(decoder.step(token).argmax())
    return (time.perf_counter() - began) / TOKENS, (time.process_time() - used) / TOKENS


def switch(one: Any, other: Any) -> float:
    """Milliseconds that a token takes more after the other one's."""

    def timed(model: Any) -> float:
        began = time.perf_counter()
        model.warm_up()
        return (time.perf_counter() - began) * 1e3

    after, again = [], []
    for _ in range(SWITCHES):
        for model in (one, other):
            after.append(timed(model))
            again.append(timed(model))
    return statistics.median(after) - statistics.median(again)
