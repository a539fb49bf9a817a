"""Exact and near duplicates, among the prompts and against evaluation sets.

Texts are compared as shingles of two words (two characters of Chinese) by MinHash with locality-sensitive hashing
(rensa); what that finds is then compared exactly. Two prompts with different numbers, variables, operators or answers
are two problems, however alike their words: templated problems are not each other's duplicates.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from rensa import RMinHash, RMinHashLSH

from megatron_k15.curation.outcome import Candidate
from megatron_k15.curation.settings import CurationSettings
from megatron_k15.prompts.question import Question
from megatron_k15.rewards.quick_rule import quick_verdict

NUM_PERMUTATIONS = 128
NUM_BANDS = 32
"""Bands of 4 values: two texts of similarity 0.7 meet in one with probability 1 - (1 - 0.7^4)^32 > 0.999."""
SHINGLE = 2
HASH_SEED = 42
_WORD = re.compile(r"[^\W\d_\u4e00-\u9fff]+|[\u4e00-\u9fff]|\d+(?:\.\d+)?|[^\w\s.,;:?!'\"()$，。；：？！（）、“”]")
_SIGN = re.compile(r"\d.*|[^\w\s]|[b-hj-z]")
"""Numbers, operators, and letters that stand alone, but for "a" and "I"."""


@dataclass(frozen=True)
class _Text:
    id: str
    words: tuple[str, ...]
    signs: tuple[str, ...]
    answer: str
    shingles: frozenset[str]

    def similarity(self, other: "_Text") -> float:
        """Jaccard; 0 where the signs or the answers differ."""
        if self.signs != other.signs or quick_verdict(self.answer, other.answer) is not True:
            return 0.0
        both = len(self.shingles & other.shingles)
        return both / max(len(self.shingles) + len(other.shingles) - both, 1)


def _text(identifier: str, question: Question) -> _Text:
    words = tuple(_WORD.findall(unicodedata.normalize("NFKC", question.text).lower()))
    starts = range(max(len(words) - SHINGLE + 1, 1))
    return _Text(
        id=identifier,
        answer=question.answer,
        words=words,
        signs=tuple(word for word in words if _SIGN.fullmatch(word)),
        shingles=frozenset(" ".join(words[start : start + SHINGLE]) for start in starts),
    )


class _Index:
    """Texts so far, found again by likeness."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._texts: list[_Text] = []
        self._by_words: dict[tuple[str, ...], _Text] = {}
        self._lsh = RMinHashLSH(threshold=threshold, num_perm=NUM_PERMUTATIONS, num_bands=NUM_BANDS)

    def add(self, text: _Text) -> None:
        self._lsh.insert(len(self._texts), _minhash(text))
        self._texts.append(text)
        self._by_words.setdefault(text.words, text)

    def same(self, text: _Text) -> _Text | None:
        return self._by_words.get(text.words)

    def like(self, text: _Text) -> tuple[_Text, float] | None:
        """The most similar text at or above the threshold."""
        found = [self._texts[index] for index in sorted(self._lsh.query(_minhash(text)))]
        best = max(((other, text.similarity(other)) for other in found), key=lambda pair: pair[1], default=None)
        return best if best is not None and best[1] >= self._threshold else None


def _minhash(text: _Text) -> RMinHash:
    minhash = RMinHash(num_perm=NUM_PERMUTATIONS, seed=HASH_SEED)
    minhash.update(sorted(text.shingles))
    return minhash


def drop_duplicates(
    candidates: Sequence[Candidate], evaluation: Sequence[Question], settings: CurationSettings
) -> list[Candidate]:
    """All candidates; those that repeat an earlier one or an evaluation prompt are dropped.

    Args:
        evaluation: prompts that must not be trained on.
    """
    held_out, seen = _Index(settings.contamination_similarity), _Index(settings.near_duplicate_similarity)
    for question in evaluation:
        held_out.add(_text(question.where, question))
    result = []
    for candidate in candidates:
        if candidate.is_in:
            own = _text(candidate.question.id, candidate.question)
            candidate = _checked(candidate, own, held_out, seen)
            if candidate.is_in:
                seen.add(own)
        result.append(candidate)
    return result


def _checked(candidate: Candidate, text: _Text, held_out: _Index, seen: _Index) -> Candidate:
    if found := held_out.same(text):
        return candidate.dropped("in_evaluation_set", f"the same text as {found.id}")
    if close := held_out.like(text):
        return candidate.dropped("in_evaluation_set", f"similarity {close[1]:.2f} to {close[0].id}")
    if found := seen.same(text):
        return candidate.dropped("duplicate", f"the same text as {found.id}")
    if close := seen.like(text):
        return candidate.dropped("near_duplicate", f"similarity {close[1]:.2f} to {close[0].id}")
    return candidate
