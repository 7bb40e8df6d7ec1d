"""Quantises a decoder's matrices in the order in which a text meets them.

What a matrix reads has been changed by the rounding of all matrices before it. So each is fitted
to what it will read, and towards what the float decoder gives at its place: its rounding makes up
for that of the others (Li et al., "GPTAQ", 2025). Few tokens would teach it their own chances, so
it is held near to its own values, the more the fewer directions a text has.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from model_builder.generate import reference
from model_builder.generate.fold import FoldedDecoder
from model_builder.generate.quantize import (
    Quantized,
    QuantizedDecoder,
    QuantizedLayer,
    assembled,
    join_biases,
    layer_of,
    quantize_matrix,
)
from model_builder.generate.side_by_side import side_by_side
from model_builder.generate.weights import Array, Layer
from model_builder.teachers.base import Progress, silent

HOLD: float = 1.0
"""Weight of a matrix's own values, in units of what it reads in the mean direction."""

_ROWS: int = 2048
"""Tokens whose products are summed in float32, before they are added up in float64."""

Texts = list[Array]


def quantize_in_order(
    folded: FoldedDecoder,
    texts: list[npt.NDArray[np.int64]],
    progress: Progress = silent,
    bits: int = 4,
) -> QuantizedDecoder:
    """Quantises every matrix, each fitted after those before it.

    Args:
        folded: the decoder.
        texts: token ids, each a text of its own, that it is fitted to.
        progress: is told of each layer.
        bits: of the matrices, 8 or 4; the table of embeddings keeps 8.
    """
    weights = folded.weights
    embedding = quantize_matrix(
        np.asarray(folded.read(weights.embedding, "embedding"), np.float32), None
    )
    table = folded.read(embedding.restore(), "embedding")
    exact, rounded = ([rows[ids] for ids in texts] for rows in (weights.embedding, table))
    with side_by_side() as pool:
        fit = _Fit(folded, bits, exact, rounded, pool)
        layers = []
        for index, layer in enumerate(weights.layers):
            layers.append(fit.layer(index, layer))
            progress("quantising", index + 1, len(weights.layers))
        epsilon = weights.config.norm_epsilon
        fit.each(lambda x: reference.rms_norm(x, weights.final_norm, epsilon))
        head = fit.matrix("head", [weights.head])
    return assembled(folded, embedding, layers, head)


