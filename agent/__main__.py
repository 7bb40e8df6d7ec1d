"""Runs ``python -m agent`` and ``shoal-agent``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from agent.cli import output
from agent.system import stderr
from contracts import __version__, files, interpreter, pipes
from contracts.errors import ShoalError

_QUIET = ("agent.cli.local", "agent.cli.evaluate")
"""What loads a model for a person, who does not want the library's lines."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shoal-agent", description="Runs small language models on this device."
    )
    parser.add_argument("--version", "-V", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, module: str, function: str, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(module=module, function=function)
        sub.add_argument("--json", action="store_true", help="print JSON")
        return sub

    def configured(name: str, text: str) -> argparse.ArgumentParser:
        sub = command(name, "agent.cli.device", name, text)
        sub.add_argument(
            "--config", type=Path, required=True, metavar="FILE", help="agent.yaml of this device"
        )
        return sub

    def local(name: str, function: str, text: str) -> argparse.ArgumentParser:
        sub = command(name, "agent.cli.local", function, text)
        sub.add_argument("bundle", type=Path, help="bundle folder or .shoal file")
        if name != "inspect":
            sub.add_argument(
                "--runtime", choices=["litert", "tflite-runtime"], help="default: the best here"
            )
            sub.add_argument("--threads", type=int, default=1, choices=range(1, 65), metavar="N")
        return sub

    run = configured("run", "run the agent until it is told to stop")
    run.add_argument("--debug", action="store_true", help="log more")
    configured("selftest", "replay the golden vectors of what is active")
    configured("status", "what runs, what happened last, what it waits for")
    configured("forget", "forget the fence and revision of desired documents: the next one counts")
    samples = configured("samples", "texts with which the models had a hard time, for the owner")
    samples.set_defaults(module="agent.cli.samples")
    samples.add_argument(
        "action",
        nargs="?",
        default="list",
        choices=["list", "requests", "approve", "refuse", "audit"],
        help="list (default); requests of the fleet; approve or refuse one; audit: what has left",
    )
    samples.add_argument("request", nargs="?", help="of approve and refuse: its name")
    samples.add_argument("--erase", action="store_true", help="remove them, their key first")
    teach = configured("teach", "teach this device a label from about five examples, at once")
    teach.set_defaults(module="agent.cli.owner")
    teach.add_argument("text", nargs="*", help="the examples; none: the lines of standard input")
    what = teach.add_mutually_exclusive_group(required=True)
    what.add_argument("--label", help="of the examples: new, or one of the model")
    what.add_argument("--undo", metavar="LESSON", help="take the lesson of this name back")
    what.add_argument("--list", action="store_true", help="show what this device was taught")
    teach.add_argument("--lesson", help="its name; else made of label and examples")
    teach.add_argument("--slot", default="classify", help="whose model")
    feedback = configured("feedback", "say whether an answer of this device was right")
    feedback.set_defaults(module="agent.cli.owner")
    feedback.add_argument(
        "answer", help="its id; of a result of a local source its boot, a dot, and its seq"
    )
    said = feedback.add_mutually_exclusive_group(required=True)
    said.add_argument("--right", action="store_true", help="it was right")
    said.add_argument("--wrong", action="store_true", help="it was wrong, and no more is known")
    said.add_argument("--label", action="append", help="the right label; repeatable for several")
    said.add_argument("--text", help="of a generator: the right text")
    enroll = configured("enroll", "enrol this device with a one-time token")
    enroll.set_defaults(module="agent.cli.enroll")
    enroll.add_argument("--url", required=True, help="of the controller, https://...")
    enroll.add_argument("--token-file", type=Path, required=True, metavar="FILE")
    enroll.add_argument("--ca", type=Path, metavar="FILE", help="PEM; default: the system's")
    command("uninstall", "agent.cli.uninstall", "uninstall", "remove the agent from this board")
    classify = local("classify", "classify", "classify texts with a bundle, here and now")
    classify.add_argument("text", nargs="*", help="texts; none: the lines of standard input")
    classify.add_argument("--top", type=int, default=3, choices=range(1, 21), metavar="K")
    embed = local("embed", "embed", "texts as vectors, by a bundle of an encoder, here and now")
    embed.add_argument("text", nargs="*", help="texts; none: the lines of standard input")
    evaluate = local("eval", "evaluate", "task metrics of a bundle on labelled data")
    evaluate.set_defaults(module="agent.cli.evaluate")
    evaluate.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="FILE",
        help="what `shoal build` reads: .csv, .tsv, .xlsx, .jsonl, .parquet, a folder a label",
    )
    evaluate.add_argument("--text", default="text", help="its column of texts")
    evaluate.add_argument("--label", default="label", help="its column of labels")
    local("inspect", "inspect", "manifest, sizes, operators, memory, boards")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 done, 1 it failed, 2 the input is wrong."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    pipes.complete()
    try:
        with pipes.quiet():
            return _run(given, by_hand=arguments is None)
    except ShoalError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"error: {files.reason(error)}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _run(given: list[str], *, by_hand: bool) -> int:
    if given[:1] == ["generate"]:
        return _generate(given[1:])
    options = _parser().parse_args(given)
    if options.module in _QUIET and by_hand:
        output.quiet_libraries()
    if options.function == "run" and by_hand:
        stderr.set_apart()
    with interpreter.loading():
        function = getattr(importlib.import_module(options.module), options.function)
    code: int = function(options)
    return code


def _generate(arguments: list[str]) -> int:
    """``generate`` brings its own options, and is only imported when it is asked for."""
    module = importlib.import_module("agent.cli.generate")
    code: int = module.main(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())
