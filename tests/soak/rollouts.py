"""Rollouts, good and bad ones, without end."""

from __future__ import annotations

import threading
from contextlib import suppress

from contracts.errors import ShoalError
from fleet.api.models_rollouts import RolloutModel
from fleet.client import Client
from fleet.rollout.spec import RolloutSpec, Trial, parse_waves
from tests.soak.sea import BAD, Sea

ENDED = frozenset({"succeeded", "stopped", "aborted"})
GOOD = ("1.0.0", "1.1.0")


class Rollouts:
    """Makes one after the other; every third is of a version that no device may keep.

    Args:
        sea: whose.
        deadline_s: for a device.
    """

    def __init__(self, sea: Sea, deadline_s: float) -> None:
        self.sea = sea
        self.ids: list[str] = []
        self.failure = ""
        self._deadline_s = deadline_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rollouts", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Makes no more; the last one goes on."""
        self._stop.set()
        self._thread.join()

    def spec(self, number: int) -> RolloutSpec:
        """The n-th rollout."""
        version = BAD if number % 3 == 2 else GOOD[(number - number // 3) % 2]
        return RolloutSpec(
            bundle=next(iter(self.sea.refs.values())).name,
            version=version,
            waves=parse_waves("1,10%,100%"),
            bake_s=1,
            deadline_s=self._deadline_s,
            offline_s=20,
            attempts=3,
            retry_s=5,
            trial=Trial(seconds=1, max_restarts=100, min_requests=0),
            if_busy="queue",
            allow_empty=True,
            note=f"number {number}",
        )

    def _run(self) -> None:
        try:
            self._make()
        except Exception as error:  # noqa: BLE001
            # As a thread it would end in silence, and nothing more would be rolled out.
            self.failure = f"{type(error).__name__}: {error}"

    def _make(self) -> None:
        number = 0
        while not self._stop.is_set():
            spec = self.spec(number)
            made: RolloutModel = self.sea.ask(
                lambda c, s=spec, n=number: c.create_rollout(
                    s, idempotency_key=f"chaos-{n}", again=True
                ),
                300,
            )
            if made.id in self.ids:
                raise AssertionError(f"{made.id} was made twice")
            self.ids.append(made.id)
            number += 1
            while not self._stop.wait(1.0):
                with suppress(ShoalError, OSError), self.sea.client() as client:
                    if client.rollout(made.id).status in ENDED:
                        break

    def all(self) -> list[RolloutModel]:
        """As they are now, in the order in which they were made."""

        def every(client: Client) -> list[RolloutModel]:
            return [client.rollout(one) for one in self.ids]

        found: list[RolloutModel] = self.sea.ask(every)
        return found
