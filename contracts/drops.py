"""Places where something of a device's is dropped: the names under which it is counted and told."""

from __future__ import annotations

from typing import Final

FULL: Final = "spool-full"
OLD: Final = "spool-old"
REFUSED: Final = "spool-refused"
LARGE: Final = "spool-large"
DAMAGED: Final = "spool-damaged"
LINE: Final = "source-line"
LABELS: Final = "label-counts"
QUEUE: Final = "mqtt-queue"
EXAMPLE: Final = "hard-example"

ON_DEVICES: Final = {
    FULL: "samples, results and events for which the device had no room",
    OLD: "samples and results that were older than the device keeps them",
    REFUSED: "samples, results and events that the device's disk would not take",
    LARGE: "samples, results and events larger than all that the device keeps",
    DAMAGED: "files of a device's spool that were damaged, with all that they held",
    LINE: "lines of a source that were not classified: no text, too long, or the agent stopped",
    LABELS: "answers whose labels made a sample too large for a message",
    EXAMPLE: "hard examples that came too fast, or that the device's disk would not take",
    QUEUE: "answers that found no room behind those that wait for the connection",
}
"""What a device counts, in words."""

INGEST: Final = "ingest-refused"
RETAINED: Final = "retained"
OVER: Final = "over-quota"

AT_CONTROLLERS: Final = {
    INGEST: "messages that the controller could not read or store",
    RETAINED: "messages retained where nothing may be, which the controller removed",
    OVER: "messages refused, as their device had stored all that it may on a day",
}
"""What the controller counts, in words."""

OTHER: Final = "other"
"""Where a place counts that this version does not know."""

WORDS: Final = {**ON_DEVICES, **AT_CONTROLLERS, OTHER: "of a kind that is not known here"}
"""All of them."""
