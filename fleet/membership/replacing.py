"""Boards that take the place of another: the one that was replaced is told, and out.

Its certificates count no more with the enrolment of the new one; its name goes on, so the access
list does not deny it: its open connection is ended.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contracts.config import AgentConfig
from fleet.folder import Fleet
from fleet.membership import leaving


def admit(
    fleet: Fleet, device: str, board: str, *, replace: bool, **options: Any
) -> tuple[AgentConfig, Path]:
    """As :meth:`fleet.folder.Fleet.enroll`, with `replace` to its end."""
    made = fleet.enroll(device, board, replace=replace, **options)
    if replace:
        leaving.replaced(fleet, device)
    return made


def admit_by_token(fleet: Fleet, token: str, request: bytes) -> AgentConfig:
    """As :meth:`fleet.folder.Fleet.redeem`, with a replacement to its end."""
    replaces = fleet.open_identity().invited(token).replaces
    config = fleet.redeem(token, request)
    if replaces:  # before the answer: the new board is not connected yet
        leaving.replaced(fleet, config.device)
    return config
