"""The metadata of an update, fetched and checked in the order of the specification.

Loaded for that alone and given back after it, with all that it loads.
"""

import gc

from . import files
from .errors import Refused
from .trust import MAX_ROOT_BYTES, MAX_TARGETS_BYTES, Trust

MAX_HINT_BYTES = 16 * 1024
MAX_ROOTS = 16


async def fetch(device, wanted, name=None):
    """Looks a bundle up in what the fleet signed.

    Args:
        device: gives ``base``, ``blocks``, ``today()``.
        wanted: the bundle's reference.
        name: of another target; None: the bundle's manifest.

    Returns:
        Its release counter and its manifest's bytes; of another target its sha256 and its bytes.

    Raises:
        Refused: as of :class:`micro.trust.Trust`, or a download's error.
        Broken: the connection is gone.
    """
    blocks = device.blocks
    folder = device.base + "/trust"
    new = folder + "/fetched.json"
    listed = folder + "/listed.json"
    try:
        trust = Trust(folder, device.today)
        for _ in range(MAX_ROOTS):
            try:
                await blocks.download(trust.next_root(), new, MAX_ROOT_BYTES)
            except Refused as error:
                if error.code in ("no-such-path", "no-such-file"):
                    break
                raise
            trust.accept_root(new)
        await blocks.download("metadata/timestamp.json", new, MAX_HINT_BYTES)
        version = trust.hint(new, "snapshot.json")
        await blocks.download("metadata/%d.snapshot.json" % version, listed, MAX_HINT_BYTES)
        version = trust.hint(listed, "targets.json")
        await blocks.download("metadata/%d.targets.json" % version, new, MAX_TARGETS_BYTES)
        gc.collect()
        other = name is not None
        name = name or "bundles/%s/%s/manifest.json" % (wanted["name"], wanted["version"])
        target = trust.look(new, name, version)
        search = role = None
        while target is None:  # a role below it may sign it
            if search is None:
                from .delegations import Search

                search = Search(name)
            search.below(new, role)
            role = search.next()
            version = trust.hint(listed, role["name"] + ".json")
            path = "metadata/%d.%s.json" % (version, role["file"])
            await blocks.download(path, new, MAX_TARGETS_BYTES)
            gc.collect()
            target = trust.look(new, name, version, role)
        if other:
            return trust.plain(target, name)
        return trust.release(target, name, wanted["manifest_sha256"])
    finally:
        files.remove(new)
        files.remove(listed)
