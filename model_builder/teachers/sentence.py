"""The encoder as a teacher: a probe on frozen embeddings, or fine-tuned as a whole."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from contracts.errors import InputError, RefusedError
from contracts.tokenizer import load
from contracts.tokenizer_probe import probe_apart
from model_builder import lazy_tensorflow as tf
from model_builder.cache import RowCache
from model_builder.checkpoint import Checkpoint
from model_builder.encoders.encoder import Encoder, pad_batch
from model_builder.encoders.finetune import finetune, length_batches
from model_builder.encoders.weights import EncoderFiles
from model_builder.recipes.teachers import TeacherConfig
from model_builder.schedule import passes
from model_builder.seeds import derive, some_of_each
from model_builder.teachers.base import Progress
from model_builder.teachers.probe import fit_probe
from model_builder.traced import Traced

_BATCH: Final = 128
_WORD: Final = re.compile(r"[\w']+", re.UNICODE)
_BEGINS: Final = "\u2581"
"""Begins a word, where a vocabulary is one of pieces."""

_USUAL_WORK: Final = 10_616_832
"""Products a token of the encoder for English, by whose speed times are foreseen."""

_NEAREST: Final = 8
_LEAST_COSINE: Final = 0.4


def load_tokenizer(path: Path, max_tokens: int) -> Tokenizer:
    """The tokenizer, cutting at `max_tokens` and never padding.

    Raises:
        InputError: ``bad-teacher``.
    """
    try:
        data = path.read_bytes()
        probe_apart(data, str(path))
        tokenizer: Tokenizer = load(data, str(path))
    except (RefusedError, OSError) as error:
        raise InputError("bad-teacher", f"{path}: {str(error)[:300]}") from None
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


class SentenceTeacher:
    """An encoder with a linear head.

    Args:
        files: of the encoder.
        config: the recipe's teacher section.
        labels: how many (C).
        cache: folder of the row cache.
        seed: of the fine-tuning.
        progress: is told of long work.
    """

    open_ended = True

    def __init__(
        self,
        files: EncoderFiles,
        config: TeacherConfig,
        classes: int,
        cache: Path,
        seed: int,
        progress: Progress,
    ) -> None:
        stated = f", {files.licence} licence" if files.licence else ""
        self.name = f"{files.origin} ({config.mode}{stated})"
        self.digest = files.sha256
        self.size_bytes = (files.folder / "model.safetensors").stat().st_size
        self.files = files
        self.encoder: Encoder = files.load()
        self.tokenizer = load_tokenizer(files.tokenizer, config.max_tokens)
        self._config = config
        self._classes = classes
        self._cache = cache
        self._seed = seed
        self._progress = progress
        width = self.encoder.config.hidden_size
        self.weight = tf.Variable(np.zeros((width, classes), np.float32), name="head")
        self.bias = tf.Variable(np.zeros(classes, np.float32), name="head_bias")
        self._state = f"{files.digest}/{config.max_tokens}/{config.precision}"
        self._dtype = getattr(tf, config.precision)
        forward = tf.function(
            lambda ids, mask: self.encoder(ids, mask, dtype=self._dtype),
            input_signature=[
                tf.TensorSpec([None, None], tf.int32),
                tf.TensorSpec([None, None], tf.float32),
            ],
            autograph=False,
        )
        self._forward = functools.cache(
            lambda: Traced(
                ("forward", self.encoder.config, config.precision),
                self.encoder.variables,
                forward.get_concrete_function,
            )
        )

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with the special tokens."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]

    def embeddings(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Sentence embeddings float32 [N, E], from the cache where they are there."""
        store = RowCache(self._cache, self._state, self.encoder.config.hidden_size)
        return store.get(texts, self._embed)

    def _embed(self, texts: list[str]) -> NDArray[np.float32]:
        rows = self.tokens(texts)
        out = np.zeros((len(rows), self.encoder.config.hidden_size), np.float32)
        done = 0
        for batch in length_batches([len(row) for row in rows], _BATCH, None):
            ids, mask = pad_batch([rows[i] for i in batch], 4)
            out[batch] = self._forward()(tf.constant(ids), tf.constant(mask)).numpy()
            done += len(batch)
            self._progress("teacher reads", done, len(rows))
        return out

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [N, C]."""
        values = self.embeddings(texts) @ self.weight.numpy() + self.bias.numpy()
        return np.asarray(values, np.float32)

    def train(self, texts: Sequence[str], targets: NDArray[np.int64]) -> None:
        """Fits the head, and with ``mode: finetune`` all of the encoder.

        Args:
            texts: of the training split.
            targets: int64 [N].
        """
        if self._config.mode == "finetune":
            self._finetune(texts, targets)
            return
        self._fit_head(texts, targets)

    def _fit_head(self, texts: Sequence[str], targets: NDArray[np.int64]) -> None:
        weight, bias = fit_probe(self.embeddings(texts), targets, self._classes)
        self.weight.assign(weight)
        self.bias.assign(bias)

    def _finetune(self, texts: Sequence[str], targets: NDArray[np.int64]) -> None:
        """Trains encoder and head together, from the head on the frozen encoder.

        That start keeps the features from distortion (A. Kumar et al., "Fine-Tuning can Distort
        Pretrained Features and Underperform Out-of-Distribution", 2022).
        """
        config = self._config
        seed = derive(self._seed, "finetune")
        if not config.epochs:
            read = sum(len(row) for row in self.tokens(texts))
            share = passes(len(texts), read * self.encoder.config.work / _USUAL_WORK)
            if share < 1:
                chosen = some_of_each(targets, int(share * len(texts)), seed)
                texts, targets = [texts[i] for i in chosen], targets[chosen]
            config = msgspec.structs.replace(config, epochs=max(1, round(share)))
        key = hashlib.sha256(
            msgspec.json.encode([self._state, config, seed, list(texts), targets.tolist()])
        ).hexdigest()
        smooth = config.smoothing
        goal = np.full((len(texts), self._classes), smooth / self._classes, np.float32)
        goal[np.arange(len(texts)), targets] += 1 - smooth
        finetune(
            self.encoder,
            self.weight,
            self.bias,
            self.tokens(texts),
            goal,
            config,
            seed,
            Checkpoint(self._cache, key),
            partial(self._fit_head, texts, targets),
            partial(self._progress, "teacher learns"),
        )
        self._state = key
        variables = [*self.encoder.trainable_variables, self.weight, self.bias]
        self.digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in variables)).hexdigest()

    def neighbours(self, texts: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """The nearest whole words in the encoder's own embedding table, by cosine.

        None where the table holds pieces of many languages: a word's nearest are its translations.
        """
        vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        if _BEGINS in vocabulary:
            return {}
        words = sorted(word for word in vocabulary if word.isalpha() and len(word) > 2)
        table = self.encoder.words.numpy()[[vocabulary[word] for word in words]]
        table /= np.linalg.norm(table, axis=1, keepdims=True)
        place = {word: index for index, word in enumerate(words)}
        wanted = sorted({w for text in texts for w in _WORD.findall(text.lower())} & set(place))
        found: dict[str, list[str]] = {}
        for first in range(0, len(wanted), 500):
            part = wanted[first : first + 500]
            scores = table[[place[word] for word in part]] @ table.T
            nearest = np.argsort(-scores, axis=1, kind="stable")[:, 1 : _NEAREST + 1]
            for word, columns, row in zip(part, nearest, scores, strict=True):
                near = [words[c] for c in columns if row[c] > _LEAST_COSINE]
                if near:
                    found[word] = near
        return found
