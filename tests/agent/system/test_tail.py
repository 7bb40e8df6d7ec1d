"""The log as it may leave a device: bounded, without secrets, where the owner shares it."""

from __future__ import annotations

import ast
from pathlib import Path

import msgspec
import pytest

from agent.serving.logs import DEVICE_PER_S, Logs
from agent.serving.reply import Reply
from agent.system.tail import FACTS, LEVELS, MAX_CHARS, MAX_LINES, Tail, clean
from contracts import codec, limits
from contracts.answers import Answer, Logged
from contracts.errors import ShoalError
from contracts.requests import LogsRequest

ROOT = Path(__file__).parents[3]
SECRETS = (
    "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----",
    "-----BEGIN EC PRIVATE KEY----- MIGHAgEAMBMGByqGSM49",
    "https://anna:zzsecret@fleet.example.org/repo",
    "GET https://fleet.example.org/join?token=zzsecret failed",
    "Authorization: Bearer zzsecret",
    "refused: password=zzsecret",
    '{"api_key": "zzsecret"}',
    "token zz of shoal_zzsecretzzsecret is not known",
    "write to anna.zzsecret@example.org",
    "key eyJzzsecretzzsecretzzsecretzzsecretzzsecret",
)


@pytest.mark.parametrize("words", SECRETS)
def test_what_looks_like_a_secret_is_taken_out(words: str) -> None:
    """Keys, tokens, passwords in addresses, e-mail addresses."""
    said = clean(words)
    assert "zzsecret" not in said
    assert "MIGH" not in said
    assert "<" in said, "it says that something was there"


def test_what_helps_stays() -> None:
    """Errors of the system, places, versions and the beginning of a digest."""
    said = clean(f"[Errno 28] No space left on device: '/var/lib/shoal/{'a1' * 32}'")
    assert said == "[Errno 28] No space left on device: '/var/lib/shoal/a1a1a1a1a1a1…'"
    assert clean("a\x1b[31m\nb") == "a [31m b"
    assert len(clean("ab " * 5000)) == limits.MAX_LOG_CHARS


def test_a_fact_that_is_not_listed_is_taken_out() -> None:
    """A new value of a log line does not leave before somebody has said that it may."""
    tail = Tail(lambda: 7.0)
    event = {"event": "lost", "module": "m", "code": "x", "text": "turn on", "level": "info"}
    assert tail.processor(None, "warning", event) is event
    (line,) = tail.page("b", None, 10, "info").lines
    assert line.facts == {"code": "x", "text": "<redacted>"}
    assert (line.seq, line.at, line.level, line.event) == (0, 7.0, "warning", "lost")


def test_every_fact_that_leaves_is_logged_somewhere_and_none_is_a_text() -> None:
    """The list is held to the source: events are constants, and listed facts are in use."""
    used = {"exception", "bundle"}
    for path in (ROOT / "agent").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            if ast.unparse(call.func.value) != "log" or call.func.attr not in (
                "debug", "info", "warning", "error", "exception"
            ):  # fmt: skip
                continue
            assert isinstance(call.args[0], ast.Constant), f"{path}:{call.lineno}"
            used |= {str(keyword.arg) for keyword in call.keywords}
    assert used >= FACTS, FACTS - used
    assert not FACTS & {"text", "texts", "prompt", "line", "label", "request", "requester"}


def test_it_holds_so_many_lines_and_bytes_however_much_is_logged() -> None:
    """A flood turns the oldest out; an answer has a bound of its own; what was missed is told."""
    tail = Tail(lambda: 0.0)
    for number in range(3 * MAX_LINES):
        tail.note(LEVELS[number % 3], f"{number} " + "é " * 400, "m", {"reason": "w " * 400})
    newest = 3 * MAX_LINES - 1
    found = tail.page("b", None, limits.MAX_LOG_LINES, "info")
    assert found.lines[-1].seq == found.last == newest
    assert len(codec.encode(found)) <= limits.MAX_LOG_BYTES
    assert codec.decode(codec.encode(found), Logged, what="lines") == found
    seen: list[int] = []
    page = tail.page("b", 0, limits.MAX_LOG_LINES, "info")
    assert page.missed > 0
    assert page.more
    first = page.lines[0].seq
    while True:
        seen += [one.seq for one in page.lines]
        if not page.more:
            break
        page = tail.page("b", page.last, limits.MAX_LOG_LINES, "info")
    assert seen == list(range(first, newest + 1)), "a follower gets each that is kept, once"
    assert len(seen) * 600 <= MAX_CHARS + 600
    for _ in range(3 * MAX_LINES):
        tail.note("info", "short")
    assert tail.page("b", -1, 1, "info").missed == 6 * MAX_LINES - MAX_LINES


def test_a_follower_gets_what_is_new_and_of_its_level() -> None:
    """Lines of a level that is too low are looked at, and not asked for again."""
    tail = Tail(lambda: 0.0)
    assert tail.page("b", None, 5, "info") == Logged("b", [], -1)
    for level in ("info", "error", "info", "critical"):
        tail.note(level, level)
    found = tail.page("b", None, 5, "error")
    assert [one.event for one in found.lines] == ["error", "critical"]
    assert tail.page("b", found.last, 5, "info") == Logged("b", [], 3)
    tail.note("info", "new")
    assert [one.seq for one in tail.page("b", found.last, 5, "info").lines] == [4]
    assert tail.page("b", 2**53 - 1, 5, "info") == Logged("b", [], 4)


def ask(logs: Logs, **fields: object) -> Answer:
    """What a device answers."""
    sent: list[Answer] = []
    reply = Reply("r", "d", sent.append, monotonic=lambda: 0.0)
    try:
        logs.logs(msgspec.convert(fields, LogsRequest), reply)
    except ShoalError as error:
        reply.fail(error)
    return sent[0]


def test_the_owner_may_refuse_and_nobody_reads_it_without_end() -> None:
    """By a word in the configuration; and so often a second, whoever asks."""
    tail = Tail(lambda: 0.0)
    tail.note("info", "one")
    answer = ask(Logs(None, "b", lambda: 0.0, shared=False))
    assert answer.error is not None
    assert answer.error.code == "logs-not-shared"
    assert "share_logs" in answer.error.message
    answer = ask(Logs(None, "b", lambda: 0.0))
    assert answer.error is not None
    assert answer.error.code == "not-supported"
    logs = Logs(tail, "b", lambda: 0.0)
    answer = ask(logs, boot="before", after=9)
    assert answer.logged is not None
    assert [one.event for one in answer.logged.lines] == ["one"], "of another run: all of this one"
    codes = [getattr(ask(logs).error, "code", "") for _ in range(int(DEVICE_PER_S * 3))]
    assert codes[-1] == "rate-limited"
