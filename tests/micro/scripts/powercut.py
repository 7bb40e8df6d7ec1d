"""Boots of a device whose power may be cut: powercut.py FOLDER install|update IMAGE [CUT].

FOLDER holds ``repo`` (a repository), ``root.json`` and ``desired.json`` (two documents: the
first is installed, the second is the update). The flash is littlefs on a block device in
memory, read from IMAGE and written back to it. At its operation CUT it stops in the middle:
half of a write is programmed, half of a block erased, and the process is killed, as all that
was in memory is gone with the power. (An exception through littlefs instead would leave files
open whose memory is collected later, and littlefs follows its list of them.)
"""

import asyncio
import binascii
import json
import os
import sys
import vfs

from micro import bundle, files
from micro.blocks import Blocks
from micro.device import Device
from micro.memory import Memory

BLOCK = 4096
COUNT = 40


class Flash:
    """NOR flash: a write needs erased bytes; counts operations and stops at one of them."""

    def __init__(self, image, data=None, cut=None):
        self.image = image
        self.data = data or bytearray(b"\xff" * BLOCK * COUNT)
        self.operations = 0
        self.cut = cut

    def _operation(self):
        self.operations += 1
        return self.operations == self.cut

    def keep(self):
        """Writes the image."""
        with open(self.image, "wb") as stream:
            stream.write(self.data)

    def _die(self):
        self.keep()
        os.system("kill -9 $PPID")

    def readblocks(self, number, buffer, offset=0):
        at = number * BLOCK + offset
        buffer[:] = memoryview(self.data)[at : at + len(buffer)]

    def writeblocks(self, number, buffer, offset=0):
        dies = self._operation()
        at = number * BLOCK + offset
        size = len(buffer) // 2 if dies else len(buffer)
        old = memoryview(self.data)[at : at + size]
        if any(byte != 0xFF for byte in old):
            raise ValueError("a write to flash that is not erased")
        self.data[at : at + size] = memoryview(buffer)[:size]
        if dies:
            self._die()

    def ioctl(self, op, argument):
        if op == 4:
            return COUNT
        if op == 5:
            return BLOCK
        if op == 6:
            dies = self._operation()
            size = BLOCK // 2 if dies else BLOCK
            at = argument * BLOCK
            self.data[at : at + size] = b"\xff" * size
            if dies:
                self._die()
            return 0
        return 0


class Bench:
    """Boots devices on a flash."""

    def __init__(self, folder, base="/f"):
        self.folder = folder
        self.base = base
        self.memory = Memory(16384)
        self.buffers = bytearray(2048), bytearray(2048 + 16)
        with open(folder + "/desired.json") as stream:
            self.desired = json.load(stream)
        board = {
            "name": "pico-2-w", "model_ram_bytes": 131072, "model_flash_bytes": 65536,
            "quantizations": ["int8"],
        }
        self.config = {
            "fleet": "f", "device": "d", "board": board, "mqtt": {"host": "127.0.0.1", "port": 1}
        }

    def boot(self, flash):
        """Mounts and makes the device; its blocks come from the repository's folder."""
        vfs.mount(vfs.VfsLfs2(flash, readsize=256, progsize=256, lookahead=32), "/f")
        return self.device()

    def device(self):
        """Of a flash that is mounted."""
        self.memory.reset()
        device = Device(self.config, self.base, self.memory, self.buffers)
        holder = []

        async def publish(topic, payload):
            request = json.loads(payload)
            name = request["id"]
            try:
                with open(self.folder + "/repo/" + request["path"], "rb") as stream:
                    stream.seek(0, 2)
                    total = stream.tell()
                    stream.seek(request["offset"])
                    data = stream.read(request["length"])
            except OSError:
                total = (1 << 48) - 1
                data = b'{"error": {"code": "no-such-path", "message": "no such path"}}'
            head = binascii.crc32(name.encode()).to_bytes(4, "big")
            head += request["offset"].to_bytes(6, "big") + total.to_bytes(6, "big")
            holder[0].on_message(name, head + data)

        holder.append(Blocks(publish, "t", "b", self.buffers[1]))
        device.blocks = holder[0]
        return device

    def run(self, flash, desired):
        """Boots, checks that what is active serves, applies `desired` and ends the trial."""
        device = self.boot(flash)
        try:
            asyncio.run(self._run(device, desired))
        finally:
            vfs.umount("/f")

    async def _run(self, device, desired):
        await device.start()
        before = self.serves(device)
        await device.apply(desired)
        slot = device.slot("classify")
        while slot.trial is not None:
            await device.trials.check(slot)
        device._reached(desired["revision"])
        wanted = desired["slots"]["classify"]["bundle"]["version"]
        after = self.serves(device)
        if after != wanted:
            raise ValueError("%s serves after the update to %s (before: %s): %s"
                             % (after, wanted, before, device._last_update))

    @staticmethod
    def serves(device):
        """The version that answers its own golden vectors; None without a bundle."""
        slot = device.slot("classify")
        if slot.active is None:
            return None
        model, reference = device.models["classify"]
        vectors, passed, most = bundle.selftest(device.folder("classify"), model)
        if not bundle.holds(model.manifest, vectors, passed, most):
            raise ValueError("what serves does not hold its golden vectors")
        return reference["version"]


def install(bench, image):
    """A flash with the first bundle committed."""
    flash = Flash(image)
    vfs.VfsLfs2.mkfs(flash, readsize=256, progsize=256, lookahead=32)
    vfs.mount(vfs.VfsLfs2(flash, readsize=256, progsize=256, lookahead=32), "/f")
    files.make_folder("/f/trust")
    with open(bench.folder + "/root.json", "rb") as stream:
        files.write("/f/trust/root.json", stream.read())
    vfs.umount("/f")
    bench.run(flash, bench.desired[0])
    return flash


def update(bench, image, cut):
    """A boot from the image that completes the update, unless it is cut."""
    with open(image, "rb") as stream:
        flash = Flash(image, bytearray(stream.read()), cut)
    bench.run(flash, bench.desired[1])
    return flash


def main(folder, what, image, cut=None):
    """Prints ``{"operations"}`` of a boot that was not cut; fails where it does not serve."""
    bench = Bench(folder)
    if what == "install":
        flash = install(bench, image)
    else:
        flash = update(bench, image, int(cut) if cut else None)
    flash.keep()
    print(json.dumps({"operations": flash.operations}))


if __name__ == "__main__":
    main(*sys.argv[1:])
