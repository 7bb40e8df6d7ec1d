"""Decides from what the database and the broker say whether a controller may speak. No I/O.

Two controllers on one database settle it there, by a lease. Two on different databases (one was
restored or copied from the other) meet at the broker alone, where the owner's document stands.
The hard case is a copy that was made while the owner ran: it knows the owner's fence as its own.
What tells them apart is that the owner lives and does not renew its lease in the copy.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from contracts.desired import Owner
from fleet.store.ownership import Known

PATIENCE_S: Final = 30.0
"""Seconds in which an owner that does not renew its lease must be gone from the broker.

One that hangs is: the broker ends its connection after one and a half times the keep-alive. Where
the broker fell with its owner, as in a power cut, nobody took the word back.
"""

ANSWER_S: Final = 10.0
"""Seconds in which an owner whose word was taken back for it puts it there again, if it lives."""

Do = Literal[
    "wait", "claim", "outrun", "speak", "follow", "yield", "ask", "contest", "settle", "stand-back"
]


class Standing(msgspec.Struct, frozen=True):
    """What a controller is to do, and why.

    Attributes:
        do: ``wait``: for another look. ``claim``: put the own document at the broker.
            ``outrun``: get a fence above the broker's, as a person has said. ``speak``: it is the
            owner. ``follow``: the owner uses the same database, and all on it may speak.
            ``yield``: another on the same database is the owner now: take the own word back.
            ``ask``: take the owner's word back for it, which it answers if it lives.
            ``contest``: note that the owner lives elsewhere. ``settle``: what was noted counts no
            more. ``stand-back``: another has the fleet.
        fence: with which it may speak; 0: it may not.
        reason: for people; empty where all is well.
    """

    do: Do
    fence: int = 0
    reason: str = ""


class View(msgspec.Struct, frozen=True):
    """What the broker shows.

    Attributes:
        owner: the document; None: there is none, or `unreadable`.
        unreadable: there is one, but it cannot be read.
        settled: enough time has passed for another's document to arrive.
        held: the fence under which the own document was seen there, by this connection; 0: not.
        renewing: whoever the document names has renewed its lease in the database within the
            length of one, by a clock that nobody sets.
        absent_s: seconds for which it has not, while it was online.
        asked_s: seconds since its word was taken back for it; None: it was not.
    """

    owner: Owner | None = None
    unreadable: bool = False
    settled: bool = True
    held: int = 0
    renewing: bool = False
    absent_s: float = 0.0
    asked_s: float | None = None


def judge(instance: str, known: Known, view: View) -> Standing:
    """What a controller is to do.

    Args:
        instance: which process it is.
        known: the database's word, just read.
        view: the broker's.
    """
    owner, newest = view.owner, known.newest
    leads = known.holder == instance and newest is not None and newest.instance == instance
    if owner is None and not view.unreadable:
        return _unowned(known, view, leads=leads)
    if (
        owner is None
        or newest is None
        or owner.database != known.database
        or known.fences.get(owner.fence) != owner.instance
    ):
        return _foreign(known, view, leads=leads)
    mine = owner.instance == instance
    gone = not mine and owner.state == "online" and not view.renewing
    if known.granted:
        if leads and (gone or known.behind):
            return _outrun(known)
        if not known.behind:
            return Standing("settle")
    if known.contested is not None:
        if mine or view.renewing:
            return Standing("settle")
        return Standing("stand-back", reason=_twin(owner))
    if view.asked_s is not None and not mine and view.asked_s < ANSWER_S:
        return Standing("wait", reason=f"waiting whether {_who(owner)} answers")
    if gone:
        if view.asked_s is not None:
            return Standing("contest", reason=_twin(owner))
        return Standing(
            "ask" if leads and view.absent_s >= PATIENCE_S else "wait",
            reason=f"waiting for {_who(owner)} to renew its lease, or to go",
        )
    if not leads:
        if mine and owner.state == "online" and newest.instance != instance:
            return Standing("yield", reason="another controller takes the fleet over")
        if owner.fence != newest.fence or owner.state != "online":
            return Standing("wait", reason="waiting for the new owner's word at the broker")
        if not view.settled:
            return Standing("wait", reason=f"waiting whether {_who(owner)} keeps the fleet")
        return Standing("follow", newest.fence)
    if not mine or owner.fence != newest.fence or owner.state != "online":
        return Standing("claim", reason="taking the fleet")
    if not view.settled:
        return Standing("wait", reason="waiting whether another takes the fleet as well")
    return Standing("speak", newest.fence)


def _unowned(known: Known, view: View, *, leads: bool) -> Standing:
    if known.contested is not None and not known.granted:
        who = f"the controller {known.contested.instance}"
        return Standing("stand-back", reason=_copy(who))
    if not view.settled:
        return Standing("wait", reason="waiting for an owner's word at the broker")
    if leads:
        return _outrun(known) if known.behind else Standing("claim", reason="taking the fleet")
    return Standing("wait", reason="waiting for another controller to take the fleet")


def _foreign(known: Known, view: View, *, leads: bool) -> Standing:
    owner = view.owner
    if known.granted and leads:
        return _outrun(known)
    if leads and view.held and (owner is None or owner.fence <= view.held):
        # It came after our own word, and with no higher fence: it was not first.
        return Standing("claim", reason="another controller came later")
    if owner is None:
        return Standing("stand-back", reason=_nothing("an owner that this version cannot read"))
    kind = "another copy of this" if owner.database == known.database else "another"
    return Standing("stand-back", reason=_nothing(f"{_who(owner)}, with {kind} database,"))


def _outrun(known: Known) -> Standing:
    """With a fence above the other's, and above what devices hold, given to this process for it."""
    assert known.newest is not None
    ready = known.outran == known.newest.fence and not known.behind
    return Standing(
        "claim" if ready else "outrun", reason="taking the fleet from another controller"
    )


def _twin(owner: Owner) -> str:
    return _copy(_who(owner))


def _copy(who: str) -> str:
    return _nothing(f"{who}, which does not use this database (is this one a copy?),")


def _nothing(who: str) -> str:
    return (
        f"{who} has this fleet: this controller sends nothing; to give the fleet to this one, run "
        "`shoal fleet takeover` on its folder"
    )


def _who(owner: Owner) -> str:
    return f"the controller {owner.instance} on {owner.host}"


def is_anothers(document: Owner, instance: str) -> bool:
    """Whether another process has the fleet, by its word."""
    return document.instance != instance and document.state == "online"


def beats(other: Owner, own: Owner) -> bool:
    """Whether another's word, which came first, stands against ours."""
    return (other.database, other.instance) != (own.database, own.instance) and (
        other.fence >= own.fence
    )
