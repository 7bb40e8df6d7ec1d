"""``shoal-agent samples``: the hard examples that this device keeps, for its owner alone."""

from __future__ import annotations

import argparse
import time

from agent.cli import output
from agent.cli.device import read_config
from agent.serving import examples


def samples(arguments: argparse.Namespace) -> int:
    """Shows them, the newest first; or erases them."""
    config = read_config(arguments.config)
    folder = arguments.config.resolve().parent / config.state_dir
    if arguments.erase:
        erased = examples.erase(folder)
        if arguments.json:
            output.document({"erased": erased})
        else:
            output.line("erased" if erased else "there were none")
        return 0
    found = examples.read(folder)
    if arguments.json:
        output.document(found)
        return 0
    output.table(
        [
            time.strftime("%Y-%m-%d %H:%M", time.localtime(one.at)),
            one.slot,
            one.label if one.meant is None else f"{one.label}, right is {one.meant}",
            f"{one.confidence:.3f}",
            ", ".join(one.reasons),
            " ".join(one.text.split()),
        ]
        for one in found
    )
    return 0
