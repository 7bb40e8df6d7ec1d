"""The file of an adapter, and how its matrices lie in the constants of a base's signatures.

See :class:`contracts.manifest.AdapterFacts` and :class:`contracts.manifest.AdapterRoom`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Final

import msgspec
import numpy as np
import numpy.typing as npt

from contracts import codec
from contracts.errors import InputError
from contracts.manifest import AdapterFacts, AdapterTarget, GeneratorFacts

Floats = npt.NDArray[np.float32]
Shape = tuple[int, int]
Matrix = tuple[npt.NDArray[np.int8], Floats]
"""Values ``[rows, columns]``, and a scale for each row."""
Part = tuple[
    Annotated[int, msgspec.Meta(ge=0, le=255)],
    AdapterTarget,
    Annotated[int, msgspec.Meta(ge=1, le=64)],
]
"""Layer, matrix and rank of one change."""

_MAX_HEADER: Final = 1 << 20
_LARGEST: Final = 127
_SMALLEST_SCALE: Final = np.float32(1e-30)
_NORMAL: Final = np.finfo(np.float32).tiny
"""Runtimes refuse a scale below it, or a row that has none."""

_SITES: Final[dict[AdapterTarget, tuple[str, int]]] = {
    "q": ("qkv", 0),
    "k": ("qkv", 1),
    "v": ("qkv", 2),
    "o": ("o", 0),
    "gate": ("gate_up", 0),
    "up": ("gate_up", 1),
    "down": ("down", 0),
}
"""Matrix -> site, and which of the site's runs of ranks is its own."""


class Place(msgspec.Struct, frozen=True):
    """Where a model takes the adapter of a site: ``B A x``.

    Attributes:
        a: int8 ``[n * rank, inputs]``.
        scales: float32 ``[n * rank]``, of A's rows.
        b: int8 ``[outputs, n * rank]``.
    """

    a: npt.NDArray[np.int8]
    scales: Floats
    b: npt.NDArray[np.int8]


def sizes_of(target: AdapterTarget, facts: GeneratorFacts) -> tuple[int, int]:
    """Outputs and inputs of a matrix of a base that takes adapters."""
    assert facts.adapters is not None
    queries = facts.adapters.heads * facts.head_size
    keys, hidden = facts.kv_heads * facts.head_size, facts.adapters.hidden
    return {
        "q": (queries, facts.width),
        "k": (keys, facts.width),
        "v": (keys, facts.width),
        "o": (facts.width, queries),
        "gate": (hidden, facts.width),
        "up": (hidden, facts.width),
        "down": (facts.width, hidden),
    }[target]


def encode(parts: Mapping[tuple[int, AdapterTarget], tuple[Floats, Floats]]) -> bytes:
    """The file of A ``[rank, inputs]`` and B ``[outputs, rank]`` by layer and matrix."""
    rows = sorted(parts.items())
    header = codec.encode([(layer, target, len(a)) for (layer, target), (a, _) in rows])
    found = [len(header).to_bytes(4, "little"), header]
    for _, (a, b) in rows:
        found += [_packed(a), _packed(np.ascontiguousarray(b.T))]
    return b"".join(found)


def _packed(matrix: Floats) -> bytes:
    scales = np.maximum(np.abs(matrix).max(axis=1) / np.float32(_LARGEST), _SMALLEST_SCALE)
    values = np.rint(matrix / scales[:, None]).astype(np.int8)
    return bytes(values.tobytes() + scales.astype("<f4").tobytes())


