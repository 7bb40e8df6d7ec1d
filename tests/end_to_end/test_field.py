"""Feedback, from whoever gives it to a rollout that it stops: real controller, agents, clients."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.bundle import Bundle
from contracts.config import MqttConfig
from contracts.connection import new_client
from contracts.errors import ShoalError
from contracts.topics import Topics
from fleet.api.models import Query
from fleet.api.models_field import Feedback
from fleet.api.models_lessons import NewLesson, OldLesson
from fleet.client import Client
from fleet.rollout.spec import RolloutSpec
from tests.support.controller import TINY, TINY_NEXT, AgentProcess
from tests.support.served import ServedFleet
from tests.support.tools import need_tool

TEXT = "zqx turn on the lights"
DEVICES = ["kitchen", "cellar"]


class Listener:
    """Hears all that goes over the broker; a client of its own that also sends requests."""

    def __init__(self, broker: MqttConfig, fleet: str) -> None:
        self.topics = Topics(fleet)
        self.heard: list[tuple[str, bytes]] = []
        self.news = threading.Condition()
        self.client = new_client(broker, f"listener-{fleet}")
        self.client.on_message = self._message
        self.client.on_connect = lambda client, *_: client.subscribe(f"{self.topics.prefix}/#", 1)
        self.ready = threading.Event()
        self.client.on_subscribe = lambda *_: self.ready.set()
        self.client.connect(broker.host, broker.port)
        self.client.loop_start()
        assert self.ready.wait(60)

    def _message(self, client: Any, userdata: Any, message: Any) -> None:
        with self.news:
            self.heard.append((message.topic, message.payload))
            self.news.notify_all()

    def answer(self, request: str) -> dict[str, Any]:
        """Waits for the answer to a request."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = [json.loads(p) for t, p in self.heard if t.endswith(f"/res/{request}")]
            return bool(found)

        with self.news:
            assert self.news.wait_for(there, 60), f"no answer to {request}"
        return found[0]

    def say(self, device: str, request: str, **fields: Any) -> dict[str, Any]:
        """Gives feedback over MQTT, as any program may that may ask a device."""
        payload = json.dumps({"id": request, **fields}).encode()
        self.client.publish(self.topics.request(device, "feedback"), payload, qos=1)
        return self.answer(request)

    def stop(self) -> None:
        """Disconnects."""
        self.client.disconnect()
        self.client.loop_stop()


class Home:
    """A controller, two agents, and who listens."""

    def __init__(self, served: ServedFleet, client: Client, listener: Listener) -> None:
        self.served = served
        self.client = client
        self.listener = listener

    def ask(self, device: str, times: int) -> list[tuple[str, str]]:
        """Classifies; the ids and labels of the answers."""
        found = []
        for _ in range(times):
            query = Query(devices=[device], text=TEXT, timeout_s=30)
            (answer,) = self.client.query(query).answers
            assert answer.classified is not None, answer
            found.append((answer.id, answer.classified["label"]))
        return found

    def active(self, device: str) -> str | None:
        """The version that a device says it runs."""
        slot = self.client.device(device).slots.get("classify")
        return slot.active.version if slot and slot.active else None

    def roll_out(self, folder: Path, **fields: Any) -> str:
        """Publishes a bundle, and begins its rollout."""
        self.served.fleet.publish(folder)
        ref = Bundle.open(folder).ref
        spec = {
            "bundle": ref.name, "version": ref.version, "bake_s": 1, "trial": {"seconds": 0},
            "waves": [{"count": 1}, {"percent": 100}], **fields,
        }  # fmt: skip
        return self.client.create_rollout(RolloutSpec.model_validate(spec)).id

    def counts(self) -> dict[str, tuple[int, int]]:
        """Right and wrong answers by version, as the API tells them."""
        return {one.version: (one.right, one.wrong) for one in self.client.field(3600).versions}


@pytest.fixture
def home(mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path) -> Iterator[Home]:
    """Two agents that have no model yet."""
    served = ServedFleet(tmp_path / "fleet", mosquitto_broker, name=fleet_name)
    with served, served.client() as client, ExitStack() as stack:
        repository = served.fleet.open_repository()
        for device in DEVICES:
            stack.enter_context(
                AgentProcess(
                    tmp_path / device, mosquitto_broker, fleet_name, repository,
                    device=device, repository_url=f"{served.fleet.api_url}/repo/",
                )
            )  # fmt: skip
        listener = Listener(mosquitto_broker, fleet_name)
        stack.callback(listener.stop)
        served.until(lambda: len([d for d in client.devices() if d.state == "online"]) == 2)
        yield Home(served, client, listener)


