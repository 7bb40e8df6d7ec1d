"""What a board believes: trusts.py, with one request a line of standard input.

A request is ``{"served": folder, "base": folder, "name", "version", "sha256", "today"}``: the
metadata of an update is fetched from the folder and checked as in an update. A line is printed
for each: ``{"release", "length", "asked"}`` or ``{"code", "message", "asked"}``. A request
``{"matches": [name, pattern]}`` is answered by whether a pattern covers a name.
"""

import asyncio
import json
import sys

from micro import files
from micro.errors import Refused
from micro.update import Update


class Served:
    """Blocks out of a folder."""

    def __init__(self, folder):
        self._folder = folder
        self.asked = []

    async def download(self, path, target, cap):
        """As :meth:`micro.blocks.Blocks.download`."""
        self.asked.append(path)
        there = self._folder + "/" + path.replace("/", "|")
        size = files.size(there)
        if size < 0:
            raise Refused("no-such-path", "no " + path)
        if size > cap:
            raise Refused("too-large", "%s has %d of %d bytes" % (path, size, cap))
        with open(there, "rb") as source:
            with open(target, "wb") as stream:
                while True:
                    data = source.read(512)
                    if not data:
                        break
                    stream.write(data)


class Device:
    """What the check of an update needs of a device."""

    def __init__(self, request):
        self.base = request["base"]
        self.blocks = Served(request["served"])
        self.today = lambda: request["today"]
        self.slot = lambda name: None


def answer(request):
    """One check; the folder holds ``trust/root.json``."""
    if "matches" in request:
        from micro.delegations import matches

        return matches(*request["matches"])
    device = Device(request)
    wanted = {
        "name": request["name"],
        "version": request["version"],
        "manifest_sha256": request["sha256"],
    }
    update = Update(device, "classify", wanted, {"revision": 1}, {})
    try:
        release, length = asyncio.run(update._trusted())
        found = {"release": release, "length": length}
    except Refused as error:
        found = error.info()
    found["asked"] = device.blocks.asked
    return found


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))))
