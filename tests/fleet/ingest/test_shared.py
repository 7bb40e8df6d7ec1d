"""Several ingest processes share a fleet's messages, though they are killed again and again."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import sqlalchemy as sa

from contracts import codec
from contracts.config import MqttConfig
from contracts.connection import new_client
from contracts.messages import Telemetry
from contracts.topics import Topics
from fleet.store.schema import TELEMETRY
from tests.support import programs
from tests.support.served import ServedFleet

_DEVICES = 10
_BATCHES = 200
_TURNS = 5


class _Process:
    """``shoal fleet ingest NAME``, which a test may kill and start again."""

    def __init__(self, served: ServedFleet, name: str) -> None:
        self._command = [
            sys.executable, "-m", "fleet", "fleet", "ingest", name,
            "--dir", str(served.fleet.folder),
        ]  # fmt: skip
        self._log = served.fleet.folder / f"{name}.log"
        self._served = served
        self._name = name
        self.start()

    def start(self) -> None:
        before = self._log.read_text().count("ingest started") if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = programs.start(self._command, stdout=log, stderr=log)
        self._served.until(lambda: self._log.read_text().count("ingest started") > before)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(60)

    def stop(self) -> int:
        self._process.terminate()
        return self._process.wait(120)

    @property
    def stored(self) -> int:
        """Messages that it stored, as it says at its end."""
        lines = [line for line in self._log.read_text().splitlines() if "ingest stopped" in line]
        return int(codec.decode(lines[-1].encode(), dict, what="log")["messages"])


def test_nothing_is_lost_or_counted_twice_though_sharing_processes_are_killed(
    tmp_path: Path, mosquitto_broker: MqttConfig, fleet_name: str
) -> None:
    """A controller and two more processes; each of the three is killed while messages flow."""
    served = ServedFleet(tmp_path / "fleet", mosquitto_broker, name=fleet_name, shared_ingest=True)
    topics = Topics(fleet_name)
    rng = random.Random(3)
    sender = new_client(mosquitto_broker, f"{fleet_name}-sender")
    sender.max_inflight_messages_set(100)
    sender.connect(mosquitto_broker.host, mosquitto_broker.port)
    sender.loop_start()
    expected = {(f"d{d}", seq) for d in range(_DEVICES) for seq in range(_BATCHES)}
    store = served.fleet.open_store()

    def stored() -> list[tuple[str, int]]:
        with store.read() as connection:
            rows = connection.execute(sa.select(TELEMETRY.c.device, TELEMETRY.c.seq)).all()
        return [(row.device, row.seq) for row in rows]

    with served:
        others = [_Process(served, name) for name in ("two", "three")]
        victims = [others[0], served, others[1], others[0]]
        sent = []
        for turn in range(_TURNS):
            for seq in range(turn * _BATCHES // _TURNS, (turn + 1) * _BATCHES // _TURNS):
                for device in range(_DEVICES):
                    payload = codec.encode(Telemetry("b", seq, []))
                    topic = topics.of_device(f"d{device}", "telemetry")
                    sent.append(sender.publish(topic, payload, 1))
            # In the middle of what was just sent, wherever the process is with it.
            reached = rng.randrange(turn * len(expected) // _TURNS, len(sent))
            served.until(lambda reached=reached: len(stored()) >= reached)
            if turn < len(victims):
                victims[turn].kill()
                victims[turn].start()
        for info in sent:
            info.wait_for_publish(20)
        served.until(lambda: len(stored()) >= len(expected), 60)
        assert [process.stop() for process in others] == [0, 0]
        assert all(process.stored > 0 for process in others), "each took a share"
        assert served.stop() == 0
    found = stored()
    store.close()
    sender.disconnect()
    sender.loop_stop()
    assert len(found) == len(set(found))
    assert set(found) == expected