@pytest.mark.timeout(300)
def test_a_version_that_users_say_is_wrong_is_stopped_at_the_canary(
    home: Home, mosquitto_broker: MqttConfig
) -> None:
    """Feedback comes by API, by MQTT, and by another program; what leaves are counts alone."""
    served, client, listener = home.served, home.client, home.listener
    first = home.roll_out(TINY)
    served.until(lambda: client.rollout(first).status == "succeeded")
    answers = home.ask("kitchen", 4)
    for answer, _ in answers[:3]:
        assert client.feedback(Feedback(device="kitchen", answer=answer, right=True)).right
    again = client.feedback(Feedback(device="kitchen", answer=answers[0][0], right=True))
    assert again.again
    with pytest.raises(ShoalError) as error:
        client.feedback(Feedback(device="cellar", answer=answers[0][0], right=True))
    assert error.value.code == "no-such-answer", "an answer is its own device's"
    served.until(lambda: home.counts().get("1.0.0") == (3, 0))

    new = NewLesson(
        devices=["cellar"], model="tiny-classifier", lesson="music", label="music", timeout_s=60,
        texts=["zqx play a song", "zqx put on some jazz", "zqx start the playlist"],
    )  # fmt: skip
    (taught,) = client.teach(new).devices
    assert [one.label for one in taught.lessons] == ["music"], taught.error
    kept = client.samples("tiny-classifier").items
    assert {one.text: [said.label for said in one.said] for one in kept} == {
        text: ["music"] for text in new.texts
    }
    query = Query(devices=["cellar"], text="zqx play some jazz", timeout_s=30)
    (answer,) = client.query(query).answers
    assert answer.classified is not None
    assert (answer.classified["label"], answer.classified["taught"]) == ("music", True)
    served.until(lambda: "music" in str(client.device("cellar").slots["classify"].taught))
    shown = subprocess.run(
        [*served.program, "fleet", "teach", "tiny-classifier", "--list", "--json",
         "--dir", str(served.fleet.folder)],
        check=True, capture_output=True, timeout=120,
    ).stdout  # fmt: skip
    (told,) = json.loads(shown)["devices"]
    assert (told["device"], [one["name"] for one in told["lessons"]]) == ("cellar", ["music"])
    (left,) = client.unteach(OldLesson(devices=["cellar"], lesson="music", timeout_s=60)).devices
    assert left.error is None
    assert left.lessons == []
    assert client.samples("tiny-classifier").items == []

    # The owner, at the device itself.
    def at_device(*arguments: str) -> dict[str, Any]:
        config = served.fleet.folder.parent / "cellar" / "agent.yaml"
        done = subprocess.run(
            [sys.executable, "-m", "agent", *arguments, "--json", "--config", str(config)],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        return dict(json.loads(done.stdout))

    mine = at_device("teach", "--label", "games", "zqx a game of chess", "zqx let us play cards")
    assert [(one["label"], one["by"]) for one in mine["lessons"]] == [("games", "owner")]
    (answer,) = client.query(
        Query(devices=["cellar"], text="zqx a chess game", timeout_s=30)
    ).answers
    assert answer.classified is not None and answer.classified["label"] == "games"
    assert at_device("feedback", answer.id, "--label", "games")["right"]
    assert not at_device("teach", "--undo", mine["lessons"][0]["name"])["lessons"]

    gates = {"min_field_accuracy": 0.8, "min_field_judged": 8, "min_field_devices": 1}
    second = home.roll_out(TINY_NEXT, gates=gates, on_gate="abort")
    served.until(lambda: "1.1.0" in map(home.active, DEVICES))
    (canary,) = [device for device in DEVICES if home.active(device) == "1.1.0"]
    (other,) = [device for device in DEVICES if device != canary]
    answers = home.ask(canary, 8)
    wrong = "weather" if answers[0][1] != "weather" else "timer"
    for number, (answer, _) in enumerate(answers[:4]):
        said = listener.say(canary, f"mqtt-{number}", answer=answer, label=wrong, sampled=True)
        assert said["noted"]["bundle"]["version"] == "1.1.0"
        assert not said["noted"].get("again")
    publish = need_tool("mosquitto_pub")
    for number, (answer, _) in enumerate(answers[4:6]):
        payload = json.dumps({"id": f"tool-{number}", "answer": answer, "right": False})
        subprocess.run(
            [publish, "-V", "5", "-h", mosquitto_broker.host, "-p", str(mosquitto_broker.port),
             "-q", "1", "-t", listener.topics.request(canary, "feedback"), "-m", payload],
            check=True,
            timeout=60,
        )  # fmt: skip
        assert listener.answer(f"tool-{number}")["noted"]["label"] == answers[0][1]
    for answer, _ in answers[6:]:
        client.feedback(Feedback(device=canary, answer=answer, label=wrong))

    served.until(lambda: client.rollout(second).status == "stopped")
    ended = client.rollout(second)
    assert ended.reason is not None
    assert ended.reason.detail["gate"] == "min_field_accuracy"
    assert ended.reason.detail["devices"] == [canary]
    assert ended.wave == 0, "the canary alone had it"
    assert [member.device for member in client.members(second)] == [canary]
    assert home.active(other) == "1.0.0"
    served.until(lambda: home.active(canary) == "1.0.0")

    assert home.counts() == {"1.0.0": (4, 0), "1.1.0": (0, 8)}
    detail = client.field_of("tiny-classifier", "1.1.0", 3600, by="own:board")
    assert detail.sampled_wrong == 4
    assert {(one.given, one.right): one.count for one in detail.confusions} == {
        (answers[0][1], wrong): 6, (answers[0][1], "(not said)"): 2,
    }  # fmt: skip
    assert [(one.name, one.wrong) for one in detail.groups] == [("raspberry-pi-5", 8)]
    served.until(lambda: client.field(3600).refused == {"no-such-answer": 1})
    with httpx.Client(headers={"Authorization": f"Bearer {served.token}"}) as web:
        text = web.get(f"{served.fleet.api_url}/metrics").text
        assert (
            'shoal_field_judged_7d{bundle="tiny-classifier",slot="classify",verdict="wrong",'
            'version="1.1.0"} 8.0' in text
        )
    table = subprocess.run(
        [*served.program, "fleet", "accuracy", "--dir", str(served.fleet.folder)],
        check=True, capture_output=True, text=True, timeout=120,
    ).stdout  # fmt: skip
    assert "not enough yet (8 judged)" in table

    sent = [(topic, data) for topic, data in listener.heard if "/req/" not in topic]
    assert any(b'"judged"' in data for topic, data in sent if topic.endswith("/telemetry"))
    assert [topic for topic, data in sent if b"zqx" in data] == [], "no text left a device"
