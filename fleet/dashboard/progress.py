"""Where all devices of a rollout are: also those that wait, are away, or were left out. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from fleet.conductor.ahead import Ahead


class Line(msgspec.Struct, frozen=True):
    """So many devices, what they are doing, and what is to be known of it.

    `kind`: ``ok``, ``bad``, ``warn`` or empty.
    """

    count: int
    text: str
    note: str = ""
    kind: str = ""


class Progress(msgspec.Struct, frozen=True):
    """Counts of a rollout's devices.

    Attributes:
        by_wave: members by wave and phase.
        away: members on their way that are not connected.
        causes: why devices failed, in words, with how many.
        lost: of those that are away, how many went in the middle of the update.
        ahead: those that are no members; None: the rollout has ended.
    """

    by_wave: Mapping[int, Mapping[str, int]]
    away: int
    causes: Mapping[str, int]
    lost: int
    ahead: Ahead | None

    @property
    def to_come(self) -> int:
        """Devices that a later wave gives the version."""
        return self.ahead.to_come if self.ahead else 0

    @property
    def lines(self) -> list[Line]:
        """Every device once; lines without any are left out."""
        phases: dict[str, int] = {}
        for found in self.by_wave.values():
            for phase, members in found.items():
                phases[phase] = phases.get(phase, 0) + members

        def count(*names: str) -> int:
            return sum(phases.get(name, 0) for name in names)

        causes = sorted(self.causes.items(), key=lambda row: -row[1])
        why = "; ".join(f"{times:,}: {cause}" for cause, times in causes[:5])
        gone = f"{self.lost:,} of them in the middle of the update, which counts as failed"
        lines = [
            Line(count("confirmed"), "have the version", kind="ok"),
            Line(count("trial"), "try it now"),
            Line(
                count("assigned", "updating"),
                "were told to get it",
                f"{self.away:,} on their way are not connected now" if self.away else "",
            ),
            Line(
                count("deferred"),
                "are away and get it when they are back",
                gone if self.lost else "",
                "warn",
            ),
            Line(count("failed"), "failed", why, "bad"),
            Line(count("undoing"), "are going back to their old version", kind="warn"),
            Line(count("undone"), "went back to their old version"),
            Line(count("undo-failed"), "could not go back", kind="bad"),
            Line(count("removed"), "left the fleet meanwhile"),
        ]
        ahead = self.ahead
        if ahead is not None:
            absent = f"{ahead.away:,} of them are not connected now" if ahead.away else ""
            lines.append(Line(ahead.to_come, "wait for their wave", absent))
            lines.append(Line(ahead.have_it, "had the version before"))
            lines += [
                Line(held, f"are held by rollout {rollout}", kind="warn")
                for rollout, held in sorted(ahead.held.items())
            ]
            lines += [
                Line(left, "are left out", reason, "warn")
                for reason, left in sorted(ahead.left_out.items(), key=lambda row: -row[1])[:8]
            ]
        return [line for line in lines if line.count]
