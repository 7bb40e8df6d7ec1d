"""Who may read the repository: the fleet's devices, and people with a token.

Bundles are signed, so nobody can forge one; what is in them is still not for everybody. Where the
API has TLS, a device shows the certificate that it was enrolled with.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from typing import Annotated, Final

from cryptography import x509
from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool

from contracts.errors import RefusedError
from fleet.api.auth import Gatekeeper
from fleet.api.errors import ApiError
from fleet.api.refusals import address
from fleet.controller import Controller
from fleet.identity.authority import common_name
from fleet.identity.registry import Registry
from fleet.store.admission import BELIEVED_S, Admission

_MOST: Final = 20_000


class Readers:
    """Judges certificates of devices; what was judged is believed for two seconds.

    Args:
        controller: whose devices.
        monotonic: seconds that only grow.
    """

    def __init__(
        self, controller: Controller, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = controller.clock
        self._monotonic = monotonic
        self._registry = controller.fleet.folder / "ca" / "identity.db"
        self._admitted = Admission(
            controller.store, unknown=controller.fleet.config.admit_unknown, monotonic=monotonic
        )
        self._lock = threading.Lock()
        self._believed: dict[str, float] = {}

    def check(self, shown: bytes) -> None:
        """Whether a device may read.

        Args:
            shown: its certificate, DER: of the fleet's authority, and its key was proven.

        Raises:
            RefusedError: ``bad-certificate``, ``revoked``.
            UnavailableError: the database cannot tell now.
        """
        digest = hashlib.sha256(shown).hexdigest()
        now = self._monotonic()
        with self._lock:
            if now - self._believed.get(digest, now - BELIEVED_S) < BELIEVED_S:
                return
        self._judge(x509.load_der_x509_certificate(shown), digest)
        with self._lock:
            if len(self._believed) >= _MOST:
                self._believed.clear()
            self._believed[digest] = now

    def _judge(self, certificate: x509.Certificate, digest: str) -> None:
        device, now = common_name(certificate), self._clock()
        begins = certificate.not_valid_before_utc.timestamp()
        ends = certificate.not_valid_after_utc.timestamp()
        if not begins <= now < ends:
            raise RefusedError(
                "bad-certificate",
                f"the certificate of {device} is not valid now: enrol the device again, or look "
                "at the clocks",
            )
        revoked = RefusedError("revoked", f"{device} is no device of this fleet any more")
        if not self._admitted(device):
            raise revoked
        # The authority's own list knows single certificates; it may be kept on another machine.
        if self._registry.is_file():
            with Registry(self._registry).transaction() as transaction:
                mine = transaction.certificates(device)
            serial = certificate.serial_number
            if any(one.serial == serial and one.revoked is not None for one in mine):
                raise revoked


async def _check(request: Request) -> bool:
    """Lets in who may read; returns whether anybody may."""
    controller: Controller = request.app.state.controller
    api = controller.fleet.config.api
    # Without TLS the API is on loopback alone, unless a proxy leads to it.
    if api.public_repository or (controller.fleet.api_files is None and not api.trusted_proxies):
        return True
    shown: bytes | None = getattr(request.state, "certificate", None)
    if shown is not None:
        readers: Readers = request.app.state.readers
        try:
            await run_in_threadpool(readers.check, shown)
        except RefusedError as error:
            # Not 403, which stores of files give for what they do not have.
            raise ApiError("unauthorized", error.info.message) from None
        return False
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        gatekeeper: Gatekeeper = request.app.state.gatekeeper
        gatekeeper.limit_open(address(request.scope))
        raise ApiError(
            "unauthorized",
            "the repository is for devices, which show their certificate, and for tokens; "
            "public_repository: true in fleet.yaml (api) opens it to everybody",
            {"WWW-Authenticate": "Bearer"},
        )
    token = await request.app.state.gatekeeper.identify(secret, address(request.scope))
    request.state.token = token
    request.app.state.gatekeeper.limit(token)
    if not token.may("viewer"):
        raise ApiError("forbidden", f"this needs the role viewer; the token is {token.role}")
    return False


Reader = Annotated[bool, Depends(_check)]
