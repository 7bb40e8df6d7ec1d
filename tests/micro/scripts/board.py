"""A board with a littlefs at ``/``: board.py IMAGE BLOCKS. Run with ``-i``, its REPL is the board's.

IMAGE is the flash, a file; it is formatted when it is missing. ``machine.reset()`` leaves
IMAGE.reset behind and ends the process: who started it starts it again. With a third word, ``dump``, its files are printed.
"""

import os
import sys
import vfs

BLOCK = 4096
COUNT = int(sys.argv[2])


class Flash:
    """Blocks in a file."""

    def __init__(self, path):
        try:
            self.file = open(path, "r+b")
        except OSError:
            self.file = open(path, "w+b")

    def readblocks(self, number, buffer, offset=0):
        self.file.seek(number * BLOCK + offset)
        self.file.readinto(buffer)

    def writeblocks(self, number, buffer, offset=0):
        self.file.seek(number * BLOCK + offset)
        self.file.write(buffer)
        self.file.flush()

    def ioctl(self, operation, _):
        return {4: COUNT, 5: BLOCK}.get(operation, 0)


class Machine:
    """What mpremote uses of the module ``machine``."""

    def __init__(self, path):
        self._path = path

    def reset(self):
        self._marker(self._path + ".reset").close()
        sys.exit()


def start(path):
    flash = Flash(path)
    flash.file.seek(0, 2)
    if not flash.file.tell():
        for number in range(COUNT):
            flash.writeblocks(number, b"\xff" * BLOCK)
        vfs.VfsLfs2.mkfs(flash)
    machine = Machine(path)
    host = vfs.VfsPosix()
    machine._marker = lambda name: host.open(name, "w")
    sys.modules["machine"] = machine
    vfs.umount("/")
    vfs.mount(vfs.VfsLfs2(flash), "/")
    os.chdir("/")


if sys.argv[3:] == ["dump"]:
    import binascii
    import json

    start(sys.argv[1])

    def walk(folder):
        for name, kind, *_ in os.ilistdir(folder):
            if kind == 0x4000:
                yield from walk(folder + "/" + name)
            else:
                yield folder + "/" + name

    found = {}
    for path in walk(""):
        with open(path, "rb") as stream:
            found[path[1:]] = binascii.hexlify(stream.read()).decode()
    print(json.dumps(found))
else:
    start(sys.argv[1])
