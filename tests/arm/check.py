"""``make test-arm``: the agent on 64- and 32-bit ARM, in Debian roots under user-mode emulation.

For every board below: the command line answers as this machine does; a running agent fetches a
signed bundle from a broker of the host's, self-tests it and answers requests about it; the
self-test holds once more. What this cannot show is speed, and what needs the board itself.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from agent.cli import output
from agent.generate.model import GenerativeModel
from agent.runtime.classifier import Classifier
from contracts.answers import Answer, Classified, Generated, Selftested
from contracts.bundle import Bundle
from contracts.desired import TrialRules
from contracts.errors import ShoalError
from contracts.messages import Status
from contracts.requests import GenerateRequest
from fleet.repository.repository import Repository
from tests.arm.roots import ARM64, ARMHF, CACHE, Architecture, BuildError, Root, build_wheel
from tests.support.broker import mosquitto
from tests.support.controller import TINY, AgentProcess, Controller, make_repository
from tests.support.tiny_decoder import tiny_bundle

PATIENCE_S: Final = 180.0
"""Seconds for one step; the emulator is ten to twenty times slower than the machine."""

FLEET: Final = "arm"
PROMPT: Final = "the quick brown"

_OLD: Final = "fp asimd evtstrm crc32 cpuid"
_NEW: Final = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
    "asimddp"
)
_ARM32: Final = (
    "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm crc32"
)


@dataclass(frozen=True)
class Board:
    """What is emulated.

    Attributes:
        name: of the board's profile.
        architecture: of its system.
        cpu: the emulator's nearest model.
        part: of the processor, in ``/proc/cpuinfo``.
        features: there.
        runtime: that must serve.
        generates: whether generators run: their manifests name litert alone.
    """

    name: str
    architecture: Architecture
    cpu: str
    part: str
    features: str
    runtime: str
    generates: bool

    @property
    def cpuinfo(self) -> str:
        """``/proc/cpuinfo``, as libraries that look for kernels read it."""
        core = (
            f"BogoMIPS\t: 38.40\nFeatures\t: {self.features}\nCPU implementer\t: 0x41\n"
            f"CPU architecture: {7 if self.architecture is ARMHF else 8}\nCPU variant\t: 0x0\n"
            f"CPU part\t: {self.part}\nCPU revision\t: 4\n\n"
        )
        return "".join(f"processor\t: {n}\n{core}" for n in range(os.cpu_count() or 1))

    def __str__(self) -> str:
        return f"{self.name} ({self.architecture.name}, {self.cpu})"


BOARDS: Final = (
    Board("raspberry-pi-5", ARM64, "cortex-a76", "0xd0b", _NEW, "litert", True),
    Board("raspberry-pi-zero-2w", ARM64, "cortex-a53", "0xd03", _OLD, "litert", True),
    Board("raspberry-pi-4", ARM64, "cortex-a72", "0xd08", _OLD, "litert", True),
    Board("raspberry-pi-zero-2w-32", ARMHF, "cortex-a7", "0xd03", _ARM32, "tflite-runtime", False),
)


class CheckError(Exception):
    """Something on the board is not as it must be."""


def expect(holds: bool, message: str) -> None:
    """Raises `CheckError` unless `holds`."""
    if not holds:
        raise CheckError(message)


class Checks:
    """Runs checks, prints a line each, and counts those that failed."""

    def __init__(self) -> None:
        self.failed = 0

    def __call__(self, what: str, check: Callable[[], str]) -> bool:
        """Runs one; it returns what it saw. Returns whether it held."""
        start = time.monotonic()
        try:
            seen, verdict = check(), "ok    "
        except (CheckError, BuildError, ShoalError, AssertionError) as error:
            seen, verdict = str(error), "FAILED"
        except (OSError, subprocess.SubprocessError, msgspec.MsgspecError):
            seen, verdict = traceback.format_exc(), "FAILED"
        self.failed += verdict == "FAILED"
        print(f"{verdict}  {time.monotonic() - start:6.1f} s  {what}: {seen}", flush=True)
        return verdict != "FAILED"


@dataclass(frozen=True)
class Reference:
    """What this machine answers.

    Attributes:
        classifier, generator: the bundles.
        labels: by text, for every golden vector of the classifier.
        text: of the generator, after `PROMPT`.
    """

    classifier: Path
    generator: Path
    labels: dict[str, str]
    text: str

    @classmethod
    def make(cls, folder: Path) -> Reference:
        """Runs the bundles here."""
        bundle = Bundle.open(TINY)
        model = Classifier(bundle)
        labels = {v.text: model.classify(v.text).label for v in bundle.golden()}
        model.close()
        folder.mkdir()
        generator = tiny_bundle(folder)
        decoder = GenerativeModel(Bundle.open(generator))
        text = decoder.generate(GenerateRequest(prompt=PROMPT, max_tokens=12)).text
        decoder.close()
        return cls(TINY, generator, labels, text)


class BoardCheck:
    """The checks of one board.

    Args:
        board: which.
        root: its file system.
        reference: what to compare with.
    """

    def __init__(self, board: Board, root: Root, reference: Reference) -> None:
        self.board = board
        self.root = root
        self.reference = reference
        self.folder = root.path / "var" / "lib" / "shoal-checks" / board.name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def _run(self, *arguments: str, stdin: str = "") -> str:
        """Runs ``shoal-agent`` on the board; returns its output."""
        command = self.root.agent(*arguments, cpu=self.board.cpu, cpuinfo=self.board.cpuinfo)
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
        expect(
            done.returncode == 0,
            f"shoal-agent {arguments[0]} ended with {done.returncode}: {done.stderr[-1500:]}",
        )
        return done.stdout

    def _copied(self, bundle: Path) -> str:
        target = self.folder / bundle.name
        shutil.copytree(bundle, target)
        return self.root.inside(target)

    def classify(self) -> str:
        """The command line gives every golden text the label that it gets here."""
        texts = {text: label for text, label in self.reference.labels.items() if text}
        lines = self._run(
            "classify", self._copied(self.reference.classifier), "--json", stdin="\n".join(texts)
        ).splitlines()
        answers = [msgspec.json.decode(line, type=Classified) for line in lines]
        expect(len(answers) == len(texts), f"{len(answers)} answers to {len(texts)} texts")
        for (text, label), answer in zip(texts.items(), answers, strict=True):
            expect(answer.label == label, f"{text!r} is {label} here, {answer.label} there")
        latency = sorted(answer.latency_us for answer in answers)[len(answers) // 2]
        return f"{len(answers)} labels as here, p50 {latency / 1000:.1f} ms emulated"

    def generate(self) -> str:
        """The command line continues a prompt as here, with the cache in the runtime's buffers."""
        printed = self._run(
            "generate", self._copied(self.reference.generator), PROMPT, "--max-tokens=12", "--json"
        )
        there = msgspec.json.decode(printed, type=Generated)
        expect(
            there.text == self.reference.text,
            f"here {self.reference.text!r}, there {there.text!r}",
        )
        return f"{there.tokens} tokens as here"

    def serve(self, checks: Checks, repository: Repository) -> None:
        """A running agent: update, requests, stop; then its self-test."""
        board = self.board
        with mosquitto() as broker, Controller(broker, FLEET, repository) as controller:
            agent = AgentProcess(
                self.folder, broker, FLEET, repository, device=board.name, board=board.name
            )
            config = self.root.inside(agent.path)
            agent.command = self.root.agent(
                "run", "--config", config, cpu=board.cpu, cpuinfo=board.cpuinfo
            )
            with agent:
                if checks(f"{board} update", lambda: self._update(controller, agent)):
                    checks(f"{board} requests", lambda: self._requests(controller))
                checks(f"{board} stop", lambda: self._stop(controller, agent))
            checks(f"{board} selftest", lambda: self._selftest(config))

    def _update(self, controller: Controller, agent: AgentProcess) -> str:
        """The agent comes online, takes the bundle over MQTT, tries and keeps it."""
        try:
            controller.wait_for(Status, lambda s: s.state == "online", PATIENCE_S)
            online = time.monotonic()
            ref = Bundle.open(self.reference.classifier).ref
            revision = controller.want(self.board.name, ref, trial=TrialRules(seconds=0.2))
            event = controller.wait_final(revision, PATIENCE_S)
        except AssertionError as error:
            log = agent.log.read_text()[-1500:]
            raise CheckError(f"{error}; the agent's log ends: {log}") from None
        expect(event.state == "committed", f"{event.state}: {event.reason}")
        return f"{ref} {event.state} over MQTT {time.monotonic() - online:.1f} s after the birth"

    def _requests(self, controller: Controller) -> str:
        """Answers to requests with a response topic and correlation data, as labels here."""
        device = self.board.name
        topic = controller.topics.response(device, "check")
        waits = []
        for number, (text, label) in enumerate(self.reference.labels.items()):
            start = time.monotonic()
            controller.send(
                controller.topics.request(device, "classify"),
                msgspec.json.encode({"text": text}),
                ResponseTopic=topic,
                CorrelationData=f"c{number}".encode(),
            )
            answer = controller.wait_for(
                Answer, lambda a, number=number: a.id == f"c{number}", PATIENCE_S
            )
            waits.append(time.monotonic() - start)
            expect(answer.classified is not None, f"{text!r}: {answer.error}")
            there = answer.classified.label
            expect(there == label, f"{text!r} is {label} here, {there} there")
        topics = {t for t, _ in controller.raw if "/res/" in t}
        expect(topics == {topic}, f"answers came on {topics}, not on {topic}")
        p50 = sorted(waits)[len(waits) // 2]
        return f"{len(waits)} labels as here over MQTT, p50 {p50 * 1000:.0f} ms emulated"

    def _stop(self, controller: Controller, agent: AgentProcess) -> str:
        """SIGTERM ends it well, after a goodbye."""
        code = agent.terminate(PATIENCE_S)
        expect(code == 0, f"exit code {code}; the log ends: {agent.log.read_text()[-1500:]}")
        controller.wait_for(Status, lambda s: s.state == "offline")
        return "exit code 0"

    def _selftest(self, config: str) -> str:
        """Every golden vector of what is active holds, in the runtime of this board."""
        printed = self._run("selftest", "--config", config, "--json")
        (row,) = msgspec.json.decode(printed)
        result = msgspec.convert(row["selftested"], Selftested)
        expect(result.passed == result.vectors > 0, f"{result.passed} of {result.vectors} hold")
        expect(result.runtime == self.board.runtime, f"it ran in {result.runtime}")
        return (
            f"{result.passed} of {result.vectors} vectors hold in {result.runtime}, "
            f"at most {result.max_steps} steps off"
        )


def install_tools(architectures: set[Architecture]) -> None:
    """Installs the programs that are missing.

    Raises:
        BuildError: this is not root, or they cannot be had.
    """
    if os.geteuid() != 0:
        raise BuildError("needs root, for chroot and mount: sudo make test-arm")
    needed = {"mosquitto": "mosquitto", "unshare": "util-linux"}
    for architecture in architectures:
        needed |= architecture.tools
    os.environ["PATH"] += os.pathsep + "/usr/sbin"  # mosquitto's and debootstrap's folder
    missing = sorted({package for name, package in needed.items() if shutil.which(name) is None})
    if not missing:
        return
    print(f"installing {' '.join(missing)}", flush=True)
    if shutil.which("apt-get") is None:
        raise BuildError(f"no apt-get here: install {' '.join(missing)} by hand")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet)
        if done.returncode:
            raise BuildError(f"{' '.join(command)} failed: {done.stderr[-1000:]}")


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for this run, below the project's."""
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="run-") as folder:
        yield Path(folder)


