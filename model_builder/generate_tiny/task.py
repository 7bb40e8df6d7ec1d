"""Sensor readings and the status line that a person would write about them.

Whether a reading is for training or for the test is decided by its hash, so that no prompt is
in both.
"""

from __future__ import annotations

import hashlib
import random
from typing import Final

END: Final = "\n"
PROMPT_END: Final = ">"
_TEST_SHARE: Final = 0.1


def _temperature(tenths: int) -> str:
    for limit, word in (
        (0, "freezing"),
        (100, "cold"),
        (180, "cool"),
        (250, "mild"),
        (320, "warm"),
    ):
        if tenths < limit:
            return word
    return "hot"


def _humidity(percent: int) -> str:
    return "dry" if percent < 30 else "ok" if percent < 60 else "humid"


def _battery(percent: int) -> str:
    return "replace battery" if percent < 10 else "battery low" if percent < 30 else "battery ok"


def line(rng: random.Random) -> tuple[str, str]:
    """A prompt such as ``t=23.4 h=61 b=88 m=1>`` and its status line, without the end mark."""
    tenths = rng.randrange(-99, 450)
    humidity, battery, motion = rng.randrange(100), rng.randrange(100), rng.randrange(2)
    sign = "-" if tenths < 0 else ""
    whole, rest = divmod(abs(tenths), 10)
    prompt = [f"t={sign}{whole}.{rest}"]
    status = [f"{_temperature(tenths)} {sign}{whole}C"]
    if rng.random() < 0.8:
        prompt.append(f"h={humidity}")
        status.append(f"{_humidity(humidity)} {humidity}%")
    if rng.random() < 0.8:
        prompt.append(f"b={battery}")
        status.append(_battery(battery))
    if rng.random() < 0.8:
        prompt.append(f"m={motion}")
        status.append("motion" if motion else "still")
    return " ".join(prompt) + PROMPT_END, ", ".join(status)


def is_test(prompt: str) -> bool:
    """Whether a prompt belongs to the test split."""
    return hashlib.sha256(prompt.encode()).digest()[0] < 256 * _TEST_SHARE


def lines(count: int, *, seed: int, test: bool) -> list[tuple[str, str]]:
    """`count` lines of one split."""
    rng = random.Random(seed)
    found: list[tuple[str, str]] = []
    while len(found) < count:
        one = line(rng)
        if is_test(one[0]) == test:
            found.append(one)
    return found


def alphabet() -> str:
    """All characters of prompts and lines; the end mark is the first, which also pads."""
    used = {c for prompt, status in lines(4000, seed=0, test=False) for c in prompt + status}
    return END + "".join(sorted(used))
