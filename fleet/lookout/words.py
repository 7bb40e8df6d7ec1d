"""What people and programs are told of alerts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from fleet.alerts.rule import Rule
from fleet.store.alerts import Alert

MAX_LISTED: Final = 20
"""Alerts that one message lists; how many more there are it says."""


def facts_of(rule: Rule, some: Sequence[Alert]) -> dict[str, Any]:
    """The data of a webhook's event, of alerts that all opened or all resolved."""
    what = "resolved" if some[0].status == "resolved" else "opened"
    return {
        "rule": rule.id,
        "title": rule.title,
        "kind": rule.kind,
        "threshold": rule.threshold,
        "count": len(some),
        "message": f"{rule.title}: {len(some)} {what}; {some[0].message}",
        "alerts": [
            {
                "id": one.id,
                "subject": one.subject,
                "device": one.device,
                "value": one.value,
                "message": one.message,
                "since": one.since,
                "opened_at": one.opened_at,
                "resolved_at": one.resolved_at,
            }
            for one in some[:MAX_LISTED]
        ],
    }


def compose(fleet: str, url: str, rule: Rule, some: Sequence[Alert]) -> tuple[str, str]:
    """Subject and text of a mail."""
    opened = [one for one in some if one.status == "open"]
    resolved = [one for one in some if one.status == "resolved"]
    said = []
    if opened:
        said.append(f"{len(opened)} open" if len(opened) > 1 else opened[0].subject)
    if resolved:
        first = f"{len(resolved)}" if len(resolved) > 1 or opened else resolved[0].subject
        said.append(f"{first} resolved")
    subject = f"[{fleet}] {rule.title}: {', '.join(said)}"
    lines = [
        f"Rule {rule.id}: {rule.title} (threshold {rule.threshold:.10g}, {rule.about.unit})",
        "",
    ]
    for title, which in (("Opened", opened), ("Resolved", resolved)):
        if not which:
            continue
        lines.append(f"{title} ({len(which)}):")
        for one in which[:MAX_LISTED]:
            until = f" to {_clock(one.resolved_at)}" if one.resolved_at is not None else ""
            lines.append(f"- {_plain(one.message)} (since {_clock(one.since)}{until})")
        if len(which) > MAX_LISTED:
            lines.append(f"- and {len(which) - MAX_LISTED} more")
        lines.append("")
    lines.append(f"All alerts: {url}/ui/alerts")
    lines.append(f"To hear nothing of this rule for a while: shoal fleet alert silence {rule.id}")
    return subject, "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Devices' own words, without what steers a terminal or a mail program."""
    return "".join(c if c.isprintable() else " " for c in text)


def _clock(moment: float | None) -> str:
    if moment is None or not 0 <= moment < 1e11:
        return "unknown time"
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment))
