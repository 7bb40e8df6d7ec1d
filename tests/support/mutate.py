"""Bytes that almost are what a reader expects: random, mutated, deep, huge, wrong in type."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

_ODD: list[Any] = [
    None, True, -1, 0, 2**63, 2**64, -(2**70), 1e308, 5e-324, "", "\0", "..", "../../etc/passwd",
    "\ud800".encode("utf-16", "surrogatepass").decode("utf-16", "replace"), "a" * 70, "é" * 40,
    "🦈" * 20, [], {}, [[]], {"": {}}, [1, "x", None], {"a": [1]}, "NaN", "-Infinity",
]  # fmt: skip


def _value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.random()
    if kind < 0.6 or depth > 4:
        return chance.choice(_ODD)
    if kind < 0.8:
        return [_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {f"k{i}": _value(chance, depth + 1) for i in range(chance.randrange(4))}


def _structured(chance: random.Random, value: Any) -> Any:
    """The document with one or more places changed."""
    if chance.random() < 0.15:
        return _value(chance)
    if isinstance(value, dict):
        changed = {k: v for k, v in value.items() if chance.random() > 0.05}
        for key in list(changed):
            if chance.random() < 0.4:
                changed[key] = _structured(chance, changed[key])
        if chance.random() < 0.1:
            changed[chance.choice(["x", "", "id", "slots", "\0"])] = _value(chance)
        return changed
    if isinstance(value, list):
        changed_list = [_structured(chance, v) if chance.random() < 0.3 else v for v in value]
        if changed_list and chance.random() < 0.2:
            changed_list *= chance.randrange(4)
        return changed_list
    return _value(chance) if chance.random() < 0.5 else value


def _bytes(chance: random.Random, seed: bytes) -> bytes:
    data = bytearray(seed)
    for _ in range(chance.randrange(1, 6)):
        spot = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0:
                data[spot : spot + 1] = bytes([chance.randrange(256)])
            case 1:
                del data[spot : spot + chance.randrange(1, 50)]
            case 2:
                data[spot:spot] = chance.randbytes(chance.randrange(1, 20))
            case 3:
                del data[spot:]
            case _:
                data[spot:spot] = data[: chance.randrange(1, 200)]
    return bytes(data)


def payloads(number: int, seeds: list[bytes], count: int) -> Iterator[bytes]:
    """`count` payloads, the same for the same `number`.

    Args:
        number: seeds the chance.
        seeds: valid documents.
        count: how many.
    """
    chance = random.Random(number)
    for _ in range(count):
        kind = chance.random()
        if kind < 0.1:
            yield chance.randbytes(chance.randrange(200))
        elif kind < 0.12:
            yield b"[" * chance.choice([10, 5000, 200_000])
        elif kind < 0.14:
            yield b'{"a":' * chance.choice([10, 5000])
        elif kind < 0.15:
            yield b"9" * chance.choice([20, 5000])
        elif kind < 0.55:
            yield _bytes(chance, chance.choice(seeds))
        else:
            try:
                document = json.loads(chance.choice(seeds))
            except ValueError:
                yield _bytes(chance, chance.choice(seeds))
                continue
            yield json.dumps(_structured(chance, document)).encode()
