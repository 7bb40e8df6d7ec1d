"""Whom we believe when we connect: the system's certificate authorities and the fleet's own.

Every connection with TLS that a part of Shoal makes takes its context from here: to the broker,
the repository, the controller, a webhook. So a server may have a certificate of a public
authority or one of the fleet's, and nobody has to say which. The system's are those that OpenSSL
knows, or the ones in ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``.
"""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path
from typing import Final

from contracts.errors import InputError

FILE_VARIABLE: Final = "SSL_CERT_FILE"
_HASHED: Final = re.compile(r"[0-9a-f]{8}\.[0-9]+")


def context(*authorities: str) -> ssl.SSLContext:
    """A context for connections that we make; the name of the server is checked.

    Args:
        authorities: PEM texts of those that count beside the system's; empty ones are none.

    Raises:
        InputError: ``bad-certificate``.
    """
    pem = "\n".join(text for text in authorities if text)
    try:
        folder = _system_folder()
        # Python reads the system's file of all authorities where it is given none at all.
        made = ssl.create_default_context(capath=folder, cadata=pem or None)
        if pem and folder is None:
            made.load_default_certs()
    except (ssl.SSLError, ValueError, OSError) as error:
        raise InputError(
            "bad-certificate", f"the certificates of the authority cannot be used: {error}"
        ) from None
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    return made


def nobody() -> ssl.SSLContext:
    """A context that believes nobody, for connections without TLS: the system's take 20 ms."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _system_folder() -> str | None:
    """The folder of the system's authorities, where they need not be read all.

    A folder of certificates by their hash is looked into when a server is of none of the others;
    a file of all of them is read at once, which takes 20 ms and some 2 MB.
    """
    folder = ssl.get_default_verify_paths().capath
    if FILE_VARIABLE in os.environ or folder is None or not _is_hashed(Path(folder)):
        return None
    return folder


def _is_hashed(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(_HASHED.fullmatch(entry.name) for entry in entries)
    except OSError:
        return False