@dataclass
class _Fit:
    """The same texts in the float decoder and in the one that is rounded so far.

    `exact`, `rounded`: the residual stream of each text, ``[T, width]``, or what was made of it.
    """

    folded: FoldedDecoder
    bits: int
    exact: Texts
    rounded: Texts
    pool: Executor

    def each(self, made: Callable[[Array], Array]) -> None:
        self.both(made, made)

    def both(self, exact: Callable[[Array], Array], rounded: Callable[[Array], Array]) -> None:
        """Makes something of each text, in the one decoder and in the other."""
        first = [self.pool.submit(exact, x) for x in self.exact]
        second = [self.pool.submit(rounded, x) for x in self.rounded]
        self.exact, self.rounded = ([one.result() for one in many] for many in (first, second))

    def layer(self, index: int, layer: Layer) -> QuantizedLayer:
        config, site = self.folded.weights.config, str(index)

        def norm(gain: Array | None) -> Callable[[Array], Array]:
            return lambda x: x if gain is None else reference.rms_norm(x, gain, config.norm_epsilon)

        def attend(values: dict[str, Array]) -> Callable[[Array], Array]:
            """What `o` reads."""

            def made(x: Array) -> Array:
                read: list[Array] = []

                def linear(x: Array, weight: Array, where: str) -> Array:
                    name = where.rpartition(".")[2]
                    if name == "o":
                        read.append(x)
                        return np.zeros((len(x), len(weight)), np.float32)
                    product: Array = self.folded.read(x, where) @ values[name].T
                    return product

                reference.attention(
                    layer, x, config, linear, site, 1.0,
                    rotated=index not in config.unrotated, local=index in config.local_layers,
                )  # fmt: skip
                return read[0]

            return made

        def gated(values: dict[str, Array]) -> Callable[[Array], Array]:
            """What `down` reads, before it is turned."""

            def made(x: Array) -> Array:
                x = self.folded.read(x, f"{site}.gate")
                gate, up = x @ values["gate"].T, x @ values["up"].T
                gate = gate if layer.gate_bias is None else gate + layer.gate_bias
                up = up if layer.up_bias is None else up + layer.up_bias
                return np.asarray(reference.activated(gate, config.activation) * up, np.float32)

            return made

        def part(
            names: tuple[str, ...],
            inner: Callable[[dict[str, Array]], Callable[[Array], Array]],
            gain: Array | None,
            after: Array | None,
            out: str,
        ) -> tuple[Quantized, Quantized]:
            """One of the two halves: matrices that read the stream, one that writes to it."""
            before = self.exact, self.rounded
            self.each(norm(gain))
            own = {name: getattr(layer, name) for name in names}
            biases = [(getattr(layer, f"{name}_bias"), own[name]) for name in names]
            reads = self.matrix(f"{site}.{names[0]}", list(own.values()), join_biases(*biases))
            cuts = np.cumsum([len(m) for m in own.values()])[:-1]
            found = dict(zip(names, np.split(reads.restore(), cuts), strict=True))
            self.both(inner(own), inner(found))
            matrix, bias = getattr(layer, out), getattr(layer, f"{out}_bias")
            writes = self.matrix(f"{site}.{out}", [matrix], bias)
            restored = writes.restore()

            def written(values: Array) -> Callable[[Array], Array]:
                def made(x: Array) -> Array:
                    y = self.folded.read(x, f"{site}.{out}") @ values.T
                    return norm(after)(y if bias is None else y + bias)

                return made

            self.both(written(matrix), written(restored))
            self.exact = [x + y for x, y in zip(before[0], self.exact, strict=True)]
            self.rounded = [x + y for x, y in zip(before[1], self.rounded, strict=True)]
            return reads, writes

        qkv, o = part(("q", "k", "v"), attend, layer.attention_norm, layer.post_attention_norm, "o")
        gate_up, down = part(("gate", "up"), gated, layer.ffn_norm, layer.post_ffn_norm, "down")
        return layer_of(self.folded, layer, qkv, o, gate_up, down)

    def matrix(self, site: str, parts: Texts, bias: Array | None = None) -> Quantized:
        """Matrices that read the same, joined by rows, fitted to what is read here."""
        size = parts[0].shape[1]
        gram, cross = np.zeros((size, size)), np.zeros((size, size))
        for products in [self.pool.submit(self._products, site, at) for at in self._runs()]:
            found, read = products.result()
            gram += found
            cross += read
        hold = HOLD * np.trace(gram) / size + 1e-8
        diagonal = np.diag_indices(size)
        cross[diagonal] += hold
        # W' = W (C + h) (G + h)^-1: the least error of what W gives in the float decoder.
        wanted = np.concatenate(parts).astype(np.float64) @ cross
        held = gram.copy()
        held[diagonal] += hold
        moved = cho_solve(cho_factor(held, overwrite_a=True), wanted.T, overwrite_b=True).T
        return quantize_matrix(
            np.ascontiguousarray(moved, np.float32),
            gram.astype(np.float32),
            bias,
            self.bits,
            self.pool,
        )

    def _runs(self) -> list[slice]:
        """The texts in runs of about `_ROWS` tokens."""
        ends, tokens = [0], 0
        for number, text in enumerate(self.exact, 1):
            tokens += len(text)
            if tokens >= _ROWS or number == len(self.exact):
                ends.append(number)
                tokens = 0
        return [slice(a, b) for a, b in itertools.pairwise(ends)]

    def _products(self, site: str, at: slice) -> tuple[Array, Array]:
        """What the rounded decoder reads, by itself and by what the float one reads."""
        found = self.folded.read(np.concatenate(self.rounded[at]), site)
        read = self.folded.read(np.concatenate(self.exact[at]), site)
        return found.T @ found, read.T @ found
