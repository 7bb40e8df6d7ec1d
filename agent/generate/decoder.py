"""A decoder at work: tokens in, logits out, with a cache that grows between context sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from agent.generate.caches import Array, CacheEngine, Floats
from agent.generate.kv_cache import KvCache
from contracts.adapter import Adapter
from contracts.errors import InputError
from contracts.manifest import GeneratorFacts, Manifest
from contracts.memory import give_back

Kind = Literal["decode", "prefill", "prompt", "score"]
_MASKED = np.float32(-1e9)


class Embedding:
    """The embedding table: int8 rows with a scale each, read where they lie.

    Args:
        data: the table's bytes, or a map of its file.
        facts: the model's shape.

    Raises:
        InputError: ``bundle-corrupt``; the table has another size.
    """

    def __init__(self, data: npt.NDArray[np.uint8], facts: GeneratorFacts) -> None:
        cells = facts.vocabulary * facts.width
        if data.size != cells + 4 * facts.vocabulary:
            raise InputError(
                "bundle-corrupt",
                f"the embedding table has {data.size} bytes; expected "
                f"{cells + 4 * facts.vocabulary} for {facts.vocabulary} rows of {facts.width}",
            )
        self._rows = data[:cells].view(np.int8).reshape(facts.vocabulary, facts.width)
        self._scales = data[cells:].view(np.float32)

    def rows(self, ids: list[int]) -> Floats:
        """float32 ``[len(ids), width]``."""
        picked: Floats = self._rows[ids] * self._scales[ids][:, None]
        return picked


def plain_signatures(manifest: Manifest, facts: GeneratorFacts) -> list[str]:
    """Names of those that take no adapter.

    Raises:
        InputError: ``bad-manifest``; the model lacks one, or sizes do not ascend.
    """
    named = {spec.name for spec in manifest.model.signatures}
    for sizes in (facts.contexts, facts.prompt, facts.prefill, facts.score):
        if sizes != sorted(set(sizes)):
            raise InputError("bad-manifest", "the sizes of signatures must ascend")
    wanted: dict[bool, list[str]] = {}
    for adapted in {False, facts.adapters is not None}:
        name = partial(facts.signature, adapted=adapted)
        found = wanted[adapted] = [name("prompt", t, 0) for t in facts.prompt]
        for context in facts.contexts:
            found.append(name("decode", 1, context))
            found += [name("prefill", t, context) for t in facts.prefill]
            found += [name("score", t, context) for t in facts.score]
        missing = [name for name in found if name not in named]
        if missing:
            raise InputError("bad-manifest", f"the model lacks the signature {missing[0]}")
    return wanted[False]


@dataclass(frozen=True)
class Snapshot:
    """Keys and values of the first tokens of a text."""

    ids: list[int]
    state: list[Array]

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return sum(part.nbytes for part in self.state)


class Decoder:
    """Feeds tokens through the model, one position after another.

    Args:
        engine: the loaded model.
        embedding: the table.
        facts: the model's shape and signatures.

    Attributes:
        ids: the tokens whose keys and values are in the cache.
        alike: how often a row of :meth:`verify` was that of :meth:`step`, to the bit; None: it
            was not once.
    """

    def __init__(self, engine: CacheEngine, embedding: Embedding, facts: GeneratorFacts) -> None:
        self._engine = engine
        self._embedding = embedding
        self._facts = facts
        self._turns = [np.array(turns) for turns in facts.turns()]
        self._context = 0
        self._cache: KvCache | None = None
        self._adapter: Adapter | None = None
        self.ids: list[int] = []
        self.alike: int | None = 0

    @property
    def capacity(self) -> int:
        """Tokens that the largest context holds."""
        return self._facts.contexts[-1]

    @property
    def context(self) -> int:
        """Positions of the cache as it is now."""
        return self._context

    def use(self, adapter: Adapter | None) -> None:
        """Runs with an adapter from now on, or without one. Another text begins.

        Raises:
            RefusedError: ``model-failed``; what ran before still does.
        """
        if adapter is self._adapter:
            return
        before, self._adapter = self._adapter, adapter
        try:
            if self._context:
                self._engine.use(*self._signatures(), adapter)
        except BaseException:
            self._adapter = before
            raise
        self.ids = []

    def truncate(self, count: int) -> None:
        """Forgets all but the first `count` tokens."""
        del self.ids[count:]

    def forget(self) -> None:
        """Forgets the cache too: what is not a number in it would spoil every later text.

        Masked positions count 0 times their value, so the next text begins with a new cache.
        """
        self._cache = None
        self._context = 0
        self.ids = []

    def _reserve(self, count: int, *, shrink: bool = False) -> None:
        """Makes room for `count` tokens in all; the cache grows to the next context size.

        Args:
            count: tokens, with those that are there.
            shrink: also leave a size that is larger than needed. After a long text a short one
                would otherwise pay for positions that it never fills.
        """
        if count > self.capacity:
            raise InputError(
                "prompt-too-long",
                f"{count} tokens are needed; the model's largest context has {self.capacity}",
            )
        fitting = next(c for c in self._facts.contexts if c >= count)
        if fitting == self._context or (fitting < self._context and not shrink):
            return
        used = len(self.ids)
        kept = self._cache.copy(used) if self._cache and used else []
        self._cache = None
        self._context = fitting
        try:
            tensors = self._engine.open_cache(*self._signatures(), self._adapter)
            self._cache = KvCache(tensors, self._facts)
            del tensors
        except BaseException:
            # The engine freed what was there: the next text begins anew.
            self._context = 0
            self.ids = []
            raise
        if kept:
            self._cache.restore(kept, used)
        del kept
        give_back()  # the other size's buffers, which nothing will use again

    def _filled(self) -> KvCache:
        assert self._cache is not None, "room is reserved first"
        return self._cache

    def load(self) -> None:
        """Prepares the smallest context, so that a short text does not wait for it."""
        self._reserve(1)

    def _signatures(self) -> tuple[list[str], list[str]]:
        """Those that a cache of this size is used with: by a short text, and by others."""
        facts = self._facts
        prompt: list[str] = []
        if self._context == facts.contexts[0] or not facts.prefill:
            prompt = [self._name("prompt", size) for size in facts.prompt]
        later = [self._name("prefill", size) for size in facts.prefill]
        later += [self._name("score", size) for size in facts.score]
        return [self._name("decode", 1), *prompt[:1]], [*prompt[1:], *later]

    def _name(self, kind: Kind, size: int) -> str:
        adapted = self._adapter is not None
        return self._facts.signature(kind, size, self._context, adapted=adapted)

    def _run(self, kind: Kind, size: int, ids: list[int]) -> dict[str, Floats]:
        """Runs a signature for `ids` (at most `size`) at the next positions."""
        start, count = len(self.ids), len(ids)
        name = self._name(kind, size)
        inputs = self._engine.inputs(name)
        inputs["x"][:count] = self._embedding.rows(ids)
        inputs["x"][count:] = 0
        scales = (self._facts.rope_scale, 1.0)
        for end, turns, scale in zip(("", "_local"), self._turns, scales, strict=False):
            angles = np.arange(start, start + size)[:, None] * turns
            half = angles.shape[1]
            cosines, sines = inputs[f"cos{end}"][:, 0], inputs[f"sin{end}"][:, 0]
            cosines[:, :half] = cosines[:, half:] = np.cos(angles) * scale
            sines[:, half:] = np.sin(angles) * scale
            sines[:, :half] = -sines[:, half:]
        if kind != "prompt":
            mask = inputs["mask"].reshape(-1)
            mask[:start] = 0
            mask[start:] = _MASKED
        if kind == "score" and self._facts.placed:
            place, run = inputs["place"], np.arange(count)
            place[:] = 0
            place[:, start + run, run] = 1
        outputs = self._engine.run(name)
        self._filled().write(outputs["new"], start, count)
        self.ids.extend(ids)
        return outputs

    def prefill(self, ids: list[int], *, checkpoint: Callable[[], None] | None = None) -> None:
        """Puts tokens into the cache without computing logits.

        Args:
            ids: any number that fits.
            checkpoint: called between runs; it may raise to stop.
        """
        self._reserve(len(self.ids) + len(ids), shrink=True)
        rest = list(ids)
        while rest:
            if checkpoint is not None:
                checkpoint()
            kind: Kind = "prompt" if self._is_prompt(len(rest)) else "prefill"
            sizes = self._facts.prefill if kind == "prefill" else self._facts.prompt
            size = next((t for t in sizes if t >= len(rest)), sizes[-1] if sizes else 1)
            # A few tokens cost less one by one than a run that is mostly padding.
            if size == 1 or len(rest) * 5 < size:
                kind, size = "decode", 1
            self._run(kind, size, rest[:size])
            rest = rest[size:]

    def _is_prompt(self, count: int) -> bool:
        """Whether a signature without a cache runs this.

        Beginnings of texts; where there are others that can, only short texts, for which alone
        these are in memory.
        """
        facts = self._facts
        if self.ids or not facts.prompt:
            return False
        small = self._context == facts.contexts[0]
        return not facts.prefill or (small and count <= facts.prompt[-1])

    def step(self, token: int) -> Floats:
        """Feeds one token; logits ``[vocabulary]`` of the next, valid until the next run."""
        self._reserve(len(self.ids) + 1, shrink=not self.ids)
        logits: Floats = self._run("decode", 1, [token])["logits"][0]
        return logits

    @property
    def guess_size(self) -> int:
        """Tokens of a guess that :meth:`verify` takes; 0: the model has no signature for it."""
        return self._facts.score[0] - 1 if self._facts.score else 0

    def prepare_verify(self) -> None:
        """Prepares :meth:`verify`, so that no measurement of its first run has that in it."""
        self._engine.inputs(self._name("score", self._facts.score[0]))

    def verify(self, ids: list[int]) -> Floats:
        """Feeds a token and a guess of those after it in one run.

        Returns:
            Logits ``[len(ids), vocabulary]``, valid until the next run. The tokens of the guess
            that prove wrong are to be forgotten with :meth:`truncate`.
        """
        self._reserve(len(self.ids) + len(ids), shrink=not self.ids)
        return self._run("score", self._facts.score[0], ids)["logits"][: len(ids)]

    def score(self, ids: list[int]) -> Floats:
        """Feeds tokens; logits ``[len(ids), vocabulary]`` after each of them (a copy)."""
        self._reserve(len(self.ids) + len(ids))
        size = self._facts.score[-1] if self._facts.score else 1
        kind: Kind = "score" if size > 1 else "decode"
        parts = []
        for start in range(0, len(ids), size):
            part = ids[start : start + size]
            parts.append(self._run(kind, size, part)["logits"][: len(part)].copy())
        return np.concatenate(parts)

    def bytes_of(self, count: int) -> int:
        """Bytes that a snapshot of `count` tokens takes."""
        return KvCache.bytes_of(count, self._facts)

    def snapshot(self, count: int) -> Snapshot:
        """Keys and values of the first `count` tokens, to :meth:`restore` them later."""
        return Snapshot(self.ids[:count], self._filled().kept(count))

    def restore(self, snapshot: Snapshot, count: int, *, room: int = 0) -> None:
        """Makes the cache that of the first `count` tokens of a snapshot.

        Args:
            snapshot: of this model.
            count: tokens.
            room: tokens in all that are known to follow at once, so that the cache has the
                right size from the beginning.
        """
        self.ids = []
        self._reserve(max(count, room), shrink=True)
        self._filled().restore(snapshot.state, count)
        self.ids = snapshot.ids[:count]

    def close(self) -> None:
        """Frees the model."""
        self._cache = None
        self._engine.close()
