"""Files of the folder: who may read them, keys, certificates and what is generated from them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Metadata

from contracts import codec
from contracts.bundle import sha256_of
from contracts.errors import InputError, ShoalError
from contracts.manifest import Manifest
from fleet import address, expiry
from fleet.broker.acl import acl_file
from fleet.doctor.finding import Finding, Patient
from fleet.identity import Identity
from fleet.identity import authority as ca
from fleet.identity.own import FOR_THE_BROKER
from fleet.parts import SESSION_SECRET
from fleet.repository import paths
from fleet.repository.metadata import delegated_roles

_PRIVATE = ("keys/*.pem", "ca/*.key.pem", "ca/broker/*.key.pem", "ca/session.secret",
            "ca/identity.db", "tokens/*", "fleet.yaml", "state.db")  # fmt: skip


_OUR_FILES = ("acl_file", "cafile", "certfile", "keyfile", "crlfile", "pid_file")


def rights(patient: Patient) -> Iterator[Finding]:
    """Nobody else may read what is private, and we may write."""
    folder = patient.fleet.folder
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        yield Finding(
            "folder", "wrong-owner",
            f"{folder} belongs to user {owner}, and this is user {os.geteuid()}",
            f"sudo chown -R {os.geteuid()} {folder} (or run as that user)",
        )  # fmt: skip
    exposed = [
        path for pattern in _PRIVATE for path in sorted(folder.glob(pattern))
        if path.is_file() and path.stat().st_mode & 0o077
    ]  # fmt: skip
    # The database beside it is as private as the folder is.
    if folder.stat().st_mode & 0o077 == 0:
        exposed = [path for path in exposed if path.name != "state.db"]
    if exposed:
        yield Finding(
            "folder", "exposed",
            f"{len(exposed)} private files can be read by others, as {exposed[0]}",
            f"chmod go= {' '.join(map(str, exposed[:8]))} (and replace what others may have read)",
        )  # fmt: skip


def secret(patient: Patient) -> Iterator[Finding]:
    """The secret part of client ids."""
    try:
        if (patient.fleet.folder / "ca" / SESSION_SECRET).exists():
            patient.fleet.session_secret()
    except InputError as error:
        path = patient.fleet.folder / "ca" / SESSION_SECRET
        yield Finding("folder", error.code, str(error), f"rm {path}, and restart the controller")


def signing_keys(patient: Patient) -> Iterator[Finding]:
    """The online keys sign every day."""
    repository = patient.fleet.open_repository()
    root = repository.metadata.root().signed
    for role in ("snapshot", "timestamp"):
        wanted = [cast("SSlibKey", root.keys[keyid]) for keyid in root.roles[role].keyids]
        try:
            found = repository.metadata.keys.signers(wanted)
        except InputError as error:
            cure = "set SHOAL_PASSPHRASE to the passphrase of the keys"
            if error.code == "key-exposed":
                cure = f"chmod go= {patient.fleet.keys_folder}/*.pem"
            elif error.code != "key-locked":
                cure = f"put the key from a backup into {patient.fleet.keys_folder}"
            yield Finding("keys", error.code, str(error), cure)
            return
        if len(found) < root.roles[role].threshold:
            yield Finding(
                "keys", "key-missing",
                f"{patient.fleet.keys_folder} has {len(found)} of the {root.roles[role].threshold} "
                f"keys of {role}: nothing is signed anew, and devices soon refuse what is there",
                f"put the key from a backup there, or, with the root key at hand, "
                f"shoal fleet keys rotate {role} {patient.here}",
            )  # fmt: skip


def authority(patient: Patient) -> Iterator[Finding]:
    """The authority, and what it issued for broker, controller and API."""
    fleet = patient.fleet
    if not fleet.config.mutual_tls:
        return
    folder = fleet.folder / "ca"
    try:
        identity = fleet.open_identity()
    except (ShoalError, OSError) as error:
        code = error.code if isinstance(error, ShoalError) else "no-authority"
        cure = "restore the folder ca/ from a backup (shoal fleet restore BACKUP NEW-FOLDER)"
        if code == "key-locked":
            cure = "set SHOAL_PASSPHRASE to the passphrase of the authority's key"
        yield Finding("certificates", code, str(error), cure)
        return
    wanted = address.names(fleet.config)
    servers = ["broker", *(["api"] if address.has_own_certificate(fleet.config) else [])]
    for name in (*servers, "controller"):
        reason = _misfit(identity, name, wanted if name in servers else [])
        if reason:
            yield Finding("certificates", f"{name}-certificate", reason, patient.restart)
    revoked = _unlisted(identity, patient.clock())
    if revoked:
        yield Finding(
            "certificates", "revocations",
            f"ca/crl.pem lacks {revoked} revoked certificates", patient.restart,
        )  # fmt: skip
    for name in ("ca.pem", "crl.pem", "broker.pem", "broker.key.pem"):
        copy = folder / FOR_THE_BROKER / name
        if not copy.exists() or copy.read_bytes() != (folder / name).read_bytes():
            yield Finding(
                "certificates", "broker-copy",
                f"{copy}, which the broker reads, is not {folder / name}", patient.restart,
            )  # fmt: skip
            return


def _misfit(identity: Identity, name: str, wanted: list[str]) -> str:
    """Why a certificate cannot be used; empty: it can."""
    path = identity.folder / f"{name}.pem"
    try:
        certificate = ca.parse_certificate(path.read_bytes())
        data = (identity.folder / f"{name}.key.pem").read_bytes()
        key = serialization.load_pem_private_key(data, None)
    except (OSError, ValueError, TypeError, InputError) as error:
        return f"{path} or its key cannot be read: {error}"
    if key.public_key() != certificate.public_key():
        return f"{path} and {name}.key.pem do not belong together"
    has = {ca.general_name(host) for host in ca.hosts_of(certificate)} if wanted else set()
    lacks = [host for host in wanted if ca.general_name(host) not in has]
    return f"{path} does not name {', '.join(lacks)}, under which it is reached" if lacks else ""


def _unlisted(identity: Identity, now: float) -> int:
    with identity.registry.transaction() as transaction:
        revoked = {serial for serial, _ in transaction.revoked(now)}
    with contextlib.suppress(OSError, ValueError):
        data = (identity.folder / "crl.pem").read_bytes()
        revoked -= {entry.serial_number for entry in x509.load_pem_x509_crl(data)}
    return len(revoked)


def generated(patient: Patient) -> Iterator[Finding]:
    """The broker's configuration says what ``fleet.yaml`` and the registry say."""
    fleet = patient.fleet
    folder = fleet.folder / "broker"
    try:
        lines = (folder / "mosquitto.conf").read_text().splitlines()
    except OSError as error:
        yield Finding("broker", "no-configuration", str(error), patient.restart)
        return
    options = [line.split(None, 1) for line in lines if line.strip() and line[0] != "#"]
    for name, *value in options:
        elsewhere = value and not value[0].startswith(f"{fleet.folder.resolve()}/")
        if name in _OUR_FILES and elsewhere:
            yield Finding(
                "broker",
                "configuration-moved",
                f"mosquitto.conf names {value[0]}, which is not below {fleet.folder}",
                patient.restart,
            )
            return
    ports = {int(value[0].split()[0]) for name, *value in options if name == "listener" and value}
    where = address.listener(fleet.config)
    wanted = {port for port in (where.port, where.controllers_port) if port}
    if ports != wanted:
        yield Finding(
            "broker", "configuration-old",
            f"mosquitto.conf has the ports {sorted(ports)}, fleet.yaml {sorted(wanted)}",
            patient.restart,
        )  # fmt: skip
    if not fleet.config.mutual_tls:
        return
    with fleet.open_identity().own.access() as access:
        rules = acl_file(
            fleet.config.fleet, access.groups, revoked=access.denied,
            home_assistant=fleet.config.home_assistant,
            installs=fleet.config.home_assistant_installs, applications=access.applications,
        )  # fmt: skip
    with contextlib.suppress(OSError):
        if (folder / "acl").read_text() == rules:
            return
    yield Finding(
        "broker", "acl-old", f"{folder / 'acl'} is not what the registry of devices says",
        patient.restart,
    )  # fmt: skip


