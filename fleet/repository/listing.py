"""What a role of the targets kind lists: bundles with their release counters, and what went.

Shared by the fleet's own targets role and by roles that it delegates to: both count releases
upwards and remember what was withdrawn, so that a version never gets other bytes.
"""

from __future__ import annotations

from typing import Any, Final

from tuf.api.metadata import TargetFile, Targets

from contracts.bundle import Bundle
from contracts.errors import InputError, RefusedError
from contracts.messages import BundleRef
from fleet.repository import paths

LAST_RELEASE: Final = "x-shoal-last-release"
"""Field of a role: the highest release counter ever given, also to what is gone."""

WITHDRAWN: Final = "x-shoal-withdrawn"
"""Field of a role: the manifest's sha256 of what was withdrawn, by NAME/VERSION."""


def check_free(targets: Targets, ref: BundleRef) -> None:
    """Refuses a version that has, or had, other bytes.

    Raises:
        RefusedError: ``version-taken``.
    """
    known = targets.targets.get(paths.target(ref.name, ref.version))
    if known is not None and known.hashes.get("sha256") != ref.manifest_sha256:
        raise RefusedError(
            "version-taken",
            f"{ref} is published with other bytes: a version never changes; "
            "give the bundle a new version",
        )
    gone = withdrawn(targets).get(f"{ref.name}/{ref.version}", ref.manifest_sha256)
    if gone != ref.manifest_sha256:
        raise RefusedError(
            "version-taken",
            f"{ref} was published with other bytes and withdrawn: a version is never "
            "given again; give the bundle a new version",
        )


def add(targets: Targets, bundle: Bundle, floor: int = 0) -> None:
    """Lists a bundle that is not listed, under a release counter above all before and `floor`."""
    ref = bundle.ref
    last = targets.unrecognized_fields.get(LAST_RELEASE, 0)
    release = max(last if isinstance(last, int) else 0, floor) + 1
    name = paths.target(ref.name, ref.version)
    entry = TargetFile.from_data(name, bundle.manifest_bytes, ["sha256"])
    entry.unrecognized_fields["custom"] = {"release": release}
    targets.targets[name] = entry
    targets.unrecognized_fields[LAST_RELEASE] = release
    gone = withdrawn(targets)
    gone.pop(f"{ref.name}/{ref.version}", None)
    targets.unrecognized_fields[WITHDRAWN] = gone


def remove(targets: Targets, ref: BundleRef) -> None:
    """Takes a bundle out and remembers its sha256.

    Raises:
        InputError: ``no-such-bundle``.
    """
    name = paths.target(ref.name, ref.version)
    known = targets.targets.get(name)
    if known is None or known.hashes.get("sha256") != ref.manifest_sha256:
        raise InputError("no-such-bundle", f"{ref} is not published with this manifest")
    del targets.targets[name]
    gone = withdrawn(targets) | {f"{ref.name}/{ref.version}": ref.manifest_sha256}
    targets.unrecognized_fields[WITHDRAWN] = gone


def ref_of(target: TargetFile) -> BundleRef | None:
    """The bundle whose manifest a target is; None: it is none."""
    match target.path.split("/"):
        case ["bundles", name, version, "manifest.json"]:
            return BundleRef(name, version, target.hashes.get("sha256", ""))
    return None


def release_of(target: TargetFile) -> int:
    """The release counter of a target; 0: it has none."""
    custom: Any = target.custom if isinstance(target.custom, dict) else {}
    release = custom.get("release", 0)
    return release if isinstance(release, int) else 0


def withdrawn(targets: Targets) -> dict[str, str]:
    """The sha256 of the manifests that were withdrawn, by NAME/VERSION."""
    found = targets.unrecognized_fields.get(WITHDRAWN, {})
    return dict(found) if isinstance(found, dict) else {}
