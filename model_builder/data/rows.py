"""One labelled text."""

from __future__ import annotations

import msgspec


class Row(msgspec.Struct, frozen=True):
    """A text with its label.

    Attributes:
        text: the input.
        label: the class; empty: unlabelled.
        group: rows of one group never fall into different splits; empty: its own group.
    """

    text: str
    label: str = ""
    group: str = ""
