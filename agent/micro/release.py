"""What this board runs of the agent, and the trial of a release; loaded for seconds.

``{base}/agent/a/micro`` and ``b/micro`` hold a release each; ``{base}/agent/state.json`` says which
one the starter (``main.py``) starts, and whether another is on trial.
"""

import binascii
import hashlib
import sys

from . import VERSION, files

NAME = "shoal-agent"
SLOT = "agent"
CONNECT_SECONDS = 120  # beyond its trial, to connect and to serve what was served
_ARCHITECTURES = (
    None, "x86", "x64", "armv6", "armv6m", "armv7m", "armv7em", "armv7emsp", "armv7emdp",
    "xtensa", "xtensawin", "rv32imc", "rv64imc",
)


def tag():
    """The releases that this board takes: its native code, and the version of ``.mpy`` files."""
    facts = getattr(sys.implementation, "_mpy", 0)
    name = _ARCHITECTURES[facts >> 10] if facts >> 10 < len(_ARCHITECTURES) else None
    return "%s-mpy%d%d" % (name, facts & 0xFF, facts >> 8 & 3)


def reference(version):
    """A release as desired documents and reports name it."""
    digest = hashlib.sha256(("agent/" + version).encode()).digest()
    return {
        "name": NAME,
        "version": version,
        "manifest_sha256": binascii.hexlify(digest).decode(),
    }


def own():
    """What runs, for reports: which releases are taken, and the reference of this one."""
    return tag(), reference(VERSION)


def state(base):
    """What the starter reads."""
    found = files.read_json(base + "/agent/state.json", {})
    return found if isinstance(found, dict) else {}


def keep(base, found):
    files.make_folder(base + "/agent")
    files.write_json(base + "/agent/state.json", found)


async def boot(device):
    """After a start: begins to watch a trial, or says that the starter gave a release up."""
    found = state(device.base)
    trial = found.get("trial")
    if device.side is None or not trial:
        return
    if trial["side"] == device.side:
        device.program = trial
        return
    await _failed(device, found, "trial-restarts", "it was started %d times" % trial["starts"])


async def _failed(device, found, code, why):
    trial = found.pop("trial")
    reason = {"code": code, "message": "the new release was given up: " + why}
    keep(device.base, found)
    await device.event(*_which(trial), "rolled-back", reason=reason)


def _which(trial):
    return SLOT, reference(trial["version"]), trial["revision"], trial["rollout"]


async def watch(device):
    """Keeps the release that runs, or gives it up, when it is time."""
    trial = device.program
    left = trial["seconds"] - device.millis() / 1000
    counts = device.trials._counts.values()
    requests, errors = sum([one[0] for one in counts]), sum([one[1] for one in counts])
    silent = [name for name in trial["serves"] if name not in device.models]
    if requests >= max(1, trial["min_requests"]) and errors / requests > trial["max_error_rate"]:
        await end(device, ("trial-errors", "%d of %d requests failed" % (errors, requests)))
    elif left <= 0 and device._client is not None and not silent:
        await end(device, None)
        await device._settle()
    elif left < -CONNECT_SECONDS:
        if silent:
            await end(device, ("trial-models", "it does not serve " + ", ".join(silent)))
        else:
            await end(device, ("trial-offline", "it is not connected"))


async def end(device, broken):
    """Ends the trial of the release that runs: it is current from now on, or (broken) never."""
    found = state(device.base)
    trial, device.program = device.program, None
    if broken is None:
        found.pop("trial", None)
        found["current"] = device.side
        keep(device.base, found)
        await device.event(*_which(trial), "committed")
        return
    code, why = broken
    await _failed(device, found, code, why)
    device.restart()
