"""Shortest rejection sampling (§2.4): of n answers, the shortest correct one becomes a row for SFT."""

from collections.abc import Sequence

from megatron_k15.prompts.question import Question
from megatron_k15.sampling.choosing import Choice, chat_row, correct_and_whole
from megatron_k15.sampling.samples import Sample

NUM_SAMPLES = 8
"""The report's n."""


def choose_shortest(question: Question, samples: Sequence[Sample]) -> Choice:
    correct = correct_and_whole(samples)
    return Choice([chat_row(question, correct[0])]) if correct else Choice(why_none="no correct answer")
