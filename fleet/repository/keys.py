"""Signing keys on disk: Ed25519, PKCS #8 PEM, readable by their owner alone.

A key folder holds one ``{role}-{key id}.pem`` a key. Root and targets keys are meant to live
elsewhere (a stick in a safe): a repository opened without them can still re-sign its
timestamp and snapshot, and says which key is missing for the rest.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from securesystemslib.signer import CryptoSigner, SSlibKey

from contracts.errors import InputError
from fleet import durable

OFFLINE: Final = ("root", "targets")
ONLINE: Final = ("snapshot", "timestamp")
ROLES: Final = OFFLINE + ONLINE
_MAX_KEY_BYTES: Final = 16 * 1024
_MAX_KEYS: Final = 256


def load_public(path: Path) -> SSlibKey:
    """A public key from a PEM file, as somebody hands it over for a role.

    Raises:
        InputError: ``no-such-file``, ``bad-key``.
    """
    try:
        with path.open("rb") as stream:
            public = serialization.load_pem_public_key(stream.read(_MAX_KEY_BYTES))
    except OSError:
        raise InputError("no-such-file", f"{path}: no such public key") from None
    except (ValueError, UnsupportedAlgorithm):
        raise InputError("bad-key", f"{path} is not a PEM public key") from None
    if not isinstance(public, Ed25519PublicKey):
        raise InputError("bad-key", f"{path} is not an Ed25519 key")
    return SSlibKey.from_crypto(public)


class KeyFolder:
    """The private keys in a folder.

    Args:
        folder: made on the first key, mode 0700.
        passphrase: protects every key that is made, and opens those that are protected.
    """

    def __init__(self, folder: Path, passphrase: bytes | None = None) -> None:
        self.folder = folder
        self._passphrase = passphrase

    def generate(self, role: str) -> SSlibKey:
        """Makes a key for `role`, writes it (mode 0600), returns its public half."""
        private = Ed25519PrivateKey.generate()
        public = SSlibKey.from_crypto(private.public_key())
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if self._passphrase:
            encryption = serialization.BestAvailableEncryption(self._passphrase)
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )
        durable.make_folder(self.folder, 0o700)
        path = self.path_of(role, public)
        durable.write(path, pem, mode=0o600, overwrite=False)
        public_pem = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        durable.write(path.with_suffix(".pub"), public_pem)
        return public

    def path_of(self, role: str, key: SSlibKey) -> Path:
        """Where :meth:`generate` put a private key; the public half is beside it, ``.pub``."""
        return self.folder / f"{role}-{key.keyid[:16]}.pem"

    def signers(self, keys: Iterable[SSlibKey]) -> list[CryptoSigner]:
        """The signers of those of `keys` whose private half is here, in the given order.

        Raises:
            InputError: ``key-locked``, ``bad-key``, ``key-exposed``.
        """
        wanted = list(keys)
        prefixes = {key.keyid[:16] for key in wanted}
        found: dict[str, CryptoSigner] = {}
        files = sorted(self.folder.glob("*.pem")) if self.folder.is_dir() else []
        for file in files[:_MAX_KEYS]:
            if file.stem.rpartition("-")[2] in prefixes:
                signer = self._load(file)
                found[signer.public_key.keyid] = signer
        return [found[key.keyid] for key in wanted if key.keyid in found]

    def of(self, role: str) -> list[CryptoSigner]:
        """The signers of all keys that were made here for a role.

        Raises:
            InputError: as :meth:`signers`.
        """
        files = sorted(self.folder.glob(f"{role}-*.pem")) if self.folder.is_dir() else []
        return [self._load(file) for file in files if file.stem.rpartition("-")[0] == role]

    def _load(self, file: Path) -> CryptoSigner:
        with file.open("rb") as stream:
            if os.fstat(stream.fileno()).st_mode & 0o077:
                raise InputError(
                    "key-exposed",
                    f"private key {file} can be read by others: chmod 600 it, "
                    "and replace the key when others have used this machine",
                )
            pem = stream.read(_MAX_KEY_BYTES + 1)
        try:
            private = serialization.load_pem_private_key(pem, None)
        except TypeError:
            private = self._unlock(file, pem)
        except (ValueError, UnsupportedAlgorithm):
            raise InputError("bad-key", f"{file} is not a PEM private key") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise InputError("bad-key", f"{file} is not an Ed25519 key")
        return CryptoSigner(private)

    def _unlock(self, file: Path, pem: bytes) -> PrivateKeyTypes:
        if not self._passphrase:
            raise InputError("key-locked", f"{file} needs its passphrase")
        try:
            return serialization.load_pem_private_key(pem, self._passphrase)
        except ValueError:
            raise InputError("key-locked", f"the passphrase does not open {file}") from None
