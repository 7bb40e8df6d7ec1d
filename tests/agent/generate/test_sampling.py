"""The choice of a token: each option does what its name says."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from agent.generate.sampling import Sampler, SamplingOptions, top_logprobs
from contracts.errors import RefusedError

LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.07, 0.03], np.float32))


def drawn(count: int = 3000, **options: float) -> dict[int, float]:
    """Shares of the tokens over many draws."""
    sampler = Sampler(SamplingOptions(seed=7, **options))  # type: ignore[arg-type]
    picks = [sampler.pick(LOGITS, []) for _ in range(count)]
    return {i: picks.count(i) / count for i in sorted(set(picks))}


def test_greedy_takes_the_most_likely() -> None:
    """Temperature 0 always gives the best token."""
    assert drawn(10, temperature=0.0) == {0: 1.0}


def test_temperature_one_draws_by_the_shares() -> None:
    """The shares drawn are those of the softmax."""
    shares = drawn(temperature=1.0)
    assert shares[0] == pytest.approx(0.5, abs=0.04)
    assert shares[3] == pytest.approx(0.07, abs=0.02)


def test_high_temperature_flattens() -> None:
    """A higher temperature gives the unlikely more room."""
    assert drawn(temperature=5.0)[4] > drawn(temperature=1.0)[4] * 2


def test_top_k_keeps_k() -> None:
    """Only the k most likely are drawn."""
    assert set(drawn(temperature=1.0, top_k=2)) == {0, 1}


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    """0.5 + 0.25 are the first to reach 0.7."""
    assert set(drawn(temperature=1.0, top_p=0.7)) == {0, 1}


def test_min_p_is_relative_to_the_best() -> None:
    """0.2 of the best share (0.1) leaves three tokens."""
    assert set(drawn(temperature=1.0, min_p=0.2)) == {0, 1, 2}


def test_the_penalty_makes_recent_tokens_less_likely() -> None:
    """A penalised best token is no longer the best, whatever the sign of its logit."""
    sampler = Sampler(SamplingOptions(repetition_penalty=3.0))
    assert sampler.pick(LOGITS, [0]) == 1
    assert sampler.pick(LOGITS + 5, [0]) == 1


def test_a_mask_leaves_only_what_it_allows() -> None:
    """The best allowed token wins."""
    allowed = np.array([False, False, True, True, False])
    assert Sampler(SamplingOptions()).pick(LOGITS, [], allowed) == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("penalty", [1.0, 2.0])
def test_logits_that_are_no_numbers_give_no_token(
    value: float, temperature: float, penalty: float
) -> None:
    """One is enough, also where the penalty or a mask would hide it."""
    sampler = Sampler(SamplingOptions(temperature=temperature, repetition_penalty=penalty))
    logits = LOGITS.copy()
    logits[3] = value
    for allowed in (None, np.arange(5) < 2):
        with pytest.raises(RefusedError) as raised:
            sampler.pick(logits, [3], allowed)
        assert raised.value.code == "model-failed"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_finite_logits_of_any_size_give_a_token_that_is_allowed(temperature: float) -> None:
    """The largest floats are numbers; what the mask put there is no fault of the model."""
    largest = np.finfo(np.float32).max
    sampler = Sampler(SamplingOptions(temperature=temperature, repetition_penalty=0.5))
    logits = np.array([largest, -largest, 0, -largest, largest], np.float32)
    for only in range(5):
        assert sampler.pick(logits, [0, 1], np.arange(5) == only) == only


def test_logprobs_are_those_of_the_softmax() -> None:
    """The best tokens come with their natural logarithms."""
    rows, taken = top_logprobs(LOGITS, 2, 3)
    assert taken[0] == 3 and taken[1] < rows[1][1] and top_logprobs(LOGITS, 1, 0)[1] == rows[0]
    assert [i for i, _ in rows] == [0, 1]
    assert rows[0][1] == pytest.approx(np.log(0.5), abs=1e-5)


def test_penalties_count_the_answer_and_a_bias_its_tokens() -> None:
    """What was said twice pays twice; a prompt's tokens pay nothing."""

    def pick(answer: list[int], **options: object) -> int:
        made = msgspec.convert(options, SamplingOptions)
        assert not made.plain
        return Sampler(made).pick(flat, [0, 0, 0, *answer], None, answer)

    flat = np.array([1.0, 0.9, 0.0], np.float32)
    assert pick([], frequency_penalty=2) == 0
    assert pick([0], frequency_penalty=0.06) == 0
    assert pick([0, 0], frequency_penalty=0.06) == 1
    assert pick([0, 0], presence_penalty=0.06) == 0
    assert pick([0], presence_penalty=0.2) == 1
    assert pick([2], presence_penalty=-2) == 2
    assert pick([], logit_bias={2: 100.0}) == 2
    assert pick([], logit_bias={0: -100.0}) == 1
    assert flat[0] == 1
