"""The long-CoT warm-up set (§2.2): answers that were drawn out by a template, are right, and show how they think.

The report names four kinds of thought. What shows one is a list of words, matched without regard to case: a rule that
anybody can read, and change for another language.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import chain

from megatron_k15.prompts.question import Question
from megatron_k15.sampling.choosing import Choice, chat_row, correct_and_whole
from megatron_k15.sampling.samples import Sample

TEMPLATES: Mapping[str, str] = {
    "planning": "{prompt}\n\nFirst make a plan: say which steps you will take, and in which order. Then carry it out. "
    "Put the final answer in \\boxed{}.",
    "evaluation": "{prompt}\n\nSolve this step by step. After each part, check whether what you have is right. "
    "Put the final answer in \\boxed{}.",
    "reflection": "{prompt}\n\nThink aloud. When you notice a mistake, say so, go back and mend it before you go on. "
    "Put the final answer in \\boxed{}.",
    "exploration": "{prompt}\n\nTry more than one way to solve this, compare the results, and then decide. "
    "Put the final answer in \\boxed{}.",
}
"""Instructions that elicit each kind; `{prompt}` stands for the question."""

SIGNS: Mapping[str, tuple[str, ...]] = {
    "planning": ("plan", "first,", "step 1", "let's begin", "we need to"),
    "evaluation": ("check", "verify", "let's see if", "makes sense", "confirm"),
    "reflection": ("wait", "mistake", "differ", "not right", "go back", "again", "actually"),
    "exploration": ("another way", "alternatively", "other approach", "instead", "what if"),
}
"""Words of which one is enough to show the kind."""


def kinds_shown(text: str, signs: Mapping[str, Sequence[str]] = SIGNS) -> frozenset[str]:
    lowered = text.lower()
    return frozenset(
        kind for kind, words in signs.items() if any(re.search(rf"(?<!\w){re.escape(word)}", lowered) for word in words)
    )


def choose_long_cot(
    question: Question,
    samples: Sequence[Sample],
    *,
    signs: Mapping[str, Sequence[str]] = SIGNS,
    min_kinds: int = 2,
    max_per_prompt: int = 1,
) -> Choice:
    """
    Args:
        samples: of all templates.
        min_kinds: an answer must show so many kinds of thought.
        max_per_prompt: those that show most kinds, and of these the longest, stay.
    """
    correct = correct_and_whole(samples)
    if not correct:
        return Choice(why_none="no correct answer")
    rich = [(len(shown), sample) for sample in correct if len(shown := kinds_shown(sample.text, signs)) >= min_kinds]
    if not rich:
        return Choice(why_none=f"no correct answer that shows {min_kinds} kinds of thought")
    best = sorted(rich, key=lambda pair: (pair[0], pair[1].num_tokens), reverse=True)[:max_per_prompt]
    return Choice([chat_row(question, sample) for _, sample in best])


def kind_counts(texts: Sequence[str], signs: Mapping[str, Sequence[str]] = SIGNS) -> dict[str, int]:
    """How many of the texts show each kind."""
    shown = list(chain.from_iterable(kinds_shown(text, signs) for text in texts))
    return {kind: shown.count(kind) for kind in signs}
