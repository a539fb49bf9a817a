"""Tags by domain and discipline (§2.1), by rules: words that give a subject away, in English and Chinese.

reasoning-gym tasks carry their own subject. A prompt that already has a tag `discipline:…` keeps it.
`model_subjects.py` asks a model instead.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from megatron_k15.curation.outcome import Candidate

_DISCIPLINES: Mapping[str, tuple[str, ...]] = {
    "math": (
        *("arithmetic", "algebra", "geometry", "number theory", "combinatorics", "probability", "calculus"),
        *("linear algebra", "word problems"),
    ),
    "science": ("physics", "chemistry", "biology"),
    "reasoning": ("logic", "games", "induction", "cognition"),
    "code": ("algorithms", "graphs", "programming"),
    "humanities": ("history and geography", "language", "economics"),
    "other": ("other",),
}
DOMAINS = {discipline: domain for domain, disciplines in _DISCIPLINES.items() for discipline in disciplines}
"""Discipline → domain."""
GYM_DISCIPLINES = {
    **{"arithmetic": "arithmetic", "algebra": "algebra", "geometry": "geometry", "probability": "probability"},
    **{"algorithmic": "algorithms", "code": "programming", "graphs": "graphs", "logic": "logic", "games": "games"},
    **{"induction": "induction", "arc": "induction", "cognition": "cognition"},
}
"""Part of reasoning-gym → discipline."""

_WORDS: Mapping[str, str] = {
    "geometry": r"triangle|circle|angle|perimeter|radius|diameter|polygon|rectangle|square with|perpendicular|parallel"
    r"|hypotenuse|sphere|cylinder|cone|tangent line|area of|三角形|圆|面积|周长|半径|直线|平行|垂直|正方形|长方形|体积",
    "algebra": r"equation|polynomial|solve for|roots? of|quadratic|linear function|simplify|factor(?:ise|ize)?\b"
    r"|inequality|real number|complex number|sequence|方程|多项式|不等式|函数|因式|数列|实数|复数|未知数",
    "number theory": r"prime|divisib|divisor|remainder|modulo|\bmod\b|gcd|lcm|greatest common|least common"
    r"|integers? such|congruen|质数|素数|整除|余数|公约数|公倍数|同余",
    "combinatorics": r"how many ways|permutation|combination|arrange|choose \d|committee|distinct (?:arrangements|ways)"
    r"|排列|组合|多少种",
    "probability": r"probabilit|dice|coin|expected value|random(?:ly)?|variance|standard deviation|median|mean of"
    r"|概率|随机|期望|方差|平均数|中位数|骰子|硬币",
    "calculus": r"derivative|integral|integrate|differentiat|limit|\\int\b|\\lim\b|converge|series|导数|积分|极限|微分",
    "linear algebra": r"matrix|matrices|eigenvalue|determinant|vector space|\\begin\{.?matrix"
    r"|矩阵|行列式|特征值|向量空间",
    "word problems": r"\b(?:apples?|dollars|cost|price|buys?|sold|sells|each day|per hour|years old|students|miles)\b"
    r"|元钱|苹果|每天|每小时|岁|小明|小红|买",
    "arithmetic": r"\d\s*[-+*/×÷]\s*\(?-?\d|calculate|compute|计算|sum of the following|percent",
    "physics": r"velocity|acceleration|force|newton|joule|momentum|voltage|current|resistance|friction|kinetic"
    r"|速度|加速度|电压|电流|质量为|摩擦|动能",
    "chemistry": r"mole|molar|reaction|acid|oxid|electron|chemical|compound|摩尔|化学|反应|溶液",
    "biology": r"\bcell\b|\bdna\b|\bgene|protein|species|organism|enzyme|细胞|基因|蛋白|生物",
    "programming": r"\bpython\b|function that|\bcode\b|program|\binput\b.*\boutput\b|algorithm|array of integers"
    r"|程序|代码|输入.*输出",
    "logic": r"knight|knave|liar|truth-teller|if and only if|implies|syllogism|premise|逻辑|真话|假话",
    "history and geography": r"capital of|which country|century|war\b|president|emperor|continent|首都|朝代|世纪|皇帝",
    "language": r"synonym|antonym|grammar|translate|spell|letters?\b.*\bword|sentence|poem|成语|翻译|诗|拼音",
    "economics": r"interest rate|compound interest|inflation|\bgdp\b|supply and demand|利率|利息|通货膨胀",
}
_PATTERNS = {discipline: re.compile(words, re.IGNORECASE) for discipline, words in _WORDS.items()}


def tag_subject(candidate: Candidate, discipline: str | None = None) -> Candidate:
    """The candidate with its domain and discipline, which also become tags of the question.

    Args:
        discipline: what a model said; None asks the rules.
    """
    chosen = discipline or _tagged(candidate) or _of_task(candidate.question.task) or by_words(candidate.question.text)
    domain = DOMAINS.get(chosen, "other")
    tags = dict.fromkeys([*candidate.question.tags, f"domain:{domain}", f"discipline:{chosen}"])
    question = replace(candidate.question, tags=tuple(tags))
    return replace(candidate, question=question, domain=domain, discipline=chosen)


def by_words(text: str) -> str:
    """The discipline with the most different words in the text; the earlier one of `_WORDS` on a draw."""
    found = {
        discipline: len({match.lower() for match in pattern.findall(text)}) for discipline, pattern in _PATTERNS.items()
    }
    best = max(found, key=lambda discipline: found[discipline])
    return best if found[best] else "other"


def _tagged(candidate: Candidate) -> str | None:
    prefix = "discipline:"
    return next((tag.removeprefix(prefix) for tag in candidate.question.tags if tag.startswith(prefix)), None)


def _of_task(task: str) -> str | None:
    if task == "code":
        return "programming"
    name = task.removeprefix("reasoning_gym:")
    return _gym_discipline(name) if name != task else None


@lru_cache(maxsize=512)
def _gym_discipline(name: str) -> str | None:
    import reasoning_gym  # noqa: F401
    from reasoning_gym.factory import DATASETS

    part = DATASETS[name][0].__module__.split(".")[1]
    return GYM_DISCIPLINES.get(part)
