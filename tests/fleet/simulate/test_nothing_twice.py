"""The simulator has no second device: what an agent defines, it imports."""

from __future__ import annotations

import ast
import inspect
import json
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import msgspec
import pytest

import agent.simulate
from contracts import answers, desired, messages, requests
from contracts.answers import Generated
from contracts.messages import UpdateState

SIMULATOR = Path(agent.simulate.__file__).parent
AGENT = SIMULATOR.parent

MESSAGES = {
    name
    for module in (messages, desired, requests, answers)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
}
"""Every message of the protocol."""

ANSWERED = {"Answer", "Classified", "Generated", "Scored", "Selftested"}
"""What a model answers is the runtime's: a scripted one makes it up."""

REFERENCES = {"BundleRef"}

STATES = set(get_args(UpdateState)) | {"rolling-back"}
"""States of an update. ``commits``, ``rolls-back`` and the like are fates."""


def sources() -> Iterator[tuple[str, ast.Module]]:
    """The simulator's files."""
    for path in sorted(SIMULATOR.glob("*.py")):
        yield path.name, ast.parse(path.read_text())


def called(tree: ast.AST) -> set[str]:
    """Names that are called: constructors among them."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func
            found.add(name.attr if isinstance(name, ast.Attribute) else getattr(name, "id", ""))
    return found


def defined(tree: ast.Module) -> set[str]:
    """Classes at the top."""
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def methods(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Names of functions that overwrite nothing of their own: what a class without a base has."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, ast.FunctionDef):
                    yield node.name, item.name


def compared(tree: ast.AST) -> set[str]:
    """Texts of the code that are states."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    } & STATES


def test_the_simulator_makes_no_message_of_its_own() -> None:
    """Reported documents, events, samples, batches, states: the agent's code makes them."""
    for name, tree in sources():
        own = called(tree) & MESSAGES - ANSWERED - REFERENCES
        assert not own, f"{name} makes {own}: let the agent's code do that"


def test_the_simulator_knows_no_states_but_the_one_that_it_counts() -> None:
    """It has no machine of its own."""
    found = {state: name for name, tree in sources() for state in compared(tree)}
    assert found == {"committed": "run.py"}


@pytest.mark.parametrize(
    "name", ["Device", "Engine", "Recorder", "Reporter", "Reporting", "Dispatcher", "Slots"]
)
def test_no_class_of_the_agent_has_a_namesake_in_the_simulator(name: str) -> None:
    """And the agent still has it: this list does not outlive what it is about."""
    theirs = [
        path
        for path in AGENT.rglob("*.py")
        if SIMULATOR not in path.parents
        and "micro" not in path.parts
        and name in defined(ast.parse(path.read_text()))
    ]
    assert theirs
    assert not [file for file, tree in sources() if name in defined(tree)]


def test_a_simulated_run_is_the_agents_device_with_other_means() -> None:
    """It adds what drives it; of what a device decides and says it overwrites nothing."""
    from agent.device import Device
    from agent.simulate.run import Run

    told = {"update_ended", "_send_answer"}  # counted, and handed on
    own = {name for name in vars(Run) if callable(getattr(Run, name))} - {"__init__"}
    assert issubclass(Run, Device)
    assert own & set(vars(Device)) == told


def test_a_scripted_model_is_asked_as_the_agents_models_are() -> None:
    """What serving passes to them it takes, too."""
    from agent.generate.adapted import AdaptedModel
    from agent.generate.model import GenerativeModel
    from agent.runtime.classifier import Classifier
    from agent.simulate.runtime import ScriptedModel

    # An adapter is chosen below serving; what a device was taught, where features are.
    inner = {"adapted", "head"}
    for kind, names in (
        (GenerativeModel, ("generate", "probe", "warm_up", "selftest", "close")),
        (AdaptedModel, ("generate", "probe", "warm_up", "selftest", "close")),
        (Classifier, ("classify", "features", "embed", "probe", "warm_up", "selftest", "close")),
    ):
        for name in names:
            real = inspect.signature(getattr(kind, name)).parameters
            scripted = inspect.signature(getattr(ScriptedModel, name)).parameters
            assert [(one.name, one.kind) for one in real.values() if one.name not in inner] == [
                (one.name, one.kind) for one in scripted.values()
            ], (kind, name)


def test_a_scripted_generator_tells_its_confidence_as_the_agents_do(tmp_path: Path) -> None:
    """The same class judges: unknown below what was asked, a chance where it was calibrated."""
    from agent.simulate.runtime import ScriptedModel
    from agent.simulate.scenario import Behaviour
    from contracts.bundle import Bundle
    from contracts.requests import GenerateRequest
    from tests.support.tiny_decoder import tiny_bundle

    folder = tiny_bundle(tmp_path)
    pieces: list[str] = []

    def answer(least: float | None) -> Generated:
        board = SimpleNamespace(
            chance=random.Random(1), slowness=1.0, index=0,
            monotonic=lambda: 0.0, pause=lambda seconds: None,
        )  # fmt: skip
        model = ScriptedModel(
            Bundle.open(folder), Behaviour(confidence=0.8), board, holds=1.0, tokens_per_s=10.0
        )  # fmt: skip
        pieces.clear()
        return model.generate(GenerateRequest(prompt="a", min_confidence=least), pieces.append)

    assert answer(None).confidence is None and len(pieces) > 1
    sure = answer(0.5)
    assert 0.74 <= sure.confidence <= 0.86 and not sure.unknown and not sure.calibrated
    assert pieces == [sure.text]
    unsure = answer(0.95)
    assert unsure.unknown and (unsure.text, unsure.best, pieces) == ("", sure.text, [])
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["generator"]["calibration"] = [[0.0, 0.1], [1.0, 0.2]]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    chance = answer(0.15)
    assert chance.calibrated and 0.17 < chance.confidence < 0.19 and not chance.unknown
