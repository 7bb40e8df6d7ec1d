"""What must hold after everything went wrong."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import msgspec

from tests.soak.rollouts import BAD, ENDED
from tests.soak.witness import Key, count, missing


class Check(msgspec.Struct):
    """What must hold, and what was seen."""

    name: str
    holds: bool
    seen: str


class Outcome(msgspec.Struct):
    """What a run found.

    Attributes:
        figures: by name.
        checks: all of them.
        story: when what was done, seconds from the beginning.
    """

    figures: dict[str, int | float]
    checks: list[Check]
    story: list[tuple[float, str]]

    @property
    def holds(self) -> bool:
        """Everything does."""
        return all(check.holds for check in self.checks)


def samples(payload: bytes) -> int:
    """Samples of a batch."""
    return len(json.loads(payload)["samples"])


def judge(of: dict[str, Any]) -> Outcome:
    """What holds of what was seen."""
    sea, heard, stored = of["sea"], of["heard"], of["stored"]
    made, disturbances, lookout = of["made"], of["disturbances"], of["lookout"]
    by_now: dict[Key, int] = of["heard_by_now"]
    wanted = {d.id: d.slots["classify"].desired for d in of["devices"] if "classify" in d.slots}
    checks: list[Check] = []

    def check(name: str, bad: Any, good: str) -> None:
        shown = str(bad)
        checks.append(Check(name, not bad, good if not bad else shown[:600]))

    lost = sorted(by_now.keys() - stored.requests.keys())
    other = {
        k: (n, stored.requests[k])
        for k, n in heard.requests.items()
        if k in stored.requests and stored.requests[k] != n
    }
    check(
        "nothing lost that the witness heard",
        lost[:8],
        f"{len(by_now)} batches heard, all stored",
    )
    check(
        "nothing stored is other than heard",
        list(other.items())[:8],
        f"{sum(heard.requests.values())} requests heard, each batch as sent",
    )
    check("nothing is stored twice", stored.doubled, f"{len(stored.requests)} batches stored")
    check(
        "no number is missing",
        missing(stored.requests, "sim-")[:8],
        f"{len({k[:2] for k in stored.requests})} boots without a gap",
    )
    check(
        "roll-ups add up",
        ""
        if stored.rolled == sum(stored.requests.values())
        else f"{stored.rolled} rolled up, {sum(stored.requests.values())} stored, "
        f"{of['rolled_later']} batches not yet",
        f"{stored.rolled} requests",
    )
    for device, account in of["accounts"].items():
        gone = account.kept.keys() - stored.requests.keys()
        drops = dict(stored.drops.get(device, {}))
        untold = sum(samples(account.kept[key]) for key in gone) > sum(drops.values())
        check(
            f"what {device} had on disk when it was killed arrived, or it said that it dropped it",
            sorted(gone)[:8] if untold else "",
            f"{len(account.kept)} batches, told as dropped: {drops}",
        )
        dropped = sum(count(json.loads(account.kept[key])) for key in gone)
        expected, found = account.expected(dropped), stored.of(device)
        check(
            f"what {device} was asked was counted",
            ""
            if expected <= found < expected + max(1, account.tries)
            else f"{expected} and {found} are stored; over the API {account.tries} tries",
            f"{found} stored, asked {account.asker.asked} and {account.tries} over the API",
        )
        check(
            f"{device} lost no more than kills took",
            [str(one) for one in account.kills if not one.holds],
            f"{[str(one) for one in account.kills]}",
        )
    check(
        "no device is stuck",
        of["left"][:6],
        f"{len(of['devices'])} devices, each runs what is desired",
    )
    served = []
    for answer in of["answers"]:
        bundle = (answer.classified or {}).get("bundle", {})
        want = wanted[answer.device]
        if want is None or bundle.get("manifest_sha256") != want.manifest_sha256:
            served.append((answer.device, bundle or answer.error))
    check("no wrong model is served", served, f"{len(of['answers'])} real agents asked")
    check(
        "every rollout ended",
        [(r.id, r.status, r.waiting) for r in made if r.status not in ENDED],
        f"{len(made)} rollouts: {dict(Counter(r.status for r in made))}",
    )
    bad = [r for r in made if r.spec.version == BAD]
    check(
        "a bad model stops at its canary",
        [
            (r.id, r.status, of["reached"][r.id])
            for r in bad
            if r.status != "stopped" or of["reached"][r.id]
        ],
        f"{len(bad)} bad rollouts stopped",
    )
    check(
        "a good model gets through",
        [
            (r.id, r.status, r.phases, r.reason and r.reason.message)
            for r in made
            if r.spec.version != BAD and r.status != "succeeded"
        ],
        f"{len(made) - len(bad)} good rollouts",
    )
    check(
        "the clone is told of, and no other",
        ""
        if of["clones"] == disturbances.clones
        else f"told of {of['clones']}, there were {disturbances.clones}",
        f"{len(disturbances.clones)} cloned",
    )
    seen = sorted({code for waits in lookout.waits.values() for code in waits})
    check("devices told what ailed them", disturbances.untold, f"{seen}")
    check(
        "everything was disturbed until the end",
        [one.failure for one in (disturbances, of["rollouts"]) if one.failure],
        f"{len(disturbances.done)} kinds of disturbances",
    )
    check(
        "certificates were renewed before they were over",
        [agent.device for agent, times in zip(sea.agents, of["renewed"], strict=True) if not times],
        f"{of['renewed']} renewals, first certificates of {sea.fleet.left_s:.0f} s",
    )
    check("no agent ended by itself", [c for c in of["codes"] if c is not None], "4 run")
    figures: dict[str, int | float] = {
        "minutes": of["minutes"], "seed": of["seed"], "simulated": of["simulated"],
        "real": len(sea.agents), "disturbances": sum(disturbances.done.values()),
        "rollouts": len(made), "bad_rollouts": len(bad), "batches_stored": len(stored.requests),
        "requests_stored": sum(stored.requests.values()), "batches_heard": len(by_now),
        "lost": len(lost), "double": stored.doubled, "asked": sum(a.asked for a in of["askers"]),
        "killed_agents": sum(len(a.kills) for a in of["accounts"].values()),
        "lost_in_memory": sum(k.lost for a in of["accounts"].values() for k in a.kills),
        "updates_committed": of["totals"].committed, "quiet_after_s": round(of["quiet_s"], 1),
    }  # fmt: skip
    figures |= {f"n:{name}": n for name, n in sorted(disturbances.done.items())}
    story = [(round(at - of["began_at"], 1), what) for at, what in disturbances.story]
    return Outcome(figures, checks, story)
