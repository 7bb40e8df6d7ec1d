"""Bytes on the disk that only this device's key opens: AES-GCM, a nonce of their own each."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path
from typing import Final

from agent.system.filesystem import Disk, write_durably

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class Seal:
    """Locks and opens with one key.

    Args:
        key: of :data:`KEY_BYTES`.
    """

    def __init__(self, key: bytes) -> None:
        # At the first use: it takes memory that most agents never need.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._key = key
        self._cipher = AESGCM(key)

    def mark(self, name: bytes) -> bytes:
        """16 bytes that stand for a name, and that nobody can guess it from without the key."""
        return hmac.new(self._key, name, hashlib.sha256).digest()[:16]

    def lock(self, data: bytes, about: bytes) -> bytes:
        """`data` locked; it opens beside the same `about` alone."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data, about)

    def open(self, data: bytes, about: bytes) -> bytes | None:
        """What was locked; None: with another key, or it is damaged."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], about)
        except (InvalidTag, ValueError):
            return None


def read_key(path: Path) -> bytes | None:
    """The key in a file; None: there is none, or it is damaged."""
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        return None
    return key if len(key) == KEY_BYTES else None


def write_key(path: Path, key: bytes) -> None:
    """Writes a key, durably, for its owner alone."""
    write_durably(Disk(), path, key)
    path.chmod(0o600)
