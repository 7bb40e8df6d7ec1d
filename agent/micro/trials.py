"""Trials: a bundle that was just activated is watched, and kept or taken back."""

import time


class Trials:
    """Watches bundles on trial, in ticks of this boot; a restart starts the time anew.

    Args:
        device: gives ``load()`` (serve what is active) and ``event(...)`` (report a state).
    """

    def __init__(self, device):
        self._device = device
        self._since = {}
        self._counts = {}

    def count(self, slot, failed):
        """A request of a slot was served, or failed."""
        counts = self._counts.setdefault(slot, [0, 0])
        counts[0] += 1
        counts[1] += bool(failed)

    def begin(self, slot):
        """Starts the time of a slot's trial."""
        self._since[slot.name] = time.ticks_ms()
        self._counts[slot.name] = [0, 0]

    async def boot(self, slot):
        """Counts a restart in a trial; too many roll back. Called once a boot."""
        if slot.trial is None:
            return
        slot.trial["restarts"] += 1
        if slot.trial["restarts"] >= slot.trial["max_restarts"]:
            await self.roll_back(slot, "restarts", "restarted %d times" % slot.trial["restarts"])
        else:
            slot.save()
            self.begin(slot)

    async def check(self, slot):
        """Commits or rolls back when it is time; True when the trial ended."""
        trial = slot.trial
        if trial is None:
            return False
        if slot.name not in self._since:
            self.begin(slot)
        requests, errors = self._counts.get(slot.name, (0, 0))
        if requests >= max(1, trial["min_requests"]):
            if errors / requests > trial["max_error_rate"]:
                await self.roll_back(slot, "errors", "%d of %d failed" % (errors, requests))
                return True
        if time.ticks_diff(time.ticks_ms(), self._since[slot.name]) >= trial["seconds"] * 1000:
            slot.commit()
            self._since.pop(slot.name, None)
            await self._say(slot, slot.active, trial, "committed")
            return True
        return False

    async def roll_back(self, slot, code, message):
        """Makes the bundle before serve again."""
        failed, trial = slot.active, slot.trial
        slot.roll_back()
        self._since.pop(slot.name, None)
        self._device.load()
        await self._say(
            slot, failed, trial, "rolled-back",
            reason={"code": "trial-" + code, "message": "in its trial it " + message},
        )

    async def _say(self, slot, release, trial, state, **extra):
        await self._device.event(
            slot.name, release, trial["revision"], trial["rollout"], state,
            golden_accuracy=trial["golden_accuracy"], **extra
        )
