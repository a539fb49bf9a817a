"""Exact values: quotients of polynomials over the rationals, in variables, √primes, i, ln of primes, and opaque atoms.

A monomial is a sorted tuple of (atom, exponent); a polynomial maps monomials to non-zero rationals. Two quotients are
equal when their cross products are, and then they are equal as functions. The converse does not hold where opaque atoms
(`\\sin x`, `2^n`, ∛2) are related in a way that is not known here, so inequality is left to numeric.py.

Atoms, as tuples: `("variable", name)`, `("root", p)` = √p, `("ln", p)`, `("call", function, argument key)`,
`("power", base key, exponent key)`; a key is a `Quotient`.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from megatron_k15.rewards.algebra.undecided import MAX_BITS, MAX_POWER, MAX_RADICAND, MAX_TERMS, UndecidedError

Atom = tuple[Any, ...]
Monomial = tuple[tuple[Atom, int], ...]
Polynomial = dict[Monomial, Fraction]

ONE: Polynomial = {(): Fraction(1)}
IMAGINARY: Atom = ("variable", "i")


@dataclass(frozen=True, eq=False)
class Quotient:
    """`top / bottom`; the bottom is not zero. Hashed and compared by its terms as they stand."""

    top: Polynomial
    bottom: Polynomial

    @cached_property
    def _terms(self) -> tuple[frozenset[tuple[Monomial, Fraction]], frozenset[tuple[Monomial, Fraction]]]:
        return frozenset(self.top.items()), frozenset(self.bottom.items())

    def __hash__(self) -> int:
        return hash(self._terms)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quotient) and self._terms == other._terms

    @property
    def constant(self) -> Fraction | None:
        """Its value where it is a rational number."""
        top, bottom = _constant(self.top), _constant(self.bottom)
        return None if top is None or bottom is None else top / bottom

    @property
    def whole(self) -> int | None:
        value = self.constant
        return int(value) if value is not None and value.denominator == 1 else None


def number(value: Fraction | int) -> Quotient:
    return Quotient({(): Fraction(value)} if value else {}, ONE)


def atom(value: Atom) -> Quotient:
    return Quotient({((value, 1),): Fraction(1)}, ONE)


def plus(first: Quotient, second: Quotient) -> Quotient:
    if first.bottom == second.bottom:
        return _quotient(_sum(first.top, second.top), first.bottom)
    top = _sum(product(first.top, second.bottom), product(second.top, first.bottom))
    return _quotient(top, product(first.bottom, second.bottom))


def minus(value: Quotient) -> Quotient:
    return Quotient({monomial: -coefficient for monomial, coefficient in value.top.items()}, value.bottom)


def times(first: Quotient, second: Quotient) -> Quotient:
    return _quotient(product(first.top, second.top), product(first.bottom, second.bottom))


def over(first: Quotient, second: Quotient) -> Quotient:
    if not second.top:
        raise UndecidedError("division by zero")
    return times(first, Quotient(second.bottom, second.top))


def whole_power(base: Quotient, exponent: int) -> Quotient:
    if abs(exponent) > MAX_POWER:
        raise UndecidedError("a large exponent")
    if exponent < 0:
        return over(number(1), whole_power(base, -exponent))
    result = number(1)
    for bit in f"{exponent:b}":
        result = times(result, result)
        if bit == "1":
            result = times(result, base)
    return result


def square_root(value: Fraction) -> Quotient:
    """√ of a rational: √(n/d) = √(nd)/d, with squares taken out and the rest as √primes."""
    radicand, denominator = value.numerator * value.denominator, value.denominator
    if abs(radicand) > MAX_RADICAND:
        raise UndecidedError("a large radicand")
    outside = Fraction(1, denominator)
    monomial: list[tuple[Atom, int]] = [(IMAGINARY, 1)] if radicand < 0 else []
    for prime, exponent in prime_factors(abs(radicand)).items():
        outside *= prime ** (exponent // 2)
        if exponent % 2:
            monomial.append((("root", prime), 1))
    return Quotient({tuple(sorted(monomial, key=_order)): outside}, ONE) if radicand else number(0)


def prime_factors(value: int) -> dict[int, int]:
    factors: dict[int, int] = {}
    divisor = 2
    while divisor * divisor <= value:
        while value % divisor == 0:
            factors[divisor] = factors.get(divisor, 0) + 1
            value //= divisor
        divisor += 1 if divisor == 2 else 2
    if value > 1:
        factors[value] = factors.get(value, 0) + 1
    return factors


def same(first: Quotient, second: Quotient) -> bool:
    return product(first.top, second.bottom) == product(second.top, first.bottom)


def product(first: Polynomial, second: Polynomial) -> Polynomial:
    if second is ONE:
        return first
    if first is ONE:
        return second
    result: Polynomial = {}
    for left, left_coefficient in first.items():
        for right, right_coefficient in second.items():
            monomial, coefficient = _monomial_product(left, right)
            result[monomial] = result.get(monomial, Fraction(0)) + left_coefficient * right_coefficient * coefficient
    return _checked(result)


def _monomial_product(first: Monomial, second: Monomial) -> tuple[Monomial, int]:
    """√p·√p = p and i·i = −1 leave the monomial for the coefficient."""
    if not first or not second:
        return first or second, 1
    exponents = dict(first)
    for factor, exponent in second:
        exponents[factor] = exponents.get(factor, 0) + exponent
    coefficient = 1
    for factor in [factor for factor in exponents if factor[0] == "root" or factor == IMAGINARY]:
        square = -1 if factor == IMAGINARY else factor[1]
        coefficient *= square ** (exponents[factor] // 2)
        exponents[factor] %= 2
    return tuple(sorted(((f, e) for f, e in exponents.items() if e), key=_order)), coefficient


def _order(power: tuple[Atom, int]) -> tuple[str, str]:
    factor = power[0]
    return factor[0], str(factor[1]) if len(factor) == 2 else str(hash(factor))


def _sum(first: Polynomial, second: Polynomial) -> Polynomial:
    result = dict(first)
    for monomial, coefficient in second.items():
        result[monomial] = result.get(monomial, Fraction(0)) + coefficient
    return _checked(result)


def _checked(polynomial: Polynomial) -> Polynomial:
    kept = {monomial: coefficient for monomial, coefficient in polynomial.items() if coefficient}
    if len(kept) > MAX_TERMS:
        raise UndecidedError("many terms")
    for coefficient in kept.values():
        if max(coefficient.numerator.bit_length(), coefficient.denominator.bit_length()) > MAX_BITS:
            raise UndecidedError("a large coefficient")
    return kept


def _quotient(top: Polynomial, bottom: Polynomial) -> Quotient:
    """A rational bottom is divided out, so that plain numbers and polynomials stay what they are."""
    value = _constant(bottom)
    if value is None or value == 1:
        return Quotient(top, ONE if value == 1 else bottom)
    return Quotient({monomial: coefficient / value for monomial, coefficient in top.items()}, ONE)


def _constant(polynomial: Polynomial) -> Fraction | None:
    if not polynomial:
        return Fraction(0)
    return polynomial.get(()) if len(polynomial) == 1 else None
