"""Rewards as a user writes them: right values, and nothing but arithmetic."""

from __future__ import annotations

import math

import pytest

from dipole_sb3.common.expressions import Expression, ExpressionError, Vector

VECTORS = {"observation": Vector(3, ("x", "y", "speed")), "action": Vector(2)}
VALUES = {"observation": [1.5, -2.0, 3.0], "action": [0.5, -0.25]}


def value(text: str) -> float:
    return Expression(text, VECTORS)(VALUES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-(observation[2]**2) - 0.1*abs(action[0])", -9.05),
        ("observation['speed'] * action[1] / 2", -0.375),
        ("1 if observation[0] > 1 and not observation[1] > 0 else -1", 1.0),
        ("0 < observation[0] < 1", 0.0),
        ("(observation[0] == 1.5) + (observation[1] != 1)", 2.0),
        ("observation[0] < 0 or action[0] >= 0.5", 1.0),
        ("hypot(observation[2], 4) + atan2(0, 1) + max(1, 2, 3) + min(4, 5)", 12.0),
        ("sqrt(4) + exp(0) + log(1) + sin(0) + cos(0) + tan(0) + tanh(0)", 4.0),
        ("+3", 3.0),
        ("\n  2 ** 0.5 ", math.sqrt(2)),
    ],
)
def test_values(text: str, expected: float) -> None:
    assert value(text) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "().__class__.__bases__[0].__subclasses__()",
        "observation.__class__",
        "observation[0].__class__",
        "(lambda: 1)()",
        "[x for x in (1, 2)][0]",
        "open('/etc/passwd')",
        "abs.__self__",
        "abs(*action)",
        "abs(x=1)",
        "f'{1}'",
        "'a' * 3",
        "b'a'",
        "True",
        "None",
        "1j",
        "...",
        "(x := 1)",
        "observation",
        "observation[0:2]",
        "observation[3]",
        "observation[-1]",
        "observation[True]",
        "observation[observation[0]]",
        "observation['z']",
        "action['x']",
        "reward",
        "next_observation[0]",
        "1 // 2",
        "7 % 2",
        "1 << 2",
        "~1",
        "1 is 1",
        "1 in action",
        "max(1)",
        "hypot()",
        "sqrt(1, 2)",
        "eval('1')",
        "x = 1",
        "import os",
        "",
        "1 +",
        "1; 2",
        "\x00",
        "(" * 500 + "1" + ")" * 500,
        "-" * 1500 + "1",
        "+".join(["1"] * 400),
        "<".join(["1"] * 600),
        "1" * 1999,
        "9" * 3000,
        "{1: 2}[1]",
        "await x",
        "yield",
    ],
)
def test_hostile_and_mistaken_expressions_are_refused(text: str) -> None:
    with pytest.raises(ExpressionError) as found:
        Expression(text, VECTORS)
    message = str(found.value)
    assert "\n" not in message
    assert len(message) < 400


def test_powers_of_powers_overflow_at_once() -> None:
    """As whole numbers they would compute for ever."""
    with pytest.raises(OverflowError):
        value("9**9**9**9")


@pytest.mark.parametrize("text", ["1/(observation[0] - 1.5)", "(-1)**0.5", "sqrt(0-1)", "log(0)", "exp(1000)"])
def test_no_value_is_an_error_and_never_complex(text: str) -> None:
    with pytest.raises((ArithmeticError, ValueError)):
        value(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("observation[3]", "'observation[3]' is no element: observation has the indices 0 to 2"),
        ("observation['z']", "observation has no element 'z', expected one of x, y, speed"),
        ("action['x']", "action has no element 'x', expected an index from 0 to 1"),
        ("reward", "there is no 'reward', expected observation[0 … 2], action[0 … 1]"),
        ("action", "action stands alone, expected an element such as action[0]"),
        ("pow(2, 3)", "'pow' cannot be called, expected one of abs, min, max"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(ExpressionError) as found:
        Expression(text, VECTORS)
    assert str(found.value).startswith(message)
