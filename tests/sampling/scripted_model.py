"""Questions, and a model whose answers are written down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from megatron_k15.prompts.question import Question
from megatron_k15.sampling.answering import Answer, AnsweringError, Ask


def question(text: str, answer: str = "7", identifier: str = "q", **more: object) -> Question:
    return Question(id=identifier, text=text, answer=answer, where=f"file:{identifier}", **more)  # type: ignore[arg-type]


@dataclass(kw_only=True)
class ScriptedModel:
    """Answers as written, in a circle; it knows a guess by its instruction. A word is a token, and so is the end."""

    reasoned: Mapping[str, Sequence[str]]
    """Prompt id → answers with reasoning."""
    guessed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    """Ids of prompts that get no answer."""
    name: str = "scripted"
    asked: list[tuple[str, Ask]] = field(default_factory=list)

    async def answers(self, question: Question, ask: Ask) -> Sequence[Answer]:
        self.asked.append((question.id, ask))
        if question.id in self.silent:
            raise AnsweringError("the line is dead")
        book = self.guessed if "Guess" in ask.instruction else self.reasoned
        lines = book.get(question.id, ["I do not know."])
        texts = [lines[index % len(lines)] for index in range(ask.num_answers)]
        return [Answer(text, len(text.split()) + 1, True) for text in texts]
