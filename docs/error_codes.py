"""Collects every error code of the product from its source: ``python docs/error_codes.py``.

A code is what an error is made with: the first argument of an error class or of `ErrorInfo`, the
second of a finding of ``shoal fleet doctor``, whatever is given as ``code=``, and what is
assigned to ``code``. Names are followed to their constants, and parameters of functions to the
places that call them. What cannot be followed is told, so that no code hides.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGES = ("agent", "contracts", "fleet", "model_builder")
CODE = re.compile(r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")
#: Its constants are the places where something is dropped, as telemetry names them.
DROPS = "contracts/drops.py"
#: Not below ShoalError, but with a code all the same: the class and the place of its code.
CARRIERS = {"ErrorInfo": 0, "Refused": 0, "Finding": 1}


class Module(NamedTuple):
    """One source file, with what it assigns to names and who calls whom in it."""

    path: str
    tree: ast.Module
    constants: dict[str, list[ast.expr]]
    parents: dict[ast.AST, ast.AST]


class Codes(NamedTuple):
    """What was found: codes with their places, and expressions that could not be followed."""

    places: dict[str, list[str]]
    lost: dict[str, str]


def _modules(root: Path) -> list[Module]:
    found = []
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            tree = ast.parse(file.read_text("utf-8"))
            constants: dict[str, list[ast.expr]] = defaultdict(list)
            parents: dict[ast.AST, ast.AST] = {}
            for node in ast.walk(tree):
                for child in ast.iter_child_nodes(node):
                    parents[child] = node
                if isinstance(node, ast.Assign):
                    for target in node.targets:
                        _bind(constants, target, node.value)
                elif isinstance(node, ast.AnnAssign) and node.value is not None:
                    _bind(constants, node.target, node.value)
            found.append(Module(str(file.relative_to(root)), tree, constants, parents))
    return found


def _bind(constants: dict[str, list[ast.expr]], target: ast.expr, value: ast.expr) -> None:
    if isinstance(target, ast.Name):
        constants[target.id].append(value)
    elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for one, other in zip(target.elts, value.elts, strict=False):
            _bind(constants, one, other)


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


def _errors(modules: list[Module]) -> set[str]:
    """The classes below ShoalError that take a code first."""
    classes = [node for m in modules for node in ast.walk(m.tree) if isinstance(node, ast.ClassDef)]
    found = {"ShoalError"}
    while True:
        more = {c.name for c in classes if {_name(base) for base in c.bases} & found} - found
        if not more:
            break
        found |= more
    return found - {c.name for c in classes if c.name in found and _names_its_code(c)}


def _names_its_code(node: ast.ClassDef) -> bool:
    """Whether a class calls ``super().__init__`` with a code of its own."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and _name(call.func) == "__init__" and call.args:
            return isinstance(call.args[0], ast.Constant)
    return False


