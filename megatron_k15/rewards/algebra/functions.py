"""Powers, roots, logarithms and named functions of exact values: worked out where that is certain, else an atom."""

from fractions import Fraction

from megatron_k15.rewards.algebra import exact
from megatron_k15.rewards.algebra.exact import ONE, Quotient, atom, number
from megatron_k15.rewards.algebra.undecided import MAX_BITS, MAX_RADICAND, UndecidedError

_HALF = Fraction(1, 2)
_AS_QUOTIENT = {"tan": ("sin", "cos"), "cot": ("cos", "sin"), "sec": (None, "cos"), "csc": (None, "sin")}
_SINES = {
    **{Fraction(0): ((0, 1),), Fraction(1, 6): ((2, 1),), Fraction(1, 4): ((2, 2),), Fraction(1, 3): ((2, 3),)},
    **{_HALF: ((4, 1),), Fraction(1, 12): ((1, 6), (-1, 2)), Fraction(5, 12): ((1, 6), (1, 2))},
}
"""x in [0, 1/2] → terms (a, b) with sin(πx) = the sum of a√b, over 4."""


def power(base: Quotient, exponent: Quotient) -> Quotient:
    value = exponent.constant
    if value is None:
        return _symbolic_power(base, exponent)
    if value.denominator == 1:
        _check_growth(base, value.numerator)
        return exact.whole_power(base, value.numerator)
    if abs(value.numerator) > 8:
        raise UndecidedError("a large fractional exponent")
    return exact.whole_power(root(base, value.denominator), value.numerator)


def _check_growth(base: Quotient, exponent: int) -> None:
    bits = max((max(c.numerator.bit_length(), c.denominator.bit_length()) for c in base.top.values()), default=0)
    if bits * abs(exponent) > MAX_BITS:
        raise UndecidedError("a large power")


def _symbolic_power(base: Quotient, exponent: Quotient) -> Quotient:
    """b^(n + 2m + 3) = b^n · (b^m)² · b³, so that sums of exponents meet products of powers."""
    if base == atom(("variable", "e")) and (turned := _turned(exponent)):
        return turned
    if exponent.bottom != ONE:
        return atom(("power", base, exponent))
    result = number(1)
    for monomial, coefficient in exponent.top.items():
        if coefficient.denominator != 1:
            return atom(("power", base, exponent))
        if not monomial:
            factor = base
        elif (logged := _logged(monomial)) and base == atom(("variable", "e")):
            factor = number(logged)
        else:
            factor = _base_power(base, Quotient({monomial: Fraction(1)}, ONE))
        _check_growth(factor, int(coefficient))
        result = exact.times(result, exact.whole_power(factor, int(coefficient)))
    return result


def _turned(exponent: Quotient) -> Quotient | None:
    """e^(iπx) = cos πx + i sin πx, where these are known."""
    imaginary = atom(exact.IMAGINARY)
    turns = _times_pi(exact.minus(exact.times(exponent, imaginary)))
    if not turns:
        return None
    real, height = _sine(turns + _HALF), _sine(turns)
    return exact.plus(real, exact.times(imaginary, height)) if real and height else None


def _base_power(base: Quotient, exponent: Quotient) -> Quotient:
    """4^n = (2^n)²: a whole base is taken apart into primes."""
    whole = base.whole
    if whole is None or not 1 < whole <= MAX_RADICAND:
        return atom(("power", base, exponent))
    result = number(1)
    for prime, times in exact.prime_factors(whole).items():
        result = exact.times(result, exact.whole_power(atom(("power", number(prime), exponent)), times))
    return result


def _logged(monomial: exact.Monomial) -> int | None:
    """p for the monomial ln p."""
    (factor, power_of), *others = monomial
    return factor[1] if factor[0] == "ln" and power_of == 1 and not others else None


def root(value: Quotient, degree: int) -> Quotient:
    rational = value.constant
    if rational is None:
        # √(x²) is not worked out: x may be negative.
        return atom(("power", value, number(Fraction(1, degree))))
    if degree == 2:
        return exact.square_root(rational)
    return _higher_root(rational, degree)


def _higher_root(value: Fraction, degree: int) -> Quotient:
    """Powers are taken out; what is left under the root is a product of atoms, one per prime."""
    if value < 0 and degree % 2 == 0:
        raise UndecidedError("an even root of a negative number")
    if max(abs(value.numerator), value.denominator) > MAX_RADICAND or degree > 64:
        raise UndecidedError("a large radicand")
    result = number(-1 if value < 0 else 1)
    for part, sign in ((abs(value.numerator), 1), (value.denominator, -1)):
        for prime, exponent in exact.prime_factors(part).items() if part else ():
            outside, inside = divmod(sign * exponent, degree)
            result = exact.times(result, exact.whole_power(number(prime), outside))
            if inside:
                part_root = atom(("power", number(prime), number(Fraction(1, degree))))
                result = exact.times(result, exact.whole_power(part_root, inside))
    return result if value else number(0)


def logarithm(value: Quotient, base: int | None) -> Quotient:
    """ln of a positive rational as a sum over its primes; to another base, that over ln of the base."""
    if value == atom(("variable", "e")):
        natural = number(1)
    else:
        rational = value.constant
        natural = call("ln", value) if rational is None else _rational_logarithm(rational)
    return natural if base is None else exact.over(natural, _rational_logarithm(Fraction(base)))


def _rational_logarithm(value: Fraction) -> Quotient:
    if value <= 0 or max(value.numerator, value.denominator) > MAX_RADICAND:
        raise UndecidedError("a logarithm of a large number, or of none above 0")
    total = number(0)
    for part, sign in ((value.numerator, 1), (value.denominator, -1)):
        for prime, exponent in exact.prime_factors(part).items():
            total = exact.plus(total, exact.times(number(sign * exponent), atom(("ln", prime))))
    return total


def call(function: str, argument: Quotient) -> Quotient:
    constant = argument.constant
    if function == "abs" and constant is not None:
        return number(abs(constant))
    if function in _AS_QUOTIENT:
        above, below = (call(name, argument) if name else number(1) for name in _AS_QUOTIENT[function])
        return exact.over(above, below)
    turns = _times_pi(argument) if function in ("sin", "cos") else None
    known = None if turns is None else _sine(turns if function == "sin" else turns + _HALF)
    return known or atom(("call", function, argument))


def _times_pi(value: Quotient) -> Fraction | None:
    """x for the value πx."""
    if not value.top:
        return Fraction(0)
    coefficient = value.top.get(((("variable", "π"), 1),))
    return coefficient if coefficient is not None and len(value.top) == 1 and value.bottom == ONE else None


def _sine(turns: Fraction) -> Quotient | None:
    """sin(πx) for multiples of π/12."""
    turns %= 2
    sign = 1 if turns <= 1 else -1
    turns %= 1
    known = _SINES.get(min(turns, 1 - turns))
    if known is None:
        return None
    total = number(0)
    for times, radicand in known:
        total = exact.plus(total, exact.times(number(Fraction(sign * times, 4)), exact.square_root(Fraction(radicand))))
    return total
