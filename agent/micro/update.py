"""An update: from the desired document to a committed bundle, or back, never in between.

Each step is one coroutine here and one journal write in :mod:`micro.store`: a power cut
before it leaves the state before, and the retained desired document starts it again.
"""

import gc
import sys
import time

from . import bundle as bundles
from . import files
from .errors import Refused, Waits
from .loan import give_back
from .mqtt import Broken
from .store import checked_reference, free_bytes

MAX_MANIFEST_BYTES = 64 * 1024
MAX_TRIAL_S = 7 * 24 * 3600
SPARE_BYTES = 16 * 1024  # of flash, for journals and the file system itself
NO_SPACE = 28  # ENOSPC, which not every port has by its name
PROGRESS_MS = 5000  # between two events of one download
_CHECKING = ("metadata", "trust", "delegations", "ed25519", "sha512", "jsonstream")


class Updater:
    """Brings slots to what is desired.

    Args:
        device: gives ``slot(name)``, ``board`` (facts), ``base`` (folder), ``load()`` (serve
            what is active), ``alone()`` (memory for one model, nothing served),
            ``event(...)`` (report a state), ``blocks``, ``today()`` (None without a clock).
    """

    def __init__(self, device):
        self._device = device

    async def apply(self, desired):
        """Applies a desired document, slot by slot; what was activated is on trial afterwards.

        Raises:
            Broken: the connection is gone; apply it again later.
            Waits: something is not there now; apply it again later.
        """
        waits = []
        slots = desired.get("slots", {})
        self._device.empty_all_but(slots)
        for name, entry, key in _wishes(slots):
            try:
                files.checked_name(name)
                wanted = checked_reference(entry[key])
            except (Refused, KeyError, TypeError):
                continue  # nothing that an event could name
            if name == "agent" and wanted["name"] == "shoal-agent":
                update = self._device.own_update(wanted, desired, entry)
            else:
                slot = self._device.slot(name)
                update = Update(self._device, slot, wanted, desired, entry, key == "beside")
            starved = False
            try:
                await update.run()
            except Refused as error:
                waits += await update.refuse(error)
            except MemoryError as error:
                sys.print_exception(error)
                starved = True  # told by the device, where all that the update took is free again
            except Broken:
                raise
            except Exception as error:  # flash, or a fault of ours: the next one must still come
                sys.print_exception(error)
                code = "disk-error" if isinstance(error, OSError) else "internal"
                failure = Refused(code, repr(error)[:200])
                if code == "disk-error" and error.errno == NO_SPACE:
                    free = free_bytes(self._device.base)
                    failure = Waits("disk-full", "the flash is full: %d bytes are free" % free)
                waits += await update.refuse(failure)
            if starved:
                give_back(*_CHECKING)  # where memory ran out while they were given back
                self._device.starved.append(update.which)
            update = None
            gc.collect()
        if waits:
            last = waits[-1]
            last.ready = [wait.ready for wait in waits]
            raise last  # holds nothing of this module, whose memory is given back


