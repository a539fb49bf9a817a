"""Rejection sampling for SFT (§2.5.2): different correct answers, a few per prompt."""

from collections.abc import Sequence

from megatron_k15.prompts.question import Question
from megatron_k15.sampling.choosing import Choice, chat_row
from megatron_k15.sampling.samples import Sample


def choose_correct(question: Question, samples: Sequence[Sample], *, max_per_prompt: int) -> Choice:
    """In the order in which they were sampled, so that no length is preferred."""
    correct = [sample for sample in samples if sample.correct and sample.is_whole]
    different = list({sample.text.strip(): sample for sample in reversed(correct)}.values())
    kept = sorted(different, key=correct.index)[:max_per_prompt]
    return Choice([chat_row(question, sample) for sample in kept]) if kept else Choice(why_none="no correct answer")
