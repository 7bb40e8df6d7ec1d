"""Keys and values of earlier texts, so that a common beginning is computed once.

Sessions (a client's chat that goes on) and prefixes (a system prompt that many share) are the
same thing here: snapshots by name, the least recently used dropped when the budget is full.
"""

from __future__ import annotations

from collections import OrderedDict

from agent.generate.decoder import Decoder, Snapshot

DEFAULT_BUDGET = 32 * 1024 * 1024
_MIN_TOKENS = 8


def shared_prefix(a: list[int], b: list[int]) -> int:
    """How many first tokens two texts share."""
    for index, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return index
    return min(len(a), len(b))


class PrefixCache:
    """Snapshots within a budget of bytes.

    Args:
        budget: bytes that all snapshots together may take; 0 keeps none.

    Attributes:
        owner: whose snapshots count now: what one adapter computed is nothing to another.
    """

    def __init__(self, budget: int = DEFAULT_BUDGET) -> None:
        self._budget = budget
        self._kept: OrderedDict[tuple[str, str], Snapshot] = OrderedDict()
        self.owner = ""

    @property
    def nbytes(self) -> int:
        """Bytes that the snapshots take."""
        return sum(snapshot.nbytes for snapshot in self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)

    def prepare(self, decoder: Decoder, ids: list[int]) -> int:
        """Makes the decoder hold as much of the beginning of `ids` as is known.

        One token at least is left to compute, because its logits are wanted.

        Returns:
            How many tokens need no computing.
        """
        live = min(shared_prefix(decoder.ids, ids), len(ids) - 1)
        best, name = live, None
        for key, snapshot in self._kept.items():
            if key[0] != self.owner:
                continue
            count = min(shared_prefix(snapshot.ids, ids), len(ids) - 1)
            if count > best + _MIN_TOKENS:
                best, name = count, key
        if name is not None:
            self._kept.move_to_end(name)
            decoder.restore(self._kept[name], best, room=len(ids))
        else:
            decoder.truncate(live)
        return best

    def keep(self, name: str, decoder: Decoder, count: int | None = None) -> None:
        """Keeps the decoder's first `count` tokens (all of them by default) under a name."""
        count = len(decoder.ids) if count is None else min(count, len(decoder.ids))
        key = self.owner, name
        old = self._kept.get(key)
        if count < _MIN_TOKENS or (old is not None and old.ids == decoder.ids[:count]):
            return
        if decoder.bytes_of(count) > self._budget:
            return
        self._kept.pop(key, None)
        while self._kept and self.nbytes + decoder.bytes_of(count) > self._budget:
            self._kept.popitem(last=False)
        self._kept[key] = decoder.snapshot(count)

    def clear(self) -> None:
        """Drops every snapshot."""
        self._kept.clear()
