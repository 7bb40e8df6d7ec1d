"""Jinja2 for templates that nobody has read: each step and each copy is paid for.

Jinja2's own sandbox keeps a template from Python's insides, not from work without end. Here all
that takes time or memory in proportion to a value is paid from a :class:`Budget` first. What
cannot be counted beforehand is left out: filters, methods and statements are those of a list.

Most of it is a rewriting of the syntax tree: loops, literals, slices, comparisons and
concatenations become calls of the environment. Operators and calls have hooks in Jinja2.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import wraps
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateAssertionError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from contracts.errors import InputError
from contracts.template_budget import ITEM, PAIR, STEPS_UNITS, Budget, check_number

_MAX_RANGE = 4096
_MAX_INDENT = 16
_MAX_POWER = 256
_FIELD_UNITS = 512
_DATE_UNITS = 64
_DIRECTIVE = re.compile(r"%[-_0^#EO]?[A-Za-z%]|[^%]")
_SPECIFICATION = re.compile(r"([^{}]?[<>^])?[-+ ]?#?0?(\d{1,2})?,?(\.\d{1,2})?[bcdeEfFgGnosxX%]?")

_OPERATORS = frozenset(["+", "-", "*", "/", "//", "%", "**"])

# Cost of a filter: units for each unit of what it is given; None: value times arguments.
_FILTERS: dict[str, int | None] = {
    "abs": 1, "capitalize": 2, "count": 0, "d": 0, "default": 0, "dictsort": 32, "first": 0,
    "float": 1, "indent": None, "int": 2, "items": 0, "join": None, "last": 0, "length": 0,
    "list": 0, "lower": 2, "map": 0, "max": 4, "min": 4, "reject": 0, "rejectattr": 0,
    "replace": None, "reverse": 0, "round": 1, "select": 0, "selectattr": 0, "sort": 32,
    "string": 4, "title": 8, "trim": None, "unique": 32, "upper": 2,
}  # fmt: skip
_EACH = frozenset(["map", "reject", "rejectattr", "select", "selectattr"])
_COPIES = frozenset([*_EACH, "items", "list", "reverse"])
_NUMBERS = frozenset(["indent", "round"])

_TESTS = (
    "boolean", "defined", "divisibleby", "even", "false", "float", "integer", "iterable",
    "mapping", "none", "number", "odd", "sameas", "sequence", "string", "true", "undefined",
)  # fmt: skip
_COMPARING = (
    "!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in", "le",
    "lessthan", "lower", "lt", "ne", "upper",
)  # fmt: skip

# Methods whose work is that of the text and the arguments, or of one times the other.
_LINEAR = frozenset([
    "capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha",
    "isascii", "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper",
    "lower", "partition", "removeprefix", "removesuffix", "split", "splitlines", "startswith",
    "swapcase", "title", "upper",
])  # fmt: skip
_PRODUCT = frozenset([
    "join", "lstrip", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip",
])  # fmt: skip
_METHODS: dict[type, frozenset[str]] = {
    str: _LINEAR | _PRODUCT,
    dict: frozenset(["get", "items", "keys", "values"]),
    list: frozenset(["count", "index"]),
    tuple: frozenset(["count", "index"]),
    LoopContext: frozenset(["changed", "cycle"]),
}

_REFUSED = (
    nodes.Block, nodes.EvalContextModifier, nodes.Extends, nodes.FromImport, nodes.Import,
    nodes.Include, nodes.ScopedEvalContextModifier,
)  # fmt: skip


class Generation(Extension):
    """``{% generation %}``, which marks what a model is trained on: its inside, as it is."""

    tags = {"generation"}  # noqa: RUF012 - as in the base class

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The statements between the two tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Counting(NodeTransformer):
    """Puts calls of :class:`TemplateSandbox` where a template works without calling."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        if isinstance(node, _REFUSED):
            name = type(node).__name__.lower()
            raise TemplateAssertionError(f"{name} is not supported in chat templates", node.lineno)
        node = self.generic_visit(node, *args, **kwargs)
        match node:
            case nodes.For():
                node.iter = _call("counted", node.iter)
            case nodes.Compare():
                node.expr = _call("compared", node.expr)
                for operand in node.ops:
                    operand.expr = _call("compared", operand.expr)
            case nodes.Concat():
                node.nodes = [_call("shown", one) for one in node.nodes]
            case nodes.Pair():
                node.key = _call("compared", node.key)
            case nodes.Filter(node=nodes.Expr()):
                node.node = _call("passed", node.node)  # so that nothing is computed at once
            case nodes.Test():
                node.node = _call("passed", node.node)
            case nodes.Tuple(ctx="load") | nodes.List() | nodes.Dict():
                return _call("made", node)
            case nodes.Getitem(arg=nodes.Slice()):
                return _call("made", node)
        return node


