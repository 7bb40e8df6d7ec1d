"""A fleet's folder: its configuration, keys, certificates, repository, database and tokens.

::

    fleet.yaml     configuration (FleetConfig)
    keys/          signing keys: root and targets may move offline, snapshot and timestamp stay
    ca/            certificate authority, the broker's and the controller's certificates, and
                   the secret part of the controller's client ids
    repository/    signed metadata and content by hash, served as static files
    broker/        generated mosquitto configuration
    devices/       one agent.yaml for each enrolled device, until it is moved there
    tokens/        API tokens written by `init`, readable by their owner alone
    state.db       the database, unless fleet.yaml names another
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import sqlalchemy as sa
import yaml

from contracts import codec, files, limits
from contracts.board import load_for_agent
from contracts.bundle import Bundle
from contracts.config import AgentConfig
from contracts.errors import InputError, RefusedError, UnavailableError
from contracts.messages import BundleRef, DeviceLabels
from contracts.topics import check_name
from fleet import address, durable
from fleet import enforcement as access
from fleet.config import CONFIG, ApiConfig, BrokerConfig, FleetConfig, check
from fleet.identity import Identity, provisioning
from fleet.identity.authority import common_name, parse_certificate
from fleet.parts import Parts, passphrase
from fleet.repository import Repository
from fleet.store import Store, audit, bundles, departures, desired, devices, entries, tokens
from fleet.store.entries import Actor

__all__ = ["CONFIG", "ApiConfig", "BrokerConfig", "Fleet", "FleetConfig"]

_REPORT_CAP: Final = 8 * limits.MIB


class Fleet(Parts):
    """An opened folder. Use :meth:`init` or :meth:`open`."""

    @classmethod
    def init(
        cls,
        folder: Path,
        config: FleetConfig,
        *,
        hosts: Sequence[str] = (),
        now: float | None = None,
    ) -> Fleet:
        """Makes a fleet: all of the folder, or nothing of it.

        Args:
            folder: must not exist, or be empty.
            config: what goes into ``fleet.yaml``.
            hosts: names for the certificates of broker and API, beside those that follow from
                `config`.
            now: seconds since the epoch.

        Raises:
            InputError: ``already-a-fleet``, ``not-empty``, and what the parts raise.
        """
        folder = folder.absolute()
        if (folder / CONFIG).exists():
            raise InputError("already-a-fleet", f"{folder} is a fleet already")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(
                "not-empty", f"{folder} is not an empty folder: name one that is, or a new one"
            )
        check(config)
        durable.make_folder(folder.parent)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            fleet = cls(temporary, config)
            fleet._fill(hosts, time.time() if now is None else now)
            temporary.replace(folder)
            durable.sync_folder(folder.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        fleet = cls(folder, config)
        fleet.write_broker_configuration()
        return fleet

    def _fill(self, hosts: Sequence[str], now: float) -> None:
        for name in ("tokens", "devices"):
            durable.make_folder(self.folder / name, 0o700)
        Repository.create(self.folder / "repository", self.keys_folder, passphrase=passphrase())
        names = list(dict.fromkeys([*hosts, *address.names(self.config)]))
        identity = Identity.create(
            self.folder / "ca", self.config.fleet, hosts=names, passphrase=passphrase()
        )
        identity.own.cover(names, api=address.has_own_certificate(self.config))
        self.session_secret()
        store = self.open_store(migrate=True)
        try:
            with store.write() as connection:
                token = tokens.create(connection, "admin", "admin", now)
                audit.note_by(connection, audit.local(), "fleet.init", self.config.fleet, now)
        finally:
            store.close()
        durable.write(self.token_file, (token + "\n").encode(), mode=0o600)
        text = yaml.safe_dump(msgspec.to_builtins(self.config), sort_keys=False)
        durable.write(self.folder / CONFIG, text.encode(), mode=0o600)

    @classmethod
    def open(cls, folder: Path) -> Fleet:
        """Opens a fleet's folder.

        Raises:
            InputError: ``not-a-fleet``, ``bad-message``, ``tls-needed``.
        """
        file = folder / CONFIG
        hint = f"make a fleet with `shoal fleet init {files.typed(folder)}`"
        text = files.read_small(file, code="not-a-fleet", hint=hint)
        config = codec.convert_yaml(text, FleetConfig, what=str(file))
        check(config)
        return cls(folder.absolute(), config)

    def prepare(self) -> list[str]:
        """Makes what is generated fit the folder's place and its settings; call it at each start.

        A folder may have been moved or restored elsewhere, its address changed, a key and its
        certificate parted by a power cut.

        Returns:
            What a person must do so that a broker that runs already uses it.
        """
        path = self.folder / "broker" / "mosquitto.conf"
        before = path.read_bytes() if path.exists() else b""
        todo = []
        if not self.config.mutual_tls:
            self.write_broker_configuration()
        else:
            identity = self.open_identity()
            own = address.has_own_certificate(self.config)
            made = identity.own.cover(address.names(self.config), api=own)
            found = access.apply(self, identity, revoked="broker" in made)
            todo += [found.todo] if found.todo else []
        if before != path.read_bytes():
            todo.append("a broker that runs already must be restarted: its configuration changed")
        return todo

    def enroll(
        self,
        device: str,
        board: str,
        *,
        labels: DeviceLabels | None = None,
        groups: Sequence[str] | None = None,
        out: Path | None = None,
        replace: bool = False,
        actor: Actor | None = None,
    ) -> tuple[AgentConfig, Path]:
        """Admits a device and writes its ``agent.yaml``.

        A device that is enrolled again keeps the labels and groups that are None here: operators
        gave them. `actor` is who does it; None: the user of this machine.

        Raises:
            InputError: ``unknown-board``, ``wrong-board``, ``file-exists``, and what the
                identity raises.
        """
        check_name(device, "device")
        load_for_agent(board)
        path = out or self.folder / "devices" / device / "agent.yaml"
        if path.exists() and not replace:
            raise InputError("file-exists", f"{path} exists: name another file, or use --replace")
        identity = self.open_identity()
        where = self.enrolment()
        self._check_free(device)
        durable.make_folder(path.parent, 0o700)
        store = self.open_store()
        try:
            # The file has the only copy of the new key, and the one before that of the old: the
            # new one is whole on the disk before the old certificate counts no more.
            with durable.staged(path, mode=0o600) as file, store.write() as connection:
                known = devices.some(connection, [device]).get(device) if replace else None
                labels = known.labels if labels is None and known else labels
                groups = known.groups if groups is None and known else groups
                with identity.enrolling(
                    device, board, where, labels=labels, groups=groups or (), replace=replace
                ) as config:
                    now = time.time()
                    _admit(store, connection, config, now)
                    audit.note_by(
                        connection, actor or audit.local(), "device.enroll", device, now,
                        board=board, labels=config.labels, groups=config.groups, replace=replace,
                    )  # fmt: skip
                    file.write(provisioning.to_yaml(config))
                file.swap(overwrite=replace)
        finally:
            store.close()
        access.apply(self, identity, revoked=replace)
        return config, path

    def _check_free(self, device: str) -> None:
        """A device must not be given what the broker retains of who had its name before."""
        store = self.open_store()
        try:
            with store.read() as connection:
                taken = departures.uncleared(connection, device)
        finally:
            store.close()
        if taken:
            raise UnavailableError(
                "name-not-free",
                f"the broker may retain documents of the device that was called {device}: they "
                "are removed when broker and controller run; then try again",
            )

    def redeem(self, token: str, request: bytes) -> AgentConfig:
        """Enrols the device of a one-time token, whose key stays with it.

        Every step may be done again: a device whose answer was lost, or whose enrolment broke
        off behind the first of them, repeats its request and has the rest done.

        Raises:
            RefusedError: ``bad-token``.
            InputError: ``bad-request``, ``already-enrolled``.
        """
        identity = self.open_identity()
        if (invited := identity.invited(token)).used is None:
            self._check_free(invited.profile.device)
        config = identity.redeem(token, request, self.enrolment())
        assert config.mqtt.tls is not None
        pem = config.mqtt.tls.certificate
        issued = next(one.issued for one in identity.certificates(config.device) if one.pem == pem)
        store = self.open_store()
        try:
            with store.write() as connection:
                # What an operator changed since is not undone by a repetition.
                if not _enrolled_since(connection, config.device, issued):
                    now = time.time()
                    _admit(store, connection, config, now)
                    actor = Actor(config.device, "token")
                    audit.note_by(connection, actor, "device.enroll", config.device, now)
        finally:
            store.close()
        access.apply(self, identity, revoked=invited.replaces)
        return config

    def publish(
        self, path: Path, report: Path | None = None, *, actor: Actor | None = None
    ) -> tuple[BundleRef, int]:
        """Signs and publishes a bundle; returns its reference and release counter.

        `actor` is who does it; None: the user of this machine.

        Raises:
            RefusedError: ``version-taken``; the version was given to other bytes.
            InputError: ``bad-report``, and what the bundle and the repository raise.
        """
        store = self.open_store()
        with (
            contextlib.closing(store),
            audit.acting(store, actor or audit.local(), "bundle.publish", path.name) as act,
        ):
            bundle = Bundle.open(path)
            act.target = str(bundle.ref)
            text = _read_report(report or _report_beside(path, bundle), needed=report is not None)
            repository = self.open_repository()
            if bundle.ref not in repository.bundles():
                # The signed list does not remember what earlier versions of it withdrew.
                _check_free(store, bundle.ref)
            ref = repository.publish(bundle)
            release = repository.release(ref)
            act.detail |= {"release": release, "manifest_sha256": ref.manifest_sha256}
            with store.write() as connection:
                bundles.add(
                    store, connection, ref, release, bundle.manifest_bytes, time.time(), text
                )
                act.done(connection)
        return ref, release

    def withdraw(self, name: str, version: str, *, actor: Actor | None = None) -> BundleRef:
        """Takes a bundle out of the signed list and marks it in the index.

        Raises:
            InputError: ``no-such-bundle``, and what the repository raises.
        """
        store, target = self.open_store(), f"{name} {version}"
        with (
            contextlib.closing(store),
            audit.acting(store, actor or audit.local(), "bundle.withdraw", target) as act,
        ):
            repository = self.open_repository()
            ref = repository.find(name, version)
            repository.withdraw(ref)
            act.detail |= {"manifest_sha256": ref.manifest_sha256}
            with store.write() as connection:
                bundles.withdraw(connection, ref)
                act.done(connection)
        return ref

    def new_token(
        self,
        device: str,
        board: str,
        *,
        labels: DeviceLabels,
        groups: Sequence[str],
        seconds: float,
        actor: Actor | None = None,
    ) -> str:
        """A one-time token that enrols a device.

        Raises:
            InputError: ``unknown-board``, ``wrong-board``, and as :meth:`Identity.new_token`.
        """
        store = self.open_store()
        with (
            contextlib.closing(store),
            audit.acting(
                store, actor or audit.local(), "device.token", device,
                board=board, labels=labels, groups=list(groups), seconds=seconds,
            ),
        ):  # fmt: skip
            load_for_agent(board)
            return self.open_identity().new_token(
                device, board, labels=labels, groups=groups, seconds=seconds
            )

    def renew(self, certificate: bytes, request: bytes, signature: str) -> str:
        """A device's next certificate; raises as :meth:`Identity.renew`.

        A device whose answer was lost asks again, and gets the same: it is noted then at the
        latest.
        """
        pem = self.open_identity().renew(certificate, request, signature)
        issued = parse_certificate(pem.encode())
        device, store = common_name(issued), self.open_store()
        with contextlib.closing(store):
            who = Actor(device, "device")
            audit.count(store, who, "certificate.renew", device, entries.DONE, time.time())
        return pem


def _admit(store: Store, connection: sa.Connection, config: AgentConfig, now: float) -> None:
    device = config.device
    devices.enroll(store, connection, device, config.board, config.labels, config.groups, now)
    desired.regroup(store, connection, device, now, again=True)


def _enrolled_since(connection: sa.Connection, device: str, issued: float) -> bool:
    try:
        enrolled_at = devices.get(connection, device).enrolled_at
    except InputError:
        return False
    return enrolled_at is not None and enrolled_at >= issued


def _check_free(store: Store, ref: BundleRef) -> None:
    with store.read() as connection:
        try:
            known = bundles.find(connection, ref.name, ref.version).ref
        except InputError:
            return
    if known != ref:
        raise RefusedError(
            "version-taken",
            f"{ref} was published with other bytes: a version never changes; "
            "give the bundle a new version",
        )


def _report_beside(path: Path, bundle: Bundle) -> Path | None:
    found = path.parent / f"{bundle.ref.name}-{bundle.ref.version}-report.json"
    return found if found.is_file() else None


def _read_report(path: Path | None, *, needed: bool) -> str | None:
    if path is None:
        return None
    try:
        if path.stat().st_size > _REPORT_CAP:
            raise InputError("too-large", f"{path} is over {_REPORT_CAP} bytes")
        document = msgspec.json.decode(path.read_bytes(), type=dict)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if not needed:
            return None
        raise InputError("bad-report", f"{path} is not a build report: {error}") from None
    return codec.encode(document).decode()
