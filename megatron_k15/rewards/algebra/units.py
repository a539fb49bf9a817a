"""Units that answers carry: what they measure and how large they are. Words that are no unit of this table ("students")
are compared as words."""

from dataclasses import dataclass
from fractions import Fraction

from megatron_k15.rewards.algebra.undecided import UndecidedError


@dataclass(frozen=True, kw_only=True)
class Unit:
    measures: str
    """Units that measure the same can be converted."""
    size: Fraction
    """In the measure's first unit below."""
    is_known: bool = True
    """False for a word that is not in the table."""


PERCENT = Unit(measures="share", size=Fraction(1, 100))
DEGREE = Unit(measures="angle", size=Fraction(1))
_TABLE = {
    "length": {
        **{"m metre metres meter meters 米": "1", "cm centimetre centimetres centimeter centimeters 厘米": "1/100"},
        **{"mm millimetres millimeters 毫米": "1/1000", "dm 分米": "1/10", "km kilometre kilometres kilometer": "1000"},
        **{"kilometers 千米 公里": "1000", "inch inches": "0.0254", "foot feet ft": "0.3048", "yards yard": "0.9144"},
        **{"mile miles": "1609.344"},
    },
    "mass": {"kg kilogram kilograms 千克 公斤": "1", "g gram grams 克": "1/1000", "mg": "1/1000000", "t 吨": "1000"},
    "time": {
        **{"s sec second seconds 秒": "1", "min minute minutes 分钟": "60", "h hr hour hours 小时": "3600"},
        **{"day days 天": "86400", "week weeks 周": "604800", "year years 年": "31557600"},
    },
    "volume": {"L l litre litres liter liters 升": "1", "mL ml millilitres milliliters 毫升": "1/1000"},
    "speed": {"m/s 米/秒": "1", "km/h kph 千米/小时": "5/18", "mph": "0.44704"},
    "dollars": {"$ USD dollar dollars 美元": "1", "cent cents": "1/100"},
    "yuan": {"yuan 元": "1", "角": "1/10"},
    "angle": {"degree degrees deg 度": "1"},
    "share": {"% percent": "1/100"},
    "resistance": {"Ω ohm ohms 欧 欧姆": "1"},
    "temperature": {"℃ 摄氏度": "1"},
    "temperature on another scale": {"℉ 华氏度": "1"},
}
UNITS = {
    name: Unit(measures=measures, size=Fraction(size))
    for measures, units in _TABLE.items()
    for names, size in units.items()
    for name in names.split()
}
_NAMES = {
    "degrees Celsius": "℃",
    "degrees celsius": "℃",
    "degrees Fahrenheit": "℉",
    "degrees fahrenheit": "℉",
    "miles per hour": "mph",
    "meters per second": "m/s",
    "metres per second": "m/s",
    "kilometers per hour": "km/h",
}
_COUNTS: dict[str, int | str] = {
    **{"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12},
    **{"百": 100, "千": 1000, "万": 10**4, "亿": 10**8},
    **{"half": "1/2", "halves": "1/2", "quarter": "1/4", "quarters": "1/4"},
    **{
        f"{name}{plural}": f"1/{number}"
        for number, name in {
            **{3: "third", 4: "fourth", 5: "fifth", 6: "sixth", 7: "seventh", 8: "eighth", 9: "ninth", 10: "tenth"},
            **{12: "twelfth", 100: "hundredth", 1000: "thousandth"},
        }.items()
        for plural in ("", "s")
    },
}
_NOT_UNITS = frozenset(["squared", "cubed", "factorial", "plus", "minus", "negative", "modulo"])
_POWERS = {"平方": 2, "立方": 3, "square ": 2, "sq ": 2, "cubic ": 3}


def unit_named(text: str, power: int = 1) -> Unit:
    """The unit that `text` names, squared or cubed as it says; a word of its own where it is not in the table.

    Raises:
        UndecidedError: such as "million dollars".
    """
    name = text.strip().rstrip(".")
    name = _NAMES.get(name, name)
    if half := half_of_day(name):  # only as text: typed, 3am may be a product
        return Unit(measures=half, size=Fraction(1))
    if name in _COUNTS:
        return Unit(measures="count", size=Fraction(_COUNTS[name]))
    if not is_known(name) and (name.startswith(tuple(_COUNTS)) or _NOT_UNITS & set(name.split())):
        raise UndecidedError("a number partly in words")
    for prefix, raised in _POWERS.items():
        if name.startswith(prefix):
            name, power = name.removeprefix(prefix), raised
    found = UNITS.get(name) or UNITS.get(name.lower())
    if found is None:
        return Unit(measures=f"{name.lower().removesuffix('s')}^{power}", size=Fraction(1), is_known=False)
    return found if power == 1 else Unit(measures=f"{found.measures}^{power}", size=found.size**power)


def half_of_day(text: str) -> str:
    """`am` or `pm` where `text` is one of them, with or without dots; empty where it is not."""
    half = text.replace(".", "").lower()
    return half if half in ("am", "pm") else ""


def base(number: int) -> Unit:
    """Of digits in another number system, which may be left out like a unit."""
    return Unit(measures=f"base {number}", size=Fraction(1))


def is_known(text: str) -> bool:
    name = text.strip().rstrip(".")
    return name in UNITS or name.lower() in UNITS
