"""Whatever fails while text is generated, none of it is in what leaves a device.

As ``test_texts_stay.py``, on a device with a generator: prompts, chats, schemas, stop strings and
sessions hold texts, and so do the errors of tokenizer, template, grammar, model and stream.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from contracts.bundle import Bundle
from contracts.config import MqttConfig
from tests.agent.test_texts_stay import MARK, ROOT, Device, search
from tests.support import breaking_agent
from tests.support.controller import AgentProcess, Controller, make_repository
from tests.support.tiny_decoder import tiny_bundle
from tests.support.tools import free_port


@pytest.fixture
def device(
    mosquitto_broker: MqttConfig, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Device]:
    """An agent that generates."""
    folder = tmp_path_factory.mktemp("texts")
    bundle = tiny_bundle(folder / "bundle", contexts=(32, 128))
    repository = make_repository(folder, bundle)
    fleet = f"texts-{free_port()}"
    home = folder / "a"
    home.mkdir()
    with Controller(mosquitto_broker, fleet, repository) as controller:
        agent = AgentProcess(home, mosquitto_broker, fleet, repository, prometheus_port=free_port())
        agent.command = [
            sys.executable, "-m", "tests.support.breaking_agent", str(home / "control"),
            *agent.command[3:],
        ]  # fmt: skip
        agent.environment = {"PYTHONPATH": str(ROOT), "RUST_BACKTRACE": "1"}
        one = Device(controller, agent, mosquitto_broker)
        agent.start(stdin=subprocess.PIPE)
        try:
            wish = {"generate": Bundle.open(bundle).ref}
            controller.wait_final(controller.want(agent.device, wish["generate"], slot="generate"))
            yield one
        finally:
            agent.kill()


GIVEN = {
    "agent.generate.handler:Generating.generate": "prompt",
    "agent.generate.model:GenerativeModel.generate": "prompt",
    "agent.generate.model:GenerativeModel._prompt_ids": "prompt",
    "agent.generate.model:GenerativeModel.answer": "prompt",
    "agent.generate.model:GenerativeModel._run": "prompt",
    "agent.generate.prompts:check_text": "prompt",
    "agent.generate.prompts:Prompts.encode": "prompt",
    "agent.generate.prompts:Prompts._ids": "prompt",
    "agent.generate.prompts:Prompts.encode_chat": "chat",
    "contracts.chat.template:ChatTemplate.render": "chat",
    "contracts.chat.template:ChatTemplate._render": "chat",
    "agent.generate.constraint:ConstraintFactory.json_schema": "schema",
    "agent.generate.constraint:ConstraintFactory._of_schema": "schema",
    "agent.generate.constraint:check_schema": "schema",
    "agent.generate.constraint:ConstraintFactory.regex": "regex",
    "agent.generate.constraint:ConstraintFactory._start": "regex",
    "agent.generate.model:TextStream": "stop",
    "agent.generate.prefix_cache:PrefixCache.keep": "session",
}
"""Places that are given a text, and the request with it."""

ANYWAY = {
    "agent.generate.handler:ChunkSender.push": "prompt",
    "agent.generate.totals:Totals.result": "prompt",
    "agent.generate.prompts:Prompts.decode": "prompt",
    "agent.generate.decoder:Decoder.prefill": "prompt",
    "agent.generate.sampling:Sampler.pick": "prompt",
    "agent.generate.text_stream:TextStream.push": "stop",
    "agent.generate.text_stream:TextStream.finish": "prompt",
    "agent.generate.prefix_cache:PrefixCache.prepare": "session",
    "agent.generate.constraint:Constraint.allowed": "schema",
    "agent.generate.constraint:Constraint.accept": "regex",
    "agent.serving.reply:Reply.chunk": "prompt",
    "agent.serving.answers:Answers.generated": "prompt",
    "agent.serving.answers:_digest": "prompt",
}
"""Places whose error may hold a text though they are given tokens, or what the model made."""

UNUSED = {
    "agent.generate.prompts:Prompts.tokenizer_json",
    "agent.generate.decoder:Decoder.forget",
}


@pytest.mark.slow
def test_no_generated_text_is_in_what_leaves_a_device_whatever_fails(device: Device) -> None:
    """Every place by an error, by what is no ``Exception``, and by a panic that prints."""

    def act(kind: str) -> Callable[[str], None]:
        def ask(mark: str) -> None:
            fields: dict[str, Any] = {
                "prompt": {"prompt": mark},
                "chat": {"messages": [{"role": "user", "content": mark}]},
                "schema": {"prompt": mark, "json_schema": {"enum": [mark]}},
                "regex": {"prompt": mark, "regex": f"{mark}[a-z]*"},
                "stop": {"prompt": mark, "stop": [mark]},
                "session": {"prompt": mark, "session": mark.split()[0]},
            }[kind]
            device.ask(
                "generate",
                {"id": f"q{time.monotonic_ns()}", "max_tokens": 8, **fields},
            )

        return ask

    tried = set(GIVEN) | set(ANYWAY) | UNUSED
    assert {place for place in breaking_agent.PLACES if ".generate." in place} <= tried
    for kind in ("prompt", "chat", "schema", "regex", "stop", "session"):
        act(kind)(device.mark())  # what is loaded at the first use is loaded now
    for place, kind in GIVEN.items():
        for how in ("", "!", "!!"):
            device.fails(how + place, act(kind))
    for place, kind in ANYWAY.items():
        for how in ("", "!!"):
            device.fails(how + place, act(kind), given=False)

    # What is wrong with a request.
    wrong: list[dict[str, Any]] = [
        {"prompt": "", "stop": ["%s"]}, {"prompt": "%s" + " long" * 400},
        {"messages": [{"role": "%s", "content": "x"}]}, {"messages": []},
        {"messages": [{"role": "user", "content": "%s", "more": "%s"}]},
        {"prompt": "%s", "messages": [{"role": "user", "content": "%s"}]},
        {"prompt": "x", "json_schema": {"type": "%s"}}, {"prompt": "x", "regex": "(%s"},
        {"prompt": "x", "json_schema": {"$ref": "#/%s"}},
        {"prompt": "x", "json_schema": {"pattern": "(%s", "type": "string"}},
        {"prompt": "x", "json_schema": {"enum": ["%s"]}, "regex": "%s"},
        {"prompt": "x", "json_schema": {"multipleOf": "%s"}},
        {"prompt": "x", "tools": ["%s"]}, {"prompt": "x", "session": "%s"},
        {"prompt": "x", "json_schema": {"enum": ["%s" * 40]}, "max_tokens": 2},
        {"prompt": "x\ud800%s"}, {"prompt": "x", "temperature": "%s"},
    ]  # fmt: skip
    for number, fields in enumerate(wrong):
        mark = device.mark().replace(" ", "-" if number % 2 else " ")

        def filled(value: Any, mark: str = mark) -> Any:
            if isinstance(value, dict):
                return {filled(k): filled(v) for k, v in value.items()}
            if isinstance(value, list):
                return [filled(v) for v in value]
            return value.replace("%s", mark) if isinstance(value, str) else value

        device.ask("generate", {"id": f"w{number}", **filled(fields)})
    device.alive()
    search(device, "")
    assert device.agent.terminate() == 0
    search(device, "")
    assert MARK in "".join(p.decode(errors="replace") for _, p in device.controller.raw)
