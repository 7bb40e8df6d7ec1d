"""Bytes to typed values, from many threads at once."""

from __future__ import annotations

import subprocess
import sys

FIRST_USE = """
import sys, threading
from contracts import codec
from contracts.manifest import Manifest
sys.setswitchinterval(1e-6)
data = open("tests/data/tiny-classifier-1.0.0/manifest.json", "rb").read()
together = threading.Barrier(25)
def first():
    together.wait()
    assert codec.decode(data, Manifest, what="a manifest").name == "tiny-classifier"
threads = [threading.Thread(target=first) for _ in range(25)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_many_threads_may_decode_a_type_for_the_first_time() -> None:
    """A process for each try: a type is new but once. Without care half of them crash."""
    for _ in range(8):
        done = subprocess.run([sys.executable, "-c", FIRST_USE], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
