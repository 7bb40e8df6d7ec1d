"""Starts the device from the files that enrolment wrote: ``import micro.main``.

``/shoal/shoal.json`` is the configuration, beside it are ``ca.der``, ``certificate.der`` and
``key.der``; everything that is kept goes to ``/shoal/state``.
"""

import gc
import sys

from .files import exists, make_folder, write
from .memory import Memory

MODEL_BYTES = 24 * 1024
BLOCK_BYTES = 2048
MODULES = (
    "loan",
    "flatbuffer",
    "kernels",
    "steps",
    "interpreter",
    "ngrams",
    "bundle",
    "mqtt",
    "store",
    "blocks",
    "trials",
    "service",
    "kept",
    "device",
)

FOLDER = "/shoal"


def start(folder=FOLDER, model_bytes=MODEL_BYTES, side=None):
    """Runs the device for ever.

    Args:
        folder: of the configuration.
        model_bytes: of memory for models.
        side: which release of the agent this is, by the starter; None: there was no starter.
    """
    # Large pieces of memory are taken first, while there are any.
    memory = Memory(model_bytes)
    buffers = bytearray(BLOCK_BYTES + 1024), bytearray(BLOCK_BYTES + 16)
    # Collect often: what lives long then lies at the low end of the heap, and not scattered
    # between what was thrown away.
    gc.threshold(8192)
    for name in MODULES:
        __import__("micro." + name)
        gc.collect()
    import asyncio
    import json

    from .device import Device
    from .loan import give_back

    with open(folder + "/shoal.json") as stream:
        config = json.load(stream)
    from . import setup

    setup.join_network(config.get("wifi"))
    if not exists(folder + "/ca.der") and config["mqtt"]["host"] not in ("127.0.0.1", "localhost"):
        raise ValueError("plain connections are for loopback alone: enrol the device with TLS")
    root = folder + "/state/trust/root.json"
    if not exists(root):
        make_folder(folder + "/state/trust")
        with open(folder + "/root.json", "rb") as stream:
            write(root, stream.read())
    tls, name = setup.tls_context(folder), setup.client_id(folder, config)
    setup = None
    give_back("setup")
    gc.collect()
    device = Device(config, folder + "/state", memory, buffers, tls, name)
    if side is not None:
        from .release import own

        device.side, device.restart, device.own = side, restart, own()
        own = None
        give_back("release")
    try:
        asyncio.run(device.run())
    except Exception as error:
        sys.print_exception(error)
        restart()


def restart():
    """Starts the board anew: what stopped has to serve again, and a trial counts restarts."""
    try:
        from machine import reset
    except ImportError:
        raise SystemExit(1)
    reset()
