"""The HTTP API: when the first piece of a streamed answer arrives, beside asking over MQTT.

::

    python benchmarks/api.py [--quick] [--json FILE]

A controller and an agent, both programs of their own, and mosquitto on loopback. A small random
generator answers; the same question goes over MQTT (`mqtt`), over `/v1/completions` (`http`), and
there with an `Idempotency-Key` (`http-key`), in turn in one run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
from _figures import ROOT, Row, machine, row, save, show

sys.path.insert(0, str(ROOT))

from contracts.answers import Answer
from contracts.bundle import Bundle
from fleet.rollout.spec import RolloutSpec
from tests.support.broker import mosquitto
from tests.support.controller import AgentProcess, Controller
from tests.support.served import ServedFleet
from tests.support.tiny_decoder import tiny_bundle

PROMPT = "the quick brown fox"
TOKENS = 200
Timed = Callable[[], tuple[float, float]]


def over_http(url: str, token: str, *, keyed: bool) -> Timed:
    """Asks over HTTP: milliseconds to the first piece and to the end."""
    client = httpx.Client(base_url=url, timeout=60, headers={"Authorization": f"Bearer {token}"})
    body = {"model": "d1", "prompt": PROMPT, "max_tokens": TOKENS, "stream": True}

    def ask() -> tuple[float, float]:
        headers = {"Idempotency-Key": uuid.uuid4().hex} if keyed else {}
        begin, first = time.perf_counter(), 0.0
        with client.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
            answer.raise_for_status()
            for _ in answer.iter_lines():
                first = first or time.perf_counter()
        return (first - begin) * 1000, (time.perf_counter() - begin) * 1000

    return ask


def over_mqtt(controller: Controller) -> Timed:
    """Asks over MQTT."""

    def ask() -> tuple[float, float]:
        begin = time.perf_counter()
        name = controller.ask_only("d1", "generate", prompt=PROMPT, max_tokens=TOKENS)
        controller.wait_for(Answer, lambda one: one.id == name)
        first = time.perf_counter()
        controller.wait_for(Answer, lambda one: one.id == name and one.done)
        return (first - begin) * 1000, (time.perf_counter() - begin) * 1000

    return ask


def measure(folder: Path, rounds: int) -> list[Row]:
    """All ways in turn."""
    name = f"bench{uuid.uuid4().hex[:6]}"
    bundle = tiny_bundle(folder / "bundle", contexts=(32, 256))
    with ExitStack() as stack:
        broker = stack.enter_context(mosquitto())
        served = stack.enter_context(ServedFleet(folder / "fleet", broker, name=name))
        served.fleet.publish(bundle)
        repository = served.fleet.open_repository()
        stack.enter_context(
            AgentProcess(
                folder / "d1", broker, name, repository, device="d1",
                repository_url=f"{served.fleet.api_url}/repo/",
            )
        )  # fmt: skip
        ref = Bundle.open(bundle).ref
        with served.client() as people:
            served.until(lambda: people.devices_page().counts.get("online") == 1)
            wish = {"bundle": ref.name, "version": ref.version, "waves": [{"percent": 100}],
                    "bake_s": 0, "trial": {"seconds": 0}}  # fmt: skip
            rollout = people.create_rollout(RolloutSpec.model_validate(wish)).id
            served.until(lambda: people.rollout(rollout).status == "succeeded")
        url = served.fleet.api_url
        asker = stack.enter_context(Controller(broker, name, repository))
        ways: dict[str, Timed] = {
            "mqtt": over_mqtt(asker),
            "http": over_http(url, served.token, keyed=False),
            "http-key": over_http(url, served.token, keyed=True),
        }
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for number in range(rounds + 2):
            for way, ask in ways.items():
                times = ask()
                if number >= 2:
                    found[way].append(times)
    rows = []
    for way, times in found.items():
        for index, figure in enumerate(("first_byte_p50_ms", "whole_p50_ms")):
            value = statistics.median(one[index] for one in times)
            rows.append(row("stream", way, figure, value, "ms", rounds))
    return rows


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="five rounds")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), 5 if options.quick else 30)
    show(rows)
    save(options.json, "api", rows, facts)


if __name__ == "__main__":
    main()
