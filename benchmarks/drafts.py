"""Whether an answer with guesses is the answer without: greedy, 500 prompts, token by token.

Each prompt is answered twice by the same bundle. With ``logprobs`` an agent takes one token a
run, and says how likely each was; without, it guesses tokens ahead and checks several at once
(``agent/generate/drafts.py``). Where the two texts part, the line says at which token, and how far
the two best tokens were apart there in the run of one token: a tie is a gap of at most
``--tie`` logits. Exit code 1: texts part where there is no tie.

The prompts are passages of the text that ``shoal import`` measures on, put into six tasks: go on,
copy, correct, list, extract to JSON by a schema, answer a question. Half of them repeat the
passage, which is where guesses are taken most.

    python benchmarks/drafts.py --bundle out/smollm2-135m-1.0.0 --prompts 500

A run is resumed: ``--answers FILE`` keeps a line a prompt, and prompts that have one are left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from _figures import machine, row, save, show

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SCHEMA = {
    "type": "object",
    "properties": {
        "names": {"type": "array", "items": {"type": "string"}, "maxItems": 4},
        "first_sentence": {"type": "string", "maxLength": 120},
    },
    "required": ["names", "first_sentence"],
    "additionalProperties": False,
}
TASKS = (
    ("go on", "{}"),
    ("copy", "Repeat this text word by word.\n\n{}"),
    ("correct", "Rewrite this text without mistakes, and change nothing else.\n\n{}"),
    ("list", "List the sentences of this text, numbered, word by word.\n\n{}"),
    ("extract", "Extract all names and the first sentence of this text as JSON.\n\n{}"),
    ("question", "What is this text about?\n\n{}"),
)


def prompts(count: int, words: int = 60) -> list[tuple[str, str]]:
    """Tasks with their prompts: passages in turn, at another place of the text each time."""
    from model_builder.generate.fidelity import shipped_text

    text = shipped_text("perplexity").split(" ")
    step = max(1, (len(text) - words) // count)
    passages = [" ".join(text[i * step : i * step + words]) for i in range(count)]
    made = []
    for number, passage in enumerate(passages):
        name, task = TASKS[number % len(TASKS)]
        made.append((name, task.format(passage)))
    return made


def compare(model: Any, task: str, prompt: str, tokens: int) -> dict[str, Any]:
    """The line of one prompt."""
    from contracts.errors import ShoalError
    from contracts.requests import ChatMessage, GenerateRequest

    fields: dict[str, Any] = {"max_tokens": tokens}
    if task == "go on":
        fields["prompt"] = prompt
    else:
        fields["messages"] = [ChatMessage("user", prompt)]
    if task == "extract":
        fields["json_schema"] = SCHEMA
    found, seconds = [], []
    for logprobs in (2, 0):
        model.prefixes.clear()
        model.decoder.truncate(0)  # so that both begin with the same cache
        started = time.perf_counter()
        try:
            found.append(model.generate(GenerateRequest(**fields, logprobs=logprobs)))
        except ShoalError as error:  # a budget that ended within the JSON ends both
            found.append(error)
        seconds.append(time.perf_counter() - started)
    alone, guessed = found
    line: dict[str, Any] = {"task": task, "seconds": [round(s, 3) for s in seconds]}
    if isinstance(alone, ShoalError) or isinstance(guessed, ShoalError):
        texts = [f.info.detail.get("text") if isinstance(f, ShoalError) else f.text for f in found]
        line |= {"same": texts[0] == texts[1], "error": str(alone)[:120]}
        return line
    line |= {
        "same": (alone.text, alone.tokens) == (guessed.text, guessed.tokens),
        "tokens": guessed.tokens,
        "tokens_per_step": guessed.tokens_per_step,
    }
    if not line["same"]:
        line |= parting(alone, guessed.text)
    return line


def parting(alone: Any, text: str) -> dict[str, Any]:
    """Where the texts part, and the gap of the two best tokens there."""
    said = ""
    for at, ((piece, _), best) in enumerate(zip(alone.chosen, alone.logprobs, strict=True)):
        said += piece
        if not text.startswith(said):
            return {"at": at, "gap": round(best[0][1] - best[1][1], 4), "best": best}
    return {"at": len(alone.chosen), "gap": 0.0}


def main() -> int:
    """Measures, prints, and says whether all texts are the same."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", required=True, type=Path)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tie", type=float, default=0.0, help="logits")
    parser.add_argument("--answers", type=Path, help="a line a prompt; a run goes on from there")
    parser.add_argument("--quick", action="store_true", help="12 prompts")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from agent.generate.model import GenerativeModel
    from agent.runtime.model import Options
    from contracts.bundle import Bundle

    facts = machine()
    model = GenerativeModel(Bundle.open(options.bundle), Options(threads=options.threads))
    asked = prompts(12 if options.quick else options.prompts)
    lines = []
    if options.answers and options.answers.is_file():
        lines = [json.loads(line) for line in options.answers.read_text().splitlines()]
    for task, prompt in asked[len(lines) :]:
        lines.append(compare(model, task, prompt, options.tokens))
        if options.answers:
            with options.answers.open("a") as stream:
                stream.write(json.dumps(lines[-1]) + "\n")
    model.close()
    apart = [line for line in lines if not line["same"]]
    wrong = [line for line in apart if line.get("gap", 1.0) > options.tie]
    for line in apart:
        print("tie" if line not in wrong else "PARTS", json.dumps(line))
    rows = [row("all", "shoal", "prompts", len(lines), "count"),
            row("all", "shoal", "same_text", len(lines) - len(apart), "count"),
            row("all", "shoal", "ties", len(apart) - len(wrong), "count"),
            row("all", "shoal", "parted", len(wrong), "count")]  # fmt: skip
    for task, _ in TASKS:
        some = [line for line in lines if line["task"] == task and "tokens" in line]
        if some:
            steps = sum(line["tokens"] / max(line["tokens_per_step"], 1e-9) for line in some)
            rate = sum(line["tokens"] for line in some) / steps
            rows.append(row(task, "shoal", "accepted_tokens_per_step", rate, "tokens", len(some)))
            times = [sum(line["seconds"][i] for line in some) for i in (0, 1)]
            rows.append(row(task, "shoal", "faster", times[0] / times[1], "ratio", len(some)))
    show(rows)
    save(options.json, "drafts", rows, facts)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
