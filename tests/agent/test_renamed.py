"""A device that starts under another name than before."""

from __future__ import annotations

from pathlib import Path

import msgspec

from agent.daemon import Agent
from contracts.config import AgentConfig
from contracts.topics import Topics


def test_what_it_had_not_sent_waits_under_its_new_name(tmp_path: Path) -> None:
    """The broker takes no topic of the old one from it."""
    config = AgentConfig("home", "kitchen", "raspberry-pi-5", "https://fleet.example.org/repo/")
    for name in ("kitchen", "pantry"):
        agent = Agent(msgspec.structs.replace(config, device=name), tmp_path)
        topic = f"{Topics('home').prefix}/d/{name}/telemetry"
        try:
            assert agent.spool.put(topic, b"{}", boot=name, seq=0)
            found = [row.topic for row in agent.spool.after(0, 10)]
        finally:
            agent.spool.close()
            agent.state.close()
    assert found == [topic, topic]
