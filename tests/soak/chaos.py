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
from fleet.api.models import Query
from fleet.api.models_devices import DeviceModel
from fleet.client import Client
from tests.soak.accounts import Account
from tests.soak.disturbances import Disturbances
from tests.soak.judge import Outcome, judge
from tests.soak.rollouts import BAD, ENDED, Rollouts
from tests.soak.sea import Sea, opened
from tests.soak.witness import Asker, Eavesdropper, Key, Stored, missing, numbers, unrolled

RATE_PER_S = 4.0
QUIET_S = 240.0
"""Seconds in which nothing comes any more, when something is awaited: longer than any pause with
which a device sends again what it sent before it was disturbed last."""


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

    def count(self, device: str, part: str) -> int:
        """How often a device was seen to wait for something of such a code."""
        seen = list(self.waits.get(device, Counter()).items())
        return sum(times for code, times in seen if part in code)

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


def arrives(left: Callable[[], int], quiet_s: float = QUIET_S) -> bool:
    """Waits until nothing is left, for as long as it gets less; whether it came to that."""
    least, deadline = left(), time.monotonic() + quiet_s
    while least:
        if time.monotonic() > deadline:
            return False
        time.sleep(2.0)
        now = left()
        if now < least:
            least, deadline = now, time.monotonic() + quiet_s
    return True


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


def ask_once(sea: Sea, account: Account) -> Any:
    """What a device answers over the API; a try without an answer may be counted as well."""
    question = Query(
        devices=[account.agent.device], op="classify", text="turn on the kitchen light"
    )

    def ask(client: Client) -> Any:
        account.tries += 1
        return client.query(question).answers[0]

    return sea.ask(ask)


def outstanding(seen: set[Key], database: Path) -> set[Key]:
    """What was heard, or has a number below, and is not stored."""
    return (seen | set(missing(seen, "sim-"))) - numbers(database)


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
    # A device whose session was taken waits up to ten minutes until it tries to connect.
    settle_s = 660.0
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
            database = sea.fleet.folder / "state.db"
            askers = [Asker(agent.socket, RATE_PER_S) for agent in sea.agents]
            accounts = {
                agent.device: Account(agent, asker, database)
                for agent, asker in zip(sea.agents, askers, strict=True)
            }
            rollouts, lookout = Rollouts(sea, 90.0), Lookout(sea)
            hold_s = min(20.0, minutes * 60 / 12)
            disturbances = Disturbances(
                sea, chance, min(10.0, minutes * 60 / 24), hold_s, tell,
                lookout.count, lambda agent: accounts[agent.device].killed(),
            )  # fmt: skip
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
            until(lambda: all(r.status in ENDED for r in rollouts.all()), settle_s)
            until(lambda: not stuck(sea.ask(lambda c: list(c.devices()))), settle_s)
            quiet_s = time.monotonic() - quiet_from
            for asker in askers:
                asker.stop()
            lookout.stop()
            devices = sea.ask(lambda c: list(c.devices()))
            left = stuck(devices)
            made = rollouts.all()
            clones = {one.device for one in sea.ask(lambda c: c.clones())}
            answers = [ask_once(sea, accounts[agent.device]) for agent in sea.agents]
            reached = {
                r.id: sum(
                    m.phase not in ("pending", "assigned")
                    for m in sea.ask(lambda c, i=r.id: list(c.members(i)))
                    if m.wave > 0
                )
                for r in made
                if r.spec.version == BAD
            }
            tell("waiting until all that was measured is stored")
            for account in accounts.values():
                arrives(account.outstanding, 90.0)
            # Once: what goes on to be sent is never all there.
            seen = {key for key in list(heard.requests) if key[0].startswith("sim-")}
            arrives(lambda: len(outstanding(seen, database)))
            totals = sea.simulation.stop()
            # What the real agents send goes on: what was heard until now has to be there.
            heard_by_now = dict(heard.requests)
            arrives(lambda: len(heard_by_now.keys() - numbers(database)))
            arrives(lambda: unrolled(database))
            stored, rolled_later = Stored(database), unrolled(database)
            codes = [agent.ended for agent in sea.agents]
        renewed = [agent.renewed for agent in sea.agents]
    return judge(locals())


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
