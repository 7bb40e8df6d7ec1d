"""What the device believes: partial verification of the fleet's signed repository.

As Uptane's partial verification (Uptane Standard 2.0, section 5.4.4.2): the device checks the
signatures, version and expiry of the targets role, which names every bundle's manifest by
sha256 and gives it a release counter, and of the roles that it delegates names to
(:mod:`micro.delegations`). Timestamp and snapshot only tell which version to ask for, so that
they need no trust; a lie there can delay an update, never forge one. New roots are accepted when
they are signed by the root before them and by themselves.

Metadata is read from flash as a stream: memory does not grow with the number of bundles.
"""

import binascii

from . import ed25519, files, sha512
from .errors import Refused
from .jsonstream import Reader

MAX_SIGNATURES = 16
MAX_ROOT_BYTES = 16 * 1024
MAX_TARGETS_BYTES = 256 * 1024
MAX_SEEN_ROLES = 32  # delegated roles whose versions are kept


def walk(path, signed=None, sink=None):
    """Passes a metadata file: calls `signed(reader)` on the signed part, returns signatures."""
    signatures = None
    seen = False
    with open(path, "rb") as stream:
        reader = Reader(stream)
        for key in reader.members():
            if key == "signed" and not seen:
                seen = True
                reader.sink = sink
                if signed is None:
                    reader.skip()
                else:
                    signed(reader)
                reader.sink = None
            elif key == "signatures" and signatures is None:
                signatures = []
                for number in reader.elements():
                    if number >= MAX_SIGNATURES:
                        raise Refused("bad-metadata", "over %d signatures" % MAX_SIGNATURES)
                    signatures.append(reader.value())
            else:
                raise Refused("bad-metadata", "a metadata file has an unexpected member")
        reader.end()
    if not seen or signatures is None:
        raise Refused("bad-metadata", "a metadata file lacks its signed part or signatures")
    return signatures


def _unhex(text, size):
    try:
        data = binascii.unhexlify(text)
    except (ValueError, TypeError):
        raise Refused("bad-metadata", "expected hexadecimal digits")
    return data if len(data) == size else b""


def _integer(value, what):
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise Refused("bad-metadata", "%s is not a positive integer" % what)
    return value


def _verify(path, keys, role, what):
    """Raises ``wrong-signature`` unless enough of the role's keys signed the file."""
    try:
        wanted = role["keyids"]
        threshold = _integer(role["threshold"], "a threshold")
        _check_distinct(wanted, keys, what)
        signatures = walk(path)
        good = set()
        for signature in signatures:
            keyid = signature["keyid"]
            if keyid in good or keyid not in wanted or keyid not in keys:
                continue
            key = keys[keyid]
            if key["keytype"] != "ed25519" or key["scheme"] != "ed25519":
                continue
            public = _unhex(key["keyval"]["public"], 32)

            def feed(update):
                walk(path, sink=update)

            if ed25519.verify(public, _unhex(signature["sig"], 64), feed):
                good.add(keyid)
            if len(good) >= threshold:
                return
    except (KeyError, TypeError, AttributeError):
        raise Refused("bad-metadata", "%s is not well-formed" % what)
    finally:
        sha512.release()
    raise Refused(
        "wrong-signature", "%s has %d of %d valid signatures" % (what, len(good), threshold)
    )


def _check_distinct(keyids, keys, what):
    """Refuses one key under two ids: its holder would count twice."""
    listed = set()
    for keyid in set(keyids):
        if keyid in keys:
            public = keys[keyid]["keyval"]["public"]
            if public in listed:
                raise Refused("wrong-root", "a key of %s is listed twice" % what)
            listed.add(public)


def _read(path, wanted, kind):
    """Members of the signed part that are in `wanted`."""
    found = {}

    def signed(reader):
        for key in reader.members():
            if key in wanted:
                found[key] = reader.value()
            else:
                reader.skip()

    walk(path, signed)
    if found.get("_type") != kind:
        raise Refused("bad-metadata", "expected %s metadata" % kind)
    _integer(found.get("version"), "a version")
    return found


_ROOT_PARTS = ("_type", "version", "expires", "keys", "roles")


