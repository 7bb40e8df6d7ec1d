"""The parts of a fleet's folder: where each is, how it is opened, and what the broker is told.

Nothing here changes devices, bundles or the store: what is done to a folder is in
:mod:`fleet.folder`.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path
from typing import Final

import msgspec

from contracts import files
from contracts.config import MqttConfig
from contracts.errors import InputError, UnavailableError
from contracts.topics import Topics
from fleet import address, durable
from fleet.broker import write_configuration
from fleet.broker.mosquitto import Size
from fleet.broker.reload import write_units
from fleet.broker.sessions import find_plugin
from fleet.config import FleetConfig
from fleet.identity import Enrolment, Identity
from fleet.repository import Repository
from fleet.store import Store

SESSION_SECRET: Final = "session.secret"  # noqa: S105  (the name of a file)
POOL_SECRET: Final = "pool.secret"  # noqa: S105  (the name of a file)
PASSPHRASE: Final = "SHOAL_PASSPHRASE"  # noqa: S105  (the name of a variable)


class Parts:
    """The parts of one folder with its settings."""

    def __init__(self, folder: Path, config: FleetConfig) -> None:
        self.folder = folder
        self.config = config
        self.topics = Topics(config.fleet)

    @property
    def keys_folder(self) -> Path:
        """Where the signing keys are."""
        return self.folder / "keys"

    @property
    def token_file(self) -> Path:
        """The admin token that `init` wrote."""
        return self.folder / "tokens" / "admin"

    @property
    def api_url(self) -> str:
        """Where the controller's HTTP side is reached."""
        return address.api_url(self.config)

    @property
    def api_files(self) -> tuple[Path, Path] | None:
        """The certificate and the key of the API; None: it has none."""
        api = self.config.api
        if api.certificate and api.key:
            return self.folder / api.certificate, self.folder / api.key
        if address.has_own_certificate(self.config):
            return self.folder / "ca" / "api.pem", self.folder / "ca" / "api.key.pem"
        return None

    @property
    def database_url(self) -> str:
        """The database."""
        return self.config.database or f"sqlite:///{self.folder / 'state.db'}"

    def open_store(self, *, migrate: bool = False) -> Store:
        """The database, with its schema checked, or brought up to date."""
        store = Store(self.database_url)
        try:
            if migrate:
                store.migrate()
            else:
                store.refuse_newer()
        except UnavailableError:
            if migrate:
                store.close()
                raise
        except BaseException:
            store.close()
            raise
        return store

    def open_repository(self) -> Repository:
        """The signed repository, with the keys that are there."""
        return Repository.open(
            self.folder / "repository", self.keys_folder, passphrase=passphrase()
        )

    def open_identity(self) -> Identity:
        """The certificate authority."""
        return Identity.open(self.folder / "ca", passphrase=passphrase())

    def own_ca(self) -> str:
        """The certificate of the fleet's authority (PEM), which counts beside the system's."""
        try:
            return (self.folder / "ca" / "ca.pem").read_text("ascii")
        except FileNotFoundError:
            return ""

    def controller_mqtt(self) -> MqttConfig:
        """The controller's way to the broker, with its certificate when the fleet has them."""
        if not self.config.mutual_tls or self.config.mqtt.tls is not None:
            return self.config.mqtt
        own = self.open_identity().own
        own.mend()
        return msgspec.structs.replace(self.config.mqtt, tls=own.controller_tls)

    def session_secret(self) -> str:
        """What devices must not know: a part of each client id of the controller's processes.

        A broker gives the session of a client id to whoever connects under it, and a device
        with a certificate may connect under any. Made when missing, as in a folder of an
        earlier version; all processes of the fleet get the same.

        Raises:
            InputError: ``bad-secret``.
        """
        return self._secret(SESSION_SECRET)

    def pool_secret(self) -> bytes:
        """What the noise of pooled figures follows from. Made when missing.

        Raises:
            InputError: ``bad-secret``.
        """
        return bytes.fromhex(self._secret(POOL_SECRET))

    def _secret(self, name: str) -> str:
        path = self.folder / "ca" / name
        if not path.exists():
            with contextlib.suppress(FileExistsError):
                durable.write(path, secrets.token_hex(16).encode(), mode=0o600, overwrite=False)
        hint = "remove it, and restart the controller: it makes another"
        text = files.read_small(path, what="secret", code="bad-secret", hint=hint)
        found = text.decode("ascii", "replace").strip()
        if not re.fullmatch("[0-9a-f]{32}", found):
            raise InputError("bad-secret", f"{path} is not a secret of the controller's: {hint}")
        return found

    def write_broker_configuration(self, identity: Identity | None = None) -> Path:
        """Writes mosquitto's configuration and access control anew."""
        where = address.listener(self.config)
        if not self.config.mutual_tls:
            return write_configuration(
                self.folder / "broker", port=where.port, host=where.host, size=self.broker_size()
            )
        identity = identity or self.open_identity()
        if self.config.home_assistant:
            identity.own.ensure_reader()
        named = self.config.broker.plugin
        plugin = find_plugin() if named is None else Path(named) if named else None
        identity.own.hand_out()
        credentials = identity.own.broker_credentials
        watched = [self.folder / "broker/acl", credentials.crl, credentials.certificate]
        write_units(self.folder / "broker", watched)
        with identity.own.access() as access:
            return write_configuration(
                self.folder / "broker",
                port=where.port,
                host=where.host,
                controllers_port=where.controllers_port,
                controllers_host=address.controllers_host(self.config),
                fleet=self.config.fleet,
                groups=access.groups,
                revoked=access.denied,
                credentials=credentials,
                plugin=plugin,
                home_assistant=self.config.home_assistant,
                installs=self.config.home_assistant_installs,
                applications=access.applications,
                size=self.broker_size(len(access.groups)),
            )

    def broker_size(self, enrolled: int = 0) -> Size:
        """What the broker may use: for as many devices as are set, or enrolled."""
        return Size.of(max(self.config.devices, enrolled))

    def enrolment(self) -> Enrolment:
        """What every device of the fleet is told."""
        return Enrolment(
            mqtt=address.device_mqtt(self.config),
            trust_root=self.open_repository().root.decode(),
            repository_url=f"{self.api_url}/repo/" if self.config.http_repository else None,
            renewal_url=f"{self.api_url}/v1/certificates/renew" if self.config.mutual_tls else None,
            mutual_tls=self.config.mutual_tls,
            home_assistant=self.config.home_assistant,
            settings=self.config.device_settings,
        )


def passphrase() -> bytes | None:
    """The passphrase of the keys, from the environment."""
    value = os.environ.get(PASSPHRASE)
    return value.encode() if value else None
