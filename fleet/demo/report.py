"""What the demo prints: numbered steps while it runs, and one table of them at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from rich.console import Console
from rich.table import Table

from contracts.errors import ShoalError


class Step(msgspec.Struct):
    """One step: what should hold, what was seen, how long it took."""

    title: str
    held: bool = False
    seen: str = ""
    seconds: float = 0.0


class StepFailedError(Exception):
    """A step did not hold; those that build on it make no sense."""


class Report:
    """Collects the steps.

    Args:
        console: where people read along.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.steps: list[Step] = []

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """A step. It holds when its body sets ``held``; a known error makes it fail.

        Raises:
            StepFailedError: it did not hold.
        """
        step = Step(title)
        self.steps.append(step)
        self.console.rule(f"[bold]{len(self.steps)}. {title}", align="left")
        began = time.monotonic()
        try:
            yield step
        except ShoalError as error:
            step.held = False
            step.seen = str(error)
        finally:
            step.seconds = time.monotonic() - began
        mark = "[green]held[/]" if step.held else "[red]did not hold[/]"
        self.console.print(f"{mark}  {step.seen}  [dim]{step.seconds:.1f} s[/]", highlight=False)
        if not step.held:
            raise StepFailedError(title)

    @property
    def held(self) -> bool:
        """Every step held."""
        return bool(self.steps) and all(step.held for step in self.steps)

    def summary(self) -> Table:
        """All steps as a table."""
        table = Table(title="Shoal demo", title_style="bold")
        for name in ("step", "result", "what was seen"):
            table.add_column(name)
        table.add_column("s", justify="right")
        for step in self.steps:
            mark = "[green]held[/]" if step.held else "[red]failed[/]"
            table.add_row(step.title, mark, step.seen, f"{step.seconds:.1f}")
        return table
