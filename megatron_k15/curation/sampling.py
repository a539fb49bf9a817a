"""Prompts asked and answers judged, resumable: difficulty by pass rate, and guesses without reasoning (§2.1).

`samples.jsonl` grows by a line per prompt and purpose. A line holds for a prompt, a way of asking and a model: another
text, answer, temperature or model asks anew.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_k15.curation.answering import MAX_IN_FLIGHT, Answerer, AnsweringError, Ask
from megatron_k15.errors import DataError
from megatron_k15.json_lines import read_appended
from megatron_k15.prompts.question import Question
from megatron_k15.rewards.answers import extract_answer
from megatron_k15.rewards.score import Scorer
from megatron_k15.types import Prompt, Trajectory

SAMPLES = "samples.jsonl"
MAX_GUESS_CHARACTERS = 200


class Sampler:
    """`await num_right(questions, ask, purpose)`; used in one event loop.

    Args:
        scorer: judges answers as an RL run does.
        path: where verdicts are kept.
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

    async def num_right(self, questions: Sequence[Question], ask: Ask, purpose: str) -> list[int | None]:
        """How many of `ask.num_answers` were right, per question; None where nobody answered.

        Args:
            purpose: `difficulty`, or `guess`, which takes a bare short answer for one in a box.

        Raises:
            RewardError: a judge could not be started.
        """
        done = [0]

        async def one(question: Question) -> int | None:
            key = _key(question, ask, self._answerer.name)
            if (purpose, key) not in self._known:
                async with self._room:
                    right = await self._ask(question, ask, purpose)
                if right is None:
                    return None
                self._record(question, purpose, key, right)
            done[0] += 1
            if done[0] % 50 == 0 or done[0] == len(questions):
                self._say(f"{purpose}: {done[0]} of {len(questions)} prompts")
            return sum(self._known[purpose, key])

        return list(await asyncio.gather(*(one(question) for question in questions)))

    async def _ask(self, question: Question, ask: Ask, purpose: str) -> list[bool] | None:
        try:
            texts = await self._answerer.answers(question, ask)
        except (AnsweringError, DataError) as error:
            self._say(f"{question.id}: not done: {error}")
            return None
        self.num_asked += 1
        if purpose == "guess":
            texts = [_boxed_guess(text) for text in texts]
        group = await self._scorer.score(_prompt(question), [_trajectory(question, text) for text in texts], 0)
        return [score.correct for score in group.scores]

    def _record(self, question: Question, purpose: str, key: str, right: list[bool]) -> None:
        self._known[purpose, key] = right
        row = {"id": question.id, "purpose": purpose, "key": key, "right": right}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _read(path: Path) -> dict[tuple[str, str], list[bool]]:
    try:
        return {(row["purpose"], row["key"]): list(row["right"]) for row in read_appended(path)}
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} must hold samples of this program; {error!r}. Name another --output") from error


def _key(question: Question, ask: Ask, model: str) -> str:
    said: list[Any] = [question.text, question.answer, question.task, dict(question.metadata), asdict(ask), model]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def _boxed_guess(text: str) -> str:
    """A model told not to explain may leave out the box too: a short answer is then all of it."""
    bare = text.strip()
    if extract_answer(bare, "boxed") is None and 0 < len(bare) <= MAX_GUESS_CHARACTERS:
        first_line = bare.splitlines()[0].removeprefix("Answer:").strip(" .")
        return f"\\boxed{{{first_line}}}"
    return bare


def _prompt(question: Question) -> Prompt:
    return Prompt(
        id=question.id,
        token_ids=(0,),
        text=question.text,
        answer=question.answer,
        task=question.task,
        metadata=question.metadata,
    )


def _trajectory(question: Question, text: str) -> Trajectory:
    """All that a judge looks at."""
    return Trajectory(
        prompt_id=question.id, sample_index=0, prompt_token_ids=(0,), segments=(), finish_reason="stop", text=text
    )
