"""``shoal-agent samples``: the hard examples that this device keeps, for its owner.

And who asked for them, what may leave, and what has left.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import msgspec

from agent.cli import output
from agent.cli.device import read_config
from agent.serving import examples
from agent.sharing import giving
from agent.sharing.ledger import Ledger, State
from contracts.config import AgentConfig
from contracts.errors import InputError, UnavailableError


def samples(arguments: argparse.Namespace) -> int:
    """Shows them, the newest first; erases them; or shows and decides requests for them."""
    config = read_config(arguments.config)
    folder = arguments.config.resolve().parent / config.state_dir
    action = arguments.action
    if (action in ("approve", "refuse")) != (arguments.request is not None):
        raise InputError("bad-options", "approve and refuse need a request, and nothing else does")
    if arguments.erase:
        erased = examples.erase(folder)
        _show(arguments, {"erased": erased}, "erased" if erased else "there were none")
    elif action == "requests":
        _requests(arguments, folder, config)
    elif action == "audit":
        _audit(arguments, folder)
    elif action in ("approve", "refuse"):
        state: State = "approved" if action == "approve" else "refused"
        with Ledger(folder, make=False) as ledger:
            ask = ledger.decide(arguments.request, state, time.time())
        _show(arguments, ask, f"{ask.name}: {ask.state}; it holds for a week")
    else:
        _list(arguments, folder)
    return 0


def _show(arguments: argparse.Namespace, value: Any, said: str) -> None:
    if arguments.json:
        output.document(value)
    else:
        output.line(said)


def _list(arguments: argparse.Namespace, folder: Path) -> None:
    found = examples.read(folder)
    if arguments.json:
        output.document(found)
        return
    output.table(
        [
            _when(one.at),
            one.slot,
            one.label if one.meant is None else f"{one.label}, right is {one.meant}",
            f"{one.confidence:.3f}",
            ", ".join(one.reasons),
            _one_line(one.text),
        ]
        for one in found
    )


def _requests(arguments: argparse.Namespace, folder: Path, config: AgentConfig) -> None:
    """Each request, and of those that wait what would leave."""
    with Ledger(folder, make=False) as ledger:
        asks = ledger.asks(time.time())
    shown = []
    for ask in asks:
        texts: list[str] = []
        if ask.state == "waiting":
            try:
                texts = giving.would_leave(folder, config, ask)
            except UnavailableError:
                texts = []  # nothing is kept
        shown.append({**msgspec.to_builtins(ask), "would_leave": texts})
    if arguments.json:
        output.document(shown)
        return
    for ask, one in zip(asks, shown, strict=True):
        why = f" ({_one_line(ask.why)})" if ask.why else ""
        output.line(
            f"{ask.name}  {ask.state}  {_when(ask.at)}  {_one_line(ask.requester) or 'the fleet'} "
            f"asks for up to {ask.most} hard examples of {ask.model}{why}"
        )
        for text in one["would_leave"]:
            output.line(f"    {_one_line(text)}")


def _audit(arguments: argparse.Namespace, folder: Path) -> None:
    try:
        with Ledger(folder, make=False) as ledger:
            left = ledger.left()
    except UnavailableError:
        left = []
    if arguments.json:
        output.document(left)
        return
    if not left:
        output.line("nothing has left")
    output.table(
        [
            _when(one.at),
            one.ask,
            _one_line(one.requester) or "-",
            one.consent,
            one.model,
            "the fleet has it" if one.kept_at is not None else "sent",
            "(erased)" if one.text is None else _one_line(one.text),
        ]
        for one in left
    )


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def _one_line(text: str) -> str:
    """On one line, without what steers a terminal."""
    return "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split())
    )