class Trust:
    """The trusted root and the highest versions seen, in `folder`.

    Args:
        folder: holds ``root.json``, from enrolment.
        today: None, or the time as ``YYYY-MM-DDTHH:MM:SSZ`` when the clock was set: without a
            clock expiry cannot be judged.
    """

    def __init__(self, folder, today=None):
        self._folder = folder
        self._today = today or (lambda: None)
        self._seen = files.read_json(folder + "/trust.json", {})
        self._load()

    def _load(self):
        root = _read(self._folder + "/root.json", _ROOT_PARTS, "root")
        self.root_version = root["version"]
        try:
            self._keys = root["keys"]
            self._roles = {name: root["roles"][name] for name in ("root", "targets")}
        except (KeyError, TypeError):
            raise Refused("wrong-root", "the root names no keys for root and targets")

    def next_root(self):
        """The repository's path of the root after this one."""
        return "metadata/%d.root.json" % (self.root_version + 1)

    def accept_root(self, path):
        """Replaces the root by the file at `path` (moved), when both roots signed it."""
        new = _read(path, _ROOT_PARTS, "root")
        if new["version"] != self.root_version + 1:
            raise Refused("wrong-root", "expected root version %d" % (self.root_version + 1))
        try:
            _verify(path, self._keys, self._roles["root"], "the new root, by the old one,")
            _verify(path, new["keys"], new["roles"]["root"], "the new root")
        except (KeyError, TypeError):
            raise Refused("wrong-root", "the new root names no keys")
        with open(path, "rb") as stream:
            files.write(self._folder + "/root.json", stream.read())
        files.remove(path)
        self._load()

    @staticmethod
    def hint(path, member):
        """The version that an unsigned-for-us timestamp or snapshot names for `member`."""
        found = {}

        def signed(reader):
            for key in reader.members():
                if key == "meta":
                    for name in reader.members():
                        if name == member:
                            found[name] = reader.value()
                        else:
                            reader.skip()
                else:
                    reader.skip()

        walk(path, signed)
        entry = found.get(member)
        if not isinstance(entry, dict):
            known = member in ("snapshot.json", "targets.json")
            raise Refused(
                "bad-metadata" if known else "not-published",
                "no version of %s is named" % member[:100],
            )
        return _integer(entry.get("version"), "a version")

    def look(self, path, name, version, role=None):
        """Checks a role's file and looks a bundle's manifest up in it.

        Args:
            path: of the file on flash.
            name: ``bundles/{name}/{version}/manifest.json``.
            version: of the file that was asked for.
            role: a delegated role, of :class:`micro.delegations.Search`; None: the targets role.

        Returns:
            The signed target; None where the role lists none of that name.

        Raises:
            Refused: ``wrong-signature``, ``rollback``, ``mix-and-match``, ``expired``,
                ``bad-metadata``, ``wrong-root``.
        """
        called = "targets" if role is None else role["name"]
        what = "targets.json" if role is None else "the delegated role %s" % called[:40]
        if role is None:
            _verify(path, self._keys, self._roles["targets"], what)
        else:
            _verify(path, role["keys"], role, what)
        facts = {}

        def signed(reader):
            for key in reader.members():
                if key in ("_type", "version", "expires"):
                    facts[key] = reader.value()
                elif key == "targets":
                    for target in reader.members():
                        if target == name:
                            facts["target"] = reader.value()
                        else:
                            reader.skip()
                else:
                    reader.skip()

        walk(path, signed)
        if facts.get("_type") != "targets":
            raise Refused("bad-metadata", "%s: expected targets metadata" % what)
        found = _integer(facts.get("version"), "a version")
        self._check_version(role, called, what, found)
        if found != version:
            raise Refused("mix-and-match", "%s has version %d, not %d" % (what, found, version))
        today = self._today()
        if today is not None and today > str(facts.get("expires")):
            mend = "" if role is None else ": its publisher must sign it anew"
            raise Refused("expired", "%s expired at %s%s" % (what, facts.get("expires"), mend))
        self._saw(role, called, found)
        return facts.get("target")

    @staticmethod
    def release(target, name, sha256):
        """What is signed of a manifest.

        Args:
            target: of :meth:`look`.
            name: of the target.
            sha256: of the manifest, in hex, as the controller asked for.

        Returns:
            The release counter and the manifest's bytes.

        Raises:
            Refused: ``wrong-manifest``, ``bad-metadata``.
        """
        try:
            if target["hashes"]["sha256"] != sha256:
                raise Refused("wrong-manifest", "%s is signed with another manifest" % name)
            return (
                _integer(target["custom"]["release"], "a release"),
                _integer(target["length"], "a length"),
            )
        except (KeyError, TypeError):
            raise Refused("bad-metadata", "%s is signed without a release counter" % name)

    @staticmethod
    def plain(target, name):
        """The sha256, in hex, and the bytes of a signed target."""
        try:
            sha256 = target["hashes"]["sha256"]
            if len(_unhex(sha256, 32)) == 32:
                return sha256, _integer(target["length"], "a length")
        except (KeyError, TypeError):
            pass
        raise Refused("bad-metadata", "%s is signed without a sha256" % name)

    def _check_version(self, role, called, what, found):
        """Raises ``rollback`` for a version below the highest that was seen."""
        seen = self._seen.get("targets", 0)
        if role is not None:
            seen = 0
            for name, version in self._seen.get("roles", []):
                seen = version if name == called else seen
        if found < seen:
            raise Refused("rollback", "%s has version %d, %d was seen" % (what, found, seen))

    def _saw(self, role, called, found):
        """Keeps the highest version of a role; of many roles those that were used last."""
        if role is None:
            if found == self._seen.get("targets", 0):
                return
            self._seen["targets"] = found
        else:
            roles = self._seen.get("roles", [])
            if [called, found] in roles:
                return
            others = [pair for pair in roles if pair[0] != called]
            self._seen["roles"] = others[-MAX_SEEN_ROLES + 1 :] + [[called, found]]
        files.write_json(self._folder + "/trust.json", self._seen)
