"""MQTT topics: the only place where one is built or parsed.

Everything lives below ``shoal/v1/{fleet}``. :func:`parse` is the inverse of every
builder method of :class:`Topics`; tests hold the two together.

A name (fleet, device, group, operation, request id) is 1 to 64 characters of
``A-Z a-z 0-9 . _ -`` and begins with a letter or digit, so that it can hold neither an
MQTT separator nor a wildcard, and can be a file name and a certificate's common name.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from typing import Final, Literal, get_args

import msgspec

from contracts.errors import InputError

ROOT: Final = "shoal/v1"

HOME_ASSISTANT: Final = "homeassistant"
"""What the topics of Home Assistant's discovery begin with."""

LEAVE: Final = "leave"
"""The request that ends a device's time in the fleet: the controller's last word."""

MAX_ANSWER_LEVELS: Final = 4
"""Levels of an application's answer topic below ``a/{application}``."""

DeviceKind = Literal[
    "status", "reported", "desired", "update", "telemetry", "result", "ack", "offered"
]
Kind = Literal[
    "status",
    "reported",
    "desired",
    "update",
    "telemetry",
    "result",
    "ack",
    "offered",
    "install",
    "request",
    "group-request",
    "response",
    "blob-get",
    "blob",
    "owner",
]

_DEVICE_KINDS: Final = frozenset(get_args(DeviceKind))
_NOT_PLAIN: Final = re.compile(r"[^A-Za-z0-9_-]")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(value: str, what: str) -> str:
    """Returns `value` when it is a legal name.

    Args:
        value: the name to check.
        what: what the name is of, for the error ("device", "fleet", ...).

    Raises:
        InputError: code ``bad-name``.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InputError(
            "bad-name",
            f"{what} {str(value)[:80]!r} is not a name: use 1 to 64 of A-Z a-z 0-9 . _ - "
            "and begin with a letter or digit",
        )
    return value


class Address(msgspec.Struct, frozen=True):
    """A parsed topic.

    Attributes:
        fleet: the fleet's name.
        kind: which of the protocol's topics it is.
        target: the device, or the group for ``group-request``; empty for ``owner``.
        name: the operation of a request, the slot of an installation, or the id of a response or
            block; else empty.
    """

    fleet: str
    kind: Kind
    target: str
    name: str = ""


class Topics:
    """Builds the topics of one fleet.

    Args:
        fleet: the fleet's name.

    Raises:
        InputError: the name is not legal; builder methods raise the same for theirs.
    """

    def __init__(self, fleet: str) -> None:
        self.fleet = check_name(fleet, "fleet")
        self.prefix = f"{ROOT}/{fleet}"

    def _device(self, device: str) -> str:
        return f"{self.prefix}/d/{check_name(device, 'device')}"

    def of_device(self, device: str, kind: DeviceKind) -> str:
        """``d/{device}/{kind}``."""
        return f"{self._device(device)}/{kind}"

    def request(self, device: str, op: str) -> str:
        """``d/{device}/req/{op}``."""
        return f"{self._device(device)}/req/{check_name(op, 'operation')}"

    def group_request(self, group: str, op: str) -> str:
        """``g/{group}/req/{op}``."""
        return f"{self.prefix}/g/{check_name(group, 'group')}/req/{check_name(op, 'operation')}"

    def response(self, device: str, request_id: str) -> str:
        """``d/{device}/res/{id}``."""
        return f"{self._device(device)}/res/{check_name(request_id, 'request id')}"

    def application(self, application: str, *path: str) -> str:
        """``a/{application}/...``: where an application has answers sent, by names of its own."""
        if not 1 <= len(path) <= MAX_ANSWER_LEVELS:
            raise InputError(
                "bad-topic",
                f"an application's topic has 1 to {MAX_ANSWER_LEVELS} levels of its own",
            )
        levels = (check_name(level, "level") for level in path)
        return "/".join([self.prefix, "a", check_name(application, "application"), *levels])

    def is_application(self, topic: str) -> bool:
        """Whether :meth:`application` builds `topic`."""
        match topic.split("/"):
            case ["shoal", "v1", fleet, "a", application, *path] if fleet == self.fleet:
                with contextlib.suppress(InputError):
                    return self.application(application, *path) == topic
        return False

    def install(self, device: str, slot: str) -> str:
        """``d/{device}/install/{slot}``: an owner asks for what is offered there."""
        return f"{self._device(device)}/install/{check_name(slot, 'slot')}"

    def blob_get(self, device: str) -> str:
        """``d/{device}/blob/get``."""
        return f"{self._device(device)}/blob/get"

    def blob(self, device: str, blob_id: str) -> str:
        """``d/{device}/blob/{id}``; the id ``get`` is taken by requests."""
        if blob_id == "get":
            raise InputError("bad-name", "block id 'get' is reserved: choose another")
        return f"{self._device(device)}/blob/{check_name(blob_id, 'block id')}"

    def owner(self) -> str:
        """``owner``: which controller has the fleet."""
        return f"{self.prefix}/owner"

    def build(self, address: Address) -> str:
        """The topic of `address`: the inverse of :func:`parse` (for this fleet)."""
        match address.kind:
            case "request":
                return self.request(address.target, address.name)
            case "group-request":
                return self.group_request(address.target, address.name)
            case "response":
                return self.response(address.target, address.name)
            case "install":
                return self.install(address.target, address.name)
            case "blob-get":
                return self.blob_get(address.target)
            case "blob":
                return self.blob(address.target, address.name)
            case "owner":
                return self.owner()
            case kind:
                return self.of_device(address.target, kind)

    # Subscription filters. ----------------------------------------------------------------

    def every_device(self, kind: DeviceKind) -> str:
        """Filter for one kind of topic of all devices: ``d/+/{kind}``."""
        return f"{self.prefix}/d/+/{kind}"

    def every_response(self) -> str:
        """Filter for the answers of all devices: ``d/+/res/+``."""
        return f"{self.prefix}/d/+/res/+"

    def every_install(self) -> str:
        """Filter for what owners ask to be installed: ``d/+/install/+``."""
        return f"{self.prefix}/d/+/install/+"

    def every_blob_get(self) -> str:
        """Filter for the block requests of all devices: ``d/+/blob/get``."""
        return f"{self.prefix}/d/+/blob/get"

    def answers_to(self, application: str) -> str:
        """Filter for what is sent to one application: ``a/{application}/#``."""
        return f"{self.prefix}/a/{check_name(application, 'application')}/#"

    def requests_of(self, device: str) -> str:
        """Filter for all requests to one device: ``d/{device}/req/+``."""
        return f"{self._device(device)}/req/+"

    def group_requests(self, group: str) -> str:
        """Filter for all requests to one group: ``g/{group}/req/+``."""
        return f"{self.prefix}/g/{check_name(group, 'group')}/req/+"

    def blobs_of(self, device: str) -> str:
        """Filter for all blocks sent to one device: ``d/{device}/blob/+``."""
        return f"{self._device(device)}/blob/+"

    def shared(self, group: str, topic_filter: str) -> str:
        """`topic_filter` as a shared subscription: ``$share/{group}/...``."""
        return f"$share/{check_name(group, 'share group')}/{topic_filter}"


