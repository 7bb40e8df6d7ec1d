"""A device without memory for its models beside an update: crowded.py FOLDER."""

import sys

from micro import main
from micro.device import Device

_load = Device.load


def load(self):
    if "micro.update" in sys.modules:
        self.alone()
        return []
    return _load(self)


Device.load = load
main.start(sys.argv[1])
