"""Arithmetic expressions from users: parsed, checked node by node and compiled, without ``eval`` of the text."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_LENGTH = 2000
MAX_NODES = 500

Value = float
Vectors = Mapping[str, Sequence[float]]
"""Name of a vector → its elements."""
Compiled = Callable[[Vectors], Value]

_BINARY: Mapping[type[ast.operator], Callable[[Value, Value], Value]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    # Python's ** can give a complex number for a negative base; math.pow raises.
    ast.Pow: math.pow,
}
_UNARY: Mapping[type[ast.unaryop], Callable[[Value], Value]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: lambda value: float(not value),
}
_COMPARE: Mapping[type[ast.cmpop], Callable[[Value, Value], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
FUNCTIONS: Mapping[str, tuple[Callable[..., float], int, int]] = {
    "abs": (abs, 1, 1),
    "min": (min, 2, 64),
    "max": (max, 2, 64),
    "sqrt": (math.sqrt, 1, 1),
    "exp": (math.exp, 1, 1),
    "log": (math.log, 1, 1),
    "sin": (math.sin, 1, 1),
    "cos": (math.cos, 1, 1),
    "tan": (math.tan, 1, 1),
    "tanh": (math.tanh, 1, 1),
    "atan2": (math.atan2, 2, 2),
    "hypot": (math.hypot, 1, 64),
}
"""Name → function, fewest and most arguments."""


@dataclass(frozen=True)
class Vector:
    """A vector whose elements an expression may use.

    :param size: number of elements; indices are 0 to size − 1.
    :param names: names of the elements, if they have any; they can be used like indices.
    """

    size: int
    names: tuple[str, ...] = ()


class ExpressionError(ValueError):
    """A part of an expression is not allowed or does not exist; the message says which, in one sentence."""


class Expression:
    """An arithmetic expression over named vectors, such as ``-(observation[3]**2) - 0.1*abs(action[0])``.

    It may contain numbers, elements of the vectors by index or name, + - * / **, comparisons, and, or, not,
    ``a if c else b``, and :data:`FUNCTIONS`. Every value is a float; comparisons give 1 or 0.

    :param text: at most 2,000 characters and 500 parts.
    :param vectors: name → vector, for all vectors that the expression may use.
    :raises ExpressionError: the text contains anything else; the message names it.
    """

    def __init__(self, text: str, vectors: Mapping[str, Vector]) -> None:
        self.text = text
        self._vectors = vectors
        if len(text) > MAX_LENGTH:
            raise ExpressionError(f"the expression has {len(text)} characters, expected at most {MAX_LENGTH}")
        try:
            tree = ast.parse(text.strip(), mode="eval")
            count = sum(1 for _ in ast.walk(tree))
            if count > MAX_NODES:
                raise ExpressionError(f"the expression has {count} parts, expected at most {MAX_NODES}")
            self._run = self._compile(tree.body)
        # Thousands of brackets raise RecursionError or MemoryError; null bytes raise ValueError.
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            if isinstance(error, ExpressionError):
                raise
            reason = error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__
            raise ExpressionError(f"{_shown(text)} is no expression ({reason})") from None

    def __call__(self, vectors: Vectors) -> float:
        """The value for these vectors.

        :raises ArithmeticError, ValueError: there is no value, e.g. 1/0, sqrt(−1), overflow.
        """
        return float(self._run(vectors))

    def _compile(self, node: ast.expr) -> Compiled:
        if isinstance(node, ast.Constant):
            return self._constant(node)
        if isinstance(node, ast.Subscript):
            return self._element(node)
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            return self._apply(_BINARY[type(node.op)], [node.left, node.right])
        if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
            return self._apply(_UNARY[type(node.op)], [node.operand])
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        if isinstance(node, ast.BoolOp):
            return self._boolean(node)
        if isinstance(node, ast.IfExp):
            test, body, other = (self._compile(part) for part in (node.test, node.body, node.orelse))
            return lambda vectors: body(vectors) if test(vectors) else other(vectors)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.Name) and node.id in self._vectors:
            raise ExpressionError(f"{node.id} stands alone, expected an element such as {node.id}[0]")
        if isinstance(node, ast.Name):
            raise ExpressionError(f"there is no {_shown(node.id)}, expected {self._known()}")
        raise ExpressionError(
            f"{_shown(ast.unparse(node))} is not allowed in an expression: expected arithmetic over {self._known()}"
        )

    def _known(self) -> str:
        return ", ".join(f"{name}[0 … {vector.size - 1}]" for name, vector in self._vectors.items())

    def _constant(self, node: ast.Constant) -> Compiled:
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            raise ExpressionError(f"{_shown(repr(node.value))} is not allowed in an expression, expected a number")
        try:
            # Python's integers have no limit: 9**9**9 would take forever; with floats it overflows at once.
            value = float(node.value)
        except OverflowError:
            raise ExpressionError(f"{_shown(str(node.value))} is too large for a float") from None
        return lambda vectors: value

    def _element(self, node: ast.Subscript) -> Compiled:
        if not isinstance(node.value, ast.Name) or node.value.id not in self._vectors:
            raise ExpressionError(f"there is no {_shown(ast.unparse(node.value))}, expected {self._known()}")
        name, vector = node.value.id, self._vectors[node.value.id]
        index = node.slice.value if isinstance(node.slice, ast.Constant) else None
        if isinstance(index, str):
            if index not in vector.names:
                known = f"one of {', '.join(vector.names)}" if vector.names else f"an index from 0 to {vector.size - 1}"
                raise ExpressionError(f"{name} has no element {_shown(index)}, expected {known}")
            index = vector.names.index(index)
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < vector.size:
            raise ExpressionError(
                f"{_shown(ast.unparse(node))} is no element: {name} has the indices 0 to {vector.size - 1}"
            )
        found = index
        return lambda vectors: vectors[name][found]

    def _apply(self, function: Callable[..., Value], arguments: Sequence[ast.expr]) -> Compiled:
        parts = [self._compile(argument) for argument in arguments]
        return lambda vectors: function(*(part(vectors) for part in parts))

    def _comparison(self, node: ast.Compare) -> Compiled:
        for kind in node.ops:
            if type(kind) not in _COMPARE:
                raise ExpressionError(f"{_shown(ast.unparse(node))} is not allowed, expected <, <=, >, >=, == or !=")
        operators = [_COMPARE[type(kind)] for kind in node.ops]
        parts = [self._compile(part) for part in (node.left, *node.comparators)]

        def compare(vectors: Vectors) -> Value:
            values = [part(vectors) for part in parts]
            pairs = zip(operators, values, values[1:], strict=False)
            return float(all(holds(left, right) for holds, left, right in pairs))

        return compare

    def _boolean(self, node: ast.BoolOp) -> Compiled:
        parts = [self._compile(part) for part in node.values]
        gather: Callable[[Any], bool] = all if isinstance(node.op, ast.And) else any
        return lambda vectors: float(gather(bool(part(vectors)) for part in parts))

    def _call(self, node: ast.Call) -> Compiled:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in FUNCTIONS:
            known = ", ".join(FUNCTIONS)
            raise ExpressionError(f"{_shown(ast.unparse(node.func))} cannot be called, expected one of {known}")
        function, fewest, most = FUNCTIONS[name]
        if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
            raise ExpressionError(f"{name} takes plain arguments only")
        if not fewest <= len(node.args) <= most:
            expected = f"{fewest}" if fewest == most else f"{fewest} to {most}"
            raise ExpressionError(f"{name} got {len(node.args)} arguments, expected {expected}")
        return self._apply(function, node.args)


def _shown(text: str) -> str:
    printable = "".join(character if character.isprintable() else " " for character in text)
    return f"'{printable if len(printable) <= 80 else printable[:79] + '…'}'"
