"""A device of the fleet in the unix port: device.py FOLDER (with what enrolment wrote)."""

import sys

from micro import main

main.start(sys.argv[1])
