"""Starts the agent, and goes back to the one before when a new one fails: no update changes this.

``state.json`` says which folder is started: ``lib``, which was copied with this file, or one of
``a`` and ``b``, which updates fill. A release on trial is started as often as its rollout allows,
and each start is written down before it happens. What was current stays so until the release has
passed its trial and says so: going back needs no write.
"""

import json
import os
import sys

FOLDER = "/shoal"
MODEL_BYTES = 0
SIDES = ("a", "b")


def read():
    """The state; a missing or damaged one starts what is in ``lib``."""
    try:
        with open(FOLDER + "/state/agent/state.json") as stream:
            found = json.load(stream)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def choose():
    """The folder that is started now, and its trial or None."""
    state = read()
    current = state.get("current")
    trial = state.get("trial")
    try:
        if trial and trial["side"] in SIDES and trial["starts"] < trial["max"]:
            trial["starts"] += 1
            path = FOLDER + "/state/agent/state.json"
            with open(path + ".new", "w") as stream:
                json.dump(state, stream)
            os.rename(path + ".new", path)
            return trial["side"], trial
    except (OSError, KeyError, TypeError) as error:
        print("the release on trial is not started:", error)
    return current if current in SIDES else "lib", None


def restart():
    """Starts the board anew."""
    try:
        from machine import reset
    except ImportError:
        raise SystemExit(1)
    reset()


def watch(trial):
    """Where the board has timers, a release that hangs is ended as well."""
    try:
        from machine import Timer

        def over(_):
            if read().get("trial"):
                restart()

        period = int(min(86400, trial["deadline"])) * 1000
        Timer(0, mode=Timer.ONE_SHOT, period=period, callback=over)
    except Exception as error:  # the trial goes on without it
        print("no timer watches over the trial:", error)


def run():
    """Starts the agent; returns never."""
    side, trial = choose()
    if trial:
        watch(trial)
    if side in SIDES:
        sys.path.insert(0, FOLDER + "/state/agent/" + side)
    try:
        from micro import main
    except Exception as error:
        sys.print_exception(error)
        if trial:
            restart()
        if side not in SIDES:
            raise
        # It ran before: MicroPython itself was replaced. What was copied along starts.
        sys.path.pop(0)
        for name in list(sys.modules):
            if name == "micro" or name.startswith("micro."):
                del sys.modules[name]
        side = "lib"
        from micro import main
    try:
        main.start(FOLDER, model_bytes=MODEL_BYTES, side=side)
    except Exception as error:
        sys.print_exception(error)
        restart()


if __name__ == "__main__":
    run()
