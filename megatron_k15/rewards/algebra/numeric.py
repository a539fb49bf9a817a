"""Whether two exact values are certainly different: their numbers at two fixed points are far apart.

Used for "no" alone: numbers that agree prove nothing, numbers that differ do.
"""

import cmath
import math
import random
from collections.abc import Callable
from typing import Any

from megatron_k15.rewards.algebra.exact import Atom, Polynomial, Quotient

CLEARLY = 1e-5
"""Relative difference. A reference given to six digits is not "clearly different" from its exact value."""
CONSTANTS = {"π": math.pi, "e": math.e, "i": 1j, "∞": math.inf}
FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "cot": lambda x: 1 / cmath.tan(x),
    "sec": lambda x: 1 / cmath.cos(x),
    "csc": lambda x: 1 / cmath.sin(x),
    "arcsin": cmath.asin,
    "arccos": cmath.acos,
    "arctan": cmath.atan,
    "sinh": cmath.sinh,
    "cosh": cmath.cosh,
    "tanh": cmath.tanh,
    "ln": cmath.log,
    "abs": abs,
}


def clearly_different(first: Quotient, second: Quotient) -> bool:
    """True only if they are; False where it cannot be told."""
    try:
        return any(_apart(first, second, point) for point in (0, 1))
    except (OverflowError, ZeroDivisionError, ValueError):
        return False


def _apart(first: Quotient, second: Quotient, point: int) -> bool:
    left, right = _value(first, point), _value(second, point)
    if cmath.isnan(left) or cmath.isnan(right):
        return False
    if cmath.isinf(left) or cmath.isinf(right):
        return left != right
    return abs(left - right) > CLEARLY * max(abs(left), abs(right), 1e-9)


def _value(quotient: Quotient, point: int) -> complex:
    return _polynomial_value(quotient.top, point) / _polynomial_value(quotient.bottom, point)


def _polynomial_value(polynomial: Polynomial, point: int) -> complex:
    total: complex = 0
    for monomial, coefficient in polynomial.items():
        term: complex = float(coefficient)
        for factor, exponent in monomial:
            term *= _atom_value(factor, point) ** exponent
        total += term
    return total


def _atom_value(factor: Atom, point: int) -> Any:
    match factor:
        case ("variable", name):
            # Between 1 and 2: no root is of a negative number by accident, no power overflows.
            return CONSTANTS[name] if name in CONSTANTS else 1 + random.Random(f"{point}/{name}").random()
        case ("root", prime):
            return math.sqrt(prime)
        case ("ln", prime):
            return math.log(prime)
        case ("call", function, argument):
            return FUNCTIONS[function](_value(argument, point))
        case ("power", base, exponent):
            return _power_value(_value(base, point), exponent, point)
    raise AssertionError(factor)


def _power_value(base: complex, exponent: Quotient, point: int) -> complex:
    """Raises ValueError: an odd root of a negative number is real to most, and complex to cmath."""
    rational = exponent.constant
    if rational is not None and rational.denominator % 2 and rational.denominator > 1 and base.real < 0:
        raise ValueError("a root with two meanings")
    return base ** _value(exponent, point)
