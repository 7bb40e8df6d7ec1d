"""What is taken out of a text before it may leave its device, and what stops a pattern."""

from __future__ import annotations

import pytest

from agent.sharing import child, redaction
from agent.sharing.redaction import check, redact
from contracts.config import RedactConfig
from contracts.errors import InputError, RefusedError


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("call +49 (0)170 1234567 now", "call <number> now"),
        ("set it to 40 percent", "set it to <number> percent"),
        ("at 7:30 or 19.45, please", "at <number> or <number>, please"),
        ("card 4111-1111-1111-1111.", "card <number>."),
        ("on 2026-11-28 in 12345", "on <number> in <number>"),
        ("write to jo.doe+x@mail.example.org today", "write to <email> today"),
        ("open https://bank.example/u?id=7 and www.x.org/a", "open <link> and <link>"),
        ("play something by Anna Berger", "play something by <name> <name>"),
        ("Anna Berger called", "<name> <name> called"),
        ("Turn on the light. Then call Bob", "Turn on the light. Then call <name>"),
        ("tell O'Brien that I am late", "tell <name> that I am late"),
        ("TURN ON THE LIGHT", "TURN ON THE LIGHT"),
        ("turn on the light", "turn on the light"),
        ("rufe Jürgen an, \"Özil\" auch", "rufe <name> an, \"<name>\" auch"),
        ("room B12 at a1", "room <name> at a<number>"),
        ("", ""),
        ("<number> is no number", "<number> is no number"),
    ],
)  # fmt: skip
def test_numbers_names_addresses_and_links_are_taken_out(text: str, left: str) -> None:
    """Of each kind, at the ends of a text and inside."""
    assert redact([text], RedactConfig()) == [left]


def test_the_owners_words_and_patterns_are_taken_out() -> None:
    """Words in any case; patterns before all else."""
    config = RedactConfig(words=["acme"], patterns=[r"ticket [a-z]{3}-\w+", "mol[ck]e"])
    assert redact(["ACME broke ticket abc-x1", "milk and molke", "plain"], config) == [
        "<name> broke <redacted>", "milk and <redacted>", "plain",
    ]  # fmt: skip
    off = RedactConfig(names=False)
    assert redact(["der Hund von Anna, 7"], off) == ["der Hund von Anna, <number>"]


def test_a_pattern_that_never_ends_lets_nothing_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process is ended by the system, and the agent goes on."""
    config = RedactConfig(patterns=[r"(a+)+$"])
    check(config)
    assert redact(["aaa", "b"], config) == ["<redacted>", "b"]
    monkeypatch.setattr(redaction, "CHILD_S", 0.5)
    with pytest.raises(RefusedError) as error:
        redact(["a" * 60 + "!"], config)
    assert error.value.code == "redaction-failed"
    assert child.PROCESSOR_S < 10


@pytest.mark.parametrize("pattern", ["(", "a**", "x*", "[z-a]"])
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    """Before the agent starts."""
    with pytest.raises(InputError) as error:
        check(RedactConfig(patterns=[pattern]))
    assert error.value.code == "bad-redaction"


def test_long_texts_take_time_in_proportion() -> None:
    """What looks like the start of something, again and again, is read a few times at most."""
    for unit in ("1.", "a@", "A ", "1 (", "www.", "http://", "<number"):
        (found,) = redact([unit * 2000], RedactConfig())
        assert isinstance(found, str)
