"""`Question` → `Prompt`: the instruction, the chat template, token ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from megatron_k15.config import PromptConfig
from megatron_k15.errors import DataError
from megatron_k15.models.tokenizer import refuse_control_tokens
from megatron_k15.prompts.question import Message, Question
from megatron_k15.rows.problems import Problems
from megatron_k15.types import Prompt

BATCH = 1024


@dataclass(frozen=True, kw_only=True)
class PromptEncoder:
    """Args:
    tokenizer: a Hugging Face tokenizer.
    chat_template: apply its chat template; otherwise plain text with the special tokens it adds by default.
    """

    config: PromptConfig
    tokenizer: Any
    chat_template: bool

    def __post_init__(self) -> None:
        if self.chat_template and not getattr(self.tokenizer, "chat_template", None):
            raise DataError("model.chat_template is on, but the tokenizer has no chat template; set it to false")

    def encode(self, questions: Sequence[Question], problems: Problems) -> list[Prompt]:
        """Prompts in order; a question that cannot be encoded or is too long is noted and left out."""
        prompts = []
        for start in range(0, len(questions), BATCH):
            prompts += self._encode_batch(questions[start : start + BATCH], problems)
        return prompts

    def _encode_batch(self, questions: Sequence[Question], problems: Problems) -> list[Prompt]:
        readable = []
        for question in questions:
            try:
                readable.append((question, self._model_text(question)))
            except (DataError, TemplateError) as error:
                problems.add(question.where, str(error))
        if not readable:
            return []
        # The chat template writes the special tokens itself.
        special = {"add_special_tokens": False} if self.chat_template else {}
        ids = self.tokenizer([text for _, text in readable], **special)["input_ids"]
        prompts = []
        for (question, _), token_ids in zip(readable, ids, strict=True):
            if 0 < len(token_ids) <= self.config.max_prompt_tokens:
                prompts.append(_prompt(question, token_ids))
            else:
                problems.add(question.where, self._length_rule(len(token_ids)))
        return prompts

    def _length_rule(self, count: int) -> str:
        return (
            f"a prompt must have 1 to {self.config.max_prompt_tokens} tokens (prompts.max_prompt_tokens); got {count}"
        )

    def _model_text(self, question: Question) -> str:
        if not self.chat_template:
            if question.messages:
                raise DataError("`messages` need model.chat_template; use `prompt`, or turn the template on")
            return self._instruct(question.text)
        return self.tokenizer.apply_chat_template(self._chat(question), tokenize=False, add_generation_prompt=True)

    def _chat(self, question: Question) -> list[Message]:
        messages = question.messages or ({"role": "user", "content": question.text},)
        refuse_control_tokens(self.tokenizer, (message["content"] for message in messages))
        last = messages[-1]
        return [*messages[:-1], {"role": last["role"], "content": self._instruct(last["content"])}]

    def _instruct(self, text: str) -> str:
        # Not str.format: questions and instructions may hold braces of their own.
        return self.config.instruction.replace("{prompt}", text)


def _prompt(question: Question, token_ids: Sequence[int]) -> Prompt:
    return Prompt(
        id=question.id,
        token_ids=tuple(token_ids),
        text=question.text,
        answer=question.answer,
        task=question.task,
        tags=question.tags,
        difficulty=question.difficulty,
        metadata=question.metadata,
    )
