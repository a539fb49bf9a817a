"""Chats → tokens, the assistant's among them marked (§2.5.2).

A turn's span is exact, since it is found in tokens: what inference sees before the turn (the chat so far, with the
template's generation prompt) and the chat with the turn must be prefixes of the whole chat, token by token.

    user ─┐                 assistant ─┐
    <|im_start|>user … <|im_start|>assistant\n 4<|im_end|> \n
    in the loss:                               ~~~~~~~~~~~

A turn ends with the end-of-sequence token where it has one: what a template writes behind it nobody has to predict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from megatron_k15.data.encoded import Encoded
from megatron_k15.errors import DataError
from megatron_k15.models.tokenizer import refuse_control_tokens
from megatron_k15.rows.files import BadRowError, encodable

ROLES = ("system", "user", "assistant", "tool")

Message = Mapping[str, str]


def read_messages(value: Any, *, field: str = "messages") -> list[Message]:
    """
    Raises:
        BadRowError: no list of {role, content} texts, an empty one, or an unknown role.
    """
    if not isinstance(value, list) or not value:
        raise BadRowError(f"`{field}` must be a list of at least one message; got {_shown(value)}")
    messages: list[Message] = []
    for number, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise BadRowError(f"`{field}`[{number}] must be {{role, content}} with text as content")
        if message.get("role") not in ROLES:
            raise BadRowError(
                f"`{field}`[{number}]: role must be one of {', '.join(ROLES)}; got {message.get('role')!r}"
            )
        messages.append({"role": message["role"], "content": encodable(message["content"], field)})
    return messages


@dataclass(frozen=True, kw_only=True)
class ChatEncoder:
    """Args:
    tokenizer: a Hugging Face tokenizer with a chat template.
    vocab_size: of the model.
    """

    tokenizer: Any
    vocab_size: int

    def __post_init__(self) -> None:
        if not getattr(self.tokenizer, "chat_template", None):
            raise DataError(
                "training on chats needs a chat template; the model's tokenizer has none: add a chat_template.jinja to "
                "its directory"
            )

    def encode(self, messages: Sequence[Message], *, only_last: bool = False) -> Encoded:
        """The chat, every assistant turn in the loss, or the last one alone.

        Raises:
            BadRowError: no assistant turn, or a chat that the template or the vocabulary does not take.
        """
        turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        if not turns:
            raise BadRowError("a chat must have an assistant turn, for the loss; it has none")
        try:
            refuse_control_tokens(self.tokenizer, (message["content"] for message in messages))
        except DataError as error:
            raise BadRowError(str(error)) from error
        whole = self._tokens(messages)
        mask = [False] * len(whole)
        for number in turns[-1:] if only_last else turns:
            before = self._prefix(messages[:number], whole, number, generation_prompt=True)
            after = self._prefix(messages[: number + 1], whole, number)
            for position in range(before, self._end_of_turn(whole, before, after)):
                mask[position] = True
        mask[0] = False
        return Encoded(token_ids=whole, loss_mask=tuple(mask))

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """What inference sees before the assistant's turn that follows `messages`."""
        return self._tokens(messages, generation_prompt=True)

    def _end_of_turn(self, whole: tuple[int, ...], start: int, end: int) -> int:
        """Just behind the last end-of-sequence token in [start, end), else `end`."""
        for position in reversed(range(start, end)):
            if whole[position] == self.tokenizer.eos_token_id:
                return position + 1
        return end

    def _prefix(
        self, messages: Sequence[Message], whole: tuple[int, ...], turn: int, *, generation_prompt: bool = False
    ) -> int:
        """How many tokens `messages` are, which must be the first of `whole`."""
        tokens = self._tokens(messages, generation_prompt=generation_prompt)
        if whole[: len(tokens)] != tokens:
            raise BadRowError(
                f"the chat template of {self.tokenizer.name_or_path or 'the tokenizer'} must keep what it wrote when "
                f"the chat goes on, token by token; it does not at `messages`[{turn}] (templates that drop earlier "
                "thoughts do this: split such chats, or give the model a template that keeps them)"
            )
        return len(tokens)

    def _tokens(self, messages: Sequence[Message], *, generation_prompt: bool = False) -> tuple[int, ...]:
        if not messages and not generation_prompt:
            return ()
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=generation_prompt
            )
        except (TemplateError, IndexError, TypeError) as error:
            raise BadRowError(f"the chat template refuses it: {error}") from error
        # The template writes the special tokens itself.
        tokens = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return within_vocabulary(tokens, self.vocab_size)


def within_vocabulary(tokens: tuple[int, ...], vocab_size: int) -> tuple[int, ...]:
    """`tokens`, all of which the model knows.

    Raises:
        BadRowError: one of them it does not.
    """
    largest = max(tokens, default=0)
    if largest >= vocab_size:
        raise BadRowError(
            f"token ids must be below the model's vocabulary of {vocab_size}; the tokenizer gave {largest}: it is not "
            "this model's"
        )
    return tokens


def _shown(value: Any) -> str:
    return "an empty list" if value == [] else type(value).__name__
