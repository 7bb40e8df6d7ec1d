"""Contexts of an import are those that the model was trained on and boards have room for."""

from __future__ import annotations

import dataclasses

import pytest

from contracts import board as boards
from contracts.limits import MIB
from model_builder.generate.contexts import ALWAYS, LONGEST, ROOM, chosen
from model_builder.generate.weights import DecoderConfig

SMOL = DecoderConfig(
    vocabulary=49152, layers=30, width=576, hidden=1536, heads=9, kv_heads=3, head_size=64,
    trained_context=8192,
)  # fmt: skip


def _bytes(config: DecoderConfig, positions: int) -> int:
    return 2 * config.layers * config.kv_heads * (config.head_size + 4) * positions


def test_contexts_end_where_the_room_or_the_window_does() -> None:
    """SmolLM2 has room for 2,048 where no board is named; a smaller model for all that it knows."""
    found = chosen(SMOL, "int8", 135 * MIB, [])
    assert found == [128, 256, 512, 1024, 2048]
    assert _bytes(SMOL, found[-1]) <= ROOM < _bytes(SMOL, 2 * found[-1])
    small = dataclasses.replace(SMOL, layers=4)
    assert chosen(small, "int8", MIB, [])[-1] == 8192
    assert chosen(dataclasses.replace(small, trained_context=3000), "int8", MIB, [])[-1] == 2048
    endless = dataclasses.replace(small, trained_context=131072)
    assert chosen(endless, "int8", MIB, [])[-1] == LONGEST
    assert chosen(SMOL, "float32", MIB, [])[-1] < 2048


@pytest.mark.parametrize("name", boards.names())
def test_a_board_bounds_them(name: str) -> None:
    """Keys and values of the longest text fit beside the weights, and the usual sizes are there."""
    board = boards.load(name)
    found = chosen(SMOL, "int8", 135 * MIB, [board])
    assert tuple(found[:3]) == ALWAYS and found[-1] <= LONGEST
    if found[-1] > ALWAYS[-1]:
        assert 135 * MIB + 2 * _bytes(SMOL, found[-1]) <= board.model_ram_bytes
    # The least of several boards counts.
    assert chosen(SMOL, "int8", 135 * MIB, [board, boards.load("raspberry-pi-5")])[-1] <= found[-1]
