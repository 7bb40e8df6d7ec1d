"""Ingest: from MQTT messages to committed rows, acknowledged only after the commit.

Not here: what follows from a row: rollouts, alerts and pages read the store.
"""

from fleet.ingest.consumer import Consumer

__all__ = ["Consumer"]
