"""A classify bundle, loaded: text to label and calibrated confidence."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from agent.runtime import engine, golden
from agent.runtime.falling_back import FallingBack
from agent.runtime.front_end import Encoded, open_front_end
from agent.runtime.lessons import Features, Head, features
from agent.runtime.model import Options, refusing
from agent.runtime.tensors import Runtime, Tensor
from contracts import limits
from contracts.answers import Classified, Embedded, Selftested
from contracts.bundle import Bundle
from contracts.errors import InputError, RefusedError
from contracts.manifest import EMBEDDING, SignatureSpec, TensorSpec
from contracts.messages import BundleRef, Scored

UNKNOWN = "unknown"
"""The label of an answer below the bundle's threshold."""


class Raw(msgspec.Struct, frozen=True):
    """What the model gave.

    Attributes:
        output: [classes], in the model's dtype (int8 or float32).
        best: index of the best label.
        truncated: as in :class:`agent.runtime.front_end.Encoded`.
    """

    output: Tensor
    best: int
    truncated: bool


class Classifier:
    """A loaded classifier. One thread at a time.

    Args:
        bundle: a classify bundle; its files are checked against the manifest here.
        runtime: which runtime; None: the best that is installed.
        threads: of inference.
        cache: file for the runtime's packed weights.
        accelerator: as of :class:`agent.runtime.model.Options`.

    Raises:
        InputError: ``bundle-corrupt``, ``bad-manifest``.
        RefusedError: ``model-failed``.
        UnavailableError: ``no-runtime``.
        OSError: the disk refuses.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        runtime: str | None = None,
        threads: int = 1,
        cache: Path | None = None,
        accelerator: str = "",
    ) -> None:
        manifest = bundle.manifest
        if manifest.task != "classify" or manifest.classifier is None:
            raise InputError("wrong-task", f"{bundle.path} is a {manifest.task} bundle")
        self.ref: BundleRef = bundle.ref
        self.manifest = manifest
        self._facts = manifest.classifier
        self._front = open_front_end(bundle)
        bundle.read(manifest.model.file)  # checked before the runtime maps it
        if bundle.path.is_dir():
            self._open = partial(
                engine.open_model,
                bundle.path / manifest.model.file,
                runtime=runtime,
                wanted=manifest.model.runtimes,
                threads=threads,
                cache=cache,
            )
            self._engine: Runtime = self._open(accelerator=accelerator)
        else:
            self._engine = _unpacked(bundle, runtime, threads)
        self.runtime = self._engine.name
        try:
            self._by_length = self._signatures(manifest.model.signatures)
        except BaseException:
            self._engine.close()
            raise

    def fall_back(self, broke: Callable[[RefusedError], None]) -> None:
        """Runs the processor as soon as the accelerator refuses; `broke` is told why it did."""
        self._engine = FallingBack(self._engine, self._open, broke)

    def _signatures(self, specs: list[SignatureSpec]) -> dict[int, SignatureSpec]:
        """Signatures by the length of their ids; the first input takes the ids."""
        found = {}
        for spec in specs:
            if spec.name not in self._engine.signatures or not spec.inputs or not spec.outputs:
                raise RefusedError(
                    "bad-manifest",
                    f"the manifest names a signature {spec.name!r}; the model has "
                    f"{', '.join(self._engine.signatures)}",
                )
            if not spec.inputs[0].shape:
                raise RefusedError("bad-manifest", f"the ids of {spec.name!r} have no length")
            found[spec.inputs[0].shape[-1]] = spec
        return found

    def run(self, text: str) -> Raw:
        """Runs the model on one text; the output is as the model gave it.

        Raises:
            InputError: ``too-large``, ``bad-text``.
            RefusedError: ``bad-manifest``; ``model-failed``, also where a number is none.
        """
        outputs, encoded, spec = self._outputs(text)
        try:
            output = outputs[spec.outputs[0].name].reshape(-1)
        except KeyError:
            raise RefusedError(
                "bad-manifest", f"the model has no output {spec.outputs[0].name!r}"
            ) from None
        if output.size != len(self._facts.labels):
            raise RefusedError(
                "bad-manifest",
                f"the model gives {output.size} outputs for {len(self._facts.labels)} labels",
            )
        _expect_finite(output)
        return Raw(output, int(np.argmax(output)), encoded.truncated)

    def _outputs(self, text: str) -> tuple[dict[str, Tensor], Encoded, SignatureSpec]:
        """All that the model gives for a text, by name."""
        encoded = self._front.encode(text)
        spec = self._by_length.get(encoded.ids.shape[1])
        if spec is None:
            raise RefusedError("bad-manifest", f"no signature for {encoded.ids.shape[1]} ids")
        inputs = {spec.inputs[0].name: _cast(encoded.ids, spec.inputs[0])}
        for extra in spec.inputs[1:]:  # an attention mask
            inputs[extra.name] = _mask(encoded, extra)
        return self._engine.run(spec.name, inputs), encoded, spec

    def _logits(self, raw: Raw) -> Tensor:
        """float64[classes]: what the model gave, as numbers.

        Raises:
            RefusedError: ``model-failed``; with the manifest's scale they are none.
        """
        spec = next(iter(self._by_length.values())).outputs[0]
        logits: Tensor = raw.output.astype(np.float64)
        if spec.scale:
            with np.errstate(over="ignore"):
                logits = (logits - spec.zero_point) * spec.scale
            _expect_finite(logits)
        return logits

    def probabilities(self, raw: Raw) -> Tensor:
        """float64[classes]: softmax of the logits over the temperature, as the manifest says.

        Of a model that gives several labels: each label's sigmoid.

        Raises:
            RefusedError: ``model-failed``; with the manifest's scale the logits are no numbers.
        """
        logits = self._logits(raw)
        if self._facts.cuts:
            chances: Tensor = expit(logits / self._facts.temperature)
            return chances
        logits = (logits - logits.max()) / self._facts.temperature
        exponents = np.exp(logits)
        result: Tensor = exponents / exponents.sum()
        return result

    def features(self, text: str) -> Features:
        """What lessons keep of an example.

        Raises:
            InputError: ``too-large``, ``bad-text``; ``wrong-task``, the model gives several labels.
            RefusedError: ``model-failed``.
        """
        if self._facts.cuts:
            raise InputError(
                "wrong-task",
                f"{self.ref} gives a text several labels; only models of one label can be taught: "
                "build it again with more rows",
            )
        return features(self._logits(self.run(text)), text)

    def classify(self, text: str, top_k: int = 3, head: Head | None = None) -> Classified:
        """Classifies one text.

        Args:
            text: at most the protocol's cap of bytes.
            top_k: how many labels to list.
            head: what was taught beside this model; None: nothing.

        Raises:
            InputError: ``too-large``, ``bad-text``.
            RefusedError: ``model-failed``.
        """
        start = time.perf_counter()
        raw = self.run(text)
        shares = self.probabilities(raw)
        if self._facts.cuts:
            return self._several(raw, shares, top_k, start)
        order = np.argsort(-shares, kind="stable")[:top_k]
        labels = self._facts.labels
        top = [Scored(labels[i], round(float(shares[i]), 6)) for i in order]
        confidence = float(shares[raw.best])
        sure = confidence >= self._facts.threshold
        said = None
        if head is not None:
            said = head.judge(self._logits(raw), confidence, text, labels[raw.best])
        if said is not None:
            scored = [Scored(said[0], round(said[1], 6))]
            rest = [one for one in top if one.label != said[0]]
            scored += [Scored(o.label, round(o.confidence * (1 - said[1]), 6)) for o in rest]
            return Classified(
                label=said[0],
                confidence=round(said[1], 6),
                top=scored[:top_k],
                bundle=self.ref,
                latency_us=round((time.perf_counter() - start) * 1e6, 1),
                truncated=raw.truncated,
                taught=True,
            )
        return Classified(
            label=labels[raw.best] if sure else UNKNOWN,
            confidence=round(confidence, 6),
            top=top,
            bundle=self.ref,
            latency_us=round((time.perf_counter() - start) * 1e6, 1),
            truncated=raw.truncated,
            best=None if sure else labels[raw.best],
        )

    def _several(self, raw: Raw, shares: Tensor, top_k: int, start: float) -> Classified:
        """The answer of a model that gives several labels: by its integers alone."""
        if raw.output.dtype != np.int8:
            raise RefusedError("bad-manifest", "cuts are of int8 outputs; the model gives others")
        outputs: Tensor = raw.output.astype(np.int64)
        order = [int(i) for i in np.argsort(-outputs, kind="stable")]
        labels, cuts = self._facts.labels, self._facts.cuts
        scored = [Scored(labels[i], round(float(shares[i]), 6)) for i in order]
        said = [one for i, one in zip(order, scored, strict=True) if outputs[i] >= cuts[i]]
        first = said[0] if said else Scored(UNKNOWN, scored[0].confidence)
        return Classified(
            label=first.label,
            confidence=first.confidence,
            top=scored[:top_k],
            bundle=self.ref,
            latency_us=round((time.perf_counter() - start) * 1e6, 1),
            truncated=raw.truncated,
            best=None if said else scored[0].label,
            labels=said[: limits.MAX_SAID],
        )

    def embed(self, text: str) -> Embedded:
        """A text as a vector of length 1.

        Args:
            text: at most the protocol's cap of bytes.

        Raises:
            InputError: ``no-embedding``; the model is no encoder. ``too-large``, ``bad-text``.
            RefusedError: ``model-failed``.
        """
        start = time.perf_counter()
        if not any(
            output.name == EMBEDDING for s in self.manifest.model.signatures for output in s.outputs
        ):
            raise InputError(
                "no-embedding",
                f"{self.ref} gives no embeddings; bundles of encoders do (student.family: encoder)",
            )
        outputs, encoded, _ = self._outputs(text)
        try:
            found = outputs[EMBEDDING].reshape(-1)
        except KeyError:
            raise RefusedError("bad-manifest", f"the model has no output {EMBEDDING!r}") from None
        if found.size > limits.MAX_EMBEDDING:
            raise RefusedError("bad-manifest", f"an embedding of {found.size} numbers")
        _expect_finite(found)
        return Embedded(
            embedding=[round(float(value), 7) for value in found],
            bundle=self.ref,
            tokens=encoded.used,
            latency_us=round((time.perf_counter() - start) * 1e6, 1),
            truncated=encoded.truncated,
        )

    def probe(self) -> None:
        """Encodes texts that may take a tokenizer long.

        Raises:
            RefusedError: ``bad-tokenizer``.
        """
        self._front.probe()

    def warm_up(self) -> None:
        """Runs every signature once, so that the first request is not the slow one.

        Raises:
            RefusedError: ``model-failed``.
            OSError: there is no memory for its inputs.
        """
        with refusing("warming up"):
            for spec in self._by_length.values():
                self._engine.run(
                    spec.name, {i.name: np.zeros(i.shape, np.dtype(i.dtype)) for i in spec.inputs}
                )

    def selftest(self, bundle: Bundle, checkpoint: Callable[[], None] = lambda: None) -> Selftested:
        """Replays the golden vectors; `checkpoint` is called before each."""
        return golden.replay(self, bundle.golden(), self.manifest.golden, checkpoint)

    def close(self) -> None:
        """Frees the model."""
        self._engine.close()


def load(bundle: Bundle, options: Options) -> Classifier:
    """The loader of classify bundles for :mod:`agent.runtime.model`."""
    return Classifier(
        bundle,
        runtime=options.runtime,
        threads=options.threads,
        cache=options.cache,
        accelerator=options.accelerator,
    )


def expit(logits: Tensor) -> Tensor:
    """Sigmoid, without an overflow: float64 of any shape."""
    found: Tensor = 0.5 * (1 + np.tanh(0.5 * logits))
    return found


def _cast(ids: Tensor, spec: TensorSpec) -> Tensor:
    return ids.astype(np.dtype(spec.dtype), copy=False)


def _expect_finite(values: Tensor) -> None:
    """Neither a best label nor a confidence follows from what is no number."""
    if not np.isfinite(values).all():
        raise RefusedError("model-failed", "the model gave numbers that are not finite")


def _mask(encoded: Encoded, spec: TensorSpec) -> Tensor:
    mask = np.zeros(encoded.ids.shape, np.dtype(spec.dtype))
    mask[0, : encoded.used] = 1
    return mask


def _unpacked(bundle: Bundle, runtime: str | None, threads: int) -> Runtime:
    """The model of a ``.shoal`` file; runtimes map a file, so it is written out for that."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="shoal-") as folder:
        path = Path(folder) / bundle.manifest.model.file
        path.write_bytes(bundle.read(bundle.manifest.model.file))
        return engine.open_model(
            path, runtime=runtime, wanted=bundle.manifest.model.runtimes, threads=threads
        )
