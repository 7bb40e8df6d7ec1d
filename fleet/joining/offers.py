"""Offers: the one line for each device that is to join, with all that must hold before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from contracts.errors import InputError
from contracts.files import typed
from fleet.folder import Fleet
from fleet.joining import command, installer, invitations
from fleet.joining.invitations import Wanted
from fleet.membership import leaving
from fleet.store.entries import Actor


class Offer(msgspec.Struct, frozen=True):
    """What is typed on a board, once.

    Attributes:
        device, board: for whom.
        token: the secret in the line.
        line: for a shell.
    """

    device: str
    board: str
    token: str
    line: str


def make(
    fleet: Fleet,
    wanted: Sequence[Wanted],
    *,
    seconds: float,
    replace: bool = False,
    actor: Actor | None = None,
) -> list[Offer]:
    """Lines in the order of the devices; all of them, or none.

    Raises:
        InputError: ``tls-needed``, and what :func:`~fleet.joining.invitations.invite` raises.
        UnavailableError: ``name-not-free``.
    """
    if not fleet.api_url.startswith("https://"):
        raise InputError(
            "tls-needed",
            "boards join by a line only where the API has TLS: make the fleet with "
            "`shoal fleet init --host NAME`",
        )
    for one in wanted:
        leaving.free(fleet, one.device)
    tokens = invitations.invite(fleet, wanted, seconds=seconds, replace=replace, actor=actor)
    return [
        Offer(one.device, one.board, token, command.line(fleet, token))
        for one, token in zip(wanted, tokens, strict=True)
    ]


def missing(fleet: Fleet, boards: Iterable[str]) -> list[str]:
    """What to run first: a command for each board for which there is nothing to install."""
    return [
        f"shoal fleet agent fetch --platform {board} --python VERSION --dir {typed(fleet.folder)}"
        for board in sorted(set(boards))
        if not installer.has_release(fleet, board)
    ]
