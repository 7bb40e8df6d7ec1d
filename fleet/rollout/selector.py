"""Selectors: which devices are meant.

Grammar::

    selector = "all" | term { "," term }
    term     = name                        the device with this id; several mean any of them
             | key "=" value               the label is the value     ("=*": it has the label)
             | key "!=" value              the label is not the value ("!=*": it lacks the label)
             | key "in" "(" value { "," value } ")"
             | key "not in" "(" value { "," value } ")"
    key      = label | "own:" label

All terms must hold. A label is one that enrolment or an operator gave; ``device``, ``board``,
``group``, ``state`` and ``task`` (a slot that is desired of the device) are built in. What a
device says of itself must be asked for: ``own:site=lyon`` means a label that it reports,
``own:board``, ``own:group``, ``own:task`` (a slot that serves), ``own:bundle`` (``NAME/VERSION``,
which serves), ``own:waits`` (the code of a reason why it does not get on) and
``own:agent-release`` (the archive of the agent that it takes) are built in. Nobody checks what a
device says: a text that not every device may see goes by labels without ``own:``.

A value with other characters than ``A-Z a-z 0-9 . _ - : /`` stands in double quotes. Example:
``board=raspberry-pi-5,site in (lyon,graz)``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from contracts.errors import InputError
from contracts.topics import check_name

MAX_CHARS: Final = 4000
"""Characters of one selector."""

ANY: Final = "*"
OWN: Final = "own:"
"""What a key begins with that asks for the device's own word."""

BUILT_IN: Final = frozenset({"device", "board", "group", "state", "task"})
OWN_BUILT_IN: Final = frozenset({"board", "group", "task", "bundle", "waits", "agent-release"})
"""Keys behind ``own:`` that are not the device's labels."""

_TOKEN: Final = re.compile(
    r'\s*(?:(?P<op>!=|=|\(|\)|,)|"(?P<quoted>[^"]{0,256})"|(?P<word>[A-Za-z0-9._:/*-]+))'
)


class Term(msgspec.Struct, frozen=True):
    """One condition: the value of `key` is, or is not, one of `values`."""

    key: str
    values: tuple[str, ...]
    negated: bool = False

    def holds(self, facts: Mapping[str, Sequence[str]]) -> bool:
        """Whether the condition holds for what is known of a device."""
        have = facts.get(self.key, ())
        found = bool(have) if ANY in self.values else any(v in self.values for v in have)
        return found is not self.negated

    def __str__(self) -> str:
        if len(self.values) == 1:
            return f"{self.key}{'!=' if self.negated else '='}{_quote(self.values[0])}"
        word = "not in" if self.negated else "in"
        return f"{self.key} {word} ({','.join(_quote(v) for v in self.values)})"


class Selector(msgspec.Struct, frozen=True):
    """A parsed selector; no terms mean all devices. ``str()`` is its canonical text."""

    terms: tuple[Term, ...] = ()

    def matches(self, facts: Mapping[str, Sequence[str]]) -> bool:
        """Whether a device is meant.

        Args:
            facts: what holds for it, by key; see the grammar for the keys.
        """
        return all(term.holds(facts) for term in self.terms)

    def __str__(self) -> str:
        return ",".join(str(term) for term in self.terms) or "all"


def _quote(value: str) -> str:
    return value if re.fullmatch(r"[A-Za-z0-9._:/*-]+", value) else f'"{value}"'


def _bad(text: str, why: str) -> InputError:
    return InputError(
        "bad-selector",
        f"selector {text[:120]!r}: {why}; write for example "
        "'board=raspberry-pi-5,site in (lyon,graz)', a device id, or 'all'",
    )


_Token = tuple[Literal["op", "quoted", "word"], str]


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    position = 0
    while position < len(text):
        if not text[position:].strip():
            break
        match = _TOKEN.match(text, position)
        if match is None:
            raise _bad(text, f"cannot read from {text[position : position + 20]!r}")
        kind = match.lastgroup
        assert kind in ("op", "quoted", "word")
        tokens.append((kind, match[kind]))  # type: ignore[arg-type]
        position = match.end()
    return tokens


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)
        self.at = 0

    def _next(self) -> _Token:
        if self.at >= len(self.tokens):
            raise _bad(self.text, "ends in the middle of a term")
        self.at += 1
        return self.tokens[self.at - 1]

    def _value(self) -> str:
        kind, value = self._next()
        if kind == "op":
            raise _bad(self.text, f"expected a value, found {value!r}")
        return value

    def _list(self) -> tuple[str, ...]:
        if self._next() != ("op", "("):
            raise _bad(self.text, "expected '(' after 'in'")
        values = [self._value()]
        while (token := self._next()) == ("op", ","):
            values.append(self._value())
        if token != ("op", ")"):
            raise _bad(self.text, f"expected ',' or ')', found {token[1]!r}")
        return tuple(values)

    def _term(self) -> Term | str:
        kind, key = self._next()
        if kind != "word":
            raise _bad(self.text, f"expected a label or a device, found {key!r}")
        if self.at == len(self.tokens) or self.tokens[self.at] == ("op", ","):
            return key
        operator = self._next()[1]
        match operator:
            case "=" | "!=":
                return Term(_key(key), (self._value(),), operator == "!=")
            case "in":
                return Term(_key(key), self._list())
            case "not" if self._next() == ("word", "in"):
                return Term(_key(key), self._list(), negated=True)
        raise _bad(self.text, f"expected '=', '!=', 'in' or 'not in', found {operator!r}")

    def selector(self) -> Selector:
        terms: list[Term] = []
        devices: list[str] = []
        everything = False
        while True:
            term = self._term()
            if isinstance(term, Term):
                terms.append(term)
            elif term in ("all", ANY):
                everything = True
            else:
                devices.append(check_name(term, "device"))
            if self.at == len(self.tokens):
                break
            if self._next() != ("op", ","):
                raise _bad(self.text, "terms are separated by ','")
        if everything and (terms or devices):
            raise _bad(self.text, "'all' stands alone")
        if devices:
            terms.append(Term("device", tuple(devices)))
        return Selector(tuple(terms))


def _key(key: str) -> str:
    check_name(key.removeprefix(OWN), "label")
    return key


def parse(text: str) -> Selector:
    """Parses a selector.

    Raises:
        InputError: ``bad-selector`` or ``bad-name`` with what is wrong.
    """
    if len(text) > MAX_CHARS:
        raise _bad(text, f"is over {MAX_CHARS} characters")
    if not text.strip():
        raise _bad(text, "is empty")
    return _Parser(text).selector()
