"""Runs a decoder's signatures in LiteRT; in memory are those of one context size at a time.

When the cache grows, the signatures of the old size go. With packed weights at hand one is
prepared in 10 to 25 ms, so it is when it is first run; those of a short text are together, at
once. Each adapter has a set of signatures of its own, on the same packed weights and the same
cache; a few sets stay.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from agent.generate.caches import Array, Floats, stacks
from agent.runtime.litert_library import Kind, Library, Memory, Model, Signature, Tensor
from contracts.adapter import Adapter
from contracts.errors import RefusedError

_SETS = 3
"""Most sets of signatures at a time: the base and two adapters, or three adapters."""


class _Bound:
    """A signature and its tensors; those of the cache belong to the engine."""

    def __init__(self, signature: Signature, cache: dict[str, Tensor], scratch: Memory) -> None:
        library = signature.model.library
        self.own: list[Tensor] = []
        self.input_tensors: dict[str, Tensor] = {}
        self.inputs: dict[str, Floats] = {}
        for name, kind in signature.inputs.items():
            tensor = cache.get(name)
            if tensor is None:
                tensor = Tensor(library, kind)
                self.own.append(tensor)
                self.inputs[name] = tensor.values
            self.input_tensors[name] = tensor
        scratch.reuse()
        self.outputs, made = _stacked(library, signature.outputs, scratch)
        for name, kind in signature.outputs.items():
            if name not in made:
                made[name] = Tensor(library, kind, scratch)
                self.outputs[name] = made[name].values
        self.own += made.values()
        self.run = signature.bound(self.input_tensors, {n: made[n] for n in signature.outputs})

    def close(self) -> None:
        self.inputs.clear()
        self.outputs.clear()
        for tensor in self.own:
            tensor.close()


def _stacked(
    library: Library, kinds: dict[str, Kind], memory: Memory
) -> tuple[dict[str, Array], dict[str, Tensor]]:
    """Keys and values of all layers as one array each, and the tensors that lie there.

    Raises:
        ValueError: they are not alike.
    """
    arrays: dict[str, Array] = {}
    tensors: dict[str, Tensor] = {}
    for stack, names in stacks(kinds).items():
        kind = kinds[names[0]]
        if any(bytes(kinds[name]) != bytes(kind) for name in names):
            raise ValueError("layers of one decoder must have caches of one shape")
        arrays[stack] = memory.rows(kind, len(names))
        for name, values in zip(names, arrays[stack], strict=True):
            tensors[name] = Tensor(library, kind, values=values)
    return arrays, tensors


class _Set:
    """Signatures of a model that may be run, and where all of their outputs lie.

    Outputs hold until the next run only.
    """

    def __init__(self, model: Model, *, owned: bool) -> None:
        self.model = model
        self._owned = owned
        self._bound: dict[str, _Bound] = {}
        outputs = [signature.outputs.values() for signature in model.signatures.values()]
        self._scratch = Memory(max(map(Memory.needed, outputs)))

    def bind(self, name: str, cache: dict[str, Tensor]) -> _Bound:
        """A signature with its tensors."""
        if name not in self._bound:
            self._bound[name] = _Bound(self.model.signatures[name], cache, self._scratch)
        return self._bound[name]

    def close(self) -> None:
        """Frees them."""
        for bound in self._bound.values():
            bound.close()
        self._bound.clear()
        if self._owned:
            self.model.close()


class LiteRtEngine:
    """A decoder in ai-edge-litert, through its C API.

    Args:
        path: of the model file.
        threads: of inference.
        cache: file for packed weights; None: they are packed in memory.
        whole: signatures without an adapter that are prepared at once and stay, so that no text
            waits for those of another context.

    Raises:
        RuntimeError: LiteRT refuses the model.
        ValueError: it is no model file.
        OSError: the library or the file cannot be read.
    """

    name = "litert"

    def __init__(
        self, path: Path, *, threads: int, cache: Path | None, whole: Sequence[str] = ()
    ) -> None:
        self._path = path
        self._weights = cache
        self._memory = -1 if cache else os.memfd_create("shoal-weights")
        self._whole: Model | None = None
        self._sets: OrderedDict[Adapter | None, list[_Set]] = OrderedDict()
        self._cache: dict[str, Tensor] = {}
        self._packed = cache is not None and cache.is_file()
        try:
            self._library = Library(threads, cache or Path(f"/proc/self/fd/{self._memory}"))
        except BaseException:
            self._forget_weights()
            raise
        try:
            if whole:
                self._whole = Model(self._library, path, whole)
        except BaseException:
            self.close()
            raise

    @property
    def loaded(self) -> list[str]:
        """Names of the signatures that are in memory."""
        return [name for sets in self._sets.values() for s in sets for name in s.model.signatures]

    def _bind(self, signature: str) -> _Bound:
        """A signature of those in use, prepared where it is not yet."""
        assert self._sets, "a cache must be open"
        adapter, sets = next(reversed(self._sets.items()))
        found = next((one for one in sets if signature in one.model.signatures), None)
        if found is None:
            found = self._prepare([signature], adapter, some=True)
            sets.append(found)
        return found.bind(signature, self._cache)

    def open_cache(
        self, signatures: Sequence[str], later: Sequence[str], adapter: Adapter | None = None
    ) -> dict[str, Array]:
        """As :meth:`CacheEngine.open_cache`."""
        self._release()
        self.use(signatures, later, adapter)
        model = next(reversed(self._sets.values()))[0].model
        kinds = {
            name: kind
            for signature in signatures
            for name, kind in model.signatures[signature].inputs.items()
        }
        kept = {name: kinds[name] for names in stacks(kinds).values() for name in names}
        try:
            arrays, self._cache = _stacked(
                self._library, kept, Memory(Memory.needed(kept.values()))
            )
        except ValueError as error:
            raise RefusedError("model-failed", f"{self._path.name}: {error}") from None
        return arrays

    def use(self, signatures: Sequence[str], later: Sequence[str], adapter: Adapter | None) -> None:
        """As :meth:`CacheEngine.use`."""
        if adapter not in self._sets:
            self._sets[adapter] = [self._open(signatures, later, adapter)]
            self._packed = True
        self._sets.move_to_end(adapter)
        while len(self._sets) > _SETS:
            for one in self._sets.popitem(last=False)[1]:
                one.close()

    def _open(
        self, signatures: Sequence[str], later: Sequence[str], adapter: Adapter | None
    ) -> _Set:
        # What packs the weights must know all of them, and each model has its own copy of an
        # adapter.
        if self._packed and adapter is None:
            found = self._prepare(signatures, None, some=True)
            if self._weights is None or self._weights.is_file():
                return found
            found.close()
        return self._prepare([*signatures, *later], adapter, some=False)

    def _prepare(self, signatures: Sequence[str], adapter: Adapter | None, *, some: bool) -> _Set:
        """A model of signatures; `some`: there are weights that others alone have."""
        if self._whole is not None and adapter is None:
            return _Set(self._whole, owned=False)
        before = self._written()
        try:
            model = Model(self._library, self._path, signatures, adapter)
        except (RuntimeError, ValueError, OSError) as error:
            raise RefusedError(
                "model-failed", f"LiteRT cannot load {self._path.name}: {str(error)[:500]}"
            ) from None
        if (some or adapter is not None) and self._weights and self._written() != before:
            # It was not there any more, or broken, and now lacks some weights, or holds an
            # adapter in the base's place.
            self._weights.unlink(missing_ok=True)
        return _Set(model, owned=True)

    def _written(self) -> tuple[int, int] | None:
        """Size and time of the file of packed weights."""
        if self._weights is None or not self._weights.is_file():
            return None
        found = self._weights.stat()
        return found.st_size, found.st_mtime_ns

    def inputs(self, signature: str) -> dict[str, Floats]:
        """As :meth:`CacheEngine.inputs`."""
        return self._bind(signature).inputs

    def run(self, signature: str) -> dict[str, Floats]:
        """As :meth:`CacheEngine.run`."""
        bound = self._bind(signature)
        try:
            bound.run()
        except RuntimeError as error:
            raise RefusedError("model-failed", f"LiteRT: {error}") from None
        return bound.outputs

    def _release(self) -> None:
        for sets in self._sets.values():
            for one in sets:
                one.close()
        self._sets.clear()
        for tensor in self._cache.values():
            tensor.close()
        self._cache.clear()

    def close(self) -> None:
        """Frees buffers and models; arrays that it gave out must no longer be used."""
        self._release()
        if self._whole is not None:
            self._whole.close()
        self._library.close()
        self._forget_weights()

    def _forget_weights(self) -> None:
        """Lets go of what was packed in memory; it goes with the last model that maps it."""
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1
