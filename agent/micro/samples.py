"""A batch of telemetry; loaded to write one and given back after it."""

import gc
import json


def batch(device, windows, dropped, seconds, at):
    """JSON of what was counted in `seconds` until `at`."""
    gauges = {"heap_bytes": float(gc.mem_alloc()), "heap_free_bytes": float(gc.mem_free())}
    samples = [{"at": at, "window_s": seconds, "busy": device.busy, "gauges": gauges}]
    for window in windows:
        sample = {
            "at": at,
            "window_s": seconds,
            "slot": window.slot,
            "requests": window.requests,
            "errors": window.errors,
            "unknown": window.unknown,
            "labels": window.labels,
            "tokens": window.tokens,
        }
        if window.latency:
            sample["latency_us"] = {
                "scale": "log8",
                "counts": window.latency,
                "total": window.latency_total,
            }
            sample["confidence"] = {
                "scale": "unit20",
                "counts": window.confidence,
                "total": window.confidence_total,
            }
        if window.bundle:
            sample["bundle"] = window.bundle
        samples.append(sample)
    found = {"boot": device.boot, "seq": device.kept.seq, "samples": samples}
    if dropped:
        found["dropped"] = dropped
    return json.dumps(found).encode()
