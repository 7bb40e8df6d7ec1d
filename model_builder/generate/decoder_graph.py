"""The decoder as TensorFlow Lite graphs.

Signatures: ``prompt_T``, ``prefill_T_C``, ``score_T_C`` and ``decode_C``;
C is the context size, T the number of tokens; ``prompt_T`` is for an empty cache and has none.
Inputs of every signature: ``x`` ``[T, width]`` (embedded tokens), ``cos`` and ``sin``
``[T, 1, head_size]`` of their positions (``cos_local`` and ``sin_local`` too, where some layers
turn by frequencies of their own), ``mask`` ``[1, 1, C]`` (0 where the cache is filled,
a large negative number elsewhere), ``k_i`` and ``v_i`` ``[kv_heads, C, head_size]``.
Where these are int8, also ``k_scale_i`` and ``v_scale_i`` ``[kv_heads, C, 1]``.
``score_T_C`` has ``place`` ``[kv_heads, C, T]`` too: 1 where a token comes to lie in the cache.
Those that take an adapter have constants for it (:class:`contracts.manifest.AdapterRoom`).
Outputs: ``k_new_i``, ``v_new_i`` ``[kv_heads, T, head_size]``, which the host writes into its
cache, and of ``decode`` and ``score_T`` also ``logits`` ``[T, vocabulary]``. The graph never
copies the cache: attention runs over cache and new slice with one softmax.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model_builder.generate.fold import hadamard
from model_builder.generate.quantize import Quantized, QuantizedDecoder
from model_builder.generate.tflite_writer import Graph, ModelWriter, Node, Weight
from model_builder.generate.weights import Array, DecoderConfig

MASKED = -1e9
"""Added to a score that must not count."""
_SMALLEST_SCALE = 1e-30
"""Of a vector in the cache, as the host has it: one of zeros must not be divided by 0."""


@dataclass(frozen=True)
class _Site:
    """A matrix in the model, and its bias."""

    weight: Weight
    bias: Weight | None


@dataclass(frozen=True)
class _Past:
    """Keys or values of a layer as the host keeps them."""

    values: Node
    scales: Node | None


@dataclass(frozen=True)
class _Places:
    """Where the tokens of a run lie in the cache.

    Attributes:
        place: ``[kv_heads, C, T]``, 1 where a token comes to lie.
        keep: ``[kv_heads, C, 1]``, 0 at those places.
        seen: ``[kv_heads, shared * T, C]``, added to scores: large and negative where a token
            must not look.
    """

    place: Node
    keep: Node
    seen: Node


@dataclass(frozen=True)
class _Block:
    qkv: _Site
    o: _Site
    gate_up: _Site
    down: _Site
    gain: Weight | None
    pre_norms: tuple[bool, bool]
    pre_gains: tuple[Weight | None, Weight | None]
    post_norms: tuple[Weight | None, Weight | None]


class DecoderModel:
    """Adds the signatures of one decoder to a model; they share its weights.

    Args:
        decoder: the quantised weights.
        description: of the model file.
        compact: the cache is int8.
    """

    def __init__(
        self, decoder: QuantizedDecoder, description: str, *, compact: bool = False
    ) -> None:
        self.config = decoder.config
        self.compact = compact
        self.writer = ModelWriter(description)
        self.blocks = [
            _Block(
                qkv=self._site(layer.qkv),
                o=self._site(layer.o),
                gate_up=self._site(layer.gate_up),
                down=self._site(layer.down),
                gain=self._floats(layer.gain),
                pre_norms=layer.pre_norms,
                pre_gains=(self._floats(layer.pre_gains[0]), self._floats(layer.pre_gains[1])),
                post_norms=(self._floats(layer.post_norms[0]), self._floats(layer.post_norms[1])),
            )
            for layer in decoder.layers
        ]
        self.head = self._site(decoder.head)
        self._places: dict[str, tuple[Weight, Weight]] = {}
        self.final_gain = self._floats(decoder.final_gain)
        self.turn = self._floats(decoder.turn)
        self.stream_turn = self._floats(decoder.stream_turn)
        # Some channels of keys are much larger than others. Turned, as values are already by
        # their weights, all are alike, and an int8 vector is as good for keys as for values.
        size = self.config.head_size
        self.key_turn = (
            self.writer.weight(hadamard(size)) if compact and size & (size - 1) == 0 else None
        )

    def _floats(self, values: Array | None) -> Weight | None:
        """Floats of the graph, where there are any."""
        return None if values is None else self.writer.weight(values)

    def _site(self, q: Quantized) -> _Site:
        bias = None if q.bias is None else self.writer.weight(q.bias)
        return _Site(self.writer.weight(q.values, q.scales, q.bits), bias)

    def place(self, name: str, site: Weight, ranks: int) -> tuple[Weight, Weight]:
        """A and B of an adapter that changes nothing, which signatures share."""
        if name not in self._places:
            outputs, inputs = site.shape
            self._places[name] = (
                self.writer.weight(np.zeros((ranks, inputs), np.int8), np.ones(ranks, np.float32)),
                self.writer.weight(np.zeros((outputs, ranks), np.int8), np.ones(1, np.float32)),
            )
        return self._places[name]

    def add(self, name: str, tokens: int, context: int, *, logits: bool, rank: int = 0) -> None:
        """Adds one signature.

        Args:
            name: of the signature.
            tokens: T.
            context: C, positions of the cache; 0: there is no cache to read.
            logits: whether it ends in the output head.
            rank: of the adapters that it takes; 0: none.
        """
        _Signature(self, tokens, context, rank).build(name, logits=logits)

    def serialize(self) -> bytes:
        """The model file."""
        return self.writer.serialize()


class _Signature:
    def __init__(self, model: DecoderModel, tokens: int, context: int, rank: int) -> None:
        self.model = model
        self.c: DecoderConfig = model.config
        self.tokens = tokens
        self.context = context
        self.rank = rank
        self.g = Graph(model.writer)

    def build(self, name: str, *, logits: bool) -> None:
        g, c, t = self.g, self.c, self.tokens
        x = g.input("x", (t, c.width))
        cosines = g.input("cos", (t, 1, c.head_size))
        sines = g.input("sin", (t, 1, c.head_size))
        turning = {False: (cosines, sines)}
        if c.local_layers:
            shape = cosines.shape
            turning[True] = (g.input("cos_local", shape), g.input("sin_local", shape))
        mask = g.input("mask", (1, 1, self.context)) if self.context else None
        caches = [self._cache(i) for i in range(c.layers)] if self.context else []
        places = self._places(mask) if logits and t > 1 and mask is not None else None
        outputs: dict[str, Node] = {}
        x = self._turned(x, self.model.stream_turn)  # which undoes that of the table
        last = c.layers - 1
        for i, block in enumerate(self.model.blocks):
            read = self._read(x, block.pre_norms[0], block.pre_gains[0])
            qkv = self._adapted(read, block.qkv, f"qkv_{i}", parts=3)
            turns = turning[i in c.local_layers] if i not in c.unrotated else None
            q, k, v = self._heads(qkv, turns, block.gain)
            outputs[f"k_new_{i}"], outputs[f"v_new_{i}"] = k, v
            if i == last and not logits:
                break  # a prefill needs nothing but the cache
            past = caches[i] if caches else None
            if places is not None and past is not None:
                mixed = self._attend_as_one_by_one(q, k, v, past, places)
            else:
                mixed = self._attend(q, k, v, past, mask)
            given = self._adapted(mixed, block.o, f"o_{i}")
            x = self._joined(x, given, block.post_norms[0])
            read = self._read(x, block.pre_norms[1], block.pre_gains[1])
            fed = self._feed_forward(read, block, i)
            x = self._joined(x, fed, block.post_norms[1])
        if logits:
            read = self._read(x, True, self.model.final_gain)
            outputs["logits"] = self._linear(read, self.model.head)
        self.model.writer.add(g, name, outputs)

    def _cache(self, layer: int) -> tuple[_Past, _Past]:
        g, c = self.g, self.c
        shape = (c.kv_heads, self.context, c.head_size)
        if not self.model.compact:
            k, v = (_Past(g.input(f"{which}_{layer}", shape), None) for which in "kv")
        else:
            k, v = (
                _Past(
                    g.input_int8(f"{which}_{layer}", shape),
                    g.input(f"{which}_scale_{layer}", (*shape[:2], 1)),
                )
                for which in "kv"
            )
        return k, v

    def _restored(self, past: _Past) -> Node:
        if past.scales is None:
            return past.values
        # Scaling scores and shares instead would be less work, but XNNPACK takes up to 3 MB a
        # layer for a factor of a matrix product that comes straight from DEQUANTIZE.
        return self.g.binary("MUL", self.g.unary("DEQUANTIZE", past.values), past.scales)

    def _norm(self, x: Node) -> Node:
        """RMSNorm without gain."""
        g = self.g
        mean = g.mean_last(g.binary("MUL", x, x))
        scale = g.unary("RSQRT", g.binary("ADD", mean, g.scalar(self.c.norm_epsilon)))
        return g.binary("MUL", x, scale)

    def _read(self, x: Node, normalised: bool, gain: Weight | None) -> Node:
        """What a matrix reads of the stream; without a gain here it is in the matrix."""
        if normalised:
            x = self._norm(x)
        if gain is not None:
            x = self.g.binary("MUL", x, self.g.constant(gain))
        return self._turned(x, self.model.stream_turn)

    def _joined(self, x: Node, part: Node, gain: Weight | None) -> Node:
        """The stream with a part added, which is normalised first where it has a gain."""
        if gain is not None:
            part = self.g.binary("MUL", self._norm(part), self.g.constant(gain))
        return self.g.binary("ADD", x, part)

    def _linear(self, x: Node, site: _Site) -> Node:
        return self.g.linear(x, site.weight, site.bias)

    def _adapted(self, x: Node, site: _Site, name: str, parts: int = 1) -> Node:
        """A matrix of `parts` that read the same, and what an adapter adds to it."""
        y = self._linear(x, site)
        if not self.rank:
            return y
        g = self.g
        a, b = self.model.place(name, site.weight, parts * self.rank)
        inner = g.linear(x, a, name=f"lora_a_{name}")
        return g.binary("ADD", y, g.linear(inner, b, name=f"lora_b_{name}"))

    def _heads(
        self, qkv: Node, turns: tuple[Node, Node] | None, gain: Weight | None
    ) -> tuple[Node, Node, Node]:
        """Queries ``[kv_heads, shared * T, size]``, k and v ``[kv_heads, T, size]``, turned."""
        g, c, t = self.g, self.c, self.tokens
        heads = c.heads + c.kv_heads
        turned_width = heads * c.head_size
        qk = g.slice_axis(qkv, 1, 0, turned_width)
        if gain is not None and c.wide_norm:
            queries = c.heads * c.head_size
            parts = [
                self._norm(g.slice_axis(qkv, 1, 0, queries)),
                self._norm(g.slice_axis(qkv, 1, queries, turned_width - queries)),
            ]
            qk = g.binary("MUL", g.concat_last(parts), g.constant(gain))
        qk = g.reshape(qk, (t, heads, c.head_size))
        v = g.slice_axis(qkv, 1, turned_width, c.kv_heads * c.head_size)
        if gain is not None and not c.wide_norm:
            qk = g.binary("MUL", self._norm(qk), g.constant(gain))
        if turns is not None:
            swapped = g.concat_last(g.halves(qk)[::-1])
            # The host gives sin as [-s, s], so that this is the rotation.
            qk = g.binary("ADD", g.binary("MUL", qk, turns[0]), g.binary("MUL", swapped, turns[1]))
        if self.model.key_turn is not None:
            qk = g.linear(qk, self.model.key_turn)
        if t > 1:
            qk = g.transpose(qk, (1, 0, 2))
            v = g.transpose(g.reshape(v, (t, c.kv_heads, c.head_size)), (1, 0, 2))
        else:
            qk = g.reshape(qk, (heads, 1, c.head_size))
            v = g.reshape(v, (c.kv_heads, 1, c.head_size))
        q = g.reshape(
            g.slice_axis(qk, 0, 0, c.heads),
            (c.kv_heads, c.heads // c.kv_heads * t, c.head_size),
        )
        return q, g.slice_axis(qk, 0, c.heads, c.kv_heads), v

    def _attend(
        self, q: Node, k: Node, v: Node, cache: tuple[_Past, _Past] | None, mask: Node | None
    ) -> Node:
        """``[T, heads * size]``; the scores' scale is folded into q."""
        g, c, t = self.g, self.c, self.tokens
        shared = c.heads // c.kv_heads
        now = g.matmul(q, k, transposed=True)
        if t > 1:
            causal = np.triu(np.full((t, t), MASKED, np.float32), 1)
            weight = self.model.writer.weight(np.tile(causal, (shared, 1))[None])
            now = g.binary("ADD", now, g.constant(weight))
        if cache is None or mask is None:
            mixed = g.matmul(g.softmax(now), v)
        else:
            past = g.binary("ADD", g.matmul(q, self._restored(cache[0]), transposed=True), mask)
            share = g.softmax(g.concat_last([past, now]))
            mixed = g.binary(
                "ADD",
                g.matmul(g.slice_axis(share, 2, 0, self.context), self._restored(cache[1])),
                g.matmul(g.slice_axis(share, 2, self.context, t), v),
            )
        if t > 1:
            mixed = g.reshape(mixed, (c.heads, t, c.head_size))
            mixed = g.transpose(mixed, (1, 0, 2))
        return g.reshape(mixed, (t, c.heads * c.head_size))

    def _places(self, mask: Node) -> _Places:
        """Where the run's tokens come to lie in the cache, by the input ``place``."""
        g, c, t = self.g, self.c, self.tokens
        shared = c.heads // c.kv_heads
        place = g.input("place", (c.kv_heads, self.context, t))
        keep = g.binary("SUB", g.scalar(1.0), g.sum_last(place))
        # A token sees those of the run before it, whose places the host has masked.
        before = np.tile(np.tril(np.full((t, t), -MASKED, np.float32), -1), (shared, 1))
        weight = self.model.writer.weight(np.broadcast_to(before, (c.kv_heads, *before.shape)))
        seen = g.binary("ADD", g.matmul(g.constant(weight), place, transposed=True), mask)
        return _Places(place, keep, seen)

    def _attend_as_one_by_one(
        self, q: Node, k: Node, v: Node, cache: tuple[_Past, _Past], places: _Places
    ) -> Node:
        """The same, to the bit as by runs of one token each.

        Such a run reads all before its token from the cache, rounded and in order. So what stands
        before in this run is rounded and put at its place, and sums have the same terms in the
        same order: attention that adds the run's part to the cache's gives logits that are off by
        half a unit and more.
        """
        g, c, t = self.g, self.c, self.tokens
        shared = c.heads // c.kv_heads
        place, row = places.place, (c.kv_heads, 1, self.context)
        past = g.matmul(q, self._restored(cache[0]), transposed=True)
        past = g.binary("MUL", past, g.reshape(places.keep, row))
        run = g.matmul(q, self._rounded(k), transposed=True)
        past = g.binary("ADD", past, g.matmul(run, place, transposed=True))
        past = g.binary("ADD", past, places.seen)
        one = self.model.writer.weight(np.tile(np.eye(t, dtype=np.float32), (shared, 1))[None])
        own = g.matmul(q, k, transposed=True)
        own = g.sum_last(g.binary("MUL", own, g.constant(one)))
        share = g.softmax(g.concat_last([past, own]))
        kept = g.binary("MUL", self._restored(cache[1]), places.keep)
        values = g.binary("ADD", kept, g.matmul(place, self._rounded(v)))
        mixed = g.binary(
            "ADD",
            g.matmul(g.slice_axis(share, 2, 0, self.context), values),
            g.binary("MUL", g.tiled(v, shared), g.slice_axis(share, 2, self.context, 1)),
        )
        mixed = g.transpose(g.reshape(mixed, (c.heads, t, c.head_size)), (1, 0, 2))
        return g.reshape(mixed, (t, c.heads * c.head_size))

    def _rounded(self, x: Node) -> Node:
        """Each vector as the host's cache gives it back."""
        if not self.model.compact:
            return x
        g = self.g
        scale = g.binary("DIV", g.max_last(g.unary("ABS", x)), g.scalar(127.0))
        scale = g.binary("MAXIMUM", scale, g.scalar(_SMALLEST_SCALE))
        return g.binary("MUL", g.unary("ROUND", g.binary("DIV", x, scale)), scale)

    def _feed_forward(self, x: Node, block: _Block, layer: int) -> Node:
        g = self.g
        both = self._adapted(x, block.gate_up, f"gate_up_{layer}", parts=2)
        gate, up = g.halves(both)
        if self.c.activation == "silu":
            gate = g.binary("MUL", gate, g.unary("LOGISTIC", gate))
        else:
            gate = g.gelu(gate)
        product = g.binary("MUL", gate, up)
        return self._adapted(self._turned(product, self.model.turn), block.down, f"down_{layer}")

    def _turned(self, x: Node, turn: Weight | None) -> Node:
        """Each run of `size` values times the orthogonal matrix that the next one expects."""
        if turn is None:
            return x
        g, size = self.g, turn.shape[0]
        runs = g.reshape(x, (x.shape[0] * x.shape[1] // size, size))
        return g.reshape(g.linear(runs, turn), x.shape)
