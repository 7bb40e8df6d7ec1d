"""Constrained output: JSON schema, regular expression or grammar, by llguidance.

A schema comes from the network: its size and depth are capped before it is compiled, and the
compiler has caps of its own for what it may build and how long a step may take.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from agent.generate.formats import narrowed
from contracts.chat.call_forms import CallForm
from contracts.errors import InputError, RefusedError, UnavailableError
from contracts.manifest import GeneratorFacts
from contracts.requests import GenerateRequest

MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 32
MAX_SCHEMA_NODES = 4096
MAX_MULTIPLE = 10_000
"""Least common multiple of all ``multipleOf`` of a schema, in units of the smallest decimal."""
MAX_DECIMALS = 9
"""Decimals of a ``multipleOf``."""

# How much work the parser may do; beyond it the answer is an error.
_LIMITS: dict[str, Any] = {
    "max_items_in_row": 1000,
    "initial_lexer_fuel": 100_000,
    "step_lexer_fuel": 20_000,
    "step_max_items": 25_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}
# A bundle's grammar is signed by who built it, and its prompt fits the context.
_LIMITS_OF_BUNDLES = {**_LIMITS, "initial_lexer_fuel": 500_000, "step_lexer_fuel": 100_000}

_SPACED = {"item_separator": ", ", "key_separator": ": "}

_ESCAPED_IN_JSON = re.compile(r'["\\\x00-\x1f]')
_PIECES = re.compile(r"\d+|[^\W\d]+|\s+|[^\w\s]")


class Constraint:
    """The state of one constrained answer.

    Args:
        matcher: llguidance's matcher.
        vocabulary: tokens of the model.
    """

    def __init__(self, matcher: Any, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise InputError(
                "bad-constraint",
                f"the constraint cannot be used: {_line(self._matcher.get_error())}",
            )

    def allowed(self) -> npt.NDArray[np.bool_]:
        """``[vocabulary]``: which tokens may come next.

        Raises:
            RefusedError: ``constraint-failed``; nothing can follow, or it grew too complex.
        """
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        bits = np.unpackbits(packed, bitorder="little")[: self._vocabulary].astype(np.bool_)
        if self._matcher.is_error() or not bits.any():
            reason = _line(self._matcher.get_error())
            if reason in ("", "NoExtensionBias"):
                reason = "nothing can follow"
            raise RefusedError("constraint-failed", f"the constraint cannot be met: {reason}")
        if bits.size < self._vocabulary:
            bits = np.concatenate([bits, np.zeros(self._vocabulary - bits.size, np.bool_)])
        return bits

    def forced(self) -> list[int]:
        """Tokens that must follow, as far as that is certain."""
        return list(self._matcher.compute_ff_tokens())

    def accept(self, token: int) -> None:
        """Moves on by a token that was allowed."""
        if not self._matcher.consume_token(token):
            raise RefusedError(
                "constraint-failed", f"the constraint broke: {_line(self._matcher.get_error())}"
            )

    @property
    def complete(self) -> bool:
        """Whether the answer may end here."""
        return bool(self._matcher.is_accepting())

    @property
    def ended(self) -> bool:
        """Whether the answer must end here."""
        return bool(self._matcher.is_stopped())


def is_constrained(request: GenerateRequest, facts: GeneratorFacts) -> bool:
    """Whether the request, or the bundle, says what form the answer has.

    Raises:
        InputError: ``bad-constraint``; the request says it twice.
    """
    if request.json_schema is not None and request.regex is not None:
        raise InputError("bad-constraint", "json_schema and regex exclude each other")
    return any(one is not None for one in (request.json_schema, request.regex, facts.grammar))


class ConstraintFactory:
    """Makes constraints for one tokenizer.

    Args:
        tokenizer_json: text of ``tokenizer.json``.
        vocabulary: tokens of the model.
        eos_ids: tokens that end an answer.

    Raises:
        UnavailableError: ``no-constraint``; llguidance is not installed.
    """

    def __init__(self, tokenizer_json: str, vocabulary: int, eos_ids: list[int]) -> None:
        try:
            import llguidance
        except ModuleNotFoundError:
            raise UnavailableError(
                "no-constraint",
                "constrained output needs the extra 'json': pip install 'shoal[json]'",
            ) from None
        self._lib = llguidance
        self._vocabulary = vocabulary
        try:
            self._tokenizer = llguidance.LLTokenizer(
                tokenizer_json, n_vocab=vocabulary, eos_token=eos_ids or None
            )
        except Exception as error:  # noqa: BLE001 - the library raises bare Exception
            raise InputError("bad-tokenizer", f"llguidance: {str(error)[:300]}") from None

    def _start(self, grammar: str, work: dict[str, Any] = _LIMITS) -> Constraint:
        limits = self._lib.LLParserLimits(**work)
        matcher = self._lib.LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        return Constraint(matcher, self._vocabulary)

    def of(
        self, request: GenerateRequest, facts: GeneratorFacts, form: CallForm | None = None
    ) -> Constraint:
        """What the request asks for, else what the bundle's grammar says.

        Args:
            request: that is answered.
            facts: of the bundle.
            form: of the calls that may begin in place of what the request asks for.
        """
        if form is not None:
            return self.or_call(request, form)
        if request.json_schema is not None:
            return self.json_schema(request.json_schema)
        if request.regex is not None:
            return self.regex(request.regex)
        prompt = request.prompt
        if prompt is None:
            prompt = (request.messages or [])[-1].content
        assert facts.grammar is not None
        return self.lark(facts.grammar, prompt)

    def json_schema(self, schema: dict[str, Any]) -> Constraint:
        """Output that is JSON and validates against `schema`.

        Raises:
            InputError: ``bad-constraint``; not a schema, too big, or cannot be met.
        """
        return self._start(self._of_schema(schema))

    def _of_schema(self, schema: dict[str, Any], *, spaced: bool = False) -> str:
        check_schema(schema)
        if "x-guidance" in schema:  # a setting of the library: it would let keywords be passed over
            raise InputError("bad-constraint", "the schema has x-guidance, which is not supported")
        # Whitespace without bound would let a model fill its budget with it.
        options: Any = {"whitespace_flexible": False, **(_SPACED if spaced else {})}
        try:
            grammar: str = self._lib.LLMatcher.grammar_from_json_schema(
                json.dumps(narrowed(schema)), options
            )
        except (ValueError, TypeError) as error:
            raise InputError("bad-constraint", f"not a schema: {_line(error)}") from None
        return grammar

    def or_call(self, request: GenerateRequest, form: CallForm) -> Constraint:
        """What the request asks for, or in its place the beginning of a call of one of its tools.

        Where a call is all of an answer, and JSON as well, both are written with blanks after
        commas and colons, as the form has them: only what is in the place of the name tells them
        apart. The parser goes by words, and both must be made of the same.

        Raises:
            InputError: ``bad-constraint``.
        """
        names = [tool.name for tool in request.tools]
        made = self._lib.LLMatcher
        if request.json_schema is None:
            answer, spaced = made.grammar_from_regex(request.regex or ""), False
        else:
            spaced = form.alone
            answer = self._of_schema(request.json_schema, spaced=spaced)
        if spaced:
            called = json.loads(self._of_schema(_call_schema(names), spaced=True))["grammars"][0]
        else:
            texts = [json.dumps(text) for text in form.begin(names)]
            ids = self._tokenizer.tokenize_str(form.tag)
            if len(ids) == 1 and self._tokenizer.is_special_token(ids[0]):  # which is no text
                texts.append(f"<[{ids[0]}]>")
            called = {"lark_grammar": f"start: {' | '.join(texts)}"}
        parts = [
            {"name": "whole", "lark_grammar": "start: @answer | @call"},
            {**json.loads(answer)["grammars"][0], "name": "answer"},
            {**called, "name": "call"},
        ]
        return self._start(json.dumps({"grammars": parts}))

    def regex(self, pattern: str) -> Constraint:
        """Output that a regular expression matches as a whole.

        Raises:
            InputError: ``bad-constraint``.
        """
        return self._start(self._lib.LLMatcher.grammar_from_regex(pattern))

    def lark(self, grammar: str, prompt: str = "") -> Constraint:
        """Output of a bundle's Lark grammar, which may take pieces of the prompt.

        Args:
            grammar: as in :class:`contracts.manifest.GeneratorFacts`.
            prompt: what stands for ``@PROMPT@`` and ``@PIECES@``.

        Raises:
            InputError: ``bad-constraint``.
        """
        # What is copied out of the prompt lands in strings of JSON, which these would break.
        said = _ESCAPED_IN_JSON.sub(" ", prompt)
        filled = grammar.replace("@PIECES@", json.dumps(_PIECES.findall(said) or [" "]))
        filled = filled.replace("@PROMPT@", json.dumps(said))
        return self._start(self._lib.LLMatcher.grammar_from_lark(filled), _LIMITS_OF_BUNDLES)


def _call_schema(names: list[str]) -> dict[str, Any]:
    """Of a call that is an object of its own; its parameters are held to their schema later."""
    return {
        "type": "object",
        "properties": {"name": {"enum": names}, "parameters": {"type": "object"}},
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def _line(error: object) -> str:
    """An error of llguidance as one line, without the parser's state below it or its settings."""
    told = str(error or "").partition("\n<")[0].partition(" Enable '")[0]
    return " ".join(told.split())[:300]