class Update:
    """The update of one slot to one bundle."""

    def __init__(self, device, slot, wanted, desired, entry, beside=False):
        self._device = device
        self._slot = slot
        self._wanted = wanted
        self._entry = entry
        self._shadow = not beside and entry.get("mode", "active") != "active"
        self._revision = desired["revision"]
        self._rollout = desired.get("rollout")
        self._done = self._total = 0
        self._tested = None  # the share of golden vectors that held
        self._told = time.ticks_ms()
        self._told_bytes = 0

    @property
    def which(self):
        """Slot, bundle, revision and rollout, as an event has them."""
        return self._slot.name, self._wanted, self._revision, self._rollout

    async def refuse(self, error):
        """Reports why it goes no further; returns a list: what it waits for, where that may come."""
        fault = self._device.clock_fault()
        if error.code == "expired":
            # The clock may be set, or the fleet sign anew: neither ends the update.
            error = Waits(
                fault["code"] if fault else error.code,
                fault["message"] + ". By it, " + error.message if fault else error.message,
            )
        if not isinstance(error, Waits):
            await self.say("refused", reason=error.info())
            return []
        if self._device.wait(error.info(), self._slot.name):
            state = "downloading" if self._tested is None else "self-tested"
            await self.say(state, reason=error.info(), golden_accuracy=self._tested)
        return [error]

    async def say(self, state, **extra):
        """Reports a state of this update."""
        if "reason" not in extra and state != "downloading":
            self._device.wait(None, None)
        await self._device.event(
            *self.which,
            state,
            done_bytes=self._done,
            total_bytes=self._total,
            **extra,
        )

    async def run(self):
        """Downloads, checks and activates; nothing when it is active already."""
        slot, wanted = self._slot, self._wanted
        sha = wanted["manifest_sha256"]
        if self._shadow:
            raise Refused("not-supported", "a microcontroller has no memory for a shadow")
        if slot.active and slot.active["manifest_sha256"] == sha:
            return
        if slot.previous and slot.previous["manifest_sha256"] == sha:
            folder = slot.path(slot.previous)
            manifest = bundles.Manifest(folder + "/" + bundles.MANIFEST)
            gc.collect()
            accuracy = await self._selftest(folder, manifest)
            await self._window()
            slot.swap(self._trial(accuracy))
        else:
            folder = slot.begin(wanted)
            release = await self._download(folder)
            manifest = bundles.Manifest(folder + "/" + bundles.MANIFEST)
            gc.collect()
            accuracy = await self._selftest(folder, manifest)
            await self._window()
            slot.activate(wanted, release, self._trial(accuracy))
        self._device.load()
        self._device.trials.begin(slot)  # an older one may have been cut short
        await self.say("trial", golden_accuracy=accuracy)

    async def _window(self):
        """Goes on inside the maintenance windows alone: what is done is done again when they open."""
        if self._entry.get("windows"):
            from .windows import check

            give_back("windows")
            await check(self._device, self._entry["windows"], self._trial(None)["seconds"])

    def _trial(self, accuracy):
        rules = self._entry.get("trial")
        if not isinstance(rules, dict):
            rules = {}
        return {
            "seconds": _number(rules.get("seconds"), 30.0, MAX_TRIAL_S),
            "max_restarts": int(_number(rules.get("max_restarts"), 3, 100)),
            "max_error_rate": _number(rules.get("max_error_rate"), 0.1, 1),
            "min_requests": int(_number(rules.get("min_requests"), 20, 1 << 30)),
            "restarts": 0,
            "revision": self._revision,
            "rollout": self._rollout,
            "golden_accuracy": accuracy,
        }

    async def _download(self, folder):
        """Metadata, manifest, fit, files; returns the release counter."""
        device, wanted = self._device, self._wanted
        await self.say("downloading")
        release, length = await self._trusted()
        gc.collect()
        if release < self._slot.floor:
            raise Refused(
                "rollback",
                "release %d is older than %d, which this device has committed"
                % (release, self._slot.floor),
            )
        if length > MAX_MANIFEST_BYTES:
            raise Refused("too-large", "the manifest has %d bytes" % length)
        path = "targets/bundles/%s/%s/%s.manifest.json" % (
            wanted["name"],
            wanted["version"],
            wanted["manifest_sha256"],
        )
        target = folder + "/" + bundles.MANIFEST
        await device.blocks.download(
            path, target, MAX_MANIFEST_BYTES, length, wanted["manifest_sha256"]
        )
        manifest = bundles.Manifest(target)
        if manifest.name != wanted["name"] or manifest.version != wanted["version"]:
            raise Refused("wrong-manifest", "the manifest is of another bundle")
        self._total = manifest.total_bytes
        self._fit(folder, manifest)
        for name, sha256, size in manifest.files:
            await device.blocks.download(
                "blobs/" + sha256, folder + "/" + name, size, size, sha256, self._progress
            )
            gc.collect()
        await self.say("verified")
        await self.say("fits")
        return release

    async def _progress(self, count):
        self._done += count
        ms = time.ticks_diff(time.ticks_ms(), self._told)
        if ms >= PROGRESS_MS:
            rate = (self._done - self._told_bytes) * 1000 // ms
            self._told, self._told_bytes = time.ticks_ms(), self._done
            self._device.wait(None, None)
            await self.say("downloading", bytes_per_s=float(rate))

    def _fit(self, folder, manifest):
        """Before a byte of the model is fetched: does it fit at all?"""
        reason = manifest.misfit(self._device.board)
        if reason:
            raise Refused("does-not-fit", reason)
        here = sum([max(0, files.size(folder + "/" + entry[0])) for entry in manifest.files])
        free = free_bytes(self._device.base)
        if manifest.total_bytes - here + SPARE_BYTES > free:
            needs = manifest.total_bytes - here + SPARE_BYTES
            message = "the flash is full: the bundle needs %d bytes, %d are free" % (needs, free)
            raise Waits("disk-full", message)

    async def _trusted(self):
        """Fetches metadata and checks the roles that sign; returns release and length."""
        try:
            from .metadata import fetch

            return await fetch(self._device, self._wanted)
        finally:
            fetch = None
            give_back(*_CHECKING)

    async def _selftest(self, folder, manifest):
        """Golden vectors; returns their accuracy.

        The models that serve give their memory for it, and come back before anything else
        runs: for a request it is a pause, not an error.
        """
        memory = self._device.alone()
        try:
            model = bundles.open_bundle(folder, manifest, memory)
            try:
                vectors, passed, most = bundles.selftest(folder, model)
            finally:
                model.close()
        finally:
            model = None
            self._device.load()
        accuracy = passed / vectors if vectors else 0.0
        if not bundles.holds(manifest, vectors, passed, most):
            raise Refused(
                "selftest-failed",
                "%d of %d golden vectors hold, the furthest is %d steps off"
                % (passed, vectors, most),
            )
        self._tested = accuracy
        await self.say("self-tested", golden_accuracy=accuracy)
        return accuracy


def _wishes(slots):
    """Slot, entry, and the entry's key of a bundle: what is active beside a shadow comes first.

    The program comes last, as the board restarts for it.
    """
    found = []
    for name in sorted(slots, key=lambda name: (name == "agent", name)):
        entry = slots[name]
        if isinstance(entry, dict):
            if entry.get("mode", "active") != "active" and entry.get("beside"):
                found.append((name, entry, "beside"))
            found.append((name, entry, "bundle"))
    return found


def _number(value, default, most):
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= most
    return value if good else default
