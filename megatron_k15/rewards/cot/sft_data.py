"""Training data for the judging model: chats in the `messages` format, in exactly the form it is asked in (§2.3.5 names
about 800k labelled examples)."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from megatron_k15.json_lines import write_whole
from megatron_k15.rewards.cot.prompt import messages
from megatron_k15.rewards.verdicts import AnswerPair


@dataclass(frozen=True, kw_only=True)
class JudgedExample:
    pair: AnswerPair
    correct: bool
    reasoning: str
    """The steps that lead to the verdict: a person's, or a larger model's whose verdict was the label."""


def write_sft_examples(path: Path, examples: Iterable[JudgedExample], *, max_response_characters: int) -> None:
    """One line per example, {"messages": [user, assistant]}; the assistant's turn is what `read_verdict` reads."""
    write_whole(
        path,
        (
            {
                "messages": [
                    *messages(example.pair, max_response_characters=max_response_characters),
                    {
                        "role": "assistant",
                        "content": json.dumps(
                            {"reasoning": example.reasoning, "correct": example.correct}, ensure_ascii=False
                        ),
                    },
                ]
            }
            for example in examples
        ),
    )
