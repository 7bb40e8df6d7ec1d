"""The search for a bundle through delegated roles: TUF specification 1.0.33, section 5.6.7.

The rules of ``agent/trust/delegations.py`` within a board's memory: depth first, in the order in
which a role lists others; a role is asked only for names that every role above it handed down;
what a terminating one covers, no role after it signs. Files are read as streams: of the roles
that one lists, those stay in memory whose patterns cover the name, with their keys.
"""

import binascii
import hashlib

from .errors import Refused
from .trust import walk

MAX_ROLES = 8  # asked for one bundle; each costs a check of signatures
MAX_DEPTH = 4
MAX_KEYS = 16  # of one role
MAX_PATTERN = 128  # characters
MAX_FILE_NAME = 200
_TOP = ("root", "targets", "snapshot", "timestamp")
_PLAIN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~"


class Search:
    """The roles that are asked for one bundle, one after the other.

    A role is a dict: ``name``, ``file`` (its name in a path), ``keyids``, ``threshold``,
    ``keys`` (of the role that lists it), ``depth``.

    Args:
        name: ``bundles/{name}/{version}/manifest.json``.
    """

    def __init__(self, name):
        self._name = name
        self._waiting = []  # the next one last
        self._asked = set()

    def below(self, path, role=None):
        """Adds what a checked file delegates.

        Args:
            path: of the file on flash.
            role: whose it is; None: of the targets role.
        """
        found = _covering(path, self._name)
        if found and found[-1].get("terminating"):
            self._waiting = []
        for child in reversed(found):
            child["depth"] = 1 if role is None else role["depth"] + 1
            self._waiting.append(child)

    def next(self):
        """The role to ask now.

        Raises:
            Refused: ``not-published``, ``too-many-roles``, ``bad-metadata``.
        """
        while self._waiting:
            role = self._waiting.pop()
            if role["name"] in self._asked:
                continue
            if len(self._asked) >= MAX_ROLES or role["depth"] > MAX_DEPTH:
                raise Refused(
                    "too-many-roles",
                    "%s was not found within %d delegated roles, %d deep: the fleet must "
                    "delegate it more directly" % (self._name, MAX_ROLES, MAX_DEPTH),
                )
            role["file"] = _file_name(role["name"])
            self._asked.add(role["name"])
            return role
        raise Refused("not-published", "%s is not in the fleet's signed list" % self._name)


def _covering(path, name):
    """The roles that the file at `path` lists for `name`, up to one that is terminating."""
    roles = []

    def listed(reader):
        for key in reader.members():
            if key != "roles":
                reader.skip()
                continue
            for _ in reader.elements():
                role = _role(reader, name)
                ended = roles and roles[-1].get("terminating")
                if role and not ended and len(roles) <= MAX_ROLES:
                    roles.append(role)

    _walk_delegations(path, listed)
    if not roles:
        return roles
    wanted = set()
    for role in roles:
        wanted.update(role["keyids"])
    keys = {}

    def known(reader):
        for key in reader.members():
            if key != "keys":
                reader.skip()
                continue
            for keyid in reader.members():
                if keyid in wanted:
                    keys[keyid] = reader.value()
                else:
                    reader.skip()

    _walk_delegations(path, known)
    for role in roles:
        role["keys"] = keys
    return roles


def _walk_delegations(path, take):
    def signed(reader):
        for key in reader.members():
            if key == "delegations":
                take(reader)
            else:
                reader.skip()

    walk(path, signed)


def _role(reader, name):
    """The role that follows; None unless it is asked for `name`."""
    role = {"keyids": []}
    covers = False
    kinds = 0
    for key in reader.members():
        if key in ("name", "threshold", "terminating"):
            role[key] = reader.value()
        elif key == "keyids":
            for number in reader.elements():
                if number >= MAX_KEYS:
                    raise Refused("bad-metadata", "a delegated role has over %d keys" % MAX_KEYS)
                role["keyids"].append(str(reader.value()))
        elif key == "paths":
            kinds += 1
            for _ in reader.elements():
                covers = matches(name, reader.value()) or covers
        elif key == "path_hash_prefixes":
            kinds += 1
            digest = binascii.hexlify(hashlib.sha256(name.encode()).digest()).decode()
            for _ in reader.elements():
                prefix = reader.value()
                covers = isinstance(prefix, str) and digest.startswith(prefix) or covers
        else:
            reader.skip()
    if kinds != 1 or not isinstance(role.get("name"), str) or not role["name"]:
        raise Refused("bad-metadata", "a delegation names no role, or not what it covers")
    return role if covers else None


def matches(name, pattern):
    """Whether a pattern covers a target's name, part by part: no wildcard covers a ``/``.

    ``*`` and ``?`` are wildcards. ``[`` is not one here: it covers nothing.
    """
    if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN or "[" in pattern:
        return False
    names = name.split("/")
    patterns = pattern.split("/")
    if len(names) != len(patterns):
        return False
    for number in range(len(names)):
        if not _part(names[number], patterns[number]):
            return False
    return True


def _part(text, pattern):
    at = place = begun = 0
    star = -1
    while at < len(text):
        wanted = pattern[place] if place < len(pattern) else ""
        if wanted == "*":
            star = place
            begun = at
            place += 1
        elif wanted == "?" or wanted == text[at]:
            place += 1
            at += 1
        elif star >= 0:
            place = star + 1
            begun += 1
            at = begun
        else:
            return False
    return not pattern[place:].strip("*")


def _file_name(role):
    """A role's name as it is in a path: percent-encoded, since it may be anything."""
    text = "".join([chr(c) if c in _PLAIN else "%%%02X" % c for c in role.encode()])
    if role in _TOP or len(text) > MAX_FILE_NAME:
        raise Refused("bad-metadata", "no delegated role may be called %s" % role[:40])
    return text
