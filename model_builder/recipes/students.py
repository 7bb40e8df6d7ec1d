"""Shapes and trainings of students, as recipes give them. Imports nothing that trains."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from contracts.text import NgramConfig

Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Size = Annotated[int, msgspec.Meta(ge=1, le=4096)]
Times = Annotated[float, msgspec.Meta(ge=0, le=100)]


class NgramStudentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The shape of the student.

    Attributes:
        kind: ``bag``, or ``cnn`` with a convolution along the ids.
        features: the front end.
        dim: width of the table (D).
        hidden: width of the hidden layer (H); 0: none.
        max_pool: pool by the maximum too, not by the mean alone.
        kernel: width of the convolution.
        channels: of the convolution.
        clip: largest magnitude in the table, in units of the table's initial deviation.
    """

    kind: Literal["bag", "cnn"] = "bag"
    features: NgramConfig = NgramConfig()
    dim: Size = 48
    hidden: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 128
    max_pool: bool = True
    kernel: Annotated[int, msgspec.Meta(ge=1, le=16)] = 3
    channels: Size = 48
    clip: Annotated[float, msgspec.Meta(gt=0)] = 4.0


class TransformerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The shape and training of the small transformer.

    Attributes:
        layers: encoder layers, taken from the teacher's from the first on.
        epochs: over the soft-labelled text.
        batch: texts a step.
        rate: highest learning rate.
    """

    layers: Annotated[int, msgspec.Meta(ge=1, le=48)] = 2
    epochs: Annotated[int, msgspec.Meta(ge=1, le=100)] = 2
    batch: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 32
    rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 2e-4


class FitConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a student is trained.

    Attributes:
        epochs: passes over the data; 0: as many as `steps` need.
        steps: of training, where `epochs` is 0; rounded to whole epochs.
        batch: texts a step.
        rate: highest learning rate.
        weight_decay: decoupled (I. Loshchilov, F. Hutter, 2019).
        dropout: of the pooled features.
        feature_dropout: share of a text's ids hidden in a step, so that no single n-gram decides.
        quantise_from: share of the epochs after which the model is rounded as int8 will be.
        patience: epochs without a better validation score after which training stops; 0: never.
            The best epoch among the rounded ones is kept.
    """

    epochs: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    steps: Annotated[int, msgspec.Meta(ge=1)] = 9000
    batch: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 128
    rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 3e-3
    weight_decay: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1e-4
    dropout: Share = 0.1
    feature_dropout: Share = 0.1
    quantise_from: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    patience: Annotated[int, msgspec.Meta(ge=0)] = 0


class AugmentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many new texts of each kind, as a multiple of the training rows.

    Attributes:
        dropout: words left out.
        swap: neighbouring words swapped and some left out.
        substitute: words replaced by neighbours in the teacher's embedding table.
        mixed: replaced and left out.
        recombine: the head of one text and the tail of another.
        limit: at most so many in all.
        rate: share of the words that a change touches.
    """

    dropout: Times = 0.0
    swap: Times = 0.0
    substitute: Times = 0.0
    mixed: Times = 0.0
    recombine: Times = 0.0
    limit: Annotated[int, msgspec.Meta(ge=0)] = 200_000
    rate: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.25