def check_schema(schema: Any) -> None:
    """Caps a schema's depth, nodes and bytes, and what its ``multipleOf`` cost.

    Raises:
        InputError: ``bad-constraint``.
    """
    nodes = 0
    size = 0
    level = [schema]
    depth = 0
    multiples: set[float] = set()
    while level:
        depth += 1
        if depth > MAX_SCHEMA_DEPTH:
            raise InputError(
                "bad-constraint", f"the schema is nested deeper than {MAX_SCHEMA_DEPTH}"
            )
        following: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                following.extend(item.values())
                size += sum(len(str(key)) for key in item)
                # What is no number may be the schema of a property of this name; where it is the
                # keyword, llguidance refuses it.
                multiple = item.get("multipleOf")
                if isinstance(multiple, int | float) and not isinstance(multiple, bool):
                    multiples.add(multiple)
            elif isinstance(item, list):
                following.extend(item)
            elif isinstance(item, str):
                size += len(item)
        nodes += len(level)
        if nodes + len(following) > MAX_SCHEMA_NODES or size > MAX_SCHEMA_BYTES:
            raise InputError(
                "bad-constraint",
                f"the schema is too large: at most {MAX_SCHEMA_NODES} values and "
                f"{MAX_SCHEMA_BYTES} bytes are accepted",
            )
        level = following
    _check_multiples(multiples)


