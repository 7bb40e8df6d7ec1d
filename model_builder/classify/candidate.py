"""A converted model with its front end: what is measured, and what goes into the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from contracts.errors import RefusedError
from contracts.manifest import Golden, GoldenVector, NgramFrontEnd, TokenizerFrontEnd
from contracts.text import NgramConfig
from model_builder import tflm
from model_builder.classify import footprint
from model_builder.convert import Runner, Runtime, runs_on_tflite_runtime
from model_builder.students.encoder import SIGNATURE_PREFIX, EncoderRunner
from model_builder.students.ids import encode

MODEL_FILE = "model.tflite"
GOLDEN_FILE = "golden.json"
TOKENIZER_FILE = "tokenizer.json"


class Agreement(msgspec.Struct, frozen=True):
    """LiteRT (XNNPACK) against TensorFlow Lite Micro.

    Attributes:
        texts: compared.
        steps: the largest difference of an output, in int8 steps.
        equal: share of all outputs that are equal.
        same_label: share of the texts on which both rank the same label first.
    """

    texts: int
    steps: int
    equal: float
    same_label: float


class Candidate(Protocol):
    """A model file that answers texts."""

    model: bytes
    quantization: Literal["int8", "dynamic-int8"]
    front_end: NgramFrontEnd | TokenizerFrontEnd
    files: dict[str, bytes]
    """More files of the bundle, by name."""

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """What the model file answers, dequantised: float32 [N, C]."""

    def arena(self, text: str) -> tflm.ArenaReport:
        """What TensorFlow Lite Micro says."""

    def agreement(self, texts: Sequence[str]) -> Agreement | None:
        """LiteRT against TensorFlow Lite Micro; None where that cannot run the model."""

    def cost(self, texts: Sequence[str]) -> footprint.Footprint:
        """Latency and memory on this machine."""

    def golden(self, texts: Sequence[str], labels: list[str]) -> list[GoldenVector]:
        """Golden vectors of `texts`."""

    def golden_rule(self, count: int) -> Golden:
        """What a device must reach on them."""

    def runtimes(self) -> list[Runtime]:
        """The runtimes that run it."""


class NgramCandidate:
    """A full int8 model over hashed n-grams."""

    quantization: Literal["int8", "dynamic-int8"] = "int8"

    def __init__(self, model: bytes, features: NgramConfig) -> None:
        self.model = model
        self.front_end: NgramFrontEnd | TokenizerFrontEnd = NgramFrontEnd(features)
        self.files: dict[str, bytes] = {}
        self._features = features
        self._runner = Runner(model)
        self._micro = True

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See :class:`Candidate`."""
        return self._runner.logits(encode(texts, self._features))

    def arena(self, text: str) -> tflm.ArenaReport:
        """See :class:`Candidate`."""
        report, _ = tflm.measure(self.model, encode([text], self._features))
        self._micro = report.arena_bytes is not None
        return report

    def agreement(self, texts: Sequence[str]) -> Agreement | None:
        """See :class:`Candidate`."""
        ids = encode(texts, self._features)
        _, micro = tflm.measure(self.model, ids)
        if micro is None:
            return None
        lite = self._runner.quantised(ids)
        steps = np.abs(lite.astype(np.int32) - micro.astype(np.int32))
        return Agreement(
            texts=len(ids),
            steps=int(steps.max()),
            equal=round(float((steps == 0).mean()), 5),
            same_label=round(float((lite.argmax(1) == micro.argmax(1)).mean()), 5),
        )

    def cost(self, texts: Sequence[str]) -> footprint.Footprint:
        """See :class:`Candidate`."""
        return footprint.measure(self.model, {"ids": encode(texts, self._features)})

    def golden(self, texts: Sequence[str], labels: list[str]) -> list[GoldenVector]:
        """LiteRT's outputs, which TensorFlow Lite Micro gives too where it can run the model.

        Raises:
            RefusedError: ``runtimes-disagree``; a defect of :mod:`model_builder.rounding`.
        """
        ids = encode(texts, self._features)
        outputs = self._runner.quantised(ids)
        _, micro = tflm.measure(self.model, ids)
        if micro is not None and not np.array_equal(outputs, micro):
            raise RefusedError(
                "runtimes-disagree",
                f"LiteRT and TensorFlow Lite Micro differ on "
                f"{int((outputs != micro).any(1).sum())} of {len(texts)} golden vectors",
            )
        return [
            GoldenVector(text, [int(v) for v in row], labels[int(row.argmax())])
            for text, row in zip(texts, outputs, strict=True)
        ]

    def golden_rule(self, count: int) -> Golden:
        """Every runtime gives the same integers."""
        return Golden(GOLDEN_FILE, count, max_steps=0)

    def runtimes(self) -> list[Runtime]:
        """See :class:`Candidate`."""
        found: list[Runtime] = ["litert"]
        if runs_on_tflite_runtime(self.model):
            found.append("tflite-runtime")
        if self._micro:
            found.append("tflm")
        return found


class EncoderCandidate:
    """A dynamic int8 encoder with a tokenizer."""

    quantization: Literal["int8", "dynamic-int8"] = "dynamic-int8"

    def __init__(self, model: bytes, tokenizer: Tokenizer, lengths: Sequence[int]) -> None:
        self.model = model
        self._lengths = sorted(lengths)
        tokenizer = Tokenizer.from_str(tokenizer.to_str())
        tokenizer.enable_truncation(self._lengths[-1])
        self._tokenizer = tokenizer
        self._runner = EncoderRunner(model, lengths)
        self.front_end: NgramFrontEnd | TokenizerFrontEnd = TokenizerFrontEnd(
            TOKENIZER_FILE, self._lengths
        )
        self.files = {TOKENIZER_FILE: tokenizer.to_str().encode()}

    def _rows(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See :class:`Candidate`."""
        return self._runner.logits(self._rows(texts))

    def arena(self, text: str) -> tflm.ArenaReport:
        """No microcontroller runs it: it has no tokenizer, and tens of megabytes."""
        return tflm.ArenaReport(None, "needs a tokenizer")

    def agreement(self, texts: Sequence[str]) -> Agreement | None:
        """Not on a microcontroller."""
        return None

    def cost(self, texts: Sequence[str]) -> footprint.Footprint:
        """Latency at the length that most texts have."""
        padded = [self._runner.padded(row) for row in self._rows(texts)]
        sizes = [ids.shape[1] for ids in padded]
        usual = max(set(sizes), key=sizes.count)
        ids = np.concatenate([row for row in padded if row.shape[1] == usual][:200])
        return footprint.measure(self.model, {"ids": ids}, f"{SIGNATURE_PREFIX}{usual}")

    def golden(self, texts: Sequence[str], labels: list[str]) -> list[GoldenVector]:
        """The labels alone: float outputs differ between processors."""
        best = self.logits(texts).argmax(axis=1)
        return [GoldenVector(text, [], labels[int(i)]) for text, i in zip(texts, best, strict=True)]

    def golden_rule(self, count: int) -> Golden:
        """A text in fifty may fall the other way on another processor."""
        return Golden(GOLDEN_FILE, count, 0, 0.98)

    def runtimes(self) -> list[Runtime]:
        """See :class:`Candidate`."""
        return ["litert", *(["tflite-runtime"] if runs_on_tflite_runtime(self.model) else [])]  # type: ignore[list-item]
