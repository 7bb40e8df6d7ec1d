"""Prints the client id of the device in a folder, for a test."""

import json
import sys

from micro.setup import client_id

print(json.dumps(client_id(sys.argv[1], {"fleet": "reef", "device": "chip"})))
