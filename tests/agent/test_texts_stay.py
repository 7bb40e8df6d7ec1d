"""Whatever fails, no text of a user is in what leaves a device: logs, messages, files, HTTP.

One agent runs; one after the other, each place that takes a text fails with the text in its error,
while every way in is used. Then everything that came out is searched. What takes a text is found in
the source, so that a new place is either broken here or said why it need not be.

Over 400 lines: one agent in which every place fails, and the list of those places.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.children import wire
from agent.serving import door
from agent.serving.examples import read
from agent.system import log as log_module
from contracts.answers import Answer
from contracts.bundle import Bundle
from contracts.config import ExamplesConfig, MqttConfig, SourceConfig
from contracts.errors import InputError
from contracts.messages import Reported, Result
from contracts.requests import TeachRequest
from tests.agent.sources.test_sources import _publish
from tests.support import breaking_agent
from tests.support.breaking import Panic
from tests.support.controller import TINY, AgentProcess, Controller, make_repository
from tests.support.tools import free_port

ROOT = Path(__file__).parents[2]
REF = Bundle.open(TINY).ref
MARK = "zqx"
PATTERN = re.compile(rf"{MARK}\d+q")
SOURCES = ("tail", "pipe", "input", "bus", "open")


class Device:
    """An agent with every way in, of which one place fails at a time."""

    def __init__(self, controller: Controller, agent: AgentProcess, broker: MqttConfig) -> None:
        self.controller = controller
        self.agent = agent
        self.broker = broker
        self.control = agent.folder / "control"
        self.control.write_text("")
        self.hits = self.control.with_suffix(".hits")
        self.hits.write_text("")
        self.serial = 0
        self.shared: set[str] = set()

    def mark(self) -> str:
        """A text that was never there before."""
        self.serial += 1
        return f"{MARK}{self.serial}q turn on the light"

    def say(self, source: str, text: str) -> None:
        """Gives a line to a source."""
        data = text.encode() + b"\n"
        if source == "open":
            self.shared.update(PATTERN.findall(text))
        process = self.agent.process
        assert process is not None and process.stdin is not None
        if source in ("tail", "open"):
            with (self.agent.folder / f"{source}.log").open("ab") as stream:
                stream.write(data)
        elif source == "pipe":
            with socket.socket(socket.AF_UNIX) as client:
                self.until(lambda: self.connects(client), "the socket is read")
                client.sendall(data)
        elif source == "input":
            process.stdin.write(data)
            process.stdin.flush()
        else:
            _publish(self.broker, f"{self.agent.config.fleet}/local", data)

    def ask(self, op: str, payload: Any) -> None:
        """Sends a request as it is, to any operation."""
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        topic = f"{self.controller.topics.prefix}/d/{self.agent.device}/req/{op}"
        self.controller.send(topic, data)

    def fails(
        self, place: str, act: Callable[[str], None], times: int = 1, *, given: bool = True
    ) -> None:
        """Lets a place fail with a text while something is done, as often as it says.

        `given`: it is given the text, and fails when it is.
        """
        mark = self.mark()
        before = self.hits.read_text().count("\n")
        self.control.write_text(f"{place} {'' if given else '*'}{mark.split()[0]}")
        act(mark)
        self.until(lambda: self.hits.read_text().count("\n") >= before + times, place)
        self.control.write_text("")
        self.alive()

    def connects(self, client: socket.socket) -> bool:
        """Whether the agent listens: it pauses after an error."""
        try:
            client.connect(str(self.agent.folder / "pipe.sock"))
        except OSError:
            return False
        return True

    @staticmethod
    def until(holds: Callable[[], bool], what: str) -> None:
        """Waits for what has no event: a file, a socket of another process."""
        deadline = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < deadline, f"not within a minute: {what}"
            time.sleep(0.02)

    def alive(self) -> None:
        """The agent answers still."""
        answer = self.controller.ask(self.agent.device, "status")
        assert answer.error is None


@pytest.fixture(scope="module")
def device(
    mosquitto_broker: MqttConfig, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Device]:
    """An agent that serves, with five sources."""
    folder = tmp_path_factory.mktemp("texts")
    repository = make_repository(folder, TINY)
    fleet = f"texts-{free_port()}"
    home = folder / "a"
    home.mkdir()
    for name in ("tail.log", "open.log"):
        (home / name).write_text("before\n")
    sources = [
        SourceConfig("tail", "file", path="tail.log", share="hard"),
        SourceConfig("pipe", "unix", path="pipe.sock"),
        SourceConfig("bus", "mqtt", path=f"{fleet}/local", mqtt=mosquitto_broker),
        SourceConfig("input", "stdin"),
        SourceConfig("open", "file", path="open.log", share_text=True),
    ]
    with Controller(mosquitto_broker, fleet, repository) as controller:
        agent = AgentProcess(
            home,
            mosquitto_broker,
            fleet,
            repository,
            sources=sources,
            prometheus_port=free_port(),
            examples=ExamplesConfig(keep=True, below=1.0),
        )
        agent.command = [
            sys.executable, "-m", "tests.support.breaking_agent", str(home / "control"),
            *agent.command[3:],
        ]  # fmt: skip
        agent.environment = {"PYTHONPATH": str(ROOT)}
        one = Device(controller, agent, mosquitto_broker)
        agent.start(stdin=subprocess.PIPE)
        try:
            controller.wait_final(controller.want(agent.device, REF))
            yield one
        finally:
            agent.kill()


def request(device: Device, mark: str, **fields: Any) -> dict[str, Any]:
    """A request to classify a text."""
    return {"id": f"q{device.serial}-{time.monotonic_ns()}", "text": mark, **fields}


def test_no_text_is_in_what_leaves_a_device_whatever_fails(device: Device) -> None:
    """Every place, every way in; then logs, messages, files and figures are searched."""

    def classify(mark: str) -> None:
        device.ask("classify", request(device, mark))

    def tail(mark: str) -> None:
        device.say("tail", mark)

    def everywhere(*sources: str) -> Callable[[str], None]:
        def act(mark: str) -> None:
            for source in sources:
                device.say(source, mark)

        return act

    device.fails("agent.sources.feed:Feed.line", everywhere(*SOURCES), len(SOURCES))
    device.fails("agent.sources.lines:Lines.add", everywhere("tail", "pipe", "input"), 3)
    device.fails("agent.sources.feed:Feed._classify", tail)
    device.fails("!agent.sources.feed:Feed._classify", tail)
    for place in (
        "agent.serving.handlers:Answering.label",
        "agent.runtime.classifier:Classifier.classify",
        "agent.runtime.classifier:Classifier.run",
        "agent.runtime.front_end:HashedNgrams.encode",
        "!agent.runtime.front_end:HashedNgrams.encode",
        "!!agent.runtime.front_end:HashedNgrams.encode",
    ):
        device.fails(place, tail)
        device.fails(place, classify)
    for place in (
        "agent.serving.dispatch:Dispatcher.handle",
        "!agent.serving.dispatch:Dispatcher.handle",
        "agent.serving.handlers:Answering.classify",
        "contracts.codec:decode",
    ):
        device.fails(place, classify)

    def correct(mark: str) -> None:
        device.ask("feedback", {"id": f"f{device.serial}", "answer": "q0", "text": mark})

    def answer_and_correct(mark: str) -> None:
        name = f"c{device.serial}"
        device.controller.ask(device.agent.device, "classify", id=name, text=mark)
        device.controller.ask(device.agent.device, "feedback", answer=name, right=False)

    device.fails("agent.serving.answers:Answers.judge", correct)
    for place in ("Answers.classified", "Answers._keep", "_bytes"):
        device.fails(f"agent.serving.answers:{place}", classify)
    device.fails("agent.serving.handlers:Answering._hidden", tail)
    device.fails("agent.serving.examples:Examples.consider", tail)
    device.fails("agent.serving.examples:Examples.corrected", answer_and_correct)

    # Hard examples, of the one source whose owner shares them.
    def share(mark: str) -> None:
        device.say("tail", mark)
        device.until(lambda: any(mark == one.text for one in read(device.agent.state)), "kept")
        asked = {"ask": f"a{device.serial}", "model": REF.name, "most": 200}
        device.ask("samples", {"id": f"s{device.serial}", **asked})

    for place in ("redaction:redact", "redaction:_built_in", "ledger:Ledger.leaves"):
        device.fails(f"agent.sharing.{place}", share, given=False)
    device.fails("agent.telemetry.spool:Spool.put", lambda mark: device.say("open", mark))
    device.fails("contracts.codec:encode", lambda mark: device.say("open", mark))

    # What is wrong with a request, and messages with a text where none belongs.
    prefix = f"{device.controller.topics.prefix}/d/{device.agent.device}"
    for number, wrong in enumerate(
        (
            b"%s", b'{"id": "x", "text": "%s', b'{"id": "w1", "%s": 1}', b'{"%s": 1}',
            b'{"id": "%s"}', b'{"id": "w2", "text": {"%s": 1}}',
            b'{"id": "w3", "text": "t", "slot": "%s"}',
            b'{"id": "w4", "text": "t", "reply_to": "%s"}', b'{"id": "w5", "top_k": "%s"}',
            b'{"id": "w6", "text": "t", "requester": "%s"}', b'["%s"]', b'"%s"', b"%s\xff",
            b'{"id": "w7", "answer": "q0", "label": "%s"}',
            b'{"id": "w8", "answer": "w7", "text": "%s"}', b'{"id": "w9", "answer": "%s"}',
        )
    ):  # fmt: skip
        mark = device.mark().replace(" ", "_" if number % 2 else " ").encode()
        for op in (
            "classify",
            "generate",
            "feedback",
            "selftest",
            "cancel",
            "leave",
            "samples",
            "teach",
        ):
            device.ask(op, wrong % mark)
        for kind in ("desired", "ack"):
            device.controller.send(f"{prefix}/{kind}", wrong % mark)
        device.controller.send(f"{prefix}/blob/{number}", wrong % mark)
    for space in ("-", " "):
        device.ask(device.mark().replace(" ", space), b"{}")
    device.alive()

    # A full queue, requests that ran out, a text over its cap, bytes that are none.
    for _ in range(60):
        device.ask("classify", request(device, device.mark()))
        device.ask("classify", request(device, device.mark(), deadline_ms=1))
    device.say("tail", device.mark() + " x" * 40_000)
    with (device.agent.folder / "tail.log").open("ab") as stream:
        stream.write(device.mark().encode() + b"\xff\xfe\n")
    device.ask("classify", request(device, device.mark() + " y" * 40_000))
    # Examples wait for the disk, and one that meets a full queue of them is left out: who asks for
    # samples has it written.
    device.until(
        lambda: device.controller.ask(device.agent.device, "classify", text="on").error is None,
        "what was asked is done",
    )
    device.controller.ask(device.agent.device, "samples", ask="before", model=REF.name)
    last = device.mark()
    for source in SOURCES:
        device.say(source, f"{last} {source}")
    device.controller.wait_for(Result, lambda r: r.text is not None and last in r.text)
    device.alive()
    device.until(
        lambda: len([o for o in read(device.agent.state) if last in o.text]) == len(SOURCES), "kept"
    )
    given = device.controller.ask(device.agent.device, "samples", ask="last", model=REF.name)
    assert given.shared is not None
    left = [one.text for one in given.shared.samples]
    assert any(text.endswith("light tail") for text in left), "what its owner shares leaves"
    assert not [text for text in left if text.endswith(tuple(f"light {s}" for s in SOURCES[1:]))]
    assert not PATTERN.search(repr(given)), "and redacted"

    # Lessons, of the fleet and of the owner: neither their texts nor what they could be made of.
    lesson = {"lesson": "fleet", "label": "x", "texts": [device.mark() for _ in range(5)]}
    assert device.controller.ask(device.agent.device, "teach", **lesson).taught is not None
    own = TeachRequest(lesson="owner", label="y", texts=[device.mark() for _ in range(5)])
    assert door.ask(device.agent.state, "teach", own).taught is not None
    device.controller.wait_for(
        Reported, lambda r: len(r.slots["classify"].taught) == 2 if r.slots else False
    )
    kept = json.loads((device.agent.state / "lessons.json").read_bytes())
    assert tells_features(kept, kept), "they are there, and found where they are"
    for topic, payload in device.controller.raw:
        with contextlib.suppress(ValueError):
            assert not tells_features(json.loads(payload), kept), topic
    told = device.controller.ask(device.agent.device, "logs", most=200)
    assert told.logged is not None
    assert len(told.logged.lines) > 20, "its log is read over the fleet"
    assert not PATTERN.search(repr(told)), "and has no text either"
    port = device.agent.config.prometheus_port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as metrics:
        figures = metrics.read().decode()
    search(device, figures)
    assert device.agent.terminate() == 0
    search(device, figures)
    kept = {found for one in read(device.agent.state) for found in PATTERN.findall(one.text)}
    assert len(kept) > 10, "its owner has them, and nobody else"


def tells_features(found: Any, kept: Any) -> bool:
    """Whether a document has half of an example's n-grams in one list, or its response."""
    examples = [one for lesson in kept["lessons"] for one in lesson["examples"]]
    responses = {one["response"] for one in examples}
    grams = [set(one["grams"]) for one in examples]
    waiting = [found]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
            numbers = {n for n in one if isinstance(n, int)}
            if any(2 * len(numbers & ids) >= len(ids) for ids in grams):
                return True
        elif isinstance(one, str) and one in responses:
            return True
    return False


