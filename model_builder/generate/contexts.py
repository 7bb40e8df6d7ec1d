"""How long texts an imported decoder takes: by its own window and the memory of boards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from contracts.board import Board
from contracts.limits import MIB
from model_builder.generate.weights import DecoderConfig

ALWAYS: Final = (128, 256, 512)
LONGEST: Final = 8192
ROOM: Final = 32 * MIB
"""Bytes for keys and values where no board is named."""


def chosen(
    config: DecoderConfig, cache: Literal["float32", "int8"], weights: int, boards: Sequence[Board]
) -> list[int]:
    """Sizes of the cache, each twice the one before, so that a short text pays for no long one.

    Args:
        config: whose window is the bound.
        cache: how keys and values are kept.
        weights: bytes that the loaded weights take.
        boards: each of which keys and values fit, in half of what its memory has beside the
            weights; a cache that grows is there twice for a moment.
    """
    vector = config.head_size + 4 if cache == "int8" else 4 * config.head_size
    position = 2 * config.layers * config.kv_heads * vector
    room = min(((board.model_ram_bytes - weights) // 2 for board in boards), default=ROOM)
    sizes = list(ALWAYS)
    most = min(config.trained_context, LONGEST)
    while sizes[-1] * 2 <= most and sizes[-1] * 2 * position <= room:
        sizes.append(sizes[-1] * 2)
    return sizes
