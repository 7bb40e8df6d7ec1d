"""In which basis a bundle's matrices lie, so that an adapter of its source can be put into it.

Folding multiplies norms into matrices and turns the stream (:mod:`model_builder.generate.fold`).
``W + B A`` becomes ``L W R + (L B) (A R)``: what the fold does to the outputs of a matrix is done
to B, what it does to its inputs to A. A bundle that takes adapters has a file that says how:
the gains, the shape, the seed of the turn, and what that turn makes of a vector, because another
machine's linear algebra must give the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np

from contracts import codec
from contracts.errors import InputError
from contracts.manifest import AdapterTarget
from model_builder.generate.fold import Turns, is_bound, query_scale
from model_builder.generate.peft import Factors, Parts, Sizes
from model_builder.generate.tensors import Packing, spread_rows
from model_builder.generate.weights import Array, DecoderConfig, DecoderWeights

BASIS_FILE: Final = "basis.bin"
_MAX_HEADER: Final = 1 << 20
_NEAR: Final = 1e-3


class _Header(msgspec.Struct, frozen=True):
    """What is no array. `scales`: of each layer's queries."""

    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    rotary: int
    residual: float
    bound: bool
    rotate: bool
    seed: int
    scales: list[float]


@dataclass(frozen=True)
class Basis:
    """Where a bundle's matrices lie.

    Attributes:
        turns: of its fold.
        gains: ``[layers, 2, width]``, of the norms before attention and feed-forward.
    """

    header: _Header
    turns: Turns
    gains: Array

    @classmethod
    def of(cls, weights: DecoderWeights, packing: Packing, *, rotate: bool, seed: int) -> Basis:
        """That of a decoder that is folded so."""
        c = weights.config
        ones = np.ones(c.width, np.float32)
        header = _Header(
            layers=c.layers,
            width=c.width,
            hidden=c.hidden,
            heads=c.heads,
            kv_heads=c.kv_heads,
            head_size=c.head_size,
            rotary=packing.rotary,
            residual=packing.residual,
            bound=is_bound(weights),
            rotate=rotate,
            seed=seed,
            scales=[float(query_scale(c, layer)) for layer in weights.layers],
        )
        gains = [
            [ones if gain is None else gain for gain in (layer.attention_norm, layer.ffn_norm)]
            for layer in weights.layers
        ]
        turns = Turns.of(c, bound=header.bound, rotate=rotate, seed=seed)
        return cls(header, turns, np.array(gains, np.float32))

    @property
    def sizes(self) -> Sizes:
        """Of the base."""
        h = self.header
        return Sizes(h.layers, h.width, h.hidden, h.heads * h.head_size, h.kv_heads * h.head_size)

    def to_bytes(self) -> bytes:
        """The file: length of the header, header, gains, a turned vector (float32)."""
        head = codec.encode(self.header)
        body = [self.gains, self._turned()]
        data = b"".join(np.ascontiguousarray(part, "<f4").tobytes() for part in body)
        return len(head).to_bytes(4, "little") + head + data

    @classmethod
    def from_bytes(cls, data: bytes) -> Basis:
        """Reads the file.

        Raises:
            InputError: ``bundle-corrupt``; ``other-basis``, the turn cannot be made again here.
        """
        length = int.from_bytes(data[:4], "little")
        if length > _MAX_HEADER or len(data) < 4 + length:
            raise InputError("bundle-corrupt", f"{BASIS_FILE} is not what it should be")
        header = codec.decode(data[4 : 4 + length], _Header, what=BASIS_FILE, cap=_MAX_HEADER)
        config = DecoderConfig(
            vocabulary=2,
            layers=header.layers,
            width=header.width,
            hidden=header.hidden,
            heads=header.heads,
            kv_heads=header.kv_heads,
            head_size=header.head_size,
        )
        config.check()
        cells = header.layers * 2 * header.width
        rest = data[4 + length :]
        if len(rest) != 4 * (cells + header.width) or len(header.scales) != header.layers:
            raise InputError("bundle-corrupt", f"{BASIS_FILE} has another size than it says")
        values = np.frombuffer(rest, "<f4").astype(np.float32)
        turns = Turns.of(config, bound=header.bound, rotate=header.rotate, seed=header.seed)
        basis = cls(header, turns, values[:cells].reshape(header.layers, 2, header.width))
        if np.abs(basis._turned() - values[cells:]).max() > _NEAR:
            raise InputError(
                "other-basis",
                "this machine's linear algebra turns the stream otherwise than the one that "
                "imported the base: import the base again here",
            )
        return basis

    def _turned(self) -> Array:
        probe = np.linspace(-1, 1, self.header.width, dtype=np.float32)[:, None]
        return self.turns.writes(probe)[:, 0]

    def native(self, parts: Parts) -> Parts:
        """An adapter's changes of the decoder's matrices, of those of its checkpoint."""
        return native(parts, Packing(self.header.rotary, self.header.residual), self.header)

    def placed(self, parts: Parts) -> Parts:
        """The same for the folded matrices. Takes what :meth:`native` gave."""
        return {key: self._placed(*key, part) for key, part in parts.items()}

    def _placed(self, layer: int, target: AdapterTarget, part: Factors) -> Factors:
        t, (attention, feed) = self.turns, self.gains[layer]
        a, b = part.a, part.b
        if target == "q":
            return Factors(t.reads(a, attention), b * np.float32(self.header.scales[layer]))
        if target == "k":
            return Factors(t.reads(a, attention), b)
        if target == "v":
            return Factors(t.reads(a, attention), t.values(b))
        if target == "o":
            return Factors(t.mixed(a), t.writes(b))
        if target == "down":
            return Factors(t.fed(a), t.writes(b))
        return Factors(t.reads(a, feed), b)


def native(parts: Parts, packing: Packing, shape: _Header | DecoderConfig) -> Parts:
    """An adapter's changes of :class:`DecoderWeights`, of those of its checkpoint's matrices."""
    found: Parts = {}
    for (layer, target), part in parts.items():
        b = part.b
        if target in ("q", "k") and packing.rotary != shape.head_size:
            b = spread_rows(b, shape.head_size, packing.rotary)
        if target in ("o", "down"):
            b = b * np.float32(packing.residual)
        found[layer, target] = Factors(part.a, np.asarray(b, np.float32))
    return found


def merged(weights: DecoderWeights, parts: Parts) -> DecoderWeights:
    """The decoder with native changes in its matrices."""
    layers = []
    for index, layer in enumerate(weights.layers):
        changed = {
            target: getattr(layer, target) + part.b @ part.a
            for (at, target), part in parts.items()
            if at == index
        }
        layers.append(replace(layer, **changed))
    return DecoderWeights(
        weights.config, weights.embedding, layers, weights.final_norm, weights.head
    )
