"""Prompts from a description and a few examples, and an answer to each: pairs to learn from.

The answers are a teacher's, who is told what to do and shown the examples; the student learns them
from the prompts alone (Y. Kim and A. Rush, "Sequence-Level Knowledge Distillation", 2016).
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from contracts.errors import RefusedError
from model_builder.recipes.written import Example, WrittenPairsConfig
from model_builder.seeds import derive
from model_builder.teachers.base import Progress
from model_builder.teachers.endpoint import Meter
from model_builder.teachers.kept import Kept
from model_builder.writing.authors import Author, BundleAuthor, EndpointAuthor
from model_builder.writing.plan import SHOWN, SURPLUS, Ask, most_different, turns
from model_builder.writing.sift import Sieve, told
from model_builder.writing.write import ask_all, ledger

_PROMPTS: Final = (
    "You write inputs that a small text generator is taught with. Write as different people really "
    "write: other words, other beginnings, other details in each. Never answer them, never number "
    "them, and never leave a blank such as [name] to fill in. Answer with one JSON object and "
    'nothing else, in this form: {"texts": ["first input", "second input"]}'
)
_LEAST: Final = 20
"""Pairs with which a build may go on, though more were asked for."""

_ONE: Final = "prompts"
NO_ANSWER, NO_JSON = "no answer, or one that is too long", "an answer that is no JSON"


class WrittenPairs(msgspec.Struct):
    """What was written.

    Attributes:
        pairs: prompt, completion and the request that the prompt comes from.
        facts: for the report.
        warnings: for people.
    """

    pairs: list[tuple[str, str, str]]
    facts: dict[str, Any]
    warnings: list[str]


def write_pairs(
    config: WrittenPairsConfig,
    examples: Sequence[Example],
    unanswered: Sequence[str],
    seed: int,
    cache: Path,
    progress: Progress,
    pause: Callable[[float], None] = time.sleep,
) -> WrittenPairs:
    """Writes prompts, and answers them and the `unanswered` ones.

    Args:
        config: of the writing; its paths are whole.
        examples: that are shown.
        unanswered: prompts of a person.
        seed: of the attributes and of the sampling.
        cache: folder in which every answer is kept as it comes.
        progress: is told of the requests.
        pause: sleeps some seconds; tests pass their own.

    Raises:
        InputError: ``bad-teacher``, ``no-such-file``.
        RefusedError: ``endpoint-refused``, ``bad-answer``, ``too-little-written``, ``over-budget``.
        UnavailableError: ``endpoint-failed``; the next run goes on.
    """
    given = [example.prompt for example in examples]
    sieve = Sieve({_ONE: config.about}, {_ONE: given}, config.longest, config.alike)
    meter, kept = ledger(config, config.by, cache)
    writer = _author(config, config.by, meter, seed, pause, _PROMPTS, answers=False)
    system = _instruction(config, examples)
    # Both before anything is asked: what is wrong with one costs nothing.
    paid, answered = ledger(config, config.answered_by, cache)
    if config.answered_by == config.by:
        paid, answered = meter, kept
    teacher = _author(config, config.answered_by, paid, seed, pause, system, answers=True)
    prompts = _written_prompts(config, given, writer, kept, sieve, seed, progress)
    found = prompts.found
    wanted = [*dict.fromkeys(unanswered), *(p for p in found if p not in unanswered)]
    # The instruction is a part of the request: another one is another answer.
    asks = [Ask(system, prompt, 0, 0, 1, 0.0, config.answer_tokens) for prompt in wanted]
    answers, none_left = ask_all(teacher, asks, answered, "answers prompts", progress)
    spent = prompts.spent or none_left
    as_json = bool(examples) and all(_is_json(example.completion) for example in examples)
    pairs: list[tuple[str, str, str]] = []
    for ask in asks:
        answer = next(iter(answers.get(ask.key, ())), "")
        if answer and as_json and not _is_json(answer):
            sieve.drop(_ONE, NO_JSON, answer)
        elif answer:
            pairs.append((ask.prompt, answer, found.get(ask.prompt, "")))
        elif ask.key in answers or not spent:
            sieve.drop(_ONE, NO_ANSWER, ask.prompt)
    asked_for = config.count + len(set(unanswered))
    _enough(writer.name, teacher.name, len(pairs), asked_for, sieve, spent)
    bills = [meter.spent] if paid is meter else [meter.spent, paid.spent]
    facts = {
        "by": writer.name,
        "answered_by": teacher.name,
        "about": config.about,
        "pairs": len(pairs),
        "asked_for": asked_for,
        "rounds": prompts.rounds,
        "requests": sum(one.requests for one in bills),
        "tokens_read": sum(one.read for one in bills),
        "tokens_written": sum(one.wrote for one in bills),
        "cost": round(sum(one.cost for one in bills), 4),
        "left_out": msgspec.to_builtins(told(sieve)),
    }
    warnings = []
    if len(pairs) < asked_for:
        because = f", since the budget of {spent} is spent" if spent else ""
        warnings.append(f"{len(pairs)} of {asked_for} pairs were written{because}")
    return WrittenPairs(pairs, facts, warnings)


class _Prompts(msgspec.Struct):
    """Prompts with the request that each comes from; `spent` says of what there may be no more."""

    found: dict[str, str]
    rounds: int = 0
    spent: str = ""


def _written_prompts(
    config: WrittenPairsConfig,
    given: list[str],
    writer: Author,
    kept: Kept,
    sieve: Sieve,
    seed: int,
    progress: Progress,
) -> _Prompts:
    """Rounds of asking, until there are enough, or nothing new comes."""
    state = _Prompts({})
    while len(state.found) < config.count and state.rounds < config.rounds and not state.spent:
        asks = _prompts(config, given, list(state.found), state.rounds, seed)
        state.rounds += 1
        what = f"writes prompts, round {state.rounds}"
        answers, state.spent = ask_all(writer, asks, kept, what, progress)
        new = {
            text: ask.key
            for ask in asks
            for text in answers.get(ask.key, ())
            if sieve.take(_ONE, text)
        }
        state.found |= new
        if not new:
            break
    best = most_different(list(state.found), config.count)
    state.found = {prompt: state.found[prompt] for prompt in best}
    return state


def _enough(
    writer: str, teacher: str, pairs: int, asked_for: int, sieve: Sieve, spent: str
) -> None:
    """Refuses what nothing can be built from; the message says what there is."""
    if pairs >= min(_LEAST, max(1, asked_for)):
        return
    there = f"{pairs} of {asked_for} pairs are there"
    if spent:
        raise RefusedError(
            "over-budget",
            f"{teacher}: the budget of {spent} is spent: {there}, too few; a larger bound in "
            "data.written goes on with the next run, and nothing is asked twice",
        )
    why = "; ".join(f"{one.texts} {one.why}" for one in told(sieve)[:4])
    raise RefusedError(
        "too-little-written",
        f"{writer}: {there}, too few{f' (left out: {why})' if why else ''}; say more in "
        "data.written.about, give examples, or name another writer",
    )


def _author(
    config: WrittenPairsConfig,
    by: str,
    meter: Meter,
    seed: int,
    pause: Callable[[float], None],
    system: str,
    *,
    answers: bool,
) -> Author:
    kind, _, name = by.partition(":")
    if kind == "bundle":
        told_to = system if answers else ""
        return BundleAuthor(Path(name), config.longest, derive(seed, "pairs"), told_to, answers)
    return EndpointAuthor(name, config.endpoint, meter, pause, system, answers)


def _prompts(
    config: WrittenPairsConfig, given: list[str], have: list[str], round_: int, seed: int
) -> list[Ask]:
    """The requests of a round; the same for the same seed and the same texts."""
    draw = random.Random(f"{seed}/pairs/{round_}")
    ways = {name: turns(values, draw) for name, values in config.attributes.items()}
    single = config.by.startswith("bundle:")
    wanted = int((config.count - len(have)) * SURPLUS + 0.999)
    asks: list[Ask] = []
    while wanted > 0:
        lines = 1 if single else min(config.lines, max(wanted, 2))
        style = {name: turn[len(asks) % len(turn)] for name, turn in ways.items()}
        write = _short if single else _long
        prompt = write(config, given, have, lines, style, draw)
        asks.append(Ask(_ONE, prompt, len(asks), round_, lines, config.temperature))
        wanted -= lines
    return asks


def _long(
    config: WrittenPairsConfig,
    given: list[str],
    have: list[str],
    lines: int,
    style: Mapping[str, str],
    draw: random.Random,
) -> str:
    said = [f"What the generator does: {config.about}", f"Language: {config.language}"]
    for what, texts in (
        ("Examples of inputs, not to be repeated:", given),
        ("These are there already; write others:", have),
    ):
        if texts:
            said.append(what)
            said += [f"- {text}" for text in draw.sample(texts, min(SHOWN, len(texts)))]
    if style:
        said.append(f"How: {'; '.join(f'{name}: {value}' for name, value in style.items())}")
    said.append(f"Write {lines} inputs, each of at most {config.longest} characters.")
    return "\n".join(said)


def _short(
    config: WrittenPairsConfig,
    given: list[str],
    have: list[str],
    lines: int,
    style: Mapping[str, str],
    draw: random.Random,
) -> str:
    """For small models, which follow one instruction better than many."""
    said = f"Write what somebody says to a program that does this: {config.about}. "
    if given:
        said += f'Like this, in other words: "{draw.choice(given)}". '
    if style:
        said += f"How: {'; '.join(f'{name}: {value}' for name, value in style.items())}. "
    if config.language.casefold() not in ("en", "english"):
        said += f"Language: {config.language}. "
    return f"{said}Answer with what is said alone."


def _instruction(config: WrittenPairsConfig, examples: Sequence[Example]) -> str:
    """What who answers is told, for every prompt."""
    said = [config.answers or config.about, "Answer with the output alone."]
    said += [f"Input: {one.prompt}\nOutput: {one.completion}" for one in examples[:SHOWN]]
    return "\n\n".join(said)


def _is_json(text: str) -> bool:
    """Whether a text is a JSON object or list."""
    try:
        return isinstance(json.loads(text), (dict, list))
    except (ValueError, RecursionError):
        return False
