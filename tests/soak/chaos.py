"""Everything goes wrong at once, for half an hour: `python -m tests.soak.chaos`.

A real mosquitto with TLS, real agents, simulated devices, rollouts without end, and a seed that
kills, fills, delays and lies. Afterwards everything must be as if nothing had been. The exit code
is 0 only if all of it holds.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from contracts.errors import ShoalError
from fleet.api.models import DeviceModel, Query
from tests.soak.disturbances import Disturbances
from tests.soak.rollouts import BAD, ENDED, Rollouts
from tests.soak.sea import TELEMETRY_S, Sea, opened
from tests.soak.witness import Asker, Eavesdropper, Stored

RATE_PER_S = 4.0
EXPECTED_WAITS = {"agent's disk full": "disk", "clock ahead": "clock", "clock at 1970": "clock"}


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


class Lookout:
    """Looks at the devices all the time, and notes what they wait for."""

    def __init__(self, sea: Sea) -> None:
        self.waits: dict[str, Counter[str]] = {}
        self.unready = 0
        self._sea = sea
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lookout", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(1.0):
            try:
                with self._sea.client() as client:
                    self.unready += not client.ready().ready
                    for device in client.devices():
                        for wait in device.waits:
                            self.waits.setdefault(device.id, Counter())[wait.code] += 1
            except (ShoalError, OSError):
                self.unready += 1


def until(holds: Callable[[], bool], seconds: float) -> bool:
    """Waits for it; whether it came."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(ShoalError, OSError):
            if holds():
                return True
        time.sleep(1.0)
    return False


def stuck(devices: list[DeviceModel]) -> list[str]:
    """Who is not where it should be, and why."""
    found = []
    for device in devices:
        slot = device.slots.get("classify")
        if device.state != "online":
            found.append(f"{device.id} is {device.state}")
        elif slot is None or slot.active is None or slot.active != slot.desired or slot.trial:
            runs = slot.active.version if slot and slot.active else None
            wanted = slot.desired.version if slot and slot.desired else None
            found.append(
                f"{device.id} runs {runs} of {wanted} (revision {device.reported_revision} of "
                f"{device.desired_revision}, {device.last_update})"
            )
        elif device.waits:
            found.append(f"{device.id} waits: {[one.code for one in device.waits]}")
    return found


def run(
    folder: Path, minutes: float, simulated: int, seed: int, tell: Callable[[str], None]
) -> Outcome:
    """One run.

    Args:
        folder: a new one, for everything.
        minutes: of disturbances.
        simulated: devices.
        seed: of the disturbances.
        tell: takes what goes on.
    """
    chance = random.Random(seed)
    began = time.time()
    settle_s = 300.0
    with opened(folder, simulated, left_s=max(60.0, minutes * 60 / 4)) as sea:
        with Eavesdropper(
            sea.fleet.config.mqtt.port, sea.files, f"shoal/v1/{sea.fleet.config.fleet}"
        ) as heard:
            sea.simulation.wait_connected(120)
            everybody = simulated + len(sea.agents)
            assert until(
                lambda: (
                    sum(d.state == "online" for d in sea.ask(lambda c: list(c.devices())))
                    == everybody
                ),
                120,
            ), "not all devices came"
            tell(f"{everybody} devices are online after {time.time() - began:.0f} s")
            askers = [Asker(agent.socket, RATE_PER_S) for agent in sea.agents]
            rollouts, lookout = Rollouts(sea, 90.0), Lookout(sea)
            hold_s = min(20.0, minutes * 60 / 12)
            disturbances = Disturbances(sea, chance, min(10.0, minutes * 60 / 24), hold_s, tell)
            rollouts.start()
            assert until(lambda: bool(rollouts.ids) and rollouts.all()[0].status in ENDED, 120)
            for thread in (*askers, lookout):
                thread.start()
            disturbances.start()
            began_at, end = time.time(), time.monotonic() + minutes * 60
            while time.monotonic() < end:
                time.sleep(min(15.0, max(0.1, end - time.monotonic())))
                tell(
                    f"{(time.time() - began_at) / 60:.1f} min: {sum(disturbances.done.values())} "
                    f"disturbances, {len(rollouts.ids)} rollouts, {heard.messages} batches heard"
                )
            disturbances.stop()
            rollouts.stop()
            tell("all is put right; waiting until it is quiet")
            quiet_from = time.monotonic()
            ended = until(lambda: all(r.status in ENDED for r in rollouts.all()), settle_s)
            settled = until(lambda: not stuck(sea.ask(lambda c: list(c.devices()))), settle_s)
            quiet_s = time.monotonic() - quiet_from
            for asker in askers:
                asker.stop()
            lookout.stop()
            steady, asked = sea.agents[0], askers[0].sent
            database = sea.fleet.folder / "state.db"
            until(lambda: Stored(database).of(steady.device) >= asked, 60)
            devices = sea.ask(lambda c: list(c.devices()))
            left = stuck(devices)
            made = rollouts.all()
            clones = {one.device for one in sea.ask(lambda c: c.clones())}
            answers = [
                sea.ask(
                    lambda c, a=a: c.query(
                        Query(devices=[a.device], op="classify", text="turn on the kitchen light")
                    )
                ).answers[0]
                for a in sea.agents
            ]
            reached = {
                r.id: sum(
                    m.phase not in ("pending", "assigned")
                    for m in sea.ask(lambda c, i=r.id: list(c.members(i)))
                    if m.wave > 0
                )
                for r in made
                if r.spec.version == BAD
            }
            totals = sea.simulation.stop()
            until(lambda: Stored(database).unrolled == 0, 60)
            time.sleep(2 * TELEMETRY_S)
            stored = Stored(database)
            codes = [agent.ended for agent in sea.agents]
        renewed = [agent.renewed for agent in sea.agents]
    return judge(locals())


