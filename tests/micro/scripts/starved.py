"""Connections that end as they are told to: starved.py FOLDER "memory broken ...".

``memory`` asks for more than there is; a reset prints what happened and ends the program.
"""

import gc
import json
import sys

from micro import device, main
from micro.mqtt import Broken, Client

plan = sys.argv[2].split()
found = {"attempts": 0, "resets": 0}


async def connect(self, *_):
    found["attempts"] += 1  # one too many ends the program as well, and is counted
    if plan[found["attempts"] - 1] == "memory":
        bytearray(gc.mem_free() + 1)
    raise Broken("the connection is gone")


class Machine:
    """A board's module of this name."""

    def reset(self):
        found["resets"] += 1
        print(json.dumps(found))
        sys.exit(0)


Client.connect = connect
device.RETRY_SECONDS = (0.01, 0.01)
sys.modules["machine"] = Machine()
main.start(sys.argv[1])