def main() -> int:
    """Runs the checks; returns 0 when all hold, 1 when one does not, 2 when none can be run."""
    parser = argparse.ArgumentParser(prog="make test-arm", description=__doc__)
    parser.add_argument(
        "--board", action="append", choices=[b.name for b in BOARDS], help="default: all"
    )
    names = parser.parse_args().board
    boards = [board for board in BOARDS if not names or board.name in names]
    start = time.monotonic()
    try:
        install_tools({board.architecture for board in boards})
        wheel = build_wheel()
    except BuildError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    output.quiet_libraries()
    checks = Checks()
    roots: dict[str, Root | None] = {}
    with scratch() as folder:
        repository = make_repository(folder, TINY)
        reference = Reference.make(folder / "generator")
        for board in boards:
            name = board.architecture.name
            if name not in roots:
                root = Root(board.architecture)
                made = checks(
                    f"{name} root", lambda root=root: ", ".join(root.make(wheel)) or "as it was"
                )
                roots[name] = root if made else None
            if (ready := roots[name]) is None:
                continue
            check = BoardCheck(board, ready, reference)
            checks(f"{board} classify", check.classify)
            if board.generates:
                checks(f"{board} generate", check.generate)
            check.serve(checks, repository)
    print(f"{checks.failed} failed in {time.monotonic() - start:.0f} s")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