class Adapter:
    """A checked file. Its matrices stay as they are stored until they are used.

    Args:
        data: of the file.
        facts: the adapter's.
        base: the facts of the base.

    Raises:
        InputError: ``bundle-corrupt``; the file is not what the facts say.
            ``wrong-base``; the base takes no such adapter.
    """

    def __init__(self, data: bytes, facts: AdapterFacts, base: GeneratorFacts) -> None:
        self.facts = facts
        self._base = base
        room = base.adapters
        if room is None or facts.rank > room.rank:
            takes = "none" if room is None else f"those up to rank {room.rank}"
            raise InputError(
                "wrong-base",
                f"the adapter has rank {facts.rank}; of adapters its base takes {takes}",
            )
        self._room = room.rank
        length = int.from_bytes(data[:4], "little")
        if length > _MAX_HEADER or len(data) < 4 + length:
            raise _corrupt("it has no header")
        header = data[4 : 4 + length]
        parts = codec.decode(header, list[Part], what="an adapter's header", cap=_MAX_HEADER)
        self._parts: dict[tuple[int, AdapterTarget], tuple[int, int]] = {}
        at = 4 + length
        for layer, target, rank in parts:
            known = (layer, target) in self._parts
            if known or layer >= base.layers or rank > facts.rank or target not in facts.targets:
                raise _corrupt(f"it changes {target} of layer {layer} by rank {rank}")
            self._parts[layer, target] = (at, rank)
            at += sum(rank * (size + 4) for size in sizes_of(target, base))
        if at != len(data):
            raise _corrupt(f"it has {len(data)} bytes, not {at}")
        self._data = data
        for part in self._parts:
            (_, first), (_, second) = self.part(*part)
            scales = first * second
            if not (np.isfinite(scales) & (scales >= 0)).all():
                raise _corrupt("it holds scales that are no finite positive numbers")

    @property
    def place_names(self) -> set[str]:
        """Of the places that :meth:`fill` expects."""
        return {name for name, _ in place_shapes(self._base)}

    def part(self, layer: int, target: AdapterTarget) -> tuple[Matrix, Matrix]:
        """A ``[rank, inputs]`` and B, transposed, ``[rank, outputs]``, of what it changes."""
        at, rank = self._parts[layer, target]
        outputs, inputs = sizes_of(target, self._base)
        return self._matrix(at, rank, inputs), self._matrix(at + rank * (inputs + 4), rank, outputs)

    def _matrix(self, at: int, rank: int, size: int) -> Matrix:
        cells = rank * size
        values = np.frombuffer(self._data, np.int8, cells, at).reshape(rank, size)
        return values, np.frombuffer(self._data, "<f4", rank, at + cells)

    def fill(self, places: Mapping[str, Place]) -> None:
        """Writes the adapter into a model, whose places are named ``{site}_{layer}``.

        Raises:
            ValueError: a place has another shape, or is missing.
        """
        room = self._room
        found = {name: (place.a.shape, place.b.shape) for name, place in places.items()}
        if found != dict(place_shapes(self._base)):
            raise ValueError("the model's places for adapters are not those of its manifest")
        for place in places.values():
            place.a[...] = place.b[...] = 0
            place.scales[...] = 1
        for (layer, target), (_, rank) in self._parts.items():
            site, run = _SITES[target]
            (a, a_scales), (b, b_scales) = self.part(layer, target)
            scales = a_scales * b_scales
            counts = scales >= _NORMAL  # the others give nothing
            place = places[f"{site}_{layer}"]
            first, mine = self._first_row(target), slice(run * room, run * room + rank)
            place.a[mine] = a * counts[:, None]
            place.scales[mine] = np.where(counts, scales, 1)
            place.b[first : first + b.shape[1], mine] = b.T

    def _first_row(self, target: AdapterTarget) -> int:
        base = self._base
        before: dict[AdapterTarget, tuple[AdapterTarget, ...]] = {
            "k": ("q",),
            "v": ("q", "k"),
            "up": ("gate",),
        }
        return sum(sizes_of(other, base)[0] for other in before.get(target, ()))


def place_shapes(base: GeneratorFacts) -> Iterator[tuple[str, tuple[Shape, Shape]]]:
    """Names of the places for adapters, and shapes of A and B there."""
    assert base.adapters is not None
    for layer in range(base.layers):
        runs: dict[str, int] = {}
        outputs: dict[str, int] = {}
        inputs: dict[str, int] = {}
        for target, (site, _) in _SITES.items():
            rows, columns = sizes_of(target, base)
            runs[site] = runs.get(site, 0) + base.adapters.rank
            outputs[site] = outputs.get(site, 0) + rows
            inputs[site] = columns
        for site, ranks in runs.items():
            yield f"{site}_{layer}", ((ranks, inputs[site]), (outputs[site], ranks))


def place_bytes(base: GeneratorFacts) -> int:
    """Bytes of the places for adapters."""
    return sum(math.prod(a) + math.prod(b) for _, (a, b) in place_shapes(base))


def _corrupt(why: str) -> InputError:
    return InputError("bundle-corrupt", f"the adapter's file is not what its manifest says: {why}")
