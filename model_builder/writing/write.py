"""From what labels mean to rows: rounds of asking, sifting and checking, until there are enough."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from contracts import codec
from contracts.errors import InputError, RefusedError
from contracts.labelled.rows import Row
from model_builder.data.language import detect
from model_builder.data.written import Written, meanings_of
from model_builder.recipes.classify import Recipe
from model_builder.recipes.written import WrittenConfig, WrittenPairsConfig
from model_builder.seeds import derive
from model_builder.teachers.base import Progress
from model_builder.teachers.endpoint import BudgetSpentError, Meter
from model_builder.teachers.kept import Kept
from model_builder.teachers.nearest import ENCODERS, NearestMeaning
from model_builder.writing.authors import Author, BundleAuthor, EndpointAuthor
from model_builder.writing.checks import Check, EncoderCheck, NoCheck, WriterCheck
from model_builder.writing.plan import Ask, most_different, plan
from model_builder.writing.sift import CHECKED, Sieve, told

_LEAST: Final = 10
"""Texts of a label with which a build may go on, though more were asked for."""

_LITTLE: Final = 0.02
"""New texts of a round, as a share of those asked for, below which another brings nothing."""

_TORN: Final = 0.4
"""Share of a label's texts that the check takes for other labels, from which it is said."""

_LEAST_GROUPS: Final = 5
"""Requests of each label from which those of one request stay together in a split."""

_SAMPLES: Final = 4


class _Text(msgspec.Struct, frozen=True):
    text: str
    request: str


class _State(msgspec.Struct):
    """What came of it so far; `spent` says of what there may be no more."""

    have: dict[str, list[_Text]]
    checked: Counter[str]
    agreed: Counter[str]
    unchecked: int = 0
    rounds: int = 0
    spent: str = ""


def write(
    recipe: Recipe,
    cache: Path,
    progress: Progress,
    pause: Callable[[float], None] = time.sleep,
) -> Written:
    """Texts for each label of a recipe with ``data.written``.

    Args:
        recipe: what is built.
        cache: folder in which every answer is kept as it comes.
        progress: is told of the requests and the checks.
        pause: sleeps some seconds; tests pass their own.

    Raises:
        InputError: ``bad-recipe``, ``bad-teacher``, what is wrong with the table of labels.
        RefusedError: ``endpoint-refused``, ``bad-answer``, ``too-little-written``,
            ``over-budget``.
        UnavailableError: ``endpoint-failed``; the next run goes on.
    """
    config = recipe.data.written
    assert config is not None
    meanings = meanings_of(config.labels)
    strange = sorted(set(config.examples) - set(meanings))
    if strange:
        raise InputError(
            "bad-recipe", f"written.examples: there is no label {strange[0][:60]!r} in labels"
        )
    meter, kept = ledger(config, config.by, cache)
    author = author_of(config, meter, derive(recipe.seed, "writes"), pause)
    check = _check(recipe, config, meanings, cache, progress, meter, pause)
    sieve = Sieve(meanings, config.examples, config.longest, config.alike)
    state = _State({label: [] for label in meanings}, Counter(), Counter())
    for round_ in range(config.rounds):
        texts = {label: [one.text for one in found] for label, found in state.have.items()}
        asks = plan(config, meanings, texts, round_, derive(recipe.seed, "writes"))
        if not asks:
            break
        what = f"writes, round {round_ + 1}"
        answers, state.spent = ask_all(author, asks, kept, what, progress)
        new = _sifted(asks, answers, sieve, check, state)
        state.rounds += 1
        if state.spent or new < _LITTLE * sum(ask.lines for ask in asks):
            break
    if isinstance(check, WriterCheck) and check.spent:
        state.spent = check.spent
    return _finished(recipe, config, meanings, author.name, meter, sieve, state)


