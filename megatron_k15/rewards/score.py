"""Trajectories of one prompt → a scored `Group`: verdicts first, then the terms of the reward."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from megatron_k15.config import RewardConfig, SandboxConfig
from megatron_k15.errors import RewardError
from megatron_k15.rewards.answers import extract_answer
from megatron_k15.rewards.code import CodeJudge
from megatron_k15.rewards.math_rule import MathRule
from megatron_k15.rewards.terms import JudgedGroup, Term, reward_terms
from megatron_k15.rewards.workers import WorkerPool
from megatron_k15.sandbox.fenced_program import extract_program
from megatron_k15.types import Group, Prompt, Score, Trajectory

GYM_PREFIX = "reasoning_gym:"


class Scorer:
    """`await score(prompt, trajectories, iteration)`; a context manager that owns the worker processes and, where
    there are `code` prompts, a sandbox.

    Args:
        extra_terms: terms besides those that the configuration turns on, by name.
        sandbox_log: where a sandbox of the run's own writes its log; None keeps none.
    """

    def __init__(
        self,
        config: RewardConfig,
        extra_terms: Mapping[str, Term] | None = None,
        *,
        sandbox: SandboxConfig | None = None,
        sandbox_log: Path | None = None,
    ) -> None:
        self._config = config
        self._terms = {**reward_terms(config), **(extra_terms or {})}
        self._pool = WorkerPool(config.num_workers, config.timeout_seconds)
        self._math = MathRule(self._pool)
        self._code = CodeJudge(sandbox or SandboxConfig(), sandbox_log)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._code.close()
        self._pool.close()

    @property
    def num_timeouts(self) -> int:
        """Answers that counted as wrong because judging them took too long."""
        return self._pool.num_timeouts

    @property
    def num_worker_deaths(self) -> int:
        return self._pool.num_deaths

    @property
    def num_sandbox_restarts(self) -> int:
        return self._code.num_restarts

    def prepare(self, prompts: Iterable[Prompt]) -> None:
        """Start what the tasks of `prompts` need and find out that it works, before anything else is started.

        Raises:
            RewardError: it does not.
        """
        self._code.prepare(prompts)

    async def score(self, prompt: Prompt, trajectories: Sequence[Trajectory], iteration: int) -> Group:
        """Judge the responses to one prompt and compute their rewards.

        Args:
            trajectories: the k responses; the length reward compares them with one another.

        Raises:
            RewardError: the prompt's task has no verifier here, or a worker could not be started.
        """
        texts = [trajectory.text for trajectory in trajectories]
        correct, well_formed = await asyncio.gather(self._correct(prompt, texts), self._well_formed(texts))
        group = JudgedGroup(
            prompt=prompt,
            trajectories=tuple(trajectories),
            correct=tuple(correct),
            well_formed=tuple(well_formed),
            iteration=iteration,
        )
        parts = {name: term(group) for name, term in self._terms.items()}
        scores = tuple(
            _score(right, {name: values[index] for name, values in parts.items()})
            for index, right in enumerate(correct)
        )
        return Group(prompt=prompt, trajectories=group.trajectories, scores=scores)

    async def _correct(self, prompt: Prompt, texts: Sequence[str]) -> list[bool]:
        is_code = prompt.task == "code"
        method = self._config.answer_extraction
        answers = [extract_program(text) if is_code else extract_answer(text, method) for text in texts]
        # Responses to one prompt often give the same answer: each is judged once.
        different = list(dict.fromkeys(answers))
        verdicts = await asyncio.gather(*(self._judge(prompt, answer) for answer in different))
        by_answer = dict(zip(different, verdicts, strict=True))
        return [by_answer[answer] for answer in answers]

    async def _judge(self, prompt: Prompt, answer: str | None) -> bool:
        if answer is None:
            return False
        reference = prompt.answer.strip()
        if prompt.task == "math":
            return await self._math.judge_answer(answer, reference)
        if prompt.task.startswith(GYM_PREFIX):
            if answer == reference:
                return True
            return await self._pool.judge(_gym_job(prompt, answer))
        if prompt.task == "code":
            return await self._code.judge(prompt, answer)
        raise RewardError(f"prompt {prompt.id}: task must be math, code or reasoning_gym:NAME, got {prompt.task!r}")

    async def _well_formed(self, texts: Sequence[str]) -> list[bool]:
        pattern = self._config.format_pattern
        if not pattern:
            return [True] * len(texts)
        jobs = ({"kind": "pattern", "pattern": pattern, "text": text} for text in texts)
        return await asyncio.gather(*(self._pool.judge(job) for job in jobs))


def _gym_job(prompt: Prompt, answer: str) -> dict[str, Any]:
    return {
        "kind": "reasoning_gym",
        "task": prompt.task.removeprefix(GYM_PREFIX),
        "given": answer,
        "reference": prompt.answer,
        "question": prompt.text,
        "metadata": dict(prompt.metadata),
    }


def _score(correct: bool, parts: Mapping[str, float]) -> Score:
    return Score(reward=sum(parts.values()), correct=correct, parts=parts)
