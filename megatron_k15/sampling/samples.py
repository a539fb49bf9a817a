"""Prompts asked and answers judged as an RL run judges them, resumable.

`samples.jsonl` grows by a line per prompt and purpose. A line holds for a prompt, a way of asking and a model: another
text, answer, temperature or model asks anew.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_k15.errors import DataError
from megatron_k15.json_lines import read_appended
from megatron_k15.prompts.question import Question
from megatron_k15.rewards.score import Scorer
from megatron_k15.sampling.answering import MAX_IN_FLIGHT, Answer, Answerer, AnsweringError, Ask
from megatron_k15.types import Prompt, Trajectory

SAMPLES = "samples.jsonl"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One judged answer."""

    text: str
    num_tokens: int
    is_whole: bool
    """False where it was cut off."""
    correct: bool


def as_it_is(text: str) -> str:
    return text


class Sampler:
    """`await samples(questions, ask, purpose)`; used in one event loop.

    Args:
        scorer: judges answers as an RL run does.
        path: where answers and verdicts are kept.
        say: told now and then how far it is.
    """

    def __init__(self, answerer: Answerer, scorer: Scorer, path: Path, say: Callable[[str], None]) -> None:
        self._answerer = answerer
        self._scorer = scorer
        self._path = path
        self._say = say
        self._room = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._known = _read(path)
        self.num_asked = 0
        """Prompts asked in this run: others were known."""

    async def samples(
        self, questions: Sequence[Question], ask: Ask, purpose: str, *, read: Callable[[str], str] = as_it_is
    ) -> list[tuple[Sample, ...] | None]:
        """`ask.num_answers` judged answers per question; None where nobody answered.

        Args:
            purpose: names the lines in the file.
            read: what of an answer's text is judged.

        Raises:
            RewardError: a judge could not be started.
        """
        done = [0]

        async def one(question: Question) -> tuple[Sample, ...] | None:
            key = _key(question, ask, self._answerer.name)
            if (purpose, key) not in self._known:
                async with self._room:
                    found = await self._ask(question, ask, read)
                if found is None:
                    return None
                self._record(question, purpose, key, found)
            done[0] += 1
            if done[0] % 50 == 0 or done[0] == len(questions):
                self._say(f"{purpose}: {done[0]} of {len(questions)} prompts")
            return self._known[purpose, key]

        return list(await asyncio.gather(*(one(question) for question in questions)))

    async def num_right(
        self, questions: Sequence[Question], ask: Ask, purpose: str, *, read: Callable[[str], str] = as_it_is
    ) -> list[int | None]:
        """How many of each question's answers were right; None where nobody answered."""
        found = await self.samples(questions, ask, purpose, read=read)
        return [None if samples is None else sum(sample.correct for sample in samples) for samples in found]

    async def _ask(self, question: Question, ask: Ask, read: Callable[[str], str]) -> tuple[Sample, ...] | None:
        try:
            answers = await self._answerer.answers(question, ask)
        except (AnsweringError, DataError) as error:
            self._say(f"{question.id}: not done: {error}")
            return None
        self.num_asked += 1
        texts = [read(answer.text) for answer in answers]
        group = await self._scorer.score(as_prompt(question), [_trajectory(question, text) for text in texts], 0)
        return tuple(_sample(*pair) for pair in zip(answers, (score.correct for score in group.scores), strict=True))

    def _record(self, question: Question, purpose: str, key: str, samples: tuple[Sample, ...]) -> None:
        self._known[purpose, key] = samples
        row = {"id": question.id, "purpose": purpose, "key": key, "samples": [asdict(one) for one in samples]}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _sample(answer: Answer, correct: bool) -> Sample:
    return Sample(text=answer.text, num_tokens=answer.num_tokens, is_whole=answer.is_whole, correct=correct)


def _read(path: Path) -> dict[tuple[str, str], tuple[Sample, ...]]:
    try:
        return {(row["purpose"], row["key"]): _samples_of(row) for row in read_appended(path)}
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} must hold samples of this program; {error!r}. Name another --output") from error


def _samples_of(row: Mapping[str, Any]) -> tuple[Sample, ...]:
    return tuple(Sample(**sample) for sample in row["samples"])


def _key(question: Question, ask: Ask, model: str) -> str:
    said: list[Any] = [question.text, question.answer, question.task, dict(question.metadata), asdict(ask), model]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def as_prompt(question: Question) -> Prompt:
    """All that a judge looks at."""
    return Prompt(
        id=question.id,
        token_ids=(0,),
        text=question.text,
        answer=question.answer,
        task=question.task,
        metadata=question.metadata,
    )


def _trajectory(question: Question, text: str) -> Trajectory:
    return Trajectory(
        prompt_id=question.id, sample_index=0, prompt_token_ids=(0,), segments=(), finish_reason="stop", text=text
    )
