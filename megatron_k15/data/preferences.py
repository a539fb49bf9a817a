"""A row with a chosen and a rejected answer → two chats that part at the last turn, which alone is in the loss."""

from typing import Any

from megatron_k15.data.chat import ChatEncoder, Message, read_messages
from megatron_k15.data.encoded import Encoded
from megatron_k15.rows.files import BadRowError, encodable


def encode_pair(row: dict[str, Any], encoder: ChatEncoder) -> list[Encoded]:
    """[chosen, rejected].

    Raises:
        BadRowError: a field is missing or wrong, or both answers are the same.
    """
    question = _question(row)
    chosen, rejected = (_answer(row.get(name), name) for name in ("chosen", "rejected"))
    if chosen == rejected:
        raise BadRowError("`chosen` and `rejected` must differ; they are the same")
    return [
        encoder.encode([*question, {"role": "assistant", "content": answer}], only_last=True)
        for answer in (chosen, rejected)
    ]


def _question(row: dict[str, Any]) -> list[Message]:
    if (row.get("prompt") is None) == (row.get("messages") is None):
        raise BadRowError("must have either `prompt` or `messages`")
    if row.get("messages") is not None:
        messages = read_messages(row["messages"])
        if messages[-1]["role"] == "assistant":
            raise BadRowError("`messages` must end before the assistant's turn, which `chosen` and `rejected` are")
        return messages
    return [{"role": "user", "content": _answer(row["prompt"], "prompt")}]


def _answer(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise BadRowError(f"`{name}` must be a text that is not empty; got {value!r}")
    return encodable(value, name)
