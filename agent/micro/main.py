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


def tls_context(folder):
    """Mutual TLS from the files of enrolment; None where there are none."""
    if not exists(folder + "/ca.der"):
        return None
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_mode = ssl.CERT_REQUIRED
    with open(folder + "/ca.der", "rb") as stream:
        context.load_verify_locations(cadata=stream.read())
    if exists(folder + "/key.der"):
        with open(folder + "/certificate.der", "rb") as stream:
            certificate = stream.read()
        with open(folder + "/key.der", "rb") as stream:
            context.load_cert_chain(certificate, stream.read())
    return context


def client_id(folder, config):
    """The device's id at the broker, which nobody can guess who has not its key.

    A broker ends the session of whoever is connected under an id, whoever asks.
    """
    name = "shoal-%s-%s" % (config["fleet"], config["device"])
    if not exists(folder + "/key.der"):
        return name
    from binascii import hexlify
    from hashlib import sha256

    digest = sha256(b"shoal client id v1\0")
    with open(folder + "/key.der", "rb") as stream:
        digest.update(stream.read())
    return name + "-" + hexlify(digest.digest()).decode()[:32]


def join_network(wifi, seconds=30):
    """Joins the Wi-Fi and sets the clock, where the board has one."""
    import time

    try:
        import network
    except ImportError:
        return  # the unix port: the network is there
    station = network.WLAN(network.STA_IF)
    station.active(True)
    if not station.isconnected() and wifi:
        station.connect(wifi["ssid"], wifi["password"])
    until = time.ticks_add(time.ticks_ms(), seconds * 1000)
    while not station.isconnected() and time.ticks_diff(until, time.ticks_ms()) > 0:
        time.sleep_ms(200)
    try:
        import ntptime

        ntptime.settime()
    except (ImportError, OSError):
        pass  # certificates and expiries cannot be judged; the device says "unsynced"


def start(folder=FOLDER, model_bytes=MODEL_BYTES):
    """Runs the device for ever.

    Args:
        folder: of the configuration.
        model_bytes: of memory for models.
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

    with open(folder + "/shoal.json") as stream:
        config = json.load(stream)
    join_network(config.get("wifi"))
    if not exists(folder + "/ca.der") and config["mqtt"]["host"] not in ("127.0.0.1", "localhost"):
        raise ValueError("plain connections are for loopback alone: enrol the device with TLS")
    root = folder + "/state/trust/root.json"
    if not exists(root):
        make_folder(folder + "/state/trust")
        with open(folder + "/root.json", "rb") as stream:
            write(root, stream.read())
    tls, name = tls_context(folder), client_id(folder, config)
    device = Device(config, folder + "/state", memory, buffers, tls, name)
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