def _call(name: str, node: Any) -> nodes.Call:
    function = nodes.EnvironmentAttribute(name, lineno=node.lineno)
    return nodes.Call(function, [node], [], None, None, lineno=node.lineno)


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """An environment whose templates end within their budget. One rendering at a time.

    Args:
        now: the date of ``strftime_now``.

    Attributes:
        read: the names that a compiled template reads, whoever sets them.
    """

    intercepted_binops = _OPERATORS

    def __init__(self, now: Callable[[], datetime] = datetime.now) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=self.shown,
            extensions=["jinja2.ext.loopcontrols", Generation],
        )
        self.budget = Budget(STEPS_UNITS)
        self.read: set[str] = set()
        self._now = now
        self.globals = {
            "dict": self._dict,
            "namespace": Namespace,
            "range": self._range,
            "strftime_now": self._strftime_now,
        }
        known: dict[str, Any] = self.filters
        self.filters = {
            name: self._filter(name, known[name], cost) for name, cost in _FILTERS.items()
        }
        self.filters["tojson"] = self._tojson
        self.filters["safe"] = self._safe
        self.filters["format"] = self._printed
        tests: dict[str, Any] = self.tests
        self.tests = {name: self._test(tests[name], deep=False) for name in _TESTS}
        self.tests |= {name: self._test(tests[name], deep=True) for name in _COMPARING}

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        self.read |= {one.name for one in source.find_all(nodes.Name) if one.ctx == "load"}
        return super()._generate(_Counting().visit(source), *args, **kwargs)

    # What the rewritten tree calls ---------------------------------------------------------

    def counted(self, values: Iterable[Any]) -> Iterator[Any]:
        """The values of a loop; each turn is a step."""
        for value in values:
            self.budget.spend(0)
            yield value

    def compared(self, value: Any) -> Any:
        """A value that is about to be compared or hashed."""
        self.budget.weigh(value, text=False)
        return value

    def shown(self, value: Any) -> Any:
        """A value that is about to become text."""
        self.budget.weigh(value)
        return value

    def made(self, value: Any) -> Any:
        """A literal or a slice, just made."""
        size = len(value) if isinstance(value, (str, list, tuple, dict)) else 0
        self.budget.spend(size * (1 if isinstance(value, str) else PAIR))
        return value

    def passed(self, value: Any) -> Any:
        """A value that a filter or a test pays for."""
        return value

    def concat(self, pieces: Iterable[str]) -> str:
        """The text of a macro or a block."""
        listed = list(pieces)
        self.budget.spend(sum(map(len, listed)))
        return "".join(listed)

    # Operators, items, calls ---------------------------------------------------------------

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An arithmetic operator, after its result was paid for."""
        del context
        sized = [v for v in (left, right) if isinstance(v, (str, list, tuple))]
        if operator == "%" and isinstance(left, str):
            self._printf(left, right)
        elif operator == "*" and sized:
            counts = [v for v in (left, right) if isinstance(v, int)]
            self.budget.spend(sum(len(v) * max(c, 0) * ITEM for v in sized for c in counts))
        else:
            self.budget.spend(sum(_copy(v) for v in sized))
        power = operator == "**" and isinstance(left, int) and isinstance(right, int)
        if power and max(left.bit_length(), 1) * abs(right) > _MAX_POWER:
            raise SecurityError(f"a power has more than {_MAX_POWER} bits")
        return check_number(self.binop_table[operator](left, right))

    def _printf(self, pattern: str, values: Any) -> None:
        """Pays for ``%``: widths are at most the digits of the pattern."""
        if "*" in pattern:
            raise SecurityError("a format must not take its width from a value")
        if re.search(r"\d{7}", pattern):
            raise SecurityError("a format is too wide")
        widths = sum(map(int, re.findall(r"\d+", pattern)))
        weight = self.budget.weigh(values)
        self.budget.spend(len(pattern) + widths + 12 * weight * pattern.count("%"))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """An item or an attribute; what is looked up is hashed."""
        if not isinstance(argument, (str, int)):
            self.budget.weigh(argument)
        return super().getitem(obj, argument)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A macro, a function of ours, or a method that is known to be harmless."""
        obj = getattr(obj, "__wrapped__", obj)  # Jinja2's own of str.format
        owner = getattr(obj, "__self__", None)
        if owner is self:
            return obj(args[0]) if obj.__name__ in _INNER else self._own(obj, args, kwargs)
        self.budget.spend(ITEM * (len(args) + len(kwargs)))
        if isinstance(obj, LoopContext) and args:
            args = (self.counted(args[0]), *args[1:])
        elif obj is Namespace:
            _plain(kwargs)
            self.budget.spend(sum(len(a) * PAIR for a in args if isinstance(a, dict)))
        elif owner is not None:
            return self._method(owner, obj, args, _plain(kwargs))
        elif not isinstance(obj, (LoopContext, Macro, Undefined)) and obj not in self._functions():
            raise SecurityError(f"a {type(obj).__name__} must not be called")
        return super().call(context, obj, *args, **kwargs)

    def _functions(self) -> list[Any]:
        return list(self.globals.values())

    def _own(self, obj: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.budget.spend(0)
        return obj(*args, **_plain(kwargs))

    def _method(self, owner: Any, method: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        name = method.__name__
        if name == "format" and isinstance(owner, str):
            return self._formatted(owner, args, kwargs)
        if name not in _METHODS.get(type(owner), ()):
            raise SecurityError(f"{type(owner).__name__}.{name} is not supported")
        asked = self.budget.weigh([*args, *kwargs.values()])
        if isinstance(owner, str):
            self.budget.spend(2 * len(owner) * (asked if name in _PRODUCT else 1))
            if name in ("split", "rsplit", "splitlines"):
                mark = args[0] if args and name != "splitlines" else kwargs.get("sep")
                parts = owner.count(mark) if isinstance(mark, str) and mark else len(owner) // 2
                self.budget.spend(2 * ITEM * parts)
        elif isinstance(owner, (list, tuple)):
            self.budget.weigh(owner, text=False)
        elif isinstance(owner, dict) and name != "get":
            self.budget.spend(2 * PAIR * len(owner))
            return list(method(*args, **kwargs))
        return method(*args, **kwargs)

    # Functions, filters and tests -----------------------------------------------------------

    def _range(self, *arguments: int) -> list[int]:
        wanted = range(*arguments)
        if len(wanted) > _MAX_RANGE:
            raise InputError("bad-template", f"the chat template counts beyond {_MAX_RANGE}")
        self.budget.weigh([wanted.start, wanted.stop])
        self.budget.spend(ITEM * len(wanted))
        return list(wanted)

    def _dict(self, start: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        if not isinstance(start, (dict, type(None))):
            raise SecurityError("dict takes a mapping and names")
        self.budget.spend(PAIR * (len(start or ()) + len(fields)))
        return {**(start or {}), **fields}

    def _strftime_now(self, form: str) -> str:
        """The date in a form of the C library's, without widths, as transformers has it."""
        self.budget.spend(_DATE_UNITS * self.budget.weigh(form))
        if not isinstance(form, str) or _DIRECTIVE.sub("", form):
            raise SecurityError("strftime_now takes a text with directives such as %d")
        return self._now().strftime(form)

    def _printed(self, value: Any, *args: Any, **kwargs: Any) -> str:
        """The filter ``format``: the operator ``%``."""
        if args and kwargs:
            raise SecurityError("format takes either positions or names")
        text, values = str(self.shown(value)), kwargs or args
        self._printf(text, values)
        return text % values

    def _formatted(self, pattern: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """``str.format`` of plain fields: no attributes, no items, no fields within fields."""
        asked = self.budget.weigh([*args, *kwargs.values()])
        self.budget.spend(len(pattern))
        for _, name, form, _ in string.Formatter().parse(pattern):
            if name is None:
                continue
            if not (name == "" or name.isalnum() or name.isidentifier()):
                raise SecurityError(f"format takes no field {name[:40]}")
            if form and not _SPECIFICATION.fullmatch(form):
                raise SecurityError(f"format takes no specification {form[:40]}")
            self.budget.spend(_FIELD_UNITS + 12 * asked)
        return pattern.format(*args, **kwargs)

    def _safe(self, value: Any) -> str:
        return str(self.shown(value))

    def _tojson(self, value: Any, indent: int | None = None, **options: Any) -> str:
        """As transformers has it: no HTML escapes."""
        if indent is not None and not 0 <= indent <= _MAX_INDENT // 2:
            raise SecurityError(f"an indent is over {_MAX_INDENT // 2}")
        unknown = options.keys() - {"ensure_ascii", "separators", "sort_keys"}
        if unknown:
            raise SecurityError(f"tojson takes no {', '.join(sorted(unknown))}")
        if self.budget.weigh(options.get("separators")) > _MAX_INDENT * 4:
            raise SecurityError("tojson takes short separators")
        weight = self.budget.weigh(value)
        self.budget.spend(weight * (8 if indent is None else 32))
        return json.dumps(value, indent=indent, **{"ensure_ascii": False, **options})

    def _filter(
        self, name: str, function: Callable[..., Any], cost: int | None
    ) -> Callable[..., Any]:
        first = 1 if hasattr(function, "jinja_pass_arg") else 0

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            value, given = args[first], [*args[first + 1 :], *kwargs.values()]
            numbers = [v for v in given if isinstance(v, (int, float))]
            if name in _NUMBERS and any(not 0 <= v <= _MAX_INDENT for v in numbers):
                raise SecurityError(f"{name} takes numbers up to {_MAX_INDENT}")
            if cost == 0:
                sized = isinstance(value, (str, list, tuple, dict)) and name in _COPIES
                asked = self.budget.weigh(given) if name in _EACH else 1
                self.budget.spend(asked * PAIR * len(value) if sized else 0)
            else:
                weight = self.budget.weigh(value)
                asked = self.budget.weigh(given)
                more = _MAX_INDENT if name in _NUMBERS else 0
                self.budget.spend(weight * (asked + more) if cost is None else weight * cost)
            result = function(*args, **kwargs)
            return list(result) if isinstance(result, Iterator) else result

        return run

    def _test(self, function: Callable[..., Any], *, deep: bool) -> Callable[..., bool]:
        @wraps(function)
        def run(*args: Any) -> bool:
            for value in args if deep else ():
                self.budget.weigh(value, text=False)
            self.budget.spend(0)
            return bool(function(*args))

        return run


_INNER = frozenset(["compared", "counted", "made", "passed", "shown"])


def _plain(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Without the variables of loops and blocks, which Jinja2 passes along."""
    kwargs.pop("_loop_vars", None)
    kwargs.pop("_block_vars", None)
    return kwargs


def _copy(value: str | list[Any] | tuple[Any, ...]) -> int:
    return len(value) * (1 if isinstance(value, str) else ITEM)
