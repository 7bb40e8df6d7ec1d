"""The small transformer for single-board computers."""

from __future__ import annotations

from typing import Annotated

import msgspec

Size = Annotated[int, msgspec.Meta(ge=1, le=4096)]


class TransformerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The shape of the small transformer.

    Attributes:
        layers: encoder layers, taken from the teacher's from the first on.
    """

    layers: Annotated[int, msgspec.Meta(ge=1, le=12)] = 2
