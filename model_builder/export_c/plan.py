"""Places tensors in one arena so that those alive at the same time do not overlap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from contracts.errors import InputError
from model_builder.export_c.graph import Graph

_ALIGN: Final = 8


@dataclass(frozen=True)
class Plan:
    """Where each computed tensor is in the arena, by its index, and the arena's bytes."""

    offsets: dict[int, int]
    arena_bytes: int


def plan(graph: Graph) -> Plan:
    """Largest first, each at the lowest place free for its life; a reshape shares its input's.

    Raises:
        InputError: ``bad-model``; a tensor is used before it is computed.
    """
    owner = {i: i for i in range(len(graph.tensors))}
    for op in graph.operators:
        if op.name == "RESHAPE":
            owner[op.outputs[0]] = owner[op.inputs[0]]
    end = len(graph.operators)
    first: dict[int, int] = {owner[i]: -1 for i in graph.inputs}
    last: dict[int, int] = {owner[i]: end for i in graph.inputs}
    for step, op in enumerate(graph.operators):
        for index in op.inputs:
            if index >= 0 and graph.tensors[index].data is None:
                if owner[index] not in first:
                    raise InputError("bad-model", "a tensor is used before it is computed")
                last[owner[index]] = max(last[owner[index]], step)
        for index in op.outputs:
            first.setdefault(owner[index], step)
            last[owner[index]] = max(last.get(owner[index], step), step)
    for index in graph.outputs:
        if owner[index] not in first:
            raise InputError("bad-model", "an output is never computed")
        last[owner[index]] = end
    offsets: dict[int, int] = {}
    done: list[tuple[int, int, int]] = []
    total = 0
    for index in sorted(first, key=lambda i: -graph.tensors[i].size):
        size = -(-graph.tensors[index].size // _ALIGN) * _ALIGN
        at = 0
        for start, stop, other in sorted(done):
            alive = first[other] <= last[index] and first[index] <= last[other]
            if alive and start < at + size and at < stop:
                at = stop
        offsets[index] = at
        done.append((at, at + size, index))
        total = max(total, at + size)
    return Plan({i: offsets[owner[i]] for i in owner if owner[i] in offsets}, total)