def ledger(config: WrittenConfig | WrittenPairsConfig, by: str, cache: Path) -> tuple[Meter, Kept]:
    """What was asked of `by`, and its answers, over all runs with one folder."""
    endpoint = config.endpoint
    kind, _, place = by.partition(":")
    # Another bundle in the same folder gives other answers.
    manifest = Path(place) / "manifest.json" if kind == "bundle" else Path(place)
    own = manifest.read_bytes() if kind == "bundle" and manifest.is_file() else b""
    digest = hashlib.sha256(codec.encode([by, endpoint.base_url]) + own)
    identity = digest.hexdigest()[:24]
    meter = Meter(
        cache / f"spent-{identity}.jsonl",
        endpoint.price_per_million,
        config.max_requests,
        config.max_tokens,
        endpoint.max_cost,
    )
    return meter, Kept(cache / f"written-{identity}.jsonl")


def author_of(
    config: WrittenConfig, meter: Meter, seed: int, pause: Callable[[float], None]
) -> Author:
    """Who writes."""
    kind, _, name = config.by.partition(":")
    if kind == "bundle":
        return BundleAuthor(Path(name), config.longest, seed)
    return EndpointAuthor(name, config.endpoint, meter, pause)


def _check(
    recipe: Recipe,
    config: WrittenConfig,
    meanings: dict[str, str],
    cache: Path,
    progress: Progress,
    meter: Meter,
    pause: Callable[[float], None],
) -> Check:
    if config.checked_by == "none":
        return NoCheck()
    if config.checked_by == "writer":
        return WriterCheck(config, meanings, cache, progress, meter, pause)
    if recipe.teacher.source.partition(":")[0] not in ENCODERS:
        raise InputError(
            "bad-recipe",
            "written.check: encoder needs teacher.source to be an encoder (pypi:, path: or hf:)",
        )
    return EncoderCheck(NearestMeaning(recipe.teacher, meanings, cache, progress))


def ask_all(
    author: Author, asks: list[Ask], kept: Kept, what: str, progress: Progress
) -> tuple[dict[str, list[str]], str]:
    """Answers by the key of their request: those that are kept, and the others by asking.

    Returns:
        The answers; and of what there may be no more, empty: there may.
    """
    wanted = {ask.key for ask in asks}
    answers: dict[str, list[str]] = {}
    for record in kept.records():
        key, texts = record.get("key"), record.get("texts")
        if key in wanted and isinstance(texts, list):
            answers[str(key)] = [text for text in texts if isinstance(text, str)]
    missing = [ask for ask in asks if ask.key not in answers]
    progress(what, len(asks) - len(missing), len(asks))

    def keep(ask: Ask, texts: list[str]) -> None:
        kept.add({"key": ask.key, "label": ask.label, "texts": texts})
        answers[ask.key] = texts
        progress(what, sum(one.key in answers for one in asks), len(asks))

    try:
        if missing:
            author.write(missing, keep)
    except BudgetSpentError as spent:
        return answers, str(spent)
    return answers, ""


def _sifted(
    asks: list[Ask], answers: dict[str, list[str]], sieve: Sieve, check: Check, state: _State
) -> int:
    """Takes what is of use, in the order of the requests; how many those are."""
    fresh = [
        (ask.label, _Text(text, ask.key))
        for ask in asks
        for text in answers.get(ask.key, ())
        if sieve.take(ask.label, text)
    ]
    verdicts = check.agrees([text.text for _, text in fresh], [label for label, _ in fresh])
    new = 0
    for (label, text), agrees in zip(fresh, verdicts, strict=True):
        if agrees is None:
            state.unchecked += 1
        else:
            state.checked[label] += 1
            state.agreed[label] += agrees
        if agrees is False:
            sieve.drop(label, CHECKED, text.text)
            continue
        state.have[label].append(text)
        new += 1
    return new


