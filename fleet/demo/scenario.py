"""The steps of ``shoal demo``, in order: each says what must hold and checks that it does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from contracts import codec
from contracts.errors import UnavailableError
from fleet.api.models import Query
from fleet.api.models_devices import DeviceModel
from fleet.api.models_rollouts import RolloutModel
from fleet.cli.options import connect
from fleet.client import Client
from fleet.demo.improving import SHARES, improve
from fleet.demo.processes import Processes, run
from fleet.demo.report import Report, Step
from fleet.demo.tampered import with_wrong_golden_vectors
from fleet.rollout.spec import RolloutSpec, Trial, parse_waves

DEVICES: Final = {
    "kitchen": "raspberry-pi-5",
    "workshop": "jetson-orin-nano",
    "garden": "raspberry-pi-zero-2w",
}
SENTENCES: Final = (
    "turn on the lights in the kitchen",
    "what is the temperature in the bedroom",
    "set the brightness of the hallway to 40 percent",
    "open the garage door please",
    "start a timer for ten minutes",
)
MODEL: Final = "home-intents"
MAX_MODEL_BYTES: Final = 256 * 1024
MAX_LOSS: Final = 0.02
_ENDED: Final = frozenset({"succeeded", "stopped", "aborted"})
_ROLLOUT_S: Final = 150.0


class Budget(msgspec.Struct, frozen=True):
    """How much the demo builds.

    Attributes:
        first, second: sentences that version 1.0.0 and version 2.0.0 are sampled from.
        settings: further settings of the recipe (``key=value``).
        check_quality: hold the model to the demo's accuracy and data sizes.
    """

    first: int = 12_000
    second: int = 16_000
    settings: tuple[str, ...] = ()
    check_quality: bool = True


class Figures(msgspec.Struct):
    """What a device reported until now."""

    requests: int = 0
    errors: int = 0
    latency_p95_us: float = 0.0
    rss_bytes: float = 0.0


class Demo:
    """One run.

    Args:
        work: an empty folder for everything.
        processes: starts and stops the programs.
        report: collects the steps.
        budget: how much to build.
        ports: of the broker and of the HTTP API, on loopback.
        improves: the field loop is the last step; agents share hard examples for it.
    """

    def __init__(
        self,
        work: Path,
        processes: Processes,
        report: Report,
        budget: Budget,
        ports: tuple[int, int],
        *,
        improves: bool = False,
    ) -> None:
        self.improves = improves
        self.work = work
        self.processes = processes
        self.report = report
        self.budget = budget
        self.broker_port, self.api_port = ports
        self.fleet_dir = work / "fleet"
        self.bundles: dict[str, Path] = {}
        self._client: Client | None = None

    @property
    def console(self) -> Console:
        """Where people read along."""
        return self.report.console

    def play(self) -> None:
        """All steps.

        Raises:
            StepFailedError: at the first that does not hold.
        """
        with self.report.step("Distil and convert version 1.0.0") as step:
            self._build("1.0.0", self.budget.first, step)
        with self.report.step("Start broker, controller and three agents") as step:
            self.start(step)
        with self.report.step("Roll 1.0.0 out to all three") as step:
            self.publish(self.bundles["1.0.0"])
            self.roll_out("1.0.0", "100%", step, expect="succeeded")
            step.held = step.held and self.versions() == dict.fromkeys(DEVICES, "1.0.0")
        with self.report.step("Ask each device over MQTT") as step:
            self._ask(step)
        with self.report.step("Metrics that the devices reported") as step:
            self._metrics(step)
        with self.report.step("Build version 2.0.0 from more data") as step:
            self._build("2.0.0", self.budget.second, step)
        with self.report.step("Roll 2.0.0 out: one canary, then the rest") as step:
            self.publish(self.bundles["2.0.0"])
            self.roll_out("2.0.0", "1,100%", step, expect="succeeded")
            step.held = step.held and self.versions() == dict.fromkeys(DEVICES, "2.0.0")
        with self.report.step("Publish 2.1.0, whose golden vectors do not match") as step:
            self._refused(step)
        if self.improves:
            with self.report.step("Improve 2.0.0 by what people say to it") as step:
                settings = [f"data.sentences={self.budget.second}", *self.budget.settings]
                improve(self, MODEL, recipe(), settings, step)

    # Steps --------------------------------------------------------------------------------------

    def _build(self, version: str, sentences: int, step: Step) -> None:
        """Runs the builder as a program; the model must be small and close to its teacher."""
        settings = [f"version={version}", f"data.sentences={sentences}", *self.budget.settings]
        arguments = ["build", str(recipe()), "--out", str(self.work / "build"), "--json"]
        for setting in settings:
            arguments += ["--set", setting]
        output = run("model_builder", arguments, self.work / "build.log", show=True)
        summary = codec.decode(output, dict[str, Any], what="the builder's summary")
        self.bundles[version] = Path(summary["bundle"])
        accuracy = summary["accuracy"]
        step.seen = (
            f"{summary['labels']} intents, {summary['train_texts']} training sentences; unseen "
            f"templates: teacher {accuracy['teacher']:.1%}, float {accuracy['float']:.1%}, "
            f"int8 {accuracy['int8']:.1%}; {summary['model_bytes'] / 1024:.0f} KB, "
            f"arena {summary['arena_bytes'] / 1024:.1f} KB"
        )
        self.console.print(f"report: {summary['report_html']}", highlight=False)
        step.held = summary["model_bytes"] <= MAX_MODEL_BYTES
        if self.budget.check_quality:
            step.held = (
                step.held
                and accuracy["int8"] >= accuracy["teacher"] - MAX_LOSS
                and summary["labels"] >= 30
                and sentences >= 10_000
            )

    def start(self, step: Step) -> None:
        """Makes a fleet, starts its programs, and waits until all devices are online."""
        self._command(
            "init", str(self.fleet_dir), "--name", "demo",
            "--mqtt-port", str(self.broker_port), "--api-port", str(self.api_port), "--json",
        )  # fmt: skip
        folder = ["--dir", str(self.fleet_dir)]
        self.processes.start(
            "controller", "fleet", ["fleet", "serve", "--embedded-broker", *folder]
        )
        for device, board in DEVICES.items():
            config = self.work / "devices" / device / "agent.yaml"
            config.parent.mkdir(parents=True)
            self._command(
                "enroll", device, "--board", board, "--label", f"room={device}",
                "--out", str(config), *folder, "--json",
            )  # fmt: skip
            quicken(config, SHARES if self.improves else None)
            self.processes.start(f"agent-{device}", "agent", ["run", "--config", str(config)])
        self._wait("devices", 60, lambda: set(self._devices("online")) == set(DEVICES))
        step.held = True
        step.seen = ", ".join(f"{device} ({board})" for device, board in DEVICES.items())

    def publish(self, bundle: Path) -> None:
        """Signs and publishes a bundle."""
        self._command("publish", str(bundle), "--dir", str(self.fleet_dir), "--json")

    def roll_out(self, version: str, waves: str, step: Step, *, expect: str) -> RolloutModel:
        """Creates a rollout and watches it to its end."""
        spec = RolloutSpec(
            bundle=MODEL, version=version, waves=parse_waves(waves),
            bake_s=1, deadline_s=120, trial=Trial(seconds=3),
        )  # fmt: skip
        shown = self.client().create_rollout(spec)
        progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(),
            console=self.console,
        )  # fmt: skip
        deadline = time.monotonic() + _ROLLOUT_S
        with progress:
            task = progress.add_task(f"rollout {shown.id}", total=len(DEVICES))
            while shown.status not in _ENDED:
                self.processes.check()
                if time.monotonic() > deadline:
                    raise UnavailableError(
                        "rollout-slow",
                        f"{shown.id} did not end in {_ROLLOUT_S:.0f} s: {shown.status}",
                    )
                time.sleep(0.3)
                shown = self.watch(shown)
                progress.update(
                    task,
                    completed=shown.phases.get("confirmed", 0),
                    description=f"rollout {shown.id}, wave {shown.wave + 1}: {shown.status}",
                )
        running = self.versions()
        step.held = shown.status == expect
        step.seen = f"{shown.status}; " + ", ".join(f"{d} runs {v}" for d, v in running.items())
        return shown

    def watch(self, shown: RolloutModel) -> RolloutModel:
        """The rollout as it is now; as it was when the controller does not answer just now."""
        try:
            return self.client().rollout(shown.id)
        except UnavailableError:
            return shown

    def _ask(self, step: Step) -> None:
        """Every sentence to every device; every answer must be there."""
        table = Table("sentence", "device", "label", "confidence", "on the device")
        answered = 0
        for sentence in SENTENCES:
            result = self.client().query(Query(selector="all", text=sentence))
            for answer in result.answers:
                found = answer.classified
                if found is None:
                    continue
                answered += 1
                table.add_row(
                    sentence, answer.device, found["label"],
                    f"{found['confidence']:.0%}", f"{found['latency_us']:.0f} us",
                )  # fmt: skip
            table.add_section()
        self.console.print(table)
        asked = len(SENTENCES) * len(DEVICES)
        step.held = answered == asked
        step.seen = f"{answered} of {asked} answered"

    def _metrics(self, step: Step) -> None:
        """The requests that were just answered must arrive as telemetry."""
        counted: dict[str, Figures] = {}

        def arrived() -> bool:
            counted.update({device: self._figures(device) for device in DEVICES})
            return all(figures.requests >= len(SENTENCES) for figures in counted.values())

        self._wait("telemetry", 60, arrived)
        table = Table("device", "requests", "errors", "latency p95", "memory of the agent")
        for device, seen in counted.items():
            latency = f"{seen.latency_p95_us:.0f} us" if seen.latency_p95_us else "-"
            memory = f"{seen.rss_bytes / 2**20:.0f} MB"
            table.add_row(device, str(seen.requests), str(seen.errors), latency, memory)
        self.console.print(table)
        step.held = all(seen.errors == 0 for seen in counted.values())
        step.seen = ", ".join(f"{d}: {f.requests} requests" for d, f in counted.items())

    def _figures(self, device: str) -> Figures:
        seen = Figures()
        for point in self.client().telemetry(device).points:
            seen.requests += point.requests
            seen.errors += point.errors
            seen.latency_p95_us = max(seen.latency_p95_us, point.latency_p95_us or 0.0)
            seen.rss_bytes = max(seen.rss_bytes, point.gauges.get("rss_bytes", 0.0))
        return seen

    def _refused(self, step: Step) -> None:
        """The canary must refuse the version and keep serving; the rollout must stop by itself."""
        bad = self.work / "build" / f"{MODEL}-2.1.0"
        self.publish(with_wrong_golden_vectors(self.bundles["2.0.0"], bad, "2.1.0"))
        shown = self.roll_out("2.1.0", "1,100%", step, expect="stopped")
        members = list(self.client().members(shown.id))
        failed = [member for member in members if member.phase == "failed"]
        result = self.client().query(Query(selector="all", text=SENTENCES[0]))
        serving = [a.classified["bundle"]["version"] for a in result.answers if a.classified]
        step.held = (
            step.held
            and len(members) == len(failed) == 1
            and (failed[0].reason or {}).get("code") == "golden-mismatch"
            and serving == ["2.0.0"] * len(DEVICES)
        )
        reason = "; ".join(str((m.reason or {}).get("message")) for m in failed)
        step.seen = (
            f"the rollout stopped by itself: {len(failed)} canary refused it ({reason}); "
            f"{serving.count('2.0.0')} of {len(DEVICES)} devices answer with 2.0.0"
        )

    # Helpers ------------------------------------------------------------------------------------

    def client(self) -> Client:
        """A client of the controller's API, as the admin that `init` made."""
        if self._client is None:
            self._client = connect(self.fleet_dir)
        return self._client

    def close(self) -> None:
        """Closes the client."""
        if self._client is not None:
            self._client.close()

    def _command(self, *arguments: str) -> None:
        run("fleet", ["fleet", *arguments], self.processes.log("commands"), show=False)

    def _devices(self, state: str | None = None) -> dict[str, DeviceModel]:
        try:
            found = list(self.client().devices())
        except UnavailableError:
            return {}
        return {one.id: one for one in found if state is None or one.state == state}

    def versions(self) -> dict[str, str]:
        """The version that each device says it runs."""
        found: dict[str, str] = {}
        for name, device in self._devices().items():
            active = device.slots["classify"].active if "classify" in device.slots else None
            found[name] = active.version if active else "nothing"
        return found

    def _wait(self, what: str, seconds: float, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        with self.console.status(f"waiting for {what}"):
            while not holds():
                self.processes.check()
                if time.monotonic() > deadline:
                    raise UnavailableError("too-slow", f"no {what} within {seconds:.0f} s")
                time.sleep(0.3)


def quicken(config: Path, examples: dict[str, Any] | None = None) -> None:
    """Makes an agent report every second, so that nobody waits for the demo's figures.

    `examples`: of its configuration, where it shares some.
    """
    settings = yaml.safe_load(config.read_text())
    settings["telemetry_s"] = 1.0
    if examples is not None:
        settings["examples"] = examples
    config.write_text(yaml.safe_dump(settings, sort_keys=False))


def recipe() -> Path:
    """The recipe of the demo: in a checkout, or as shipped with the builder."""
    root = Path(__file__).parents[2]
    for folder in (root / "examples", root / "model_builder" / "examples"):
        if (folder / "home-intents.yaml").is_file():
            return folder / "home-intents.yaml"
    raise UnavailableError("no-recipe", "home-intents.yaml is not installed")