def _check_multiples(values: set[float]) -> None:
    """Caps the automaton of remainders, which llguidance builds without a limit of its own.

    It has a state for each remainder of the least common multiple of what ``allOf`` and ``$ref``
    bring together; which those are is not worked out here: all of a schema count, also those
    that nothing refers to.
    """
    exact = [_exact(value) for value in values]
    decimals = max(map(_decimals, exact), default=0)
    common = 1
    for value in exact:
        common = math.lcm(common, int(value.scaleb(decimals)))
        if common > MAX_MULTIPLE:
            raise _too_many_multiples()


def _exact(value: float) -> Decimal:
    """A ``multipleOf`` as it was written.

    JSON Schema demands that it is above 0. Beside a zero every least common multiple would be 0.
    """
    if not value > 0:  # NaN is not either
        raise InputError("bad-constraint", "a multipleOf is not above 0: expected a number that is")
    if value > MAX_MULTIPLE:  # before it becomes a text, which of infinity or an int may fail
        raise _too_many_multiples()
    exact = Decimal(str(value))
    if _decimals(exact) > MAX_DECIMALS:
        raise InputError(
            "bad-constraint",
            f"multipleOf is {value}: at most {MAX_DECIMALS} decimals are accepted",
        )
    return exact


def _decimals(value: Decimal) -> int:
    exponent = value.normalize().as_tuple().exponent
    assert isinstance(exponent, int), "it is finite"
    return max(-exponent, 0)


def _too_many_multiples() -> InputError:
    return InputError(
        "bad-constraint",
        f"the schema's multipleOf have a least common multiple beyond {MAX_MULTIPLE} "
        "units of the last decimal",
    )
