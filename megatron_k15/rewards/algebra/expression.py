"""Tokens of one expression → its exact value. A recursive descent over what LaTeX, and people, write.

    expression := term (± term)*    term := power ((\\cdot | / | nothing) power)*    power := factor (^ exponent)? !?

Ambiguous notation (`1/2x`, `x^12`, `1 9`) is undecided, not guessed.
"""

import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from megatron_k15.rewards.algebra import exact
from megatron_k15.rewards.algebra.exact import Quotient
from megatron_k15.rewards.algebra.functions import call, logarithm, power, root
from megatron_k15.rewards.algebra.latex import Token
from megatron_k15.rewards.algebra.numeric import FUNCTIONS
from megatron_k15.rewards.algebra.undecided import MAX_DEPTH, MAX_TERM_PRODUCTS, UndecidedError

GREEK = frozenset(
    [
        *("alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "vartheta", "kappa"),
        *("lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "phi", "varphi", "chi", "psi", "omega", "ell"),
        *("Gamma", "Delta", "Theta", "Lambda", "Sigma", "Phi", "Psi", "Omega"),
    ]
)
CALLED = frozenset(FUNCTIONS) - {"ln", "abs"}
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_ENDS = frozenset(")]}|,+-=<>&")
_DIGITS = re.compile(r"[0-9]+", re.ASCII)
RADIANS_PER_DEGREE = exact.times(exact.atom(("variable", "π")), exact.number(Fraction(1, 180)))
MAX_NUMBER_CHARACTERS = 64
MAX_FACTORIAL = 20


def value_of(tokens: Sequence[Token]) -> Quotient:
    """Raises UndecidedError: not an expression that is known here."""
    reader = _Reader(list(tokens))
    value = reader.expression()
    if reader.rest:
        raise UndecidedError(f"{reader.rest[-1].text!r} is left over")
    return value


class _Reader:
    def __init__(self, tokens: list[Token]) -> None:
        self.rest = tokens[::-1]
        """Tokens still to read, the next one last."""
        self._depth = 0
        self._products_left = MAX_TERM_PRODUCTS

    def expression(self) -> Quotient:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise UndecidedError("deep nesting")
        total = self._term(self._signs())
        while self._next() in ("+", "-"):
            total = self._charged(exact.plus, total, self._term(self._signs()))
        self._depth -= 1
        return total

    def _signs(self) -> int:
        sign = 1
        while self._next() in ("+", "-"):
            sign = -sign if self._take().text == "-" else sign
        return sign

    def _term(self, sign: int) -> Quotient:
        value = self._power()
        divided = False
        while self.rest and not self._ends():
            operator = self._next()
            if operator in ("\\cdot", "\\times", "*"):
                self._take()
                value = self._times(value, self._signed_power())
                divided = False
            elif operator in ("/", "\\div"):
                self._take()
                value, divided = self._charged(exact.over, value, self._signed_power()), True
            elif divided:
                raise UndecidedError("1/2x: is x above or below the line?")
            else:
                value = self._times(value, self._power())
        return exact.minus(value) if sign < 0 else value

    def _signed_power(self) -> Quotient:
        return self._power() if self._signs() > 0 else exact.minus(self._power())

    def _power(self) -> Quotient:
        value = self._factor()
        if self._next() == "!":
            self._take()
            value = self._factorial(value)
        if self._next() == "^":
            self._take()
            value = (
                self._times(value, RADIANS_PER_DEGREE) if self._is_degree() else self._raised(value, self._exponent())
            )
            if self._next() == "^":
                raise UndecidedError("a power without braces")
        return value

    def _is_degree(self) -> bool:
        r"""Takes `\circ`, also in braces, after ^."""
        for degree in (["circ"], ["{", "circ", "}"]):
            if [token.text for token in self.rest[: -len(degree) - 1 : -1]] == degree:
                del self.rest[-len(degree) :]
                return True
        return False

    def _exponent(self) -> Quotient:
        token = self._peek()
        if token.kind == "number" and len(token.text) > 1:
            raise UndecidedError("x^12: LaTeX reads x^1·2")
        if token.text == "-" and token.kind == "sign":
            raise UndecidedError("x^-1 without braces")
        if self._next() == "(":  # typed, not set: e^(2x)
            self._take()
            return self._until(")")
        return self._argument()

    def _factor(self) -> Quotient:
        token = self._take()
        match token.kind:
            case "number":
                return self._number(token)
            case "letter":
                return exact.atom(("variable", token.text + self._subscript()))
            case "command":
                return self._command(token.text)
            case "sign" if token.text in _CLOSING:
                return self._until(_CLOSING[token.text])
            case "sign" if token.text == "|":
                return call("abs", self._until("|"))
        raise UndecidedError(f"{token.text!r} is not known here")

    def _number(self, token: Token) -> Quotient:
        value = _rational(token.text)
        following = self.rest[-1] if self.rest else None
        if following is None or not _DIGITS.fullmatch(token.text):
            if following is not None and following.kind == "number":
                raise UndecidedError("two numbers side by side")
            return exact.number(value)
        if following.kind == "command" and following.text == "frac":
            return self._mixed(value)
        if following.kind == "number":
            return self._typed_mixed(value)
        return exact.number(value)

    def _mixed(self, whole: Fraction) -> Quotient:
        r"""2\frac{1}{3} is a mixed number, 2\frac{x}{3} and 2\frac{5}{3} are products."""
        self._take()
        top, bottom = self._argument(), self._argument()
        numerator, denominator = top.whole, bottom.whole
        if numerator is not None and denominator is not None and 0 < numerator < denominator:
            return exact.number(whole + Fraction(numerator, denominator))
        return self._times(exact.number(whole), self._charged(exact.over, top, bottom))

    def _typed_mixed(self, whole: Fraction) -> Quotient:
        """`1 1/2`."""
        top, bar, bottom = (self.rest.pop() if self.rest else Token("sign", "") for _ in range(3))
        if bar.text != "/" or not (_DIGITS.fullmatch(top.text) and _DIGITS.fullmatch(bottom.text)):
            raise UndecidedError("two numbers side by side")
        numerator, denominator = _rational(top.text), _rational(bottom.text)
        if not 0 < numerator < denominator:
            raise UndecidedError("two numbers side by side")
        return exact.number(whole + numerator / denominator)

    def _command(self, name: str) -> Quotient:
        if name in CALLED:
            return call(name, self._called_on())
        match name:
            case "pi":
                return exact.atom(("variable", "π"))
            case "frac":
                return self._charged(exact.over, self._argument(), self._argument())
            case "sqrt":
                return self._root()
            case "ln":
                return logarithm(self._called_on(), None)
            case "log":
                return self._logarithm()
            case "lg":
                return logarithm(self._called_on(), 10)
            case "abs":
                return call("abs", self._called_on())
            case "exp":
                return self._raised(exact.atom(("variable", "e")), self._called_on())
            case "binom":
                return self._binomial()
        if name in GREEK:
            return exact.atom(("variable", f"\\{name}{self._subscript()}"))
        raise UndecidedError(f"\\{name} is not known here")

    def _root(self) -> Quotient:
        degree = 2
        if self._next() == "[":
            self._take()
            whole = self._until("]").whole
            if whole is None or whole < 2:
                raise UndecidedError("a root of a degree that is no number")
            degree = whole
        if self.rest and self.rest[-1].kind == "number" and len(self.rest[-1].text) > 1:
            raise UndecidedError(r"\sqrt12: LaTeX reads √1·2")
        if self._next() == "(":  # typed, not set: sqrt(2)
            self._take()
            return root(self._until(")"), degree)
        return root(self._argument(), degree)

    def _logarithm(self) -> Quotient:
        if self._next() != "_":
            raise UndecidedError("a logarithm without a base")
        self._take()
        base = self._argument().whole
        if base is None or base < 2:
            raise UndecidedError("a base that is no whole number")
        return logarithm(self._called_on(), base)

    def _called_on(self) -> Quotient:
        """What \\sin and \\ln are of: one bracket, or the numbers, letters and fractions that follow."""
        if self._next() in ("^", "_"):
            raise UndecidedError("a power of a function")
        value = self._power()
        while self.rest and not self._ends() and self._peek().kind in ("letter", "number"):
            value = self._times(value, self._power())
        return value

    def _binomial(self) -> Quotient:
        top, bottom = self._argument().whole, self._argument().whole
        if top is None or bottom is None or not 0 <= bottom <= top <= 60:
            raise UndecidedError("a binomial of something else than small whole numbers")
        return exact.number(math.comb(top, bottom))

    def _factorial(self, value: Quotient) -> Quotient:
        whole = value.whole
        if whole is None or not 0 <= whole <= MAX_FACTORIAL:
            raise UndecidedError("a factorial of something else than a small whole number")
        return exact.number(math.factorial(whole))

    def _argument(self) -> Quotient:
        """What a command takes: a group, or one digit, letter or command (`\\frac12`)."""
        token = self._take()
        if token.kind == "sign" and token.text == "{":
            return self._until("}")
        if token.kind == "number" and _DIGITS.fullmatch(token.text):
            if len(token.text) > 1:
                self.rest.append(Token("number", token.text[1:]))
            return exact.number(int(token.text[0]))
        if token.kind == "letter":
            return exact.atom(("variable", token.text))
        if token.kind == "command" and (token.text in GREEK or token.text in ("pi", "sqrt", "frac")):
            return self._command(token.text)
        raise UndecidedError(f"{token.text!r} after a command")

    def _subscript(self) -> str:
        """`_1` or `_{10}` as part of a name."""
        if self._next() != "_":
            return ""
        self._take()
        token = self._take()
        name = token.text
        if token.kind == "sign" and token.text == "{":
            token = self._take()
            name = token.text
            if self._take().text != "}":
                raise UndecidedError("a subscript of several parts")
        if token.kind not in ("number", "letter", "text"):
            raise UndecidedError("a subscript that is no number or letter")
        return f"_{name}"

    def _until(self, closing: str) -> Quotient:
        value = self.expression()
        if self._take().text != closing:
            raise UndecidedError(f"no {closing}")
        return value

    def _raised(self, base: Quotient, exponent: Quotient) -> Quotient:
        whole = exponent.whole
        terms = max(len(base.top), len(base.bottom))
        self._charge(terms * terms * max(1, abs(whole or 1)) if terms > 1 else 16)
        return power(base, exponent)

    def _times(self, first: Quotient, second: Quotient) -> Quotient:
        return self._charged(exact.times, first, second)

    def _charged(self, operation: Callable[[Quotient, Quotient], Quotient], a: Quotient, b: Quotient) -> Quotient:
        self._charge(max(len(a.top), len(a.bottom)) * max(len(b.top), len(b.bottom)))
        return operation(a, b)

    def _charge(self, term_products: int) -> None:
        self._products_left -= term_products
        if self._products_left < 0:
            raise UndecidedError("much to multiply")

    def _ends(self) -> bool:
        token = self.rest[-1]
        return token.kind == "sign" and token.text in _ENDS

    def _next(self) -> str:
        """The next sign, or command with its backslash; empty for anything else."""
        if not self.rest:
            return ""
        token = self.rest[-1]
        return f"\\{token.text}" if token.kind == "command" else token.text if token.kind == "sign" else ""

    def _peek(self) -> Token:
        if not self.rest:
            raise UndecidedError("it ends too early")
        return self.rest[-1]

    def _take(self) -> Token:
        token = self._peek()
        self.rest.pop()
        return token


def _rational(text: str) -> Fraction:
    if len(text) > MAX_NUMBER_CHARACTERS:
        raise UndecidedError("a long number")
    return Fraction(text.removesuffix("."))
