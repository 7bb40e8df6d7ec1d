"""Every cap of the protocol, with its unit. What exceeds a cap is refused, never truncated."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

MAX_ID_CHARS: Final = 64
"""Characters of a fleet, device, group, bundle or slot name."""

MAX_MESSAGE_BYTES: Final = 256 * KIB
"""Bytes of one JSON payload on any topic."""

MAX_TEXT_BYTES: Final = 16 * KIB
"""UTF-8 bytes of one text to classify or one prompt to generate from."""

MAX_MANIFEST_BYTES: Final = 1 * MIB
"""Bytes of a bundle's manifest.json."""

MAX_BUNDLE_FILES: Final = 64
"""Files in one bundle, without the manifest."""

MAX_BUNDLE_BYTES: Final = 8 * 1024 * MIB
"""Bytes of all files of one bundle."""

MAX_RELEASE_BYTES: Final = 1024 * MIB
"""Bytes of one release archive of the agent, and of all its wheels."""

MAX_RELEASE_WHEELS: Final = 256
"""Wheels of one release of the agent."""

MAX_GOLDEN_VECTORS: Final = 1024
"""Golden vectors in one bundle."""

MAX_SAMPLES: Final = 200
"""Hard examples that one request may ask for."""

MAX_SAMPLE_BYTES: Final = 2 * KIB
"""UTF-8 bytes of one hard example that leaves a device."""

MAX_SAMPLES_BYTES: Final = 64 * KIB
"""UTF-8 bytes of the texts of one answer with hard examples."""

MAX_LESSONS: Final = 32
"""Lessons that one device keeps, of all its slots."""

MAX_LESSON_TEXTS: Final = 20
"""Examples of one lesson."""

MAX_LOG_LINES: Final = 200
"""Lines of a device's log in one answer."""

MAX_LOG_CHARS: Final = 300
"""Characters of one line's words, and of one of its facts."""

MAX_LOG_FACTS: Final = 12
"""Facts of one line of a device's log."""

MAX_LOG_BYTES: Final = 64 * KIB
"""UTF-8 bytes of all lines of one answer."""

MAX_LABELS: Final = 4096
"""Labels of one classifier."""

MAX_LABEL_CHARS: Final = 256
"""Characters of one label."""

MAX_SAID: Final = 64
"""Labels that one answer gives, where a text may have several: the surest."""

MAX_CONFUSIONS: Final = 256
"""Pairs of a label that was given and the right one that are told apart in one count."""

MAX_EMBEDDING: Final = 8192
"""Numbers of one embedding."""

MAX_DEVICE_LABELS: Final = 64
"""Key/value labels on one device, for selectors."""

MAX_WINDOWS: Final = 50
"""Maintenance windows of one rollout, and of one slot of a desired document."""

MAX_ZONE_CHANGES: Final = 16
"""Changes of a time zone's offset that one window tells."""

MAX_TELEMETRY_SAMPLES: Final = 256
"""Samples in one telemetry batch."""

MAX_DROP_PLACES: Final = 16
"""Places on a device where something can be dropped, in one telemetry batch."""

MAX_ACK_RANGES: Final = 32
"""Ranges of numbers beyond a gap in one acknowledgement."""

MAX_BLOCK_BYTES: Final = 256 * KIB
"""Bytes of one block of a repository file sent over MQTT."""

MAX_METADATA_BYTES: Final = 512 * KIB
"""Bytes of one TUF metadata file."""

MAX_CONFIG_BYTES: Final = 1 * MIB
"""Bytes of an agent's configuration file or a recipe."""

MAX_REASON_CHARS: Final = 2000
"""Characters of the message of an error on the wire."""

MAX_KEEPALIVE_S: Final = 3600
"""Seconds between two signs of life of a connection."""

MAX_WAITS: Final = 16
"""Reasons for which one device may say that it waits."""

MAX_GENERATE_TOKENS: Final = 8192
"""Tokens that one request may ask for."""

MAX_TOOL_CALLS: Final = 8
"""Calls of tools in one answer."""

MAX_DEADLINE_MS: Final = 10 * 60 * 1000
"""Milliseconds that a request may wait and run."""

MAX_WHOLE: Final = 2**53 - 1
"""The highest revision and fence: every JSON reader can hold it."""

MAX_REVISION_STEP: Final = 10_000
"""Revisions by which a desired document may be above the last one that counts, of one fence."""

MAX_FIRST_REVISION: Final = 2**32
"""The highest revision that the first document of a fence may have: a restored controller goes on
from the seconds since the epoch."""

MAX_FENCE_STEP: Final = 2**32
"""By how much a fence may be above the last one: it is in seconds since the epoch or above."""

MAX_IN_FLIGHT: Final = 200
"""Messages that the broker may send to a client before the first is acknowledged."""

MAX_IN_FLIGHT_INGEST: Final = 4000
"""The same for the controller's ingest, which acknowledges after a commit."""