def search(device: Device, figures: str) -> None:
    """Finds a marker in anything that leaves the device."""
    assert device.serial > 30
    logged = device.agent.log.read_text(errors="replace")
    assert logged.count("\n") > 20, "nothing was logged"
    assert [line for line in logged.splitlines() if PATTERN.search(line)] == []
    assert '"places": ["src/text.rs:7:5"]' in logged, "a panic is told by its place"
    assert not PATTERN.search(figures)
    for topic, payload in device.controller.raw:
        if "/res/" in topic and "/res/s" not in topic:
            continue  # the asker's own answer
        assert not PATTERN.search(topic)
        found = set(PATTERN.findall(payload.decode(errors="replace")))
        assert found <= (device.shared if topic.endswith("/result") else set()), topic
    for path in device.agent.state.rglob("*"):
        if path.is_file():
            found = set(PATTERN.findall(path.read_bytes().decode(errors="replace")))
            assert found <= (device.shared if "spool" in path.name else set()), path
    assert device.controller.of(Answer)


# What takes a text, and what says something. ------------------------------------------------

TEXTS = {"text", "texts", "prompt", "line", "messages", "sentence", "document"}
NO_TEXTS = {"BufferedRWPair", "socket.socket", "int", "Callable[[], str]"}

SAFE = {
    "agent.__main__:_parser.command": "a help text",
    "agent.__main__:_parser.configured": "a help text",
    "agent.__main__:_parser.local": "a help text",
    "agent.cli.generate:_request": "of whoever sits at this terminal",
    "agent.cli.generate:_template_arguments": "of whoever sits at this terminal",
    "agent.cli.owner:_name": "of whoever sits at this terminal",
    "agent.cli.output:line": "to whoever sits at this terminal",
    "agent.release.starter:say": "words of the starter, which no request reaches",
    "agent.runtime.acceleration:_same": "given the golden texts alone, which are the bundle's",
    "agent.runtime.acceleration:measure": "given the golden texts alone, which are the bundle's",
    "agent.runtime.front_end:check_text": "called by what is broken, HashedNgrams.encode",
    "agent.runtime.front_end:FrontEnd.encode": "an interface",
    "agent.runtime.front_end:Tokenizer.encode": "called as HashedNgrams.encode, which is broken",
    "agent.runtime.classifier:Classifier.embed": "called on the worker, as classify is",
    "agent.runtime.classifier:Classifier.features": "calls run, which is broken, on the worker",
    "agent.runtime.lessons:features": "called on the worker, as classify is",
    "agent.runtime.lessons:_grams": "called on the worker, as classify is",
    "agent.runtime.lessons:Head.judge": "called on the worker, by classify",
    "agent.runtime.classifier:Classifier._outputs": "called by run, which is broken",
    "agent.cli.samples:_one_line": "to whoever sits at this terminal",
    "agent.sharing.giving:_one_line": "called where what is broken is, by Giving._shared",
    "agent.sharing.giving:_sample": "called where what is broken is, by Giving._shared",
    "agent.sharing.redaction:apply": "in a process whose standard error goes nowhere",
    "agent.sharing.redaction:_begins": "called by _built_in, which is broken",
    "agent.sharing.redaction:_between": "called by _built_in, which is broken",
    "agent.sharing.redaction:_by_patterns": "called by redact, which is broken",
    "agent.sharing.redaction:_names": "called by _built_in, which is broken",
    "agent.sharing.redaction:_piece": "called by _built_in, which is broken",
}
"""Functions with a text that are not broken above, and why."""