def _finished(
    recipe: Recipe,
    config: WrittenConfig,
    meanings: dict[str, str],
    name: str,
    meter: Meter,
    sieve: Sieve,
    state: _State,
) -> Written:
    rows: list[Row] = []
    counts: dict[str, int] = {}
    samples: dict[str, list[str]] = {}
    for label, found in state.have.items():
        best = set(most_different([one.text for one in found], config.per_label))
        own = [one for one in found if one.text in best]
        counts[label] = len(own)
        samples[label] = [one.text[:200] for one in own[:_SAMPLES]]
        # Texts of one answer are kin: on both sides of a split they would make it look good.
        grouped = len({one.request for one in own}) >= _LEAST_GROUPS
        rows += [Row(one.text, label, f"request {one.request}" if grouped else "") for one in own]
    _enough(config, name, counts, sieve, state)
    spent = meter.spent
    facts: dict[str, Any] = {
        "by": name,
        "about": config.about,
        "texts": sum(counts.values()),
        "by_label": counts,
        "asked_for": config.per_label * len(counts),
        "rounds": state.rounds,
        "requests": spent.requests,
        "tokens_read": spent.read,
        "tokens_written": spent.wrote,
        "cost": round(spent.cost, 4),
        "check": config.checked_by,
        "checked": state.checked.total(),
        "agreed": state.agreed.total(),
        "unchecked": state.unchecked,
        "left_out": msgspec.to_builtins(told(sieve)),
        "samples": samples,
    }
    for label, texts in config.examples.items():
        rows += [Row(text, label, "", "written.examples") for text in texts]
    warnings = _warnings(recipe, config, name, counts, state)
    return Written(rows, meanings, facts, warnings)


def _enough(
    config: WrittenConfig, name: str, counts: dict[str, int], sieve: Sieve, state: _State
) -> None:
    """Refuses what nothing can be built from; the message says what there is."""
    least = max(2, min(_LEAST, config.per_label // 2))
    few = {label: n for label, n in counts.items() if n < least}
    if not few:
        return
    there = f"{sum(counts.values())} of {config.per_label * len(counts)} texts are there"
    named = ", ".join(f"{label} {n}" for label, n in sorted(few.items(), key=lambda i: i[1])[:8])
    if state.spent:
        raise RefusedError(
            "over-budget",
            f"{name}: the budget of {state.spent} is spent: {there}, too few of {named}; a larger "
            "bound in data.written goes on with the next run, and nothing is asked twice",
        )
    why = "; ".join(f"{one.texts} {one.why}" for one in told(sieve)[:4])
    raise RefusedError(
        "too-little-written",
        f"{name}: {there}, too few of {named}{f' (left out: {why})' if why else ''}; say more in "
        "data.written.labels and about, give examples, or name another writer",
    )


def _warnings(
    recipe: Recipe, config: WrittenConfig, name: str, counts: dict[str, int], state: _State
) -> list[str]:
    found = []
    if not recipe.data.test:
        found.append(
            f"no real text was measured: every figure here is on text that {name} wrote, which is "
            "more alike than what people write, so it may be far too good; give real rows with "
            "data.test"
        )
    short = {label: n for label, n in counts.items() if n < config.per_label}
    if short:
        named = ", ".join(f"{label} ({n})" for label, n in list(short.items())[:8])
        because = f", since the budget of {state.spent} is spent" if state.spent else ""
        found.append(
            f"{len(short)} labels have fewer than {config.per_label} written texts{because}: "
            f"{named}"
        )
    torn = [
        f"{label} ({state.checked[label] - state.agreed[label]} of {state.checked[label]})"
        for label in counts
        if state.checked[label] - state.agreed[label] > _TORN * state.checked[label]
    ]
    if torn:
        found.append(
            "many texts were left out because the check saw another label in them; say in "
            f"data.written.labels what sets these apart: {', '.join(torn[:8])}"
        )
    if state.unchecked and config.checked_by != "none":
        found.append(
            f"{state.unchecked} texts were not checked, since the budget of {state.spent} is spent"
        )
    texts = [one.text for own in state.have.values() for one in own]
    language = detect(texts, derive(recipe.seed, "language"))
    asked = config.language.casefold()
    if len(asked) == 2 and language.share > 0.5 and language.code not in (asked, "und"):
        found.append(
            f"the texts were to be in {asked!r}, and {language.share:.0%} of them look like "
            f"{language.code!r}"
        )
    return found
