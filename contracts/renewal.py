"""Enrolment by token and renewal of certificates over HTTP: what is sent, what is signed.

``POST {controller}/v1/enroll`` with :class:`EnrolmentRequest`; the answer is the device's
:class:`contracts.config.AgentConfig` as JSON, whose key is the device's own to fill in.

``POST {renewal_url}`` with :class:`RenewalRequest` as JSON; the answer is
:class:`RenewalAnswer`, or the one error shape.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

_Pem = Annotated[str, msgspec.Meta(max_length=16 * 1024)]


class EnrolmentRequest(msgspec.Struct, frozen=True):
    """A device with a one-time token asks to be enrolled.

    Attributes:
        token: as ``shoal fleet token`` gave it.
        request: PEM signing request; its name is empty or the token's device.
    """

    token: Annotated[str, msgspec.Meta(max_length=256)]
    request: _Pem


class RenewalRequest(msgspec.Struct, frozen=True):
    """A device asks for its next certificate.

    Attributes:
        certificate: PEM, the current one.
        request: PEM signing request with the key of the next one.
        signature: base64, ECDSA with SHA-256 by the current key over :func:`signed_bytes`.
    """

    certificate: _Pem
    request: _Pem
    signature: Annotated[str, msgspec.Meta(max_length=512)]


class RenewalAnswer(msgspec.Struct, frozen=True):
    """The next certificate, PEM."""

    certificate: _Pem


def signed_bytes(request: bytes) -> bytes:
    """What proves that the holder of the current key asks: a context string and the request."""
    return b"shoal certificate renewal v1\0" + request
