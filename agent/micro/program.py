"""Updates of the agent's own program; loaded for one and given back after it.

A release is a signed list of files, which are fetched one by one into the folder that does not
run; what the running one has already is copied.
"""

import asyncio
import binascii
import hashlib
import os
import sys

from . import VERSION, files, update
from .errors import Refused, Waits
from .loan import give_back
from .release import CONNECT_SECONDS, SLOT, keep, reference, state, tag
from .store import free_bytes

MAX_LIST_BYTES = 16 * 1024
MAX_FILES = 80
SETTLE_SECONDS = 60
MAX_FILE_BYTES = 128 * 1024
MARGIN_SECONDS = 60  # beyond that, after which a timer of the starter ends it


class Update(update.Update):
    """The update of the program."""

    def __init__(self, device, wanted, desired, entry):
        super().__init__(device, self, wanted, desired, entry)
        self.name = SLOT

    async def run(self):
        """Fetches and checks a release, writes down its trial and restarts the board."""
        device, version = self._device, self._wanted["version"]
        if device.side is None:
            raise Refused("program-fixed", "this board was not started by a starter")
        if self._wanted != reference(version):
            raise Refused("bad-message", "it is not the reference of a release")
        if version == VERSION:
            return
        if self._shadow:
            raise Refused("not-a-model", "a program cannot run beside another one")
        found = state(device.base)
        side = "b" if device.side == "a" else "a"
        folder = "%s/agent/%s" % (device.base, side)
        if found.get("current") == side:  # it runs from lib, as what is there cannot be loaded
            found["current"] = "lib"
            keep(device.base, found)
        await self.say("downloading")
        await self._fetch(folder, version)
        await self.say("verified")
        await self.say("fits")
        await self.say("self-tested")
        await self._models_settled()
        await self._window()
        rules = self._trial(None)
        found["trial"] = {
            "side": side,
            "version": version,
            "starts": 0,
            "max": max(1, rules["max_restarts"]),
            "seconds": rules["seconds"],
            "deadline": rules["seconds"] + CONNECT_SECONDS + MARGIN_SECONDS,
            "revision": self._revision,
            "rollout": self._rollout,
            "serves": list(device.models),
            "min_requests": rules["min_requests"],
            "max_error_rate": rules["max_error_rate"],
        }
        keep(device.base, found)
        await self.say("trial")
        device.restart()

    async def _models_settled(self):
        """A model's trial ends before the board restarts: it would count as a restart in it."""
        for _ in range(SETTLE_SECONDS * 5):
            if not [1 for slot in self._device._slots.values() if slot.trial is not None]:
                return
            await asyncio.sleep_ms(200)
        raise Waits("trial-running", "a model is on trial: the program is replaced after it")

    async def _fetch(self, folder, version):
        device, place = self._device, folder + "/micro"
        listed = folder + "/release.json"
        target = "agent/%s/%s.json" % (version, tag())
        try:
            from .metadata import fetch

            sha256, length = await fetch(device, self._wanted, target)
        finally:
            fetch = None
            give_back(*update._CHECKING)
        if length > MAX_LIST_BYTES:
            raise Refused("too-large", "the list of the release has %d bytes" % length)
        if files.size(listed) != length or _digest(listed) != sha256:
            files.remove(listed)
            files.empty_folder(place)  # of another release
        files.make_folder(place)
        path = "targets/agent/%s/%s.%s.json" % (version, sha256, tag())
        await device.blocks.download(path, listed, MAX_LIST_BYTES, length, sha256)
        entries = _checked(files.read_json(listed), version)
        self._total = sum([size for _, _, size in entries])
        there = sum([max(0, files.size("%s/%s" % (place, name))) for name, _, _ in entries])
        needs = self._total - there + update.SPARE_BYTES
        free = free_bytes(device.base)
        if needs > free:
            text = "the flash is full: the release needs %d bytes, %d are free" % (needs, free)
            raise Waits("disk-full", text)
        running = sys.modules["micro"].__path__
        for name in os.listdir(place):
            if name not in [entry[0] for entry in entries]:
                files.remove(place + "/" + name)
        for name, sha256, size in entries:
            own, old = "%s/%s" % (place, name), "%s/%s" % (running, name)
            if files.size(own) < 0 and files.size(old) == size and _digest(old) == sha256:
                _copy(old, own)
            await device.blocks.download("blobs/" + sha256, own, size, size, sha256, self._progress)
            _check_code(own, name)


def _checked(found, version):
    """The files of a release, as its list says."""
    try:
        good = found["version"] == version and found["format"] == 1
        good = good and found["platform"] + "-" + found["python"] == tag()
        entries = [(one["file"], one["sha256"], one["size"]) for one in found["files"]]
        good = good and 0 < len(entries) <= MAX_FILES
        for name, sha256, size in entries:
            files.checked_name(name[2:] if name[:9] == "__init__." else name)
            good = good and name.endswith((".mpy", ".py"))
            good = good and isinstance(size, int) and 0 < size <= MAX_FILE_BYTES
            good = good and isinstance(sha256, str) and len(sha256) == 64
    except (KeyError, TypeError):
        good = False
    if not good:
        raise Refused("bad-manifest", "the list of the release is not well-formed")
    return entries


def _check_code(path, name):
    """Refuses compiled code of another MicroPython before it is started."""
    if not name.endswith(".mpy"):
        return
    facts = getattr(sys.implementation, "_mpy", 0)
    with open(path, "rb") as stream:
        head = stream.read(3)
    native = head[2] >> 2 if len(head) == 3 else 0
    if head[:2] != bytes([77, facts & 0xFF]) or native not in (0, facts >> 10):
        raise Refused("wrong-platform", "%s is not code for this MicroPython" % name)


def _digest(path):
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while True:
            data = stream.read(512)
            if not data:
                return binascii.hexlify(digest.digest()).decode()
            digest.update(data)


def _copy(old, new):
    with open(old, "rb") as source:
        with open(new, "wb") as target:
            while True:
                data = source.read(512)
                if not data:
                    return
                target.write(data)
