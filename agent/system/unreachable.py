"""Why a server cannot be reached or does not let this device in, in words, and what to do.

For the person at the device, who has the status file and a terminal: the cause first, then where to
look. The certificate's alerts and verification codes are OpenSSL's, the reason codes are those of
MQTT 5, section 3.2.2.2.
"""

from __future__ import annotations

import errno
import socket
import ssl
import time
from typing import Final

from agent.system.controller_clock import certificate_time
from contracts.config import endpoint

_ANEW: Final = "enrol the device again"

_ALERTS: Final = {
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it was revoked, perhaps with another name or board in its "
    f"place: give it its new agent.yaml, or {_ANEW}",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": f"it has expired: {_ANEW}",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": f"it is not accepted: {_ANEW}",
    "SSLV3_ALERT_BAD_CERTIFICATE": f"it is not accepted: {_ANEW}",
    "TLSV1_ALERT_UNKNOWN_CA": f"it is of another authority than the fleet's: {_ANEW}",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": f"it needs one: {_ANEW}",
}

_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"})
_OLD_TLS: Final = frozenset({"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"})

_OTHER_NAME: Final = (62, 64)
_UNKNOWN_AUTHORITY: Final = (2, 18, 19, 20, 21)

_REASONS: Final = {
    0x84: "it does not speak MQTT 5: mosquitto does from 2.0 on",
    0x85: "it does not accept this device's client identifier",
    0x86: "username or password is wrong: look at mqtt in agent.yaml",
    0x87: "this device is not authorised: its access list may be older than the enrolment "
    "(shoal fleet serve writes it, and the broker must load it), or the device was revoked "
    "(shoal fleet devices)",
    0x88: "it is not available",
    0x89: "it is busy",
    0x8A: "this device is banned there",
    0x8C: "it expects another way to sign in",
    0x97: "a quota of the broker is used up",
    0x9C: "it says to use another server: look at mqtt in agent.yaml",
    0x9D: "the broker has moved: look at mqtt in agent.yaml",
    0x9F: "too many clients connect at once",
}
"""What a broker means by the reason code of its answer, and what helps."""


def why(error: BaseException | None, host: str, port: int, *, server: str = "the broker") -> str:
    """What is wrong and where to look; empty: nothing is known.

    Args:
        error: of the connection.
        host: to which it was made.
        port: of it.
        server: what one calls the other side.
    """
    error = _root(error)
    clock = certificate_time(error, time.time())
    if clock:
        return clock
    if isinstance(error, ssl.SSLError):
        return _of_tls(error, host, port, server)
    if isinstance(error, socket.gaierror):
        return _of_name(error, host)
    if isinstance(error, ConnectionRefusedError):
        return (
            f"nothing listens on {endpoint(host, port)}: is {server} running, and is this its port?"
        )
    if isinstance(error, TimeoutError):
        return (
            f"no answer from {endpoint(host, port)}: it is off, the address is another machine's, "
            "or a firewall is between"
        )
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return f"{server} broke the connection off: {_said(error)}"
    if isinstance(error, OSError) and error.errno == errno.ENETUNREACH:
        return f"this device has no network that leads to {host}: {_said(error)}"
    if isinstance(error, OSError) and error.errno in (errno.EHOSTUNREACH, errno.EHOSTDOWN):
        return f"{host} cannot be reached: it is off, or in another network: {_said(error)}"
    return _said(error) if isinstance(error, OSError) else ""


def refusal(code: int, words: str) -> str:
    """What a broker's refusal means.

    Args:
        code: MQTT 5's reason code.
        words: of the library for it.
    """
    return _REASONS.get(code, words)


def _root(error: BaseException | None) -> BaseException | None:
    """The error of the socket, which libraries wrap in their own."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, OSError):
            return one
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            inner = [arg for arg in one.args if isinstance(arg, BaseException)]
            reason = getattr(one, "reason", None)
            inner += [reason] if isinstance(reason, BaseException) else []
            waiting += [one.__cause__, *inner, one.__context__]
    return error


def _of_name(error: socket.gaierror, host: str) -> str:
    if error.errno == socket.EAI_AGAIN:
        return (
            f"no name server answered for {host}: look at this device's network and "
            "/etc/resolv.conf"
        )
    return (
        f"the name {host} was not found: is it right (agent.yaml), and does this device's name "
        f"server know it? Try: getent hosts {host}"
    )


def _of_tls(error: ssl.SSLError, host: str, port: int, server: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _OTHER_NAME:
            return (
                f"the certificate of {server} is not for {host}: connect to a name that it has "
                f"(agent.yaml), or have it issued for this one; {error.verify_message}"
            )
        if error.verify_code in _UNKNOWN_AUTHORITY:
            return (
                f"the certificate of {server} is not trusted: another authority than the fleet's "
                f"signed it. Is {host} this fleet's, or does something between answer (a proxy, a "
                f"sign-in page)? After a new start of the fleet, {_ANEW}; {error.verify_message}"
            )
        return f"the certificate of {server} is not trusted: {error.verify_message}"
    if error.reason in _ALERTS:
        return f"{server} refuses this device's certificate: {_ALERTS[error.reason]}"
    if error.reason in _NO_TLS:
        return (
            f"what answers on {endpoint(host, port)} does not speak TLS: is this the port of TLS?"
        )
    if error.reason in _OLD_TLS:
        return f"{server} speaks an older TLS than this device accepts (1.2)"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return (
            f"{endpoint(host, port)} ended the connection while TLS was set up: is this "
            f"{server}'s port of TLS?"
        )
    return str(error)


def _said(error: OSError) -> str:
    return (error.strerror or str(error))[:200]
