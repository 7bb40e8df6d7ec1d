"""Adapters of a generator in a fleet: real controller, real agents, asked in every way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from contracts.bundle import Bundle
from contracts.config import MqttConfig
from contracts.desired import DesiredBundle, TrialRules
from fleet.api.models import Query
from fleet.api.models_rollouts import RolloutModel
from fleet.client import Client
from fleet.rollout.spec import RolloutSpec
from model_builder.generate.adapt import AdapterOptions, import_adapter
from tests.support.adapters import untrue, write_adapter
from tests.support.controller import AgentProcess, Controller, make_repository
from tests.support.served import ServedFleet
from tests.support.tiny_decoder import tiny_bundle, tiny_weights

DEVICES = ["d1", "d2"]
ENDED = ("succeeded", "stopped", "aborted")
PROMPT = "the quick brown fox"
GOLDEN = (
    PROMPT, "the lazy dog", "name", "count 12", "value", "over the", "jumps", "12", "fox name",
    "the count", "lazy value", "brown",
)  # fmt: skip
"""A random model is near a tie after most of them; some are left that another run holds."""


class Kit:
    """A base, and three versions of an adapter; the last fails its self-test."""

    def __init__(self, folder: Path, size: int) -> None:
        base = tiny_bundle(folder / "base", contexts=(32,), adapters=16, size=size)
        weights = tiny_weights(size=size)
        self.base = Bundle.open(base)
        made = []
        for seed, version in enumerate(("1.0.0", "1.1.0"), 1):
            peft = write_adapter(folder / version, weights, rank=16, seed=seed, size=0.3)
            options = AdapterOptions(name="home", version=version, golden=GOLDEN)
            made.append(Bundle.open(import_adapter(peft, base, folder / "out", options).bundle))
        self.home, self.better = made
        self.wrong = untrue(folder / "wrong", self.better, "1.2.0")


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """Wide enough that an adapter is more than what signs it."""
    return Kit(tmp_path_factory.mktemp("kit"), size=4)


def test_an_adapter_takes_its_own_size_of_the_wire_and_answers_beside_its_base(
    mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path, kit: Kit
) -> None:
    """All that is sent for it, signatures too, is at most a tenth more than the bundle."""
    repository = make_repository(tmp_path, kit.base.path, kit.home.path)
    with (
        Controller(mosquitto_broker, fleet_name, repository) as controller,
        AgentProcess(tmp_path / "a", mosquitto_broker, fleet_name, repository) as agent,
    ):
        rules = TrialRules(seconds=0.2)
        base = DesiredBundle(kit.base.ref, trial=rules)
        revision = controller.want_slots(agent.device, {"generate": base})
        assert controller.wait_final(revision).state == "committed"
        before = controller.block_bytes
        both = {"generate": base, "desk": DesiredBundle(kit.home.ref, trial=rules)}
        revision = controller.want_slots(agent.device, both)
        ended = controller.wait_final(revision)
        assert ended.state == "committed", ended.reason
        size = kit.home.manifest.total_bytes + len(kit.home.manifest_bytes)
        assert kit.home.manifest.total_bytes < controller.block_bytes - before <= 1.1 * size
        asked = {"prompt": PROMPT, "max_tokens": 6, "stream": False}
        answers = {
            name: controller.ask(agent.device, "generate", **asked, **more)
            for name, more in {
                "base": {},
                "by name": {"adapter": "home"},
                "by slot": {"adapter": "desk"},
                "as a slot": {"slot": "desk"},
            }.items()
        }
        refs = {name: a.generated.bundle for name, a in answers.items() if a.generated}
        assert refs.pop("base") == kit.base.ref
        assert refs == dict.fromkeys(("by name", "by slot", "as a slot"), kit.home.ref)
        none = controller.ask(agent.device, "generate", **asked, adapter="garden")
        assert none.error is not None and none.error.code == "no-adapter"
        tested = controller.ask(agent.device, "selftest", slot="desk").selftested
        assert tested is not None and tested.passed == tested.vectors
        assert agent.terminate() == 0


class Home:
    """A controller, two agents, and people who ask them for the adapter's answers."""

    def __init__(self, served: ServedFleet, client: Client) -> None:
        self.served = served
        self.client = client

    def roll_out(self, bundle: Bundle, **fields: object) -> RolloutModel:
        """A rollout in two waves to its end, while people ask."""
        self.served.fleet.publish(bundle.path)
        spec = {
            "bundle": bundle.ref.name, "version": bundle.ref.version,
            "waves": [{"count": 1}, {"percent": 100}], "bake_s": 0, "trial": {"seconds": 0},
            **fields,
        }  # fmt: skip
        rollout = self.client.create_rollout(RolloutSpec.model_validate(spec), again=True).id
        with self._people():
            self.served.until(lambda: self.client.rollout(rollout).status in ENDED, 120)
        return self.client.rollout(rollout)

    @contextmanager
    def _people(self) -> Iterator[None]:
        done = threading.Event()

        def ask() -> None:
            with self.served.client() as client:
                while not done.wait(0.1):
                    client.query(self.question(5))

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(30)

    @staticmethod
    def question(timeout_s: float, **options: object) -> Query:
        """A few tokens of the adapter."""
        asked = {"adapter": "home", "max_tokens": 2, **options}
        return Query(
            devices=DEVICES, op="generate", text=PROMPT, timeout_s=timeout_s, options=asked
        )

    def answers(self, **options: object) -> list[str]:
        """Who answers on each device, or the code of the error."""
        found = self.client.query(self.question(30, **options)).answers
        return [
            str(one.error.code)
            if one.error is not None
            else "{name} {version}".format(**(one.generated or {})["bundle"])
            for one in found
        ]

    def openai(self, model: str) -> tuple[int, str]:
        """Status and system fingerprint, or error code, of OpenAI's route."""
        got = httpx.post(
            f"{self.served.fleet.api_url}/v1/completions", timeout=60,
            headers={"Authorization": f"Bearer {self.served.token}"},
            json={"model": model, "prompt": PROMPT, "max_tokens": 2},
        )  # fmt: skip
        body = got.json()
        return got.status_code, body.get("system_fingerprint") or body["error"]["code"]


