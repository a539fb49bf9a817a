"""What to keep of a prompt's answers: rows of training data, or the reason why there are none."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from megatron_k15.prompts.question import Question
from megatron_k15.sampling.samples import Sample

Row = Mapping[str, Any]


class Choice(NamedTuple):
    rows: Sequence[Row] = ()
    why_none: str = ""
    """Where there are no rows: a few words, the same for all prompts that it holds for."""


Choose = Callable[[Question, Sequence[Sample]], Choice]


def correct_and_whole(samples: Sequence[Sample]) -> list[Sample]:
    """The shortest first; of the same text the first, whose number of tokens is any's."""
    found: dict[str, Sample] = {}
    for sample in sorted(samples, key=lambda sample: sample.num_tokens):
        if sample.correct and sample.is_whole:
            found.setdefault(sample.text.strip(), sample)
    return list(found.values())


def chat_row(question: Question, sample: Sample) -> Row:
    """As train_sft takes it: the plain question, whatever instruction it was asked with, and the answer."""
    asked = [dict(message) for message in question.messages] or [{"role": "user", "content": question.text}]
    return {"messages": [*asked, {"role": "assistant", "content": sample.text}], "id": question.id}
