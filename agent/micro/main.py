"""Starts the device from the files that enrolment wrote: ``import micro.main``.

``/shoal/shoal.json`` is the configuration, beside it are ``ca.der``, ``certificate.der`` and
``key.der``; everything that is kept goes to ``/shoal/state``.
"""

from .memory import Memory

# Large pieces of memory are taken first, while there are any: on a board with external RAM
# more may be given by setting these before ``start``.
MODEL_BYTES = 40 * 1024
BLOCK_BYTES = 4096
_memory = Memory(MODEL_BYTES)
_block = bytearray(BLOCK_BYTES + 16)
_packet = bytearray(BLOCK_BYTES + 1024)

import asyncio  # noqa: E402
import gc  # noqa: E402
import json  # noqa: E402

# Importing compiles: what that leaves is collected module by module, so that what stays lies
# close together.
for _name in ("errors", "files", "jsonstream", "sha512", "ed25519", "trust", "flatbuffer",
              "tflite", "quantize", "kernels", "plan", "interpreter", "ngrams", "bundle", "mqtt",
              "store", "blocks", "update", "service", "device"):
    __import__("micro." + _name)
    gc.collect()

from .device import Device  # noqa: E402
from .files import exists, make_folder, write  # noqa: E402

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


def start(folder=FOLDER):
    """Runs the device for ever."""
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
    device = Device(
        config, folder + "/state", _memory, (_packet, _block), tls_context(folder)
    )
    asyncio.run(device.run())
