"""Runs a decoder's signatures in LiteRT; in memory are those of one context size at a time.

When the cache grows, the signatures of the old size go and those of the new one are prepared,
which takes milliseconds each with packed weights on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent.generate.caches import Array, Floats, is_kept
from agent.runtime.litert_library import Library, Memory, Model, Signature, Tensor
from contracts.errors import RefusedError


class _Bound:
    """A signature and its tensors; those of the cache belong to the engine."""

    def __init__(self, signature: Signature, cache: dict[str, Tensor], scratch: Memory) -> None:
        library = signature.model.library
        self.signature = signature
        self.own: list[Tensor] = []
        self.input_tensors: dict[str, Tensor] = {}
        self.output_tensors: dict[str, Tensor] = {}
        for name, kind in signature.inputs.items():
            tensor = cache.get(name)
            if tensor is None:
                tensor = Tensor(library, kind)
                self.own.append(tensor)
            self.input_tensors[name] = tensor
        scratch.reuse()
        for name, kind in signature.outputs.items():
            self.output_tensors[name] = Tensor(library, kind, scratch)
            self.own.append(self.output_tensors[name])
        self.inputs = {n: t.values for n, t in self.input_tensors.items() if n not in cache}
        self.outputs = {n: t.values for n, t in self.output_tensors.items()}

    def close(self) -> None:
        self.inputs.clear()
        self.outputs.clear()
        for tensor in self.own:
            tensor.close()


class LiteRtEngine:
    """A decoder in ai-edge-litert, through its C API.

    Args:
        path: of the model file.
        threads: of inference.
        cache: file for packed weights. Without one all signatures are prepared at once, because
            each preparation would pack the weights for itself.
        lean: without one, signatures are prepared when they are needed all the same: all of
            those of a base that takes adapters want gigabytes.

    Raises:
        RuntimeError: LiteRT refuses the model.
        ValueError: it is no model file.
        OSError: the library or the file cannot be read.
    """

    name = "litert"

    def __init__(self, path: Path, *, threads: int, cache: Path | None, lean: bool = False) -> None:
        self._path = path
        self._library = Library(threads, cache)
        try:
            self._whole = None if cache or lean else Model(self._library, path)
        except BaseException:
            self._library.close()
            raise
        self._model = self._whole
        self._bound: dict[str, _Bound] = {}
        self._cache: dict[str, Tensor] = {}
        # Outputs of all signatures lie here: they hold until the next run only.
        self._scratch: Memory | None = None

    @property
    def loaded(self) -> list[str]:
        """Names of the signatures that are in memory."""
        return list(self._model.signatures) if self._model else []

    def open_cache(self, signatures: Sequence[str]) -> dict[str, Array]:
        """As :meth:`CacheEngine.open_cache`."""
        self._release()
        self._model = self._whole or self._prepare(signatures)
        outputs = [self._model.signatures[name].outputs.values() for name in signatures]
        self._scratch = Memory(max(map(Memory.needed, outputs)))
        kinds = {
            name: kind
            for signature in signatures
            for name, kind in self._model.signatures[signature].inputs.items()
            if is_kept(name)
        }
        memory = Memory(Memory.needed(kinds.values()))
        for name, kind in kinds.items():
            self._cache[name] = Tensor(self._library, kind, memory)
        return {name: tensor.values for name, tensor in self._cache.items()}

    def _prepare(self, signatures: Sequence[str]) -> Model:
        try:
            return Model(self._library, self._path, signatures)
        except (RuntimeError, ValueError, OSError) as error:
            raise RefusedError(
                "model-failed", f"LiteRT cannot load {self._path.name}: {str(error)[:500]}"
            ) from None

    def _bind(self, name: str) -> _Bound:
        if name not in self._bound:
            assert self._model is not None, "a cache must be open"
            assert self._scratch is not None
            self._bound[name] = _Bound(self._model.signatures[name], self._cache, self._scratch)
        return self._bound[name]

    def inputs(self, signature: str) -> dict[str, Floats]:
        """As :meth:`CacheEngine.inputs`."""
        return self._bind(signature).inputs

    def run(self, signature: str) -> dict[str, Floats]:
        """As :meth:`CacheEngine.run`."""
        bound = self._bind(signature)
        try:
            bound.signature.run(bound.input_tensors, bound.output_tensors)
        except RuntimeError as error:
            raise RefusedError("model-failed", f"LiteRT: {error}") from None
        return bound.outputs

    def _release(self) -> None:
        for bound in self._bound.values():
            bound.close()
        self._bound.clear()
        for tensor in self._cache.values():
            tensor.close()
        self._cache.clear()
        self._scratch = None
        if self._model is not None and self._model is not self._whole:
            self._model.close()
        self._model = None

    def close(self) -> None:
        """Frees buffers and models; arrays that it gave out must no longer be used."""
        self._release()
        if self._whole is not None:
            self._whole.close()
        self._library.close()
