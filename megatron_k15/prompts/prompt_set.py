"""The prompts of a run: what is trained on, and what is held out. No question is in both.

The held-out set is made first; training leaves out every text of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from megatron_k15.config import EvaluationConfig, PromptConfig
from megatron_k15.errors import ConfigError, DataError
from megatron_k15.prompts.files import read_files
from megatron_k15.prompts.gym import draws
from megatron_k15.prompts.question import Question
from megatron_k15.prompts.tokenization import PromptEncoder
from megatron_k15.rows.problems import Problems
from megatron_k15.types import Prompt

MIN_DRAWS = 1000
DRAWS_PER_PROMPT = 20
"""A reasoning-gym task may repeat itself: how often to draw before its range counts as too small."""


@dataclass(frozen=True)
class PromptSets:
    train: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]


def load_prompt_sets(
    config: PromptConfig, evaluation: EvaluationConfig, *, tokenizer: Any, chat_template: bool, seed: int
) -> PromptSets:
    """Read, check and tokenize every prompt of a run; the same arguments give the same sets.

    Args:
        tokenizer: a Hugging Face tokenizer.
        seed: the run's; reasoning-gym questions follow from it.

    Raises:
        DataError: bad lines (all at once, ten shown), an unreadable file, a task that gives too few different
            questions, a held-out file with too few.
        ConfigError: no source of prompts, or none for the held-out set.
    """
    _check_sources(config, evaluation)
    loader = _Loader(
        config=config,
        problems=Problems(mode=config.bad_lines),
        encoder=PromptEncoder(config=config, tokenizer=tokenizer, chat_template=chat_template),
        seed=seed,
    )
    held_out = loader.held_out(evaluation)
    train = loader.train()
    loader.problems.settle()
    if not train:
        raise DataError("prompts: no training prompt is left")
    if len(held_out) < evaluation.num_prompts:
        raise DataError(
            f"evaluation.num_prompts asks for {evaluation.num_prompts} held-out prompts; "
            f"evaluation.files hold {len(held_out)}"
        )
    return PromptSets(tuple(train), tuple(held_out))


def _check_sources(config: PromptConfig, evaluation: EvaluationConfig) -> None:
    if not config.files and not config.reasoning_gym:
        raise ConfigError("prompts.files or prompts.reasoning_gym must name a source of prompts; both are empty")
    if evaluation.num_prompts and not evaluation.files and not config.reasoning_gym:
        raise ConfigError(
            f"evaluation.num_prompts is {evaluation.num_prompts}: name held-out prompts in evaluation.files, "
            "or set it to 0 (only reasoning-gym tasks can be held out by themselves)"
        )


@dataclass(kw_only=True)
class _Loader:
    config: PromptConfig
    problems: Problems
    encoder: PromptEncoder
    seed: int
    held_out_keys: set[str] = field(default_factory=set)
    where_of_id: dict[str, str] = field(default_factory=dict)

    def held_out(self, evaluation: EvaluationConfig) -> list[Prompt]:
        if not evaluation.num_prompts:
            return []
        if evaluation.files:
            questions = self._distinct_ids(read_files(evaluation.files, self.problems))
            # The whole file is kept out of training, also what num_prompts leaves unused.
            self.held_out_keys = {question.key for question in questions}
            return self.encoder.encode(questions, self.problems)[: evaluation.num_prompts]
        base, extra = divmod(evaluation.num_prompts, len(self.config.reasoning_gym))
        prompts = []
        for index, task in enumerate(self.config.reasoning_gym):
            prompts += self._draw(task, base + (index < extra), split="held_out", taken=self.held_out_keys)
        return prompts

    def train(self) -> list[Prompt]:
        questions = self._distinct_ids(read_files(self.config.files, self.problems))
        prompts = self.encoder.encode(self._not_held_out(questions), self.problems)
        taken = {*self.held_out_keys, *(question.key for question in questions)}
        for task in self.config.reasoning_gym:
            prompts += self._draw(task, self.config.num_train, split="train", taken=taken)
        return prompts

    def _distinct_ids(self, questions: Iterable[Question]) -> list[Question]:
        kept = []
        for question in questions:
            first = self.where_of_id.setdefault(question.id, question.where)
            if first == question.where:
                kept.append(question)
            else:
                self.problems.add(question.where, f"`id` must be unique; {question.id!r} is also at {first}")
        return kept

    def _not_held_out(self, questions: Iterable[Question]) -> list[Question]:
        kept = []
        for question in questions:
            if question.key in self.held_out_keys:
                self.problems.add(question.where, "a training prompt must not ask a held-out question; this one does")
            else:
                kept.append(question)
        return kept

    def _draw(self, task: str, count: int, *, split: str, taken: set[str]) -> list[Prompt]:
        """`count` prompts of a task whose texts are not in `taken`; their texts are added to it."""
        limit = MIN_DRAWS + DRAWS_PER_PROMPT * count
        settings = self.config.reasoning_gym[task]
        questions = draws(task, settings, split=split, seed=self.seed, limit=limit)
        prompts: list[Prompt] = []
        while len(prompts) < count:
            chunk = list(islice(questions, count - len(prompts)))
            if not chunk:
                raise DataError(
                    f"prompts.reasoning_gym.{task}: {count} different {split} questions are asked for, but "
                    f"{limit} draws gave {len(prompts)}; widen the task's settings, or lower "
                    + ("prompts.num_train" if split == "train" else "evaluation.num_prompts")
                )
            fresh = [question for question in chunk if _newly_added(question.key, taken)]
            prompts += self.encoder.encode(self._distinct_ids(fresh), self.problems)
            if self.config.bad_lines == "error":
                # A task can go on for ever making questions that are too long.
                self.problems.settle()
        return prompts


def _newly_added(key: str, keys: set[str]) -> bool:
    if key in keys:
        return False
    keys.add(key)
    return True
