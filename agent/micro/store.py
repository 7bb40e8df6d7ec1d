"""Two release folders a slot, and a journal of which of them serves.

``{base}/slots/{slot}/a`` and ``b`` hold a bundle each; ``slot.json`` says which is active,
which is previous, and whether the active one is on trial. It is replaced whole, so that a
power cut leaves the state before or after a change. What is in neither role is a download
that is not finished; it is resumed, or overwritten by another.
"""

import os

from . import files
from .errors import Refused

SIDES = ("a", "b")


class Slot:
    """One slot's releases.

    Attributes:
        active, previous: None or ``{"side", "name", "version", "manifest_sha256", "release"}``.
        trial: None or ``{"seconds", "max_restarts", "restarts", "revision", "rollout", ...}``.
        floor: the highest release that was committed: an older one is refused.
    """

    def __init__(self, base, name):
        self.name = name
        self.folder = "%s/slots/%s" % (base, name)
        files.make_folder(self.folder)
        state = files.read_json(self.folder + "/slot.json", {})
        self.active = state.get("active")
        self.previous = state.get("previous")
        self.trial = state.get("trial")
        self.floor = state.get("floor", 0)

    def save(self):
        """Writes the journal."""
        files.write_json(
            self.folder + "/slot.json",
            {
                "active": self.active,
                "previous": self.previous,
                "trial": self.trial,
                "floor": self.floor,
            },
        )

    def path(self, release):
        """The folder of a release (``active`` or ``previous``)."""
        return "%s/%s" % (self.folder, release["side"])

    def free_side(self):
        """The side that does not serve: downloads go there."""
        return "b" if self.active and self.active["side"] == "a" else "a"

    def begin(self, wanted):
        """Prepares the free side for a download of `wanted` (a bundle reference).

        The previous release gives way. A download of the same bundle goes on.

        Returns:
            The folder.
        """
        side = self.free_side()
        folder = "%s/%s" % (self.folder, side)
        files.make_folder(folder)
        mark = folder + "/.wanted"
        wanted_text = wanted["manifest_sha256"]
        if self.previous and self.previous["side"] == side:
            self.previous = None
            self.save()
        try:
            with open(mark) as stream:
                same = stream.read() == wanted_text
        except OSError:
            same = False
        if not same:
            files.empty_folder(folder)
            files.write(mark, wanted_text.encode())
        return folder

    def activate(self, wanted, release, trial):
        """Makes the downloaded bundle active, on trial; the one before becomes previous."""
        side = self.free_side()
        self.previous = self.active
        self.active = dict(wanted)
        self.active["side"] = side
        self.active["release"] = release
        self.trial = trial
        self.save()

    def swap(self, trial):
        """Makes the previous bundle active again, on trial."""
        self.active, self.previous = self.previous, self.active
        self.trial = trial
        self.save()

    def commit(self):
        """Ends the trial: the active bundle stays."""
        self.trial = None
        self.floor = max(self.floor, self.active.get("release", 0))
        self.save()

    def roll_back(self):
        """Ends the trial with the bundle before it; the failed one is dropped."""
        self.active, self.previous = self.previous, None
        self.trial = None
        self.save()

    def empty(self):
        """Forgets both bundles; an older one than was committed is refused still.

        Returns:
            Whether there was anything: a power cut in the middle leaves files to remove.
        """
        folders = [self.folder + "/" + side for side in SIDES]
        full = bool(self.active or self.previous or self.trial)
        if full:
            self.active = self.previous = self.trial = None
            self.save()
        for folder in folders:
            if files.exists(folder):
                full = True
                files.empty_folder(folder)
                os.rmdir(folder)
        return full

    def report(self):
        """The slot in the reported document."""
        result = {}
        for role in ("active", "previous"):
            release = getattr(self, role)
            if release:
                result[role] = reference(release)
        if self.trial:
            result["trial"] = True
        return result


def reference(release):
    """The wire's bundle reference of a release."""
    return {key: release[key] for key in ("name", "version", "manifest_sha256")}


def free_bytes(base):
    """Free bytes of the file system below `base`."""
    facts = os.statvfs(base)
    return facts[1] * facts[3]


class Counters:
    """Numbers that never go back, over restarts: in one small file."""

    def __init__(self, base):
        self._path = base + "/counters.json"
        self._values = files.read_json(self._path, {})

    def next(self, name):
        """The next number."""
        self._values[name] = self._values.get(name, 0) + 1
        self._keep()
        return self._values[name]

    def get(self, name):
        """The last number given."""
        return self._values.get(name, 0)

    def set(self, name, value):
        """Keeps a number."""
        self.update({name: value})

    def update(self, values):
        """Keeps numbers, all or none."""
        if any([self._values.get(name) != values[name] for name in values]):
            self._values.update(values)
            self._keep()

    def _keep(self):
        # A flash without room must not keep the device from saying so.
        try:
            files.write_json(self._path, self._values)
        except OSError as error:
            print("counters not written:", error)


def checked_reference(bundle):
    """A bundle reference from outside."""
    try:
        files.checked_name(bundle["name"])
        parts = bundle["version"].split(".")
        good = len(parts) == 3 and all(p.isdigit() and len(p) <= 9 for p in parts)
        sha = bundle["manifest_sha256"]
        good = good and len(sha) == 64 and all(c in "0123456789abcdef" for c in sha)
    except (KeyError, TypeError, AttributeError):
        good = False
    if not good:
        raise Refused("bad-message", "a bundle reference is not well-formed")
    return {key: bundle[key] for key in ("name", "version", "manifest_sha256")}
