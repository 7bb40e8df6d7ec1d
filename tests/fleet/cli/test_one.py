"""A command is found without the others, and is the same as among them."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest
import typer

from contracts import __version__, interpreter
from fleet.cli import one
from fleet.cli.app import app


def _commands(group: typer.Typer) -> dict[str, object]:
    """The functions of the commands of `shoal fleet`, by their names."""
    found = next(each.typer_instance for each in group.registered_groups if each.name == "fleet")
    assert found is not None
    names = {str(each.name): each.callback for each in found.registered_commands}
    for inner in found.registered_groups:
        assert inner.typer_instance is not None
        for each in inner.typer_instance.registered_commands:
            callback = each.callback
            assert callback is not None
            names[f"{inner.name} {each.name or callback.__name__}"] = callback
    return names


WHOLE = _commands(app)


@pytest.mark.parametrize("name", [*one.COMMANDS, *one.GROUPS])
def test_a_command_alone_is_the_one_of_the_whole_command_line(name: str) -> None:
    """With all that is in its group."""
    found = one.alone(["fleet", name])
    assert found is not None
    alone = _commands(found)
    asked = {each: WHOLE[each] for each in WHOLE if each.split()[0] == name}
    assert asked
    assert {each: alone.get(each) for each in asked} == asked


@pytest.mark.parametrize(
    "words", [[], ["fleet"], ["fleet", "--help"], ["fleet", "devise"], ["boards", "list"]]
)
def test_what_is_not_one_known_command_is_left_to_the_whole_command_line(words: list[str]) -> None:
    """Help lists all commands, and a mistyped one is told what is like it."""
    assert one.alone(words) is None
    assert one.chosen(words) is app


def test_a_command_loads_nothing_of_the_others() -> None:
    """Nor what only the whole controller needs."""
    text = (
        "import sys; from fleet.cli import one; one.chosen(['fleet', 'devices']);"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "fleet.cli.devices" in loaded
    assert not loaded & {"fleet.cli.app", "fleet.cli.up", "fleet.controller", "alembic", "nicegui"}


def test_garbage_is_collected_again_after_loading() -> None:
    """Also where a module cannot be loaded; and where it was off, it stays off."""
    assert gc.isenabled()
    with pytest.raises(ModuleNotFoundError), interpreter.loading():
        assert not gc.isenabled()
        raise ModuleNotFoundError
    assert gc.isenabled()
    gc.disable()
    try:
        with interpreter.loading():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize(("module", "name"), [("fleet", "shoal"), ("agent", "shoal-agent")])
def test_both_programs_say_their_version(module: str, name: str) -> None:
    """The first thing that is typed when something goes wrong."""
    command = [sys.executable, "-m", module, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{name} {__version__}\n"
