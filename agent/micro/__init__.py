"""The agent for MicroPython boards: the same protocol, the same int8 models, less memory.

Copied to a board as the package ``micro``; it imports nothing that MicroPython 1.22 or newer
lacks and runs in the unix port too, which is how it is tested.

Not here: what needs CPython, a thread, or a heap above 192 KiB.
"""

VERSION = "0.1.0"
