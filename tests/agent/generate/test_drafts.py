"""Guesses that one run checks: the same text as one token at a time, in fewer runs."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from agent.generate.drafts import CLOSE, PROVEN, Lookup, Steps, Worth
from agent.generate.model import GenerativeModel
from agent.runtime.model import Options
from contracts.bundle import Bundle
from contracts.requests import GenerateRequest
from model_builder.generate.importer import ImportOptions, import_model
from model_builder.generate.package import Layout
from tests.support.tiny_decoder import tiny_tokenizer, tiny_weights, write_gguf

WORDS = 16


class Repeating:
    """A decoder whose next token is a function of the last; it tells how it was run."""

    context = 64
    guess_size = 7
    alike: int | None = None

    def __init__(self, close: frozenset[int] = frozenset()) -> None:
        self.ids: list[int] = []
        self.close = close
        self.runs: list[int] = []
        self.now = 0.0
        self.prepared = False

    def clock(self) -> float:
        """Seconds: each look takes one."""
        self.now += 1
        return self.now

    def _row(self, token: int) -> np.ndarray:
        row = np.zeros(WORDS, np.float32)
        row[(token + 1) % 5] = 4.0
        if token in self.close:
            row[9] = 4.0 - CLOSE / 2
        return row

    def step(self, token: int) -> np.ndarray:
        """One token."""
        self.runs.append(1)
        self.ids.append(token)
        return self._row(token)

    def prepare_verify(self) -> None:
        """Takes longer than many runs, the first time."""
        self.now += 0 if self.prepared else 1000
        self.prepared = True

    def verify(self, ids: list[int]) -> np.ndarray:
        """A token and a guess."""
        self.prepare_verify()
        self.runs.append(len(ids))
        self.ids.extend(ids)
        return np.stack([self._row(i) for i in ids])

    def truncate(self, count: int) -> None:
        """Forgets the rest."""
        del self.ids[count:]


def grown(decoder: Repeating, prompt: list[int], count: int, *, guessing: bool) -> list[int]:
    """`count` greedy tokens after a prompt, through :class:`Steps`."""
    decoder.ids = list(prompt[:-1])
    steps = Steps(
        decoder,  # type: ignore[arg-type]
        prompt,
        count,
        list,
        decoder.clock,
        guessing=guessing,
    )
    answer: list[int] = []
    token = prompt[-1]
    for _ in range(count):
        logits = steps.settled(token, steps.after(token), None)
        token = int(logits.argmax())
        answer.append(token)
    steps.finish()
    assert decoder.ids == [*prompt, *answer[:-1]]
    return answer


@pytest.mark.parametrize("close", [frozenset[int](), frozenset({2}), frozenset(range(5))])
def test_a_repeating_text_is_the_same_in_fewer_runs(close: frozenset[int]) -> None:
    """Also where choices are close, which are decided one by one.

    What it takes to prepare the first guess says nothing about whether guesses pay.
    """
    prompt = [0, 1, 2, 3, 4, 0, 1]
    plain, guessed = Repeating(), Repeating(close)
    assert grown(plain, prompt, 40, guessing=False) == grown(guessed, prompt, 40, guessing=True)
    assert plain.runs == [1] * 40
    if not close:
        assert len(guessed.runs) < 15


def test_a_wrong_guess_leaves_no_trace() -> None:
    """The prompt goes on otherwise than the model: what was guessed is forgotten."""
    decoder = Repeating()
    prompt = [0, 1, 9, 9, 0, 1, 9, 7, 0, 1]
    assert grown(decoder, prompt, 6, guessing=True) == [2, 3, 4, 0, 1, 2]


def test_a_guess_ends_with_the_budget_and_the_context() -> None:
    """No run asks for more tokens than may be made, or than fit."""
    decoder = Repeating()
    grown(decoder, [0, 1, 2, 3, 4, 0, 1], 3, guessing=True)
    assert max(decoder.runs) <= 3
    decoder = Repeating()
    decoder.context = 12
    grown(decoder, [0, 1, 2, 3, 4, 0, 1], 5, guessing=True)
    assert len(decoder.ids) <= 12


def test_what_followed_the_longest_match_is_proposed() -> None:
    """Of several places the one with more of the same tokens before it, then the last one."""
    lookup = Lookup()
    lookup.extend([1, 2, 3, 7, 8, 9, 2, 3, 5, 6, 1, 2, 3])
    assert lookup.propose(3) == [7, 8, 9]
    lookup.extend([5])
    assert lookup.propose(2) == [6, 1]
    lookup.extend([11])
    assert lookup.propose(4) == []


def test_guesses_that_do_not_pay_stop() -> None:
    """Three times the time for no token: one by one is faster; later it is tried again."""
    worth = Worth()
    assert not worth.pays()
    worth.single(1.0)
    assert worth.pays()
    for _ in range(12):
        worth.several(3.0, 0)
    assert not worth.pays()
    for _ in range(200):
        worth.single(1.0)
    assert not worth.pays()  # two tokens in three steps are no gain
    worth.several(2.0, 7)
    worth.several(2.0, 7)
    assert worth.pays()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """A tiny decoder with and without a signature that checks guesses.

    Its choices are close calls all over, and its cache is int8.
    """
    folder = tmp_path_factory.mktemp("drafts")
    file = write_gguf(folder / "m.gguf", tiny_weights(), tiny_tokenizer())
    made = []
    for score in ([8], []):
        options = ImportOptions(
            name="tiny",
            layout=Layout(contexts=[64, 128], prompt=[], prefill=[8], score=score),
            calibration_tokens=0,
            check_tokens=64,
            max_perplexity_change=9.0,
        )
        made.append(Bundle.open(import_model(str(file), folder / str(len(score)), options).bundle))
    return made


@pytest.mark.parametrize("cache", ["int8", "float32"])
def test_a_run_of_several_gives_the_logits_of_runs_of_one(
    cache: Literal["int8", "float32"], tmp_path: Path
) -> None:
    """To the bit, at each place of the cache, and the same keys and values for what follows."""
    weights = tiny_weights()
    layout = Layout(contexts=[64], prompt=[], prefill=[8], score=[8], cache=cache)
    file = write_gguf(tmp_path / "m.gguf", weights, tiny_tokenizer())
    options = ImportOptions(
        name="tiny", layout=layout, calibration_tokens=0, check_tokens=64, max_perplexity_change=9.0
    )
    made = import_model(str(file), tmp_path / "out", options)
    model = GenerativeModel(Bundle.open(made.bundle), Options())
    try:
        decoder, chance = model.decoder, np.random.default_rng(3)
        for start in (0, 1, 17, 56):
            ids = [int(i) for i in chance.integers(3, weights.config.vocabulary, start + 8)]
            decoder.truncate(0)
            decoder.prefill(ids[:start])
            alone = np.stack([decoder.step(token).copy() for token in ids[start:]])
            kept = decoder.snapshot(start + 8)
            decoder.truncate(start)
            together = decoder.verify(ids[start:]).copy()
            assert np.array_equal(alone, together)
            for one, other in zip(kept.state, decoder.snapshot(start + 8).state, strict=True):
                assert np.array_equal(one, other)
    finally:
        model.close()


def test_runs_of_one_stop_when_they_proved_nothing_new() -> None:
    """A processor whose rows are those of one token decides no close choice twice."""
    prompt, close = [0, 1, 2, 3, 4, 0, 1], frozenset(range(5))
    decoder = Repeating(close)
    decoder.alike = 0
    decoder.context = 1000
    grown(decoder, prompt, 200, guessing=True)
    assert decoder.alike is not None and decoder.alike >= PROVEN
    before = len(decoder.runs)
    grown(decoder, prompt, 40, guessing=True)
    assert len(decoder.runs) - before < 15


def test_a_device_gives_the_same_text(bundles: list[Bundle], tmp_path: Path) -> None:
    """Real signatures, 60 prompts that repeat themselves: token for token, and fewer runs."""
    texts: list[list[str]] = []
    steps = []
    for bundle in bundles:
        ticks = itertools.count()
        model = GenerativeModel(bundle, Options(), clock=lambda: float(next(ticks)))  # noqa: B023
        try:
            answers = [
                model.generate(GenerateRequest(prompt=f"{n} {n} {n} {n}", max_tokens=48))
                for n in ("the cat", "a b c", "one", "x y", "of the", "12")
                for n in (n, n[::-1], n + n, n + " and", n.upper())
                for n in (n, n + "!")
            ]
        finally:
            model.close()
        texts.append([a.text for a in answers])
        steps.append(
            sum(a.tokens for a in answers) / sum(a.tokens / a.tokens_per_step for a in answers)
        )
    assert len(texts[0]) == 60
    assert texts[0] == texts[1]
    assert steps[1] == pytest.approx(1.0)
    assert steps[0] > 1.2


def test_a_session_goes_on_after_guesses(bundles: list[Bundle]) -> None:
    """What was guessed beyond the answer's end is not in what the session keeps."""
    model = GenerativeModel(bundles[0], Options())
    plain = GenerativeModel(bundles[1], Options())
    try:
        for turn in ("the cat the cat the cat", "the cat the cat the cat sat on a mat sat on"):
            request = GenerateRequest(prompt=turn, max_tokens=20, session="s")
            assert model.generate(request).text == plain.generate(request).text
    finally:
        model.close()
        plain.close()


def test_a_sampled_text_is_not_guessed(bundles: list[Bundle]) -> None:
    """The same seed gives the same text whatever the machine's speed."""
    model = GenerativeModel(bundles[0], Options())
    try:
        request = GenerateRequest(prompt="a b a b a b", max_tokens=20, temperature=1.0, seed=3)
        made = [model.generate(request) for _ in range(2)]
    finally:
        model.close()
    assert made[0].text == made[1].text
    assert made[0].tokens_per_step == 1.0
