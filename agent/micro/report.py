"""The reported document; loaded to write one and given back after it."""

import gc

from . import VERSION
from .store import free_bytes


def reported(device, seconds, clock):
    """The reported document; `clock`: whether it was ever set."""
    found = {name: slot.report() for name, slot in device._slots.items()}
    document = {
        "device": device.name,
        "boot": device.boot,
        "agent_version": VERSION,
        "board": device.board["name"],
        "runtime": "micropython",
        "at": seconds,
        "labels": device.config.get("labels", {}),
        "groups": device.config.get("groups", []),
        "slots": {name: slot for name, slot in found.items() if slot},
        "desired_revision": device._counters.get("revision"),
        "free_bytes": free_bytes(device.base),
        "memory_bytes": gc.mem_free() + gc.mem_alloc(),
        "clock": "synced" if clock else "unsynced",
    }
    if device.own is None:
        why = "it was not started by a starter: copy its files anew with `shoal boards flash`"
        document["platform"] = {"release_fixed": why}
    else:
        document["platform"] = {"release": device.own[0]}
        own = document["slots"]["agent"] = {"active": device.own[1]}
        if device.program:
            own["trial"] = True
    if device._offset is not None:
        document["clock_offset_s"] = device._offset
    if device._wishes.fence:
        document["desired_fence"] = device._wishes.fence
    if device._last_update:
        document["last_update"] = device._last_update
    waits = [device._wait] if device._wait else []
    fault = device.clock_fault()
    if fault and not (waits and waits[0]["reason"]["code"] == fault["code"]):
        waits.append({"reason": fault, "since": seconds, "blocks": False})
    if device._wishes.refused:
        outrun = device._wishes.refused["code"] in ("old-fence", "old-revision")
        waits.append({"reason": device._wishes.refused, "since": seconds, "blocks": outrun})
    if device._not_allowed:
        waits += [
            {
                "reason": {
                    "code": "not-allowed",
                    "message": "the broker does not allow this device to %s %s" % (verb, topic),
                    "detail": {"topic": topic},
                },
                "since": since,
                "blocks": topic.endswith(("/desired", "/blob/+", "/blob/get")),
            }
            for topic, (verb, since) in device._not_allowed.items()
        ]
    if waits:
        document["waits"] = waits
    return document
