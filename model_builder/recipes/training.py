"""How a student is trained. Apart from the training: a recipe is read without TensorFlow."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec


class TrainOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long and how fast.

    Attributes:
        steps: of the optimiser at most.
        batch: pairs a step.
        learning_rate: at its highest.
        warmup: steps until then; a cosine follows.
        dropout: share.
        optimizer: ``adamw``, or ``muon`` for the matrices: fewer steps, each a little slower.
        half: compute products in bfloat16 while int8 rounding is not simulated. Processors with
            instructions for it train faster, others slower.
        quantize_aware: last share of the steps in which int8 rounding is simulated; 0: none.
        evaluate_every: steps between looks at the validation loss.
        patience: looks without a better loss that end the training.
        minutes: that it may take.
        seed: of weights and order.
    """

    steps: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 4000
    batch: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 2e-3
    warmup: Annotated[int, msgspec.Meta(ge=0)] = 200
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    optimizer: Literal["adamw", "muon"] = "adamw"
    half: bool = False
    quantize_aware: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    evaluate_every: Annotated[int, msgspec.Meta(ge=1)] = 250
    patience: Annotated[int, msgspec.Meta(ge=1)] = 6
    minutes: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    seed: int = 0