ON_THE_WORKER = "agent.generate."
"""Modules whose errors pass the worker, as those of what is broken above, and that log nothing."""


def modules(*without: str) -> Iterator[tuple[str, ast.Module]]:
    """Every module of the agent by its name."""
    for path in sorted((ROOT / "agent").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if not name.startswith(without):
            yield name, ast.parse(path.read_text())


def functions(node: ast.AST, before: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function with its classes and functions around it."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.FunctionDef):
            yield before + inner.name, inner
        name = getattr(inner, "name", "") if not isinstance(inner, ast.ExceptHandler) else ""
        yield from functions(inner, f"{before}{name}." if name else before)


def takes_text(function: ast.FunctionDef) -> bool:
    """Whether a parameter is called as texts are, and is of no type that holds none."""
    given = function.args
    return any(
        one.arg in TEXTS and (not one.annotation or ast.unparse(one.annotation) not in NO_TEXTS)
        for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)
    )


def test_everything_that_takes_a_text_is_broken_here_or_said_to_be_safe() -> None:
    """A new function with a text fails this until it is listed."""
    found = {
        f"{module}:{name}"
        for module, tree in modules("agent.micro", "agent.simulate", ON_THE_WORKER)
        for name, function in functions(tree)
        if takes_text(function)
    }
    assert len(found) > 10
    assert found <= set(breaking_agent.PLACES) | set(SAFE)
    assert set(SAFE) <= found, "what is safe is there"
    assert not set(SAFE) & set(breaking_agent.PLACES)


def test_what_generates_logs_nothing() -> None:
    """Its errors reach the log by the worker alone, which writes no message of a library."""
    generating = [(name, tree) for name, tree in modules() if name.startswith(ON_THE_WORKER)]
    assert len(generating) > 5
    for name, tree in generating:
        imported = {
            a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names
        }
        assert "logger" not in imported, name
        assert not any(isinstance(n, ast.Name) and n.id == "print" for n in ast.walk(tree)), name


QUIET_ERRORS = {"OSError", "Broken", "Refused", "MemoryError", "Waits"}
"""Errors whose messages are the system's or this project's, and hold no text."""


def test_a_microcontroller_prints_no_text_and_no_error_that_may_hold_one() -> None:
    """Its prints go to the serial port: constants, and errors of known kinds."""
    printed = 0
    for path in sorted((ROOT / "agent" / "micro").glob("*.py")):
        tree = ast.parse(path.read_text())
        handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call) or ast.unparse(call.func) != "print":
                continue
            printed += 1
            around = next((h for h in handlers if call in ast.walk(h)), None)
            for argument in call.args:
                said = ast.unparse(argument)
                assert not re.search(r"payload|text|message\.|repr\(|line", said.split("'")[0]), (
                    said
                )
                if around is not None and said == around.name:
                    assert around.type is not None
                    kinds = ast.unparse(around.type).strip("()").split(", ")
                    assert set(kinds) <= QUIET_ERRORS, f"{path.name}: {said} of {kinds}"
    assert printed > 5


