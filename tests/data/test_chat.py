"""Which tokens of a chat are in the loss, exactly; and which chats are refused."""

from pathlib import Path
from typing import Any

import pytest

from megatron_k15.data.chat import ChatEncoder, read_messages
from megatron_k15.errors import DataError
from megatron_k15.models.package_model import resolve_model
from megatron_k15.models.tokenizer import load_tokenizer
from megatron_k15.rows.files import BadRowError
from tests.conftest import EOS, VOCAB_SIZE
from tests.data.chat_model import FORGETFUL, chat_model, turns


def _encoder(directory: Path, vocab_size: int = VOCAB_SIZE) -> ChatEncoder:
    return ChatEncoder(tokenizer=load_tokenizer(directory), vocab_size=vocab_size)


def test_the_loss_sees_what_the_assistant_says_and_its_end(tiny_model_dir: Path, tmp_path: Path) -> None:
    encoder = _encoder(chat_model(tiny_model_dir, tmp_path / "model"))
    encoded = encoder.encode([{"role": "system", "content": "Add."}, *turns("1+1", "2", "and 1?", "three")])
    text = encoder.tokenizer.decode(encoded.token_ids)
    assert text == "<system>Add.\n<user>1+1\n<assistant>2<eos>\n<user>and 1?\n<assistant>three<eos>\n"
    seen = [token for token, in_loss in zip(encoded.token_ids, encoded.loss_mask, strict=True) if in_loss]
    assert encoder.tokenizer.decode(seen) == "2<eos>three<eos>"
    assert seen.count(EOS) == 2
    # What stands before the first of them is what inference would see.
    first = encoded.loss_mask.index(True)
    assert encoded.token_ids[:first] == encoder.prompt([{"role": "system", "content": "Add."}, *turns("1+1")])


def test_a_real_template_and_its_merges() -> None:
    """ChatML with SmolLM2's tokenizer, whose tokens are longer than a character."""
    encoder = _encoder(resolve_model("package:smollm2-135m-instruct"), vocab_size=49152)
    encoded = encoder.encode(turns("What is 17 + 25?", "It is 42, since 17 + 25 = 42."))
    seen = [token for token, in_loss in zip(encoded.token_ids, encoded.loss_mask, strict=True) if in_loss]
    assert encoder.tokenizer.decode(seen) == "It is 42, since 17 + 25 = 42.<|im_end|>"


def test_a_template_that_forgets_is_refused_by_name(tiny_model_dir: Path, tmp_path: Path) -> None:
    encoder = _encoder(chat_model(tiny_model_dir, tmp_path / "forgetful", FORGETFUL))
    one = encoder.encode(turns("1+1", "easy</think>2"))
    assert sum(one.loss_mask) == len("easy</think>2") + 1
    with pytest.raises(BadRowError, match=r"chat template of .*forgetful must keep .* not at `messages`\[1\]"):
        encoder.encode(turns("1+1", "easy</think>2", "and 1?", "3"))


def test_a_model_without_a_template_is_refused(tiny_model_dir: Path) -> None:
    with pytest.raises(DataError, match="needs a chat template"):
        _encoder(tiny_model_dir)


@pytest.mark.parametrize(
    ("messages", "rule"),
    [
        (None, "at least one message; got NoneType"),
        ([], "at least one message; got an empty list"),
        (["hello"], r"`messages`\[0\] must be {role, content}"),
        ([{"role": "user"}], "with text as content"),
        ([{"role": "robot", "content": "hi"}], "role must be one of system, user, assistant, tool; got 'robot'"),
        ([{"role": "user", "content": "\ud800"}], "lone surrogate"),
        (turns("hello"), "must have an assistant turn"),
        (turns("Say <eos>.", "no"), "must not spell one of the tokenizer's control tokens; found '<eos>'"),
        (turns("1+1", "2<eos>\n<user>2+2"), "control tokens; found '<eos>'"),
    ],
)
def test_bad_chats_are_refused_with_their_rule(tiny_model_dir: Path, tmp_path: Path, messages: Any, rule: str) -> None:
    encoder = _encoder(chat_model(tiny_model_dir, tmp_path / "model"))
    with pytest.raises(BadRowError, match=rule):
        encoder.encode(read_messages(messages))


def test_a_token_outside_the_vocabulary_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    encoder = _encoder(chat_model(tiny_model_dir, tmp_path / "model"), vocab_size=EOS)
    with pytest.raises(BadRowError, match=f"below the model's vocabulary of {EOS}; the tokenizer gave {EOS}"):
        encoder.encode(turns("1+1", "2"))
