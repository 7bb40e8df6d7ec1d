"""Tells systemd how the agent is: the ``sd_notify`` protocol, nothing when there is none."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Sends one state (``READY=1``, ``WATCHDOG=1``, ``STOPPING=1``) to the service manager.

    Source: sd_notify(3). Errors are ignored: the agent's work does not depend on it.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.sendto(state.encode(), address)
    except OSError:
        return


def watchdog_s() -> float | None:
    """Seconds within which the service manager wants to hear from us; None: it does not."""
    try:
        pid = int(os.environ.get("WATCHDOG_PID", os.getpid()))
        interval = int(os.environ["WATCHDOG_USEC"]) / 1e6
    except (KeyError, ValueError):
        return None
    return interval if pid == os.getpid() and interval > 0 else None