@pytest.fixture
def home(mosquitto_broker: MqttConfig, fleet_name: str, tmp_path: Path) -> Iterator[Home]:
    """Two agents are online."""
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
        served.until(lambda: len([d for d in client.devices() if d.state == "online"]) == 2)
        yield Home(served, client)


@pytest.mark.timeout(300)
def test_adapters_are_rolled_out_gated_and_rolled_back_alone(home: Home, kit: Kit) -> None:
    """What fails its self-test or a gate is gone again; the base never changes."""
    assert home.roll_out(kit.base).status == "succeeded"
    assert home.answers() == ["no-adapter"] * 2
    assert home.roll_out(kit.home).status == "succeeded"
    assert home.answers() == ["home 1.0.0"] * 2
    assert home.answers(adapter=None) == ["tiny 1.0.0"] * 2
    assert home.openai("all:home") == home.openai("d1:home") == (200, "home 1.0.0")
    assert home.openai("all") == (200, "tiny 1.0.0")
    assert home.openai("all:garden")[1] == "no-adapter"

    ended = home.roll_out(kit.wrong)
    assert ended.status == "stopped"
    assert home.answers() == ["home 1.0.0"] * 2

    gates = {"max_latency_p95_us": 0.001, "min_requests": 3}
    ended = home.roll_out(kit.better, gates=gates)
    assert ended.status == "stopped" and ended.reason is not None
    assert ended.reason.detail["gate"] == "max_latency_p95_us"
    assert home.answers() == ["home 1.0.0"] * 2

    assert home.roll_out(kit.better).status == "succeeded"
    assert home.answers() == ["home 1.1.0"] * 2
    assert home.answers(adapter=None) == ["tiny 1.0.0"] * 2
