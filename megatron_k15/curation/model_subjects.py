"""Disciplines by a model: asked for one name of the list; the rules decide where its answer holds none."""

import asyncio
import re
from collections.abc import Callable, Sequence

from megatron_k15.curation.outcome import Candidate
from megatron_k15.curation.subjects import DOMAINS
from megatron_k15.errors import DataError
from megatron_k15.sampling.answering import Answerer, AnsweringError, Ask

INSTRUCTION = (
    "Which subject does the following problem belong to? Subjects: "
    + ", ".join(DOMAINS)
    + ".\n\nProblem:\n{prompt}\n\nAnswer with the name of one subject and nothing else."
)


async def model_disciplines(
    answerer: Answerer, candidates: Sequence[Candidate], say: Callable[[str], None]
) -> dict[str, str]:
    """Prompt id → discipline, for those where the model named one."""
    ask = Ask(instruction=INSTRUCTION, num_answers=1, temperature=0.0, max_tokens=16, seed=0)

    async def one(candidate: Candidate) -> tuple[str, str | None]:
        try:
            (answer,) = await answerer.answers(candidate.question, ask)
        except (AnsweringError, DataError) as error:
            say(f"{candidate.question.id}: subject left to the rules: {error}")
            return candidate.question.id, None
        return candidate.question.id, named_discipline(answer.text)

    named = await asyncio.gather(*(one(candidate) for candidate in candidates))
    return {identifier: discipline for identifier, discipline in named if discipline is not None}


def named_discipline(answer: str) -> str | None:
    """The one name of the list that an answer holds; None for none or several."""
    found = {name for name in DOMAINS if re.search(rf"\b{re.escape(name)}\b", answer.lower())}
    longest = {name for name in found if not any(name != other and name in other for other in found)}
    return longest.pop() if len(longest) == 1 else None
