"""Multiple choice, true/false and proofs, in English and Chinese: kinds whose answers prove nothing (§2.1).

Rules on the text, and on the answer where it says more: a reference answer of one letter A to H under listed options is
multiple choice whatever the words say.
"""

import re

from megatron_k15.curation.outcome import Candidate, Reason
from megatron_k15.curation.settings import CurationSettings

_OPTION = re.compile(r"(?:^|[\s(（【\[;；。.?？$])\(?（?([A-HＡ-Ｈ])[)）.．、:：]\s*\S")
_CLEAR_OPTION = re.compile(
    r"(?:^|\n)\s*\(?（?([A-HＡ-Ｈ])[)）.．、:：]\s*\S|(?:^|[\s(（【\[;；。.?？$])\(?（?([A-HＡ-Ｈ])[)）．、]\s*\S"
)
_SMALL_OPTION = re.compile(r"(?:^|[\s(;.?])\(?([a-h])\)\s*\S")
_CHOICE_WORDS = re.compile(
    r"\bwhich (?:one )?of the (?:following|these|options|choices|statements)\b|\bmultiple[- ]choice\b"
    r"|\b(?:choose|select|pick) (?:the |an? |one )?(?:\w+ )?(?:correct|best|right|most appropriate)?\s?"
    r"(?:answer|option|choice|letter)\b|\bselect all that apply\b|\banswer choices\b"
    r"|\b(?:options|choices) are\b|\bOptions:"
    r"|下列.{0,24}(?:正确|错误|不正确|成立|符合|属于|是)的?(?:是|有|为)|单选|多选|选择题|选出|以下哪|下列哪",
    re.IGNORECASE,
)
_TRUE_FALSE = re.compile(
    r"\btrue or false\b|\btrue/false\b|\bt/f\b|\bis (?:this|the following|it) (?:statement |claim )?(?:true|correct)\b"
    r"|\b(?:state|determine|decide) (?:whether|if) (?:each|the|this)\b.{0,80}\b(?:true|false|correct)\b"
    r"|\banswer (?:with )?(?:yes or no|true or false|yes/no)\b|\byes or no\b"
    r"|判断(?:题|正误|对错|下列.{0,20}(?:正误|对错|是否))|是否正确|对还是错|正确还是错误|[（(]\s*(?:√|×|对|错)\s*[)）]",
    re.IGNORECASE | re.DOTALL,
)
_TRUE_FALSE_ANSWERS = frozenset(
    {"true", "false", "yes", "no", "correct", "incorrect", "t", "f"}
    | {"对", "错", "正确", "错误", "是", "否", "√", "×", "真", "假"}
)
_PROOF = re.compile(
    r"(?:^|[.?!:;,\n(]\s*|\b(?:and|then|to|must|can you|please) )(?:prove|disprove)\b(?! (?:useful|that you|yourself))"
    r"|\b(?:show|demonstrate|verify|establish|deduce|justify) (?:that|the (?:identity|inequality|claim|formula))\b"
    r"|(?:^|[.!?]\s+|\n\s*)show (?!your|all|each)[^.?!]{1,60}\b(?:is|are|has|converges|equals)\b"
    r"|\bgive a (?:rigorous |formal )?proof\b|\bproof of\b"
    r"|证明(?!书)|求证|试证",
    re.IGNORECASE,
)
_ASKS_FOR_VALUE = re.compile(
    r"\b(?:find|compute|calculate|evaluate|determine|what is|how many|how much|solve)\b|求(?!证)|计算|多少|等于几",
    re.IGNORECASE,
)
_PROOF_OF_ANSWER = re.compile(
    r"\b(?:and|then) (?:prove|justify) (?:your|this|the) (?:answer|claim|result|conclusion)\b"
    r"|并证明(?:你的)?(?:结论|答案)",
    re.IGNORECASE,
)
_LETTER_RUNS = frozenset(run[:length] for run in ("ABCDEFGH", "ＡＢＣＤＥＦＧＨ") for length in range(3, 9))
_LETTERS = re.compile(
    r"(?:\\text\{)?\(?[A-HＡ-Ｈ](?:\s*[,，、]?\s*[A-HＡ-Ｈ]){0,7}\)?\}?[.。]?"
    r"|\(?[a-h]\)?|(?:I{1,3}|IV)(?:,? and (?:I{1,3}|IV))?"
)


def check_kind(candidate: Candidate, settings: CurationSettings) -> Candidate:
    kind = question_kind(candidate.question.text, candidate.question.answer)
    excluded = {
        "multiple_choice": settings.exclude_multiple_choice,
        "true_false": settings.exclude_true_false,
        "proof": settings.exclude_proofs,
    }
    if kind is None or not excluded[kind[0]]:
        return candidate
    return candidate.dropped(*kind)


def question_kind(text: str, answer: str) -> tuple[Reason, str] | None:
    """The kind and what gave it away; None for a question whose answer can be checked."""
    answer = answer.strip()
    if why := _multiple_choice(text, answer):
        return "multiple_choice", why
    if answer.lower().rstrip(".。") in _TRUE_FALSE_ANSWERS:
        return "true_false", f"the answer is {answer!r}"
    if found := _TRUE_FALSE.search(text):
        return "true_false", f"{found[0].strip()!r}"
    found = _PROOF.search(text)
    if found and not _has_value_too(text, found.end(), answer):
        return "proof", f"{found[0].strip()!r}"
    return None


def _multiple_choice(text: str, answer: str) -> str | None:
    options = sorted(set(_OPTION.findall(text)))
    clear = sorted({one or other for one, other in _CLEAR_OPTION.findall(text)})
    small = sorted({letter.upper() for letter in _SMALL_OPTION.findall(text)})
    # `Team A: 10 points, Team B: …` looks like options, (a), (b), (c) may be questions: there the answer decides.
    is_letter = _LETTERS.fullmatch(answer) is not None
    for found, is_clear in ((clear, True), (options, is_letter or len(options) > 3), (small, is_letter)):
        if is_clear and len(found) >= 3 and "".join(found) in _LETTER_RUNS:
            return f"options {', '.join(found)}"
    words = _CHOICE_WORDS.search(text)
    if words and (len(options) >= 2 or is_letter):
        return f"{words[0].strip()!r}"
    return None


def _has_value_too(text: str, position: int, answer: str) -> bool:
    """ "Show that f is even, and find f(2)" and "How many are there? Prove your answer" have an answer to check, if the
    reference is a value."""
    return 0 < len(answer) <= 40 and bool(_ASKS_FOR_VALUE.search(text[position:]) or _PROOF_OF_ANSWER.search(text))