def judge(of: dict[str, Any]) -> Outcome:
    """What holds of what was seen."""
    sea, heard, stored = of["sea"], of["heard"], of["stored"]
    made, disturbances, lookout = of["made"], of["disturbances"], of["lookout"]
    wanted = {d.id: d.slots["classify"].desired for d in of["devices"] if "classify" in d.slots}
    checks: list[Check] = []

    def check(name: str, bad: Any, good: str) -> None:
        shown = str(bad)
        checks.append(Check(name, not bad, good if not bad else shown[:600]))

    missing = {k: n for k, n in heard.requests.items() if k not in stored.requests}
    other = {
        k: (n, stored.requests[k])
        for k, n in heard.requests.items()
        if k in stored.requests and stored.requests[k] != n
    }
    check(
        "nothing lost that the witness heard",
        sorted(missing)[:8],
        f"{len(heard.requests)} batches heard, all stored",
    )
    check(
        "nothing stored is other than heard",
        list(other.items())[:8],
        f"{sum(heard.requests.values())} requests heard, each batch as sent",
    )
    check("nothing is stored twice", stored.doubled, f"{len(stored.requests)} batches stored")
    check(
        "no number is missing",
        stored.gaps("sim-")[:8],
        f"{len({k[:2] for k in stored.requests})} boots without a gap",
    )
    check(
        "roll-ups add up",
        ""
        if stored.rolled == sum(stored.requests.values())
        else f"{stored.rolled} rolled up, {sum(stored.requests.values())} stored",
        f"{stored.rolled} requests",
    )
    # Each was asked once more, over the API, which model it serves.
    steady, asked = of["steady"].device, of["asked"] + 1
    check(
        "what was asked was counted",
        ""
        if stored.of(steady) == asked
        else f"{steady} was asked {asked} times and {stored.of(steady)} are stored",
        f"{asked} questions to {steady}, {asked} stored",
    )
    for agent, asker in zip(sea.agents[1:], of["askers"][1:], strict=True):
        found, drops = stored.of(agent.device), sum(stored.drops.get(agent.device, {}).values())
        may = int(disturbances.killed[agent.device] * RATE_PER_S * (TELEMETRY_S + 8)) + drops
        holds = asker.sent - may <= found <= asker.sent + 1
        check(
            f"{agent.device} lost no more than kills took",
            ""
            if holds
            else f"asked {asker.sent}, stored {found}, {disturbances.killed[agent.device]} kills, "
            f"{drops} told as dropped",
            f"{found} of {asker.sent}, {disturbances.killed[agent.device]} kills, "
            f"{drops} told as dropped",
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
    seen = {code for waits in lookout.waits.values() for code in waits}
    untold = [
        done
        for done, part in EXPECTED_WAITS.items()
        if disturbances.done[done] and not any(part in code for code in seen)
    ]
    check("devices told what ailed them", untold, f"{sorted(seen)}")
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
        "requests_stored": sum(stored.requests.values()), "batches_heard": len(heard.requests),
        "lost": len(missing), "double": stored.doubled, "asked": sum(a.sent for a in of["askers"]),
        "updates_committed": of["totals"].committed, "quiet_after_s": round(of["quiet_s"], 1),
    }  # fmt: skip
    figures |= {f"n:{name}": n for name, n in sorted(disturbances.done.items())}
    story = [(round(at - of["began_at"], 1), what) for at, what in disturbances.story]
    return Outcome(figures, checks, story)


def table(outcome: Outcome) -> Table:
    """For people."""
    made = Table(title="chaos", show_header=False)
    for name, value in outcome.figures.items():
        made.add_row(name.replace("n:", "times: ").replace("_", " "), f"{value:,}", "")
    made.add_section()
    for check in outcome.checks:
        made.add_row(check.name, "holds" if check.holds else "DOES NOT HOLD", check.seen)
    return made


def main(arguments: list[str] | None = None) -> int:
    """Runs; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--devices", type=int, default=200, help="simulated ones")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write figures and checks there")
    parser.add_argument("--keep", type=Path, help="a new folder for everything, which stays")
    parsed = parser.parse_args(arguments)
    console = Console(stderr=True, width=160)
    with tempfile.TemporaryDirectory(prefix="shoal-chaos-") as temporary:
        folder = parsed.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        outcome = run(
            folder, parsed.minutes, parsed.devices, parsed.seed,
            lambda text: console.print(text, highlight=False),
        )  # fmt: skip
    console.print(table(outcome))
    if parsed.json:
        parsed.json.write_text(json.dumps(msgspec.to_builtins(outcome), indent=1))
    return 0 if outcome.holds else 1


if __name__ == "__main__":
    sys.exit(main())