def ends(patient: Patient) -> Iterator[Finding]:
    """What runs out soon, or has."""
    fleet = patient.fleet
    store = fleet.open_store()
    now = patient.clock()
    try:
        with store.read() as connection:
            items = expiry.every(fleet, fleet.open_repository(), connection, now)
    finally:
        store.close()
    for item, days in expiry.due(items, now):
        yield Finding(
            "expiry", f"expiry-{item.kind}", item.sentence(now), item.todo,
            "soon" if days else "broken",
        )  # fmt: skip


def signed(patient: Patient) -> Iterator[Finding]:
    """Signatures hold, and what is signed is there."""
    restore = "restore the folder repository/ from a backup (shoal fleet restore)"
    try:
        store = patient.fleet.open_repository().metadata
        root, targets = store.root().signed, store.targets()
        parts: dict[str, Metadata[Any]] = {
            "snapshot": store.snapshot(),
            "timestamp": store.timestamp(),
            "targets": targets,
        }
    except (ShoalError, OSError, KeyError) as error:
        yield Finding("repository", "repository-corrupt", str(error)[:300], restore)
        return
    for role, document in parts.items():
        result = root.get_verification_result(role, document.signed_bytes, document.signatures)
        if not result.verified:
            words = "resign --targets" if role == "targets" else "resign"
            yield Finding(
                "repository", "wrong-signature",
                f"{role} is signed by {len(result.signed)} of the {result.threshold} keys that "
                "must: devices refuse it",
                f"shoal fleet keys {words} {patient.here}",
            )  # fmt: skip
    for entry in delegated_roles(targets.signed):
        version = store.delegated_version(entry.name)
        if version and not store.delegated(entry.name, targets.signed).targets:
            yield Finding(
                "repository", "unsigned-publisher",
                f"what the publisher {entry.name} signed counts no more: its keys were replaced",
                f"shoal fleet publish BUNDLE... --signed {entry.name}.json {patient.here}", "soon",
            )  # fmt: skip
    yield from _contents(patient)


def _contents(patient: Patient) -> Iterator[Finding]:
    repository = patient.fleet.open_repository()
    for ref in repository.bundles():
        path = repository.folder / paths.manifest(ref)
        try:
            data = path.read_bytes()
            if sha256_of(data) != ref.manifest_sha256:
                raise InputError("bundle-corrupt", f"{path} is not the signed manifest")
            manifest = codec.decode(data, Manifest, what=str(path), cap=len(data))
            for entry in manifest.files:
                blob = repository.folder / paths.blob(entry.sha256)
                if not blob.is_file() or blob.stat().st_size != entry.size:
                    raise InputError("bundle-corrupt", f"{blob}, of {ref}, is not there, or cut")
        except (OSError, InputError) as error:
            yield Finding(
                "repository", "bundle-corrupt", str(error)[:300],
                f"shoal fleet publish {ref.name}-{ref.version} {patient.here} (the same bundle)",
            )  # fmt: skip
