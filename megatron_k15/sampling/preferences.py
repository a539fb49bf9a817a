"""Preference pairs for DPO (§2.4): the shortest correct answer is chosen; rejected are longer answers that are wrong,
and correct ones that are 1.5 times as long or longer."""

from collections.abc import Sequence

from megatron_k15.prompts.question import Question
from megatron_k15.sampling.choosing import Choice, Row, correct_and_whole
from megatron_k15.sampling.samples import Sample

LENGTH_RATIO = 1.5


def choose_preferences(
    question: Question, samples: Sequence[Sample], *, length_ratio: float = LENGTH_RATIO, max_pairs: int | None = None
) -> Choice:
    """
    Args:
        length_ratio: from so many times the chosen one's tokens on a correct answer is rejected.
        max_pairs: per prompt; the longest of the rejected ones stay.
    """
    correct = correct_and_whole(samples)
    if not correct:
        return Choice(why_none="no correct answer")
    chosen = correct[0]
    rejected = {
        sample.text: sample
        for sample in sorted(samples, key=lambda sample: -sample.num_tokens)
        if _is_worse(sample, chosen, length_ratio)
    }
    if not rejected:
        return Choice(why_none="no answer that is longer and wrong, or much longer")
    return Choice([_row(question, chosen, sample) for sample in list(rejected.values())[:max_pairs]])


def _is_worse(sample: Sample, chosen: Sample, length_ratio: float) -> bool:
    if sample.correct:
        return sample.num_tokens >= length_ratio * chosen.num_tokens
    return sample.num_tokens > chosen.num_tokens


def _row(question: Question, chosen: Sample, rejected: Sample) -> Row:
    asked = {"messages": list(question.messages)} if question.messages else {"prompt": question.text}
    return {"id": question.id, **asked, "chosen": chosen.text, "rejected": rejected.text}
