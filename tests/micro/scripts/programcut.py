"""Boots of a board whose power may be cut: programcut.py FOLDER install|update IMAGE [CUT].

As powercut.py, for the agent's own program: FOLDER holds ``repo``, ``root.json``, ``wish.json`` (a
desired document) and ``main.py`` (the starter). The code of a release is not run here: what the
starter chooses has to be whole, and the board has to come to the release that is wished.
"""

import asyncio
import json
import sys
import vfs

import micro
from micro import files, program, release
from powercut import Bench, Flash


def chosen(starter):
    """The folder that the starter starts; a release that is started is whole."""
    side, trial = starter["choose"]()
    if side != "lib":
        place = "/f/state/agent/" + side
        listed = files.read_json(place + "/release.json")
        for one in listed["files"]:
            path = "%s/micro/%s" % (place, one["file"])
            if program._digest(path) != one["sha256"]:
                raise ValueError("a release that is not whole is started: " + path)
    return side, trial


class Restarted(SystemExit):
    """The board was told to restart."""


class Board(Bench):
    """A board whose starter chooses what runs; a release says which version it is."""

    def power_up(self, flash):
        """One start of what the starter chooses, to its end; True when it restarts."""
        vfs.mount(vfs.VfsLfs2(flash, readsize=256, progsize=256, lookahead=32), "/f")
        try:
            starter = {"__name__": "starter"}
            with open(self.folder + "/main.py") as stream:
                exec(stream.read(), starter)
            side, trial = chosen(starter)
            listed = files.read_json("/f/state/agent/%s/release.json" % side, {})
            version = listed.get("version", "0.1.0")
            micro.VERSION = program.VERSION = release.VERSION = version
            asyncio.run(self.live(side))
        except Restarted:
            return True
        finally:
            vfs.umount("/f")
        if version != self.desired["slots"]["agent"]["bundle"]["version"]:
            raise ValueError("%s runs after the update" % version)
        return False

    async def live(self, side):
        """A device that applies what is wished, and passes its trial."""
        device = self.device()

        def restart():
            raise Restarted()

        device.side, device.restart = side, restart
        await release.boot(device)
        if device.program is not None:
            await release.end(device, None)
            return
        await device.apply(self.desired)


def main(folder, what, image, cut=None):
    """Prints ``{"operations"}`` of power-ups that were not cut."""
    board = Board(folder, "/f/state")
    if what == "install":
        flash = Flash(image)
        vfs.VfsLfs2.mkfs(flash, readsize=256, progsize=256, lookahead=32)
        vfs.mount(vfs.VfsLfs2(flash, readsize=256, progsize=256, lookahead=32), "/f")
        files.make_folder("/f/state/trust")
        with open(folder + "/root.json", "rb") as stream:
            files.write("/f/state/trust/root.json", stream.read())
        vfs.umount("/f")
    else:
        with open(image, "rb") as stream:
            flash = Flash(image, bytearray(stream.read()), int(cut) if cut else None)
        for _ in range(3):
            if not board.power_up(flash):
                break
        else:
            raise ValueError("the board restarts for ever")
    flash.keep()
    print(json.dumps({"operations": flash.operations}))


if __name__ == "__main__":
    main(*sys.argv[1:])
