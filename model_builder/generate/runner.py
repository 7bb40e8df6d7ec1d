"""Runs a written decoder on whole texts with the classic interpreter, to check what was made."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from contracts.adapter import Adapter, Place
from contracts.manifest import GeneratorFacts
from model_builder.generate.reference import rotary_table
from model_builder.generate.weights import Array, DecoderConfig

_MASKED = np.float32(-1e9)
Ids = npt.NDArray[np.int64]


def _both(halves: Array, sign: int = 1) -> Array:
    """``[T, pairs]`` -> ``[T, 1, head_size]``, the first half times `sign`."""
    return np.concatenate([sign * halves, halves], 1)[:, None]


def with_adapter(model: bytes, adapter: Adapter) -> bytes:
    """A model file that has an adapter in its places.

    Raises:
        ValueError: it takes no such adapter.
    """
    from ai_edge_litert import schema_py_generated as schema

    data = bytearray(model)
    root = schema.Model.GetRootAs(data)
    found: dict[str, Any] = {}
    for graph in map(root.Subgraphs, range(root.SubgraphsLength())):
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            name = (tensor.Name() or b"").decode()
            if name.startswith("lora_"):
                found[name] = tensor
    # NumPy's views of the bytes that the schema's own reader finds.
    values = {
        name: root.Buffers(tensor.Buffer())
        .DataAsNumpy()
        .view(np.int8)
        .reshape(tensor.ShapeAsNumpy())
        for name, tensor in found.items()
    }
    adapter.fill(
        {
            name: Place(
                values[f"lora_a_{name}"],
                found[f"lora_a_{name}"].Quantization().ScaleAsNumpy(),
                values[f"lora_b_{name}"],
            )
            for name in adapter.place_names
            if f"lora_a_{name}" in values
        }
    )
    return bytes(data)


class Runner:
    """A model file in the interpreter.

    Args:
        model: the file's bytes.
        table: float32 ``[vocabulary, width]``, the embedding as devices will see it.
        config, facts: the decoder's shape and signatures.
        threads: of inference.
        adapter: which it runs with; None: without one.
    """

    def __init__(
        self,
        model: bytes,
        table: Array,
        config: DecoderConfig,
        facts: GeneratorFacts,
        threads: int = 2,
        adapter: Adapter | None = None,
    ) -> None:
        import warnings

        from ai_edge_litert.interpreter import Interpreter

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._interpreter: Any = Interpreter(
                model_content=model if adapter is None else with_adapter(model, adapter),
                num_threads=threads,
            )
        self._table = table
        self._config = config
        self._facts = facts
        self._runners: dict[str, Any] = {}
        self._adapter = adapter

    def _empty(self, context: int) -> dict[str, Array]:
        """Keys and values as the host keeps them; positions are the second axis of each."""
        c = self._config
        shape = (c.kv_heads, context, c.head_size)
        kind = np.int8 if self._facts.cache == "int8" else np.float32
        cache = {f"{w}_{i}": np.zeros(shape, kind) for i in range(c.layers) for w in "kv"}
        if self._facts.cache == "int8":
            scales = (c.kv_heads, context, 1)
            cache |= {
                f"{w}_scale_{i}": np.zeros(scales, np.float32)
                for i in range(c.layers)
                for w in "kv"
            }
        return cache

    def _keep(self, cache: dict[str, Array], name: str, start: int, new: Array) -> None:
        stop = start + new.shape[1]
        if self._facts.cache == "int8":
            scales = np.maximum(np.abs(new).max(-1, keepdims=True) / np.float32(127), 1e-30)
            cache[name.replace("_", "_scale_")][:, start:stop] = scales
            new = np.rint(new / scales)
        cache[name][:, start:stop] = new

    def _run(self, name: str, ids: Ids, size: int, cache: dict[str, Array], start: int) -> Array:
        """Runs a signature at position `start`, fills the cache; logits ``[len(ids), ...]``."""
        if name not in self._runners:
            self._runners[name] = self._interpreter.get_signature_runner(name)
        count = len(ids)
        x = np.zeros((size, self._config.width), np.float32)
        x[:count] = self._table[ids]
        cosines, sines = rotary_table(self._config, start, size)
        local: dict[str, Array] = {}
        if self._config.local_layers:
            near = rotary_table(self._config, start, size, local=True)
            local = {"cos_local": _both(near[0]), "sin_local": _both(near[1], sign=-1)}
        context = cache["k_0"].shape[1]
        if self._facts.placed and size > 1:
            place = np.zeros((self._config.kv_heads, context, size), np.float32)
            place[:, start + np.arange(count), np.arange(count)] = 1
            local["place"] = place
        mask = np.full((1, 1, context), _MASKED, np.float32)
        mask[..., :start] = 0
        out = self._runners[name](
            x=x,
            cos=_both(cosines),
            sin=_both(sines, sign=-1),
            mask=mask,
            **local,
            **cache,
        )
        for i in range(self._config.layers):
            for which in "kv":
                self._keep(cache, f"{which}_{i}", start, out[f"{which}_new_{i}"][:, :count])
        logits: Array = out["logits"][:count]
        return logits

    def logits(self, ids: Ids) -> Array:
        """Logits after each token of a text that fits the largest context."""
        context = next(c for c in self._facts.contexts if c >= len(ids))
        cache = self._empty(context)
        size = self._facts.score[-1] if self._facts.score else 1
        kind: Literal["score", "decode"] = "score" if size > 1 else "decode"
        name = self._facts.signature(kind, size, context, adapted=self._adapter is not None)
        parts = [
            self._run(name, ids[at : at + size], size, cache, at).copy()
            for at in range(0, len(ids), size)
        ]
        return np.concatenate(parts)

    def greedy(self, ids: list[int], count: int) -> tuple[list[int], float]:
        """A greedy continuation, and how far the second best was behind at its closest step."""
        context = next(c for c in self._facts.contexts if c >= len(ids) + count)
        cache = self._empty(context)
        answer: list[int] = []
        margin = float("inf")
        token = ids[0]
        for position in range(len(ids) + count - 1):
            one = np.array([token], np.int64)
            name = self._facts.signature("decode", 1, context, adapted=self._adapter is not None)
            logits = self._run(name, one, 1, cache, position)[0]
            if position + 1 < len(ids):
                token = ids[position + 1]
                continue
            best = np.partition(logits, -2)[-2:]
            margin = min(margin, float(best[1] - best[0]))
            token = int(logits.argmax())
            answer.append(token)
        return answer, margin
