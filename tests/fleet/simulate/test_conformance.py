"""A real agent and a simulated device, told the same, say the same: every message, every field.

Both go through one script on one broker. What may differ is listed by name: who they are, when
something was, what was measured, and what a model that is none makes up.

Over 400 lines: one script that both sides go through.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from agent.runtime.classifier import Classifier
from agent.simulate.run import ROOT
from contracts import codec, limits
from contracts.bundle import Bundle
from contracts.config import MqttConfig
from contracts.desired import Desired, DesiredBundle, TrialRules, Window
from contracts.errors import UnavailableError
from contracts.judged import Judged
from contracts.messages import Reported, Status, Telemetry, UpdateEvent
from contracts.topics import parse
from fleet.repository.repository import Repository
from tests.support.bundles import rewrite
from tests.support.controller import (
    QUICK_TRIAL,
    TINY,
    TINY_NEXT,
    AgentProcess,
    Controller,
    http_server,
    make_repository,
)
from tests.support.many_devices import ManyDevices

REAL, SIMULATED = "real-1", "sim-0000"
BOTH: Final = (REAL, SIMULATED)
TEXT: Final = "turn on the lights"
PATIENCE_S: Final = 60.0

WHO: Final = {"device", "boot", "session", "agent_version", "runtime", "platform", "address"}
"""Fields that say who or what speaks."""

WHEN: Final = {"at", "since", "window_s", "clock_offset_s"}
"""Times."""

MEASURED: Final = {"free_bytes", "memory_bytes", "latency_us", "first_token_ms", "tokens_per_s"}
"""What is measured. Histograms have the same number of entries."""

MADE_UP: Final = {"confidence", "top"}
"""What a model says beside its label."""

ONE_BOARD: Final = {"temperature_c", "throttled"}
"""Gauges that not every board has."""


# What is compared. --------------------------------------------------------------------------


def plain(value: Any, first: int, key: str = "") -> Any:
    """A message without what may differ: a field that may is there in both, or in neither.

    Args:
        value: of a field, or all of it.
        first: the number of the device's first update event.
        key: the field.
    """
    if key in WHO | WHEN | MEASURED | MADE_UP:
        return "..."
    if isinstance(value, dict):
        if "revision" in value and "seq" in value:
            value = {**value, "seq": value["seq"] - first}
        return {name: plain(item, first, name) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item, first) for item in value]
    if key == "message":
        value = re.sub(r"/\S+/", "", value)  # a folder
        value = re.sub(r"litert|simulated", "RUNTIME", value)
        value = re.sub(r"takes \d+ bytes", "takes N bytes", value)
    return value


def told(control: Controller, device: str, kind: str) -> list[Any]:
    """What a device sent of one kind, in order."""
    events = control.of(UpdateEvent, device)
    first = events[0].seq if events else 0
    found = []
    for topic, payload in list(control.raw):
        address = parse(topic)
        if (address.target, address.kind) == (device, kind):
            found.append(plain(json.loads(payload), first))
    return found


def steps(messages: list[Any]) -> list[Any]:
    """Without those that say the same as the one before: when it is said again is chance."""
    return [m for i, m in enumerate(messages) if i == 0 or m != messages[i - 1]]


def once(messages: list[Any]) -> list[Any]:
    """Each number once: what a restart sends again is counted once by every reader."""
    return list({m["seq"]: m for m in reversed(messages)}.values())[::-1]


def reports(control: Controller, device: str) -> list[Any]:
    """Reported documents.

    How far an update is when a restarted device connects is chance: of its later boots those
    count that come from the first on which says what it waits for.
    """
    boots = [r.boot for r in control.of(Reported, device)]
    waits = [bool(r.waits) for r in control.of(Reported, device)]
    found = []
    for number, document in enumerate(told(control, device, "reported")):
        began = boots.index(boots[number])
        if began == 0 or any(waits[began : number + 1]):
            found.append(document)
    return steps(found)


def counted(control: Controller, device: str) -> dict[str, Any]:
    """Telemetry summed up by slot and bundle: how it falls into windows of time is chance."""
    # Sent again after a restart: a reader counts each number once.
    batches = {(b.boot, b.seq): b for b in control.of(Telemetry, device)}.values()
    of_boot: dict[str, list[int]] = {}
    found: dict[str, dict[str, Any]] = {}
    for batch in batches:
        of_boot.setdefault(batch.boot, []).append(batch.seq)
        for sample in msgspec.to_builtins(batch.samples):
            bundle = sample.get("bundle", {}).get("version", "none")
            where = f"{sample.get('slot', 'device')} of {bundle}"
            sums = found.setdefault(where, {})
            for name, value in sample.items():
                _add(sums, name, value)
    for seqs in of_boot.values():
        assert seqs == list(range(len(seqs))), "every number, in order"
    return found


def _add(sums: dict[str, Any], name: str, value: Any) -> None:
    if name in WHEN or name in ("slot", "bundle"):
        return
    if name in ("latency_us", "confidence"):
        sums[name] = sums.get(name, 0) + sum(value["counts"].values())
    elif name == "labels":
        of = sums.setdefault(name, {})
        for label, times in value.items():
            of[label] = of.get(label, 0) + times
    elif name == "judged":
        judged = sums.setdefault(name, Judged())
        judged.merge(msgspec.convert(value, Judged), limits.MAX_WHOLE)
    elif name == "gauges":
        sums.setdefault(name, set()).update(value.keys() - ONE_BOARD)
    else:
        sums[name] = sums.get(name, 0) + value


def differences(real: Any, simulated: Any, where: str = "") -> Iterator[str]:
    """Where two differ, and how."""
    if isinstance(real, dict) and isinstance(simulated, dict):
        for name in sorted(real.keys() | simulated.keys()):
            yield from differences(real.get(name), simulated.get(name), f"{where}.{name}")
    elif isinstance(real, list) and isinstance(simulated, list):
        for number, (one, other) in enumerate(zip(real, simulated, strict=False)):
            yield from differences(one, other, f"{where}[{number}]")
        if len(real) != len(simulated):
            yield f"{where}: {len(real)} and {len(simulated)} messages"
    elif real != simulated:
        yield f"{where}: {real!r} and {simulated!r}"


# The two. -----------------------------------------------------------------------------------


def broken(folder: Path) -> Path:
    """A version whose golden vectors do not hold."""
    Bundle.open(TINY).extract(folder)
    bundle = Bundle.open(folder)
    labels = bundle.manifest.classifier.labels
    vectors = [
        msgspec.structs.replace(v, label=labels[(labels.index(v.label) + 1) % len(labels)])
        for v in bundle.golden()
    ]
    (folder / bundle.manifest.golden.file).write_bytes(codec.encode(vectors))
    files = [
        msgspec.structs.replace(
            entry, size=(folder / entry.path).stat().st_size, sha256=_digest(folder / entry.path)
        )
        for entry in bundle.manifest.files
    ]
    return rewrite(bundle, version="1.2.0", files=files).path


def _digest(path: Path) -> str:
    from contracts.bundle import sha256_file

    return sha256_file(path)


def scenario() -> str:
    """Scripted models that say what the real ones do."""
    labels = []
    for folder in (TINY, TINY_NEXT):
        model = Classifier(Bundle.open(folder))
        labels.append(model.classify(TEXT).label)
        model.close()
    differ = float(labels[0] != labels[1])
    return (
        "boards: {raspberry-pi-5: 1}\n"
        "traffic: {requests_per_s: 0, telemetry_s: 0.5}\n"
        "updates: {step_s: 0.02, download: full}\n"
        "bundles:\n"
        f"  - {{version: 1.0.0, labels: {{{labels[0]}: 1}}, disagreement: {differ}}}\n"
        f"  - {{version: 1.1.0, labels: {{{labels[1]}: 1}}, disagreement: {differ}}}\n"
        "  - {version: 1.2.0, golden_accuracy: 0}\n"
    )


class _Away:
    """A repository that cannot be read now."""

    def read(self, path: str, offset: int, length: int) -> Any:
        raise UnavailableError("repository-unreachable", "the repository is away")


class Pair:
    """A real agent and a simulated device, and what a controller says to both."""

    def __init__(
        self,
        control: Controller,
        server: Any,
        agent: AgentProcess,
        devices: ManyDevices,
        bad: Path,
    ) -> None:
        self.control = control
        self._server = server
        self._repository = control.repository
        self.agent = agent
        self.devices = devices
        self.bad = Bundle.open(bad).ref
        self.revision = 0

    def say(self, kind: str, payload: bytes) -> None:
        """Sends both the same."""
        for device in BOTH:
            self.control.send(self.control.topics.of_device(device, kind), payload)

    def want(self, slots: dict[str, DesiredBundle], jump: int = 1) -> int:
        """Sends both the same desired document."""
        revision = self.revision + jump
        self.say("desired", codec.encode(Desired(revision, slots, rollout="r1", at=1.0)))
        return revision

    def reach(self, slots: dict[str, DesiredBundle]) -> None:
        """Wants something, and waits until both have done what they do about it."""
        self.revision = self.want(slots)
        self.until(Reported, lambda r: r.desired_revision == self.revision)

    def until(self, kind: type[Any], when: Callable[[Any], bool]) -> None:
        """Waits for a message of each that came from now on, or last."""
        for device in BOTH:

            def seen(device: str = device) -> bool:
                last = self.control.of(kind, device)[-1:]
                return bool(last) and when(last[0])

            if not seen():
                self.control.wait_for(kind, lambda _, seen=seen: seen(), PATIENCE_S)

    def ask(self, op: str, **fields: Any) -> str:
        """Asks both the same, and waits for both answers; returns the id of both."""
        request = f"{op}-{len(self.control.of(UpdateEvent)) + len(self.control.raw)}"
        for device in BOTH:
            answer = self.control.ask(device, op, PATIENCE_S, id=request, **fields)
            assert answer.device == device, "both have the same id"
        return request

    def repository_away(self, away: bool) -> None:
        """The repository gives nothing, over HTTP and MQTT; or it does again."""
        self._server.away = away
        self.control.repository = _Away() if away else self._repository

    def restart_without(self, *digests: str) -> None:
        """Both lose their power, and some files."""
        for device_name in BOTH:  # what was counted last is told
            told_before = len(self.control.of(Telemetry, device_name))
            self.control.wait_for(
                Telemetry,
                lambda _, name=device_name, n=told_before: (
                    len(self.control.of(Telemetry, name)) >= n + 2
                ),
                PATIENCE_S,
            )
        self.agent.kill()
        device = self.devices.devices[0]
        self.devices.call(device.stop)
        self.until(Status, lambda s: s.state == "offline")
        for sha256 in digests:
            (self.agent.state / "blobs" / sha256).unlink()
            self.devices.call(lambda sha256=sha256: device.disk.remove(ROOT / "blobs" / sha256))
        self.agent.start()
        self.devices.call(device.start)
        self.until(Status, lambda s: s.state == "online")


@pytest.fixture
def pair(mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path) -> Iterator[Pair]:
    """Both, online."""
    bad = broken(tmp_path / "bad")
    repository: Repository = make_repository(tmp_path, TINY, TINY_NEXT, bad)
    with (
        Controller(mosquitto_broker, fleet_name, repository) as control,
        http_server(repository.folder) as (url, server),
        AgentProcess(
            tmp_path / REAL, mosquitto_broker, fleet_name, repository,
            device=REAL, repository_url=url,
        ) as agent,
        ManyDevices(
            mosquitto_broker, fleet_name, 1, scenario=scenario(), start=[], repository_url=url
        ) as devices,
    ):  # fmt: skip
        found = Pair(control, server, agent, devices, bad)
        found.until(Reported, lambda r: True)
        yield found
        agent.kill()


def play(pair: Pair) -> None:
    """The script."""
    first, second = Bundle.open(TINY).ref, Bundle.open(TINY_NEXT).ref
    active = lambda ref, **rules: DesiredBundle(  # noqa: E731
        ref, trial=TrialRules(**{"seconds": 0.2} | rules)
    )
    pair.ask("classify", text=TEXT)  # nothing is active yet
    pair.reach({"classify": active(first)})
    said = [pair.ask("classify", text=TEXT) for _ in range(3)]
    pair.ask("feedback", answer=said[0], right=True)
    pair.ask("feedback", answer=said[0], right=True)  # said again
    pair.ask("feedback", answer=said[0], right=False)
    pair.reach({"classify": active(second)})
    pair.ask("feedback", answer=said[1], label="weather", sampled=True)  # of the one before
    pair.ask("feedback", answer=said[2], label="of no bundle")
    pair.ask("feedback", answer="of-another-device", right=True)
    pair.ask("feedback", answer=said[2])
    pair.ask("classify", text=TEXT, top_k=1)
    pair.reach({"classify": active(first)})  # back
    shadow = DesiredBundle(second, "shadow", QUICK_TRIAL, beside=first)
    pair.reach({"classify": shadow})
    said = [pair.ask("classify", text=TEXT) for _ in range(4)]
    pair.ask("selftest")
    pair.ask("feedback", answer=said[0], right=True)
    pair.ask("feedback", answer=said[1], label="timer")
    pair.ask("feedback", answer=said[2], right=False)
    pair.reach({"classify": active(first)})  # the shadow goes
    pair.reach({"classify": active(second, seconds=30, max_rss_bytes=1)})  # rolled back
    pair.reach({"classify": active(pair.bad)})  # its self-test does not hold
    unknown = msgspec.structs.replace(second, version="9.9.9")
    pair.reach({"classify": active(unknown)})  # nobody signed it
    # Documents that are refused, and what follows them.
    pair.want({"classify": active(first)}, jump=limits.MAX_FIRST_REVISION + 1)
    pair.until(Reported, lambda r: any(w.reason.code == "revision-jump" for w in r.waits))
    pair.say("desired", b'{"revision": "none"}')
    pair.until(Reported, lambda r: any(w.reason.code == "bad-desired" for w in r.waits))
    pair.reach({"classify": active(first)})
    # Requests that are refused.
    pair.ask("reboot")
    pair.ask("classify", text=7)
    pair.ask("classify", text=TEXT, slot="other")
    pair.ask("generate", prompt="hello", slot="classify")
    pair.ask("cancel", cancel="nothing")
    pair.ask("status")
    # The model of what serves is lost, and of what served before: nothing loads, it comes anew.
    gone = {
        next(e.sha256 for e in Bundle.open(f).manifest.files if e.path.endswith(".tflite"))
        for f in (TINY, TINY_NEXT)
    }
    pair.repository_away(True)
    pair.restart_without(*sorted(gone & kept(pair)))
    pair.until(Reported, lambda r: r.waits and r.slots["classify"].problem is not None)
    pair.ask("classify", text=TEXT)
    pair.repository_away(False)
    pair.until(
        Reported,
        lambda r: r.slots["classify"].active == first and not r.slots["classify"].trial,
    )
    pair.until(UpdateEvent, lambda e: e.state == "committed")
    pair.ask("classify", text=TEXT)
    # One that is tested, and holds for its maintenance window, half a day away.
    minute = int(time.time() // 60)
    closed = Window((minute + 720) % 1440, (minute + 780) % 1440, list(range(7)))
    held = msgspec.structs.replace(active(second), windows=[closed])
    pair.revision = pair.want({"classify": held})
    pair.until(Reported, lambda r: any(w.reason.code == "window-closed" for w in r.waits))
    pair.ask("classify", text=TEXT)
    pair.reach({})  # the slot is emptied
    pair.ask("classify", text=TEXT)


def kept(pair: Pair) -> set[str]:
    """The files that the real one has; the other has the same."""
    names = {path.name for path in (pair.agent.state / "blobs").iterdir()}
    assert set(pair.devices.devices[0].disk.names(ROOT / "blobs")) == names
    return names


def test_a_simulated_device_says_what_the_real_agent_says(pair: Pair) -> None:
    """First, next, back, shadow, rolled back, refused, lost, held, emptied: each field of all."""
    play(pair)
    pair.agent.terminate()
    pair.devices.call(pair.devices.devices[0].shut_down)
    pair.until(Status, lambda s: s.state == "offline")
    said = {
        device: {
            "status": steps(told(pair.control, device, "status")),
            "reported": reports(pair.control, device),
            "update": once(told(pair.control, device, "update")),
            "response": told(pair.control, device, "response"),
            "telemetry": counted(pair.control, device),
        }
        for device in BOTH
    }
    assert list(differences(said[REAL], said[SIMULATED])) == []
    shadow = said[REAL]["telemetry"]["classify of 1.1.0"]
    assert shadow["shadow_requests"] == 4, "counted under the bundle that is judged by it"
    assert "shadow_requests" not in said[REAL]["telemetry"]["classify of 1.0.0"]
