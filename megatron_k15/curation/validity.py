"""Prompts that no model should be asked: too short, too long, garbled, without the picture they speak of."""

import re

from megatron_k15.curation.outcome import Candidate
from megatron_k15.curation.settings import CurationSettings

GARBLED = re.compile(r"\ufffd|[\x00-\x08\x0b\x0c\x0e-\x1f]|(?:Ã.|â€.){2}|(.)\1{79}", re.DOTALL)
"""Bytes that were lost, control characters, UTF-8 read as Latin-1, one character 80 times."""
NEEDS_IMAGE = re.compile(
    r"!\[[^\]]*\]\(|<img\b|<image>|\[asy\]|\\includegraphics"
    r"|\b(?:in|from|see|to|shown|as) (?:the )?(?:figure|diagram|picture|image|graph|chart)\b(?! of\b)"
    r"|\b(?:figure|diagram|picture|image|graph|chart) (?:below|above|at right|shown)\b|shown (?:below|at right)"
    r"|如(?:下|右|左)?图|图(?:中|示|所示)|下图|右图|看图",
    re.IGNORECASE,
)


def check_validity(candidate: Candidate, settings: CurationSettings) -> Candidate:
    """The candidate, dropped where a rule is broken. Text prompts alone: no prompt here brings a picture."""
    question = candidate.question
    length = len(question.text.strip())
    if length < settings.min_characters:
        return candidate.dropped("too_short", f"{length} characters; at least {settings.min_characters} are needed")
    if length > settings.max_characters:
        return candidate.dropped("too_long", f"{length} characters; at most {settings.max_characters} are allowed")
    if found := GARBLED.search(question.text) or GARBLED.search(question.answer):
        return candidate.dropped("garbled", f"{found[0][:20]!r}")
    if found := NEEDS_IMAGE.search(question.text):
        return candidate.dropped("needs_image", f"it speaks of a picture: {found[0]!r}")
    if question.task == "math" and len(question.answer) > settings.max_answer_characters:
        detail = f"an answer of {len(question.answer)} characters; at most {settings.max_answer_characters}"
        return candidate.dropped("answer_too_long", detail)
    return candidate
