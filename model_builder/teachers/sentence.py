"""The encoder as a teacher: a probe on frozen embeddings, or fine-tuned as a whole."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tokenizers import Tokenizer

from contracts.errors import InputError
from model_builder.cache import RowCache
from model_builder.checkpoint import Checkpoint, Saved
from model_builder.dropout import Dropout
from model_builder.fit import schedule
from model_builder.seeds import derive
from model_builder.teachers.base import Progress
from model_builder.teachers.config import TeacherConfig
from model_builder.teachers.encoder import Encoder, pad_batch
from model_builder.teachers.probe import fit_probe
from model_builder.teachers.weights import EncoderFiles

_BATCH: Final = 128
_WORD: Final = re.compile(r"[\w']+", re.UNICODE)
_NEAREST: Final = 8
_LEAST_COSINE: Final = 0.4


def load_tokenizer(path: Path, max_tokens: int) -> Tokenizer:
    """The tokenizer, cutting at `max_tokens` and never padding.

    Raises:
        InputError: ``bad-teacher``.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001  the library raises the bare class
        raise InputError("bad-teacher", f"{path}: {str(error)[:200]}") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def length_batches(
    lengths: Sequence[int], size: int, rng: np.random.Generator | None
) -> list[NDArray[np.int64]]:
    """Batches of rows of about one length, so that little is padding.

    Args:
        lengths: of the rows.
        size: rows a batch.
        rng: shuffles; rows are sorted by length within runs of 50 batches, and the batches are
            shuffled. None: sorted by length, in order.
    """
    count = len(lengths)
    size_of = np.asarray(lengths)
    if rng is None:
        order = np.argsort(size_of, kind="stable")
        return [order[i : i + size] for i in range(0, count, size)]
    order = rng.permutation(count)
    batches = []
    for first in range(0, count, size * 50):
        run = order[first : first + size * 50]
        run = run[np.argsort(size_of[run], kind="stable")]
        batches += [run[i : i + size] for i in range(0, len(run), size)]
    return [batches[i] for i in rng.permutation(len(batches))]


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

    def __init__(
        self,
        files: EncoderFiles,
        config: TeacherConfig,
        classes: int,
        cache: Path,
        seed: int,
        progress: Progress,
    ) -> None:
        self.name = f"{files.origin} ({config.mode})"
        self.digest = files.sha256
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
        self._state = f"{files.sha256}/{config.max_tokens}/{config.precision}"
        self._dtype = getattr(tf, config.precision)
        self._forward = tf.function(
            lambda ids, mask: self.encoder(ids, mask, dtype=self._dtype),
            input_signature=[
                tf.TensorSpec([None, None], tf.int32),
                tf.TensorSpec([None, None], tf.float32),
            ],
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
            out[batch] = self._forward(tf.constant(ids), tf.constant(mask)).numpy()
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
        variables = [*self.encoder.trainable_variables, self.weight, self.bias]
        key = hashlib.sha256(
            msgspec.json.encode([self._state, config, seed, list(texts), targets.tolist()])
        ).hexdigest()
        checkpoint = Checkpoint(self._cache, key)
        saved = checkpoint.load([tuple(v.shape) for v in variables])
        if saved is None or not saved.finished:
            if saved is None:
                self._fit_head(texts, targets)
            self._epochs(texts, targets, variables, checkpoint, saved, seed)
            saved = Saved(config.epochs, True, [v.numpy() for v in variables], [])
            checkpoint.save(saved)
        for variable, value in zip(variables, saved.arrays, strict=True):
            variable.assign(value)
        self._state = key
        self.digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in variables)).hexdigest()

    def _epochs(
        self,
        texts: Sequence[str],
        targets: NDArray[np.int64],
        variables: list[Any],
        checkpoint: Checkpoint,
        saved: Saved | None,
        seed: int,
    ) -> None:
        config = self._config
        optimizer = tf.keras.optimizers.AdamW(weight_decay=0.01, beta_2=0.98)
        optimizer.build(variables)
        state = [*variables, *optimizer.variables]
        if saved is not None:
            for variable, value in zip(state, saved.arrays, strict=True):
                variable.assign(value)
        rows = self.tokens(texts)
        lengths = [len(row) for row in rows]
        steps = -(-len(rows) // config.batch) * config.epochs
        smooth = config.smoothing

        @tf.function(  # type: ignore[untyped-decorator]
            input_signature=[
                tf.TensorSpec([None, None], tf.int32),
                tf.TensorSpec([None, None], tf.float32),
                tf.TensorSpec([None], tf.int32),
                tf.TensorSpec([2], tf.int32),
            ]
        )
        def step(ids: Any, mask: Any, wanted: Any, draw: Any) -> Any:
            with tf.GradientTape() as tape:
                dropout = Dropout(config.dropout, draw)
                hidden = self.encoder(ids, mask, dropout, self._dtype)
                logits = tf.matmul(dropout(hidden), self.weight) + self.bias
                goal = tf.one_hot(wanted, self._classes) * (1 - smooth) + smooth / self._classes
                loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(goal, logits))
            gradients = tape.gradient(loss, variables)
            gradients, _ = tf.clip_by_global_norm(gradients, 1.0)
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return loss

        first = saved.epoch if saved else 0
        done = first * (steps // config.epochs)
        for epoch in range(first, config.epochs):
            rng = np.random.default_rng([seed, epoch])
            for batch in length_batches(lengths, config.batch, rng):
                ids, mask = pad_batch([rows[i] for i in batch], 4)
                optimizer.learning_rate.assign(schedule(done, steps, config.rate))
                wanted = tf.constant(targets[batch], tf.int32)
                step(tf.constant(ids), tf.constant(mask), wanted, tf.constant([seed, done]))
                done += 1
                self._progress("teacher learns", done, steps)
            if epoch + 1 < config.epochs:
                checkpoint.save(Saved(epoch + 1, False, [v.numpy() for v in state], []))

    def neighbours(self, texts: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """The nearest whole words in the encoder's own embedding table, by cosine."""
        vocabulary: dict[str, int] = self.tokenizer.get_vocab()
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
