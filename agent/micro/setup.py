"""What a start needs once: certificates, a client id, the network; given back after it."""

from .files import exists


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