class _Collector:
    def __init__(self, root: Path) -> None:
        self.modules = _modules(root)
        self.errors = _errors(self.modules)
        self.places: dict[str, list[str]] = defaultdict(list)
        self.lost: dict[str, str] = {}
        self._seen: set[tuple[str, str]] = set()
        self._calls: dict[str, list[tuple[Module, ast.Call]]] = defaultdict(list)
        self._shared: dict[str, list[tuple[Module, ast.expr]]] = defaultdict(list)
        for module in self.modules:
            for node in ast.walk(module.tree):
                if isinstance(node, ast.Call):
                    self._calls[_name(node.func)].append((module, node))
            if module.path == DROPS:
                for values in module.constants.values():
                    for value in values:
                        self._follow(module, value, soft=True)
            for name, values in module.constants.items():
                if name.isupper():
                    self._shared[name] += [(module, value) for value in values]

    def run(self) -> Codes:
        for module in self.modules:
            for node in ast.walk(module.tree):
                if isinstance(node, ast.Call):
                    self._call(module, node)
                elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    if any(_name(target) == "code" for target in targets):
                        self._follow(module, node.value, soft=True)
        return Codes(dict(sorted(self.places.items())), self.lost)

    def _call(self, module: Module, call: ast.Call) -> None:
        name = _name(call.func)
        index = 0 if name in self.errors else CARRIERS.get(name)
        if name == "__init__" and isinstance(call.func, ast.Attribute):
            owner = module.parents.get(call)
            while owner is not None and not isinstance(owner, ast.ClassDef):
                owner = module.parents.get(owner)
            inherited = {_name(base) for base in owner.bases} if owner is not None else set()
            index = 0 if inherited & (self.errors | {"ShoalError"}) else None
        if index is not None and len(call.args) > index:
            self._follow(module, call.args[index])
        for keyword in call.keywords:
            if keyword.arg == "code" and name not in {"end", "exit", "Exit"}:
                self._follow(module, keyword.value, soft=index is None)

    def _follow(self, module: Module, node: ast.expr, *, soft: bool = False) -> None:
        """Notes the codes that an expression may have."""
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str) and CODE.match(node.value):
                self.places[node.value].append(f"{module.path}:{node.lineno}")
            return
        if isinstance(node, ast.IfExp):
            self._follow(module, node.body, soft=soft)
            self._follow(module, node.orelse, soft=soft)
        elif isinstance(node, ast.BoolOp):
            for value in node.values:
                self._follow(module, value, soft=soft)
        elif isinstance(node, ast.Attribute) and node.attr in {"code", "kind"}:
            pass  # of an error that was made elsewhere
        elif isinstance(node, ast.Attribute) and node.attr == "state":
            for state in ("refused", "rolled-back"):  # how an update ended that gave no reason
                self.places[state].append(f"{module.path}:{node.lineno}")
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
            self._follow(module, node.value, soft=soft)
        elif isinstance(node, ast.Call) and _name(node.func) in {"get", "str"}:
            if _name(node.func) == "get":
                self._table(module, node.func.value, node, soft)  # type: ignore[attr-defined]
                for default in node.args[1:]:
                    self._follow(module, default, soft=soft)
        elif isinstance(node, ast.Subscript):
            self._table(module, node.value, node, soft)
        elif isinstance(node, ast.Starred):
            for value in module.constants.get(_name(node.value), []):
                if isinstance(value, ast.Tuple):
                    self._follow(module, value.elts[0], soft=soft)
        elif isinstance(node, ast.JoinedStr):
            self._joined(module, node)
        elif isinstance(node, ast.Name | ast.Attribute):
            self._named(module, node, soft=soft)
        elif not soft:
            self._lose(module, node)

    def _table(self, module: Module, table: ast.expr, node: ast.expr, soft: bool) -> None:
        for value in [table, *module.constants.get(_name(table), [])]:
            if isinstance(value, ast.Dict):
                for item in value.values:
                    self._follow(module, item, soft=True)
                return
        if not soft:
            self._lose(module, node)

    def _joined(self, module: Module, node: ast.JoinedStr) -> None:
        parts = [p.value if isinstance(p, ast.Constant) else "*" for p in node.values]
        code = "".join(str(part) for part in parts)
        if re.match(r"^[a-z*-]+$", code):
            self.places[code].append(f"{module.path}:{node.lineno}")

    def _named(self, module: Module, node: ast.Name | ast.Attribute, *, soft: bool) -> None:
        name = _name(node)
        if (module.path, f"{name}:{_scope(module, node)}") in self._seen:
            return
        self._seen.add((module.path, f"{name}:{_scope(module, node)}"))
        function = _function(module, node)
        if function is not None and name in _parameters(function):
            self._parameter(module, function, name)
            return
        values = [(module, value) for value in module.constants.get(name, [])]
        values = values or self._shared.get(name, [])
        if not values and not soft:
            self._lose(module, node)
        for where, value in values:
            self._follow(where, value, soft=soft)

    def _parameter(self, module: Module, function: ast.FunctionDef, name: str) -> None:
        """What the callers of a function give it."""
        names = _parameters(function)
        owner = module.parents.get(function)
        callee, shift = function.name, 0
        if isinstance(owner, ast.ClassDef):
            shift = 1
            callee = owner.name if callee == "__init__" else callee
        index = names.index(name) - shift
        arguments = [*function.args.posonlyargs, *function.args.args]
        defaults = dict(
            zip(
                (a.arg for a in reversed(arguments)), reversed(function.args.defaults), strict=False
            )
        )
        for argument, default in zip(
            function.args.kwonlyargs, function.args.kw_defaults, strict=True
        ):
            if default is not None:
                defaults[argument.arg] = default
        if name in defaults:
            self._follow(module, defaults[name], soft=True)
        for where, call in self._calls[callee]:
            for keyword in call.keywords:
                if keyword.arg == name:
                    self._follow(where, keyword.value, soft=True)
            if index < len(call.args) and index < len(arguments) - shift:
                self._follow(where, call.args[index], soft=True)

    def _lose(self, module: Module, node: ast.expr) -> None:
        self.lost[f"{module.path}:{node.lineno}"] = ast.unparse(node)


def _function(module: Module, node: ast.AST) -> ast.FunctionDef | None:
    at: ast.AST | None = module.parents.get(node)
    while at is not None and not isinstance(at, ast.FunctionDef | ast.AsyncFunctionDef):
        at = module.parents.get(at)
    return at  # type: ignore[return-value]


def _scope(module: Module, node: ast.AST) -> str:
    function = _function(module, node)
    return f"{function.name}:{function.lineno}" if function is not None else ""


def _parameters(function: ast.FunctionDef) -> list[str]:
    found = function.args
    return [a.arg for a in [*found.posonlyargs, *found.args, *found.kwonlyargs]]


def collect(root: Path = ROOT) -> Codes:
    """Every code of the product, with the places that give it."""
    return _Collector(root).run()


if __name__ == "__main__":
    codes = collect()
    for code, places in codes.places.items():
        sys.stdout.write(f"{code}: {', '.join(sorted(set(places))[:3])}\n")
    for place, text in codes.lost.items():
        sys.stderr.write(f"not followed: {place}: {text}\n")
