"""The steps of curation in their order: cheap ones first, so that a model answers only what is left (§2.1).

valid → unique → can be evaluated → tagged → not trivial → not easy to hack → balanced
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from megatron_k15.curation.balance import balance
from megatron_k15.curation.duplicates import drop_duplicates
from megatron_k15.curation.guesses import boxed_guess
from megatron_k15.curation.model_subjects import model_disciplines
from megatron_k15.curation.outcome import Candidate, Curated
from megatron_k15.curation.question_kinds import check_kind
from megatron_k15.curation.settings import CurationSettings
from megatron_k15.curation.subjects import tag_subject
from megatron_k15.curation.validity import check_validity
from megatron_k15.prompts.question import Question
from megatron_k15.sampling.answering import Answerer, Ask
from megatron_k15.sampling.samples import Sampler


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """`await run(questions, …)`.

    Args:
        sampler: asks and judges; None leaves out difficulty and guesses.
        subjects_by: tags disciplines; None tags by rules.
        say: told what goes on.
    """

    settings: CurationSettings
    sampler: Sampler | None
    subjects_by: Answerer | None = None
    say: Callable[[str], None] = lambda text: None

    async def run(
        self, questions: Sequence[Question], evaluation: Sequence[Question], bad_rows: Sequence[str] = ()
    ) -> Curated:
        """Args:
        evaluation: prompts that must not be in the result.

        Raises:
            RewardError: answers could not be judged.
        """
        settings = self.settings
        candidates = [check_validity(Candidate(question=question), settings) for question in questions]
        candidates = drop_duplicates(candidates, evaluation, settings)
        candidates = [check_kind(one, settings) if one.is_in else one for one in candidates]
        candidates = await self._tagged(candidates)
        num_open = 0
        if self.sampler is not None:
            candidates = await self._with_difficulty(self.sampler, candidates)
            candidates = await self._with_guesses(self.sampler, candidates)
            num_open = sum(one.is_in and (one.pass_rate is None or self._lacks_guesses(one)) for one in candidates)
        if num_open == 0:
            candidates = balance(candidates, settings)
        return Curated(candidates=tuple(candidates), bad_rows=tuple(bad_rows), num_open=num_open)

    async def _tagged(self, candidates: list[Candidate]) -> list[Candidate]:
        said: dict[str, str] = {}
        if self.subjects_by is not None:
            said = await model_disciplines(self.subjects_by, [one for one in candidates if one.is_in], self.say)
        return [tag_subject(candidate, said.get(candidate.question.id)) for candidate in candidates]

    async def _with_difficulty(self, sampler: Sampler, candidates: list[Candidate]) -> list[Candidate]:
        known: dict[str, int | None] = {}
        for instruction, is_code in ((self.settings.reason_instruction, False), (self.settings.code_instruction, True)):
            asked = [one.question for one in candidates if one.is_in and (one.question.task == "code") == is_code]
            counts = await sampler.num_right(asked, self._difficulty_ask(instruction), "difficulty")
            known |= {question.id: count for question, count in zip(asked, counts, strict=True)}
        return [self._rated(one, known.get(one.question.id)) if one.is_in else one for one in candidates]

    def _difficulty_ask(self, instruction: str) -> Ask:
        settings = self.settings
        return Ask(
            instruction=instruction,
            num_answers=settings.num_difficulty_samples,
            temperature=settings.difficulty_temperature,
            max_tokens=settings.max_reasoning_tokens,
            seed=settings.seed,
        )

    def _rated(self, candidate: Candidate, num_right: int | None) -> Candidate:
        if num_right is None:
            return candidate
        settings = self.settings
        rate = num_right / settings.num_difficulty_samples
        question = replace(candidate.question, difficulty=round(1 - rate, 4))
        rated = replace(candidate, question=question, pass_rate=rate)
        if rate > settings.max_pass_rate:
            return rated.dropped("trivial", f"{num_right} of {settings.num_difficulty_samples} answers were right")
        if rate < settings.min_pass_rate:
            return rated.dropped("too_hard", f"{num_right} of {settings.num_difficulty_samples} answers were right")
        return rated

    async def _with_guesses(self, sampler: Sampler, candidates: list[Candidate]) -> list[Candidate]:
        settings = self.settings
        ask = Ask(
            instruction=settings.guess_instruction,
            num_answers=settings.num_guesses,
            temperature=settings.guess_temperature,
            max_tokens=settings.max_guess_tokens,
            seed=settings.seed + 1,
        )
        present = [one for one in candidates if one.is_in and self._lacks_guesses(one)]
        counts = await sampler.num_right([one.question for one in present], ask, "guess", read=boxed_guess)
        known = {one.question.id: count for one, count in zip(present, counts, strict=True)}
        return [self._guessed(one, known.get(one.question.id)) for one in candidates]

    def _lacks_guesses(self, candidate: Candidate) -> bool:
        """A program cannot be guessed: `code` prompts are not tried."""
        return candidate.question.task != "code" and candidate.num_right_guesses is None

    def _guessed(self, candidate: Candidate, num_right: int | None) -> Candidate:
        if num_right is None:
            return candidate
        guessed = replace(candidate, num_right_guesses=num_right)
        if num_right <= self.settings.max_right_guesses:
            return guessed
        detail = f"{num_right} of {self.settings.num_guesses} guesses without reasoning were right"
        return guessed.dropped("easy_to_hack", detail)
