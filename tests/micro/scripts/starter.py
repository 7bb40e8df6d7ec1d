"""A power-up of a board: starter.py FOLDER runs its main.py."""

import sys

with open(sys.argv[1] + "/main.py") as stream:
    exec(stream.read(), {"__name__": "__main__"})
