"""Whether the broker uses what was renewed: it reads its files only when it starts or reloads.

The certificate that it serves tells when it read them. The authority never writes a newer
certificate for the broker without a newer revocation list before it, so a broker that serves
the newest certificate holds a list that lasts.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path
from typing import Final

from cryptography import x509

from contracts.config import MqttConfig
from contracts.connection import tls_context
from contracts.errors import UnavailableError
from fleet.identity import authority as ca

_PROBE_S: Final = 10.0


def served_certificate(mqtt: MqttConfig) -> x509.Certificate:
    """The certificate that the broker serves to a new connection.

    Raises:
        InputError: ``bad-certificate``; ours cannot be used.
        UnavailableError: ``broker-unreachable``, ``broker-refused``; its certificate cannot be
            trusted, or is out of date.
    """
    assert mqtt.tls is not None
    context = tls_context(mqtt.tls)
    try:
        with (
            socket.create_connection((mqtt.host, mqtt.port), _PROBE_S) as plain,
            context.wrap_socket(plain, server_hostname=mqtt.host) as secure,
        ):
            found = secure.getpeercert(binary_form=True)
            with contextlib.suppress(OSError):
                secure.unwrap()
    except ssl.SSLCertVerificationError as error:
        raise UnavailableError("broker-refused", error.verify_message) from None
    except OSError as error:
        raise UnavailableError("broker-unreachable", f"no TLS on {mqtt.where}: {error}") from None
    assert found is not None
    return x509.load_der_x509_certificate(found)


def is_applied(folder: Path, served: x509.Certificate) -> bool:
    """Whether a broker that serves `served` has read the newest files of an authority.

    Args:
        folder: of the authority.
        served: a certificate. One of another authority is not ours to look after.
    """
    newest = ca.parse_certificate((folder / "broker.pem").read_bytes())
    authority = ca.parse_certificate((folder / "ca.pem").read_bytes())
    return served == newest or served.issuer != authority.subject