def home_assistant_id(fleet: str, device: str) -> str:
    """The device's id for Home Assistant: letters, digits, underscore and hyphen.

    A name with a dot gets a few digits of its hash: no two devices have the same id.
    """
    check_name(fleet, "fleet")
    plain = _NOT_PLAIN.sub("_", check_name(device, "device"))
    if plain != device:
        plain += f"-{hashlib.sha256(device.encode()).hexdigest()[:8]}"
    return f"shoal-{_NOT_PLAIN.sub('_', fleet)}-{plain}"


def home_assistant_discovery(fleet: str, device: str) -> str:
    """Where a device tells Home Assistant what it has (retained); not a topic of the protocol."""
    return f"{HOME_ASSISTANT}/device/{home_assistant_id(fleet, device)}/config"


def home_assistant_update(fleet: str, device: str, slot: str) -> str:
    """Where the controller tells Home Assistant of the update entity of one slot (retained)."""
    plain = _NOT_PLAIN.sub("_", check_name(slot, "slot"))
    if plain != slot:
        plain += f"-{hashlib.sha256(slot.encode()).hexdigest()[:8]}"
    return f"{HOME_ASSISTANT}/update/{home_assistant_id(fleet, device)}/{plain}/config"


def parse(topic: str) -> Address:
    """Parses a topic of the protocol.

    Raises:
        InputError: code ``bad-topic``; the topic is not one of the protocol.
    """
    match topic.split("/"):
        case ["shoal", "v1", fleet, "d", device, kind] if kind in _DEVICE_KINDS:
            address = Address(fleet, kind, device)  # type: ignore[arg-type]
        case ["shoal", "v1", fleet, "d", device, "req", op]:
            address = Address(fleet, "request", device, op)
        case ["shoal", "v1", fleet, "d", device, "res", request_id]:
            address = Address(fleet, "response", device, request_id)
        case ["shoal", "v1", fleet, "d", device, "install", slot]:
            address = Address(fleet, "install", device, slot)
        case ["shoal", "v1", fleet, "d", device, "blob", "get"]:
            address = Address(fleet, "blob-get", device)
        case ["shoal", "v1", fleet, "d", device, "blob", blob_id]:
            address = Address(fleet, "blob", device, blob_id)
        case ["shoal", "v1", fleet, "g", group, "req", op]:
            address = Address(fleet, "group-request", group, op)
        case ["shoal", "v1", fleet, "owner"]:
            address = Address(fleet, "owner", "")
        case _:
            raise InputError("bad-topic", f"{topic[:200]!r} is not a topic of protocol v1")
    check_name(address.fleet, "fleet")
    if address.kind != "owner":
        check_name(address.target, "device or group")
    if address.name or address.kind in ("request", "group-request", "response", "install", "blob"):
        check_name(address.name, "operation or id")
    return address