def test_what_nobody_catches_is_logged_without_its_message(tmp_path: Path) -> None:
    """In the program, in a thread, and where Python cannot raise it."""
    program = tmp_path / "program.py"
    program.write_text(
        "import threading\n"
        "from agent.system import log\n"
        "log.configure()\n"
        "def fails(text):\n    raise ValueError(f'cannot encode {text}')\n"
        "class Odd:\n    def __del__(self):\n        fails('zqx1q')\n"
        "thread = threading.Thread(target=fails, args=('zqx2q',))\n"
        "thread.start()\nthread.join()\nOdd()\nfails('zqx3q')\n"
    )
    done = subprocess.run(
        [sys.executable, program], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert not PATTERN.search(done.stderr + done.stdout)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == [
        "a thread ended", "an error was not raised", "the program ended",
    ]  # fmt: skip
    assert all(line["exception"]["type"] == "ValueError" for line in lines)
    assert all("fails" in line["exception"]["frames"][-1] for line in lines)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("bad-message", "unknown field `zqx1q`"), "bad-message"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (ValueError("cannot encode zqx1q"), "ValueError"),
        (UnicodeDecodeError("utf-8", b"zqx1q", 0, 1, "zqx1q"), "UnicodeDecodeError"),
        (Panic("zqx1q"), "Panic"),
    ],
)
def test_a_log_says_of_an_error_what_holds_no_text(error: BaseException, said: str) -> None:
    """Of errors of the system their words, of all others the kind alone."""
    assert log_module.reason_of(error) == said


def test_an_error_in_a_child_is_told_without_its_message() -> None:
    """A child has no log: what it tells is logged by the agent."""
    stream = io.BytesIO()
    text = "zqx1q turn on the light"
    try:
        raise ValueError(f"cannot encode {text}")
    except ValueError as error:
        wire.tell(stream, error)  # type: ignore[arg-type]
    told = stream.getvalue().decode()
    assert "ValueError" in told and "test_texts_stay.py" in told
    assert not PATTERN.search(told)
