"""A tokenizer of one's own: sentencepiece learns it, transformers and vLLM load it.

text files → sentencepiece (byte-pair encoding) → tokenizer.json, tokenizer_config.json, chat_template.jinja
"""

import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece
from transformers import AutoTokenizer, LlamaTokenizer

from megatron_k15.errors import DataError

BOS, EOS, UNK, PAD = "<s>", "</s>", "<unk>", "<pad>"

NUM_BYTES = 256
"""Pieces that stand for single bytes: no text is beyond the tokenizer."""

USER, ASSISTANT = "<|user|>", "<|assistant|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""Each turn behind its role's token; the assistant's ends with the end-of-sequence token."""


def train_tokenizer(
    lines: Iterable[str],
    directory: Path,
    *,
    vocab_size: int,
    special_tokens: Sequence[str] = (USER, ASSISTANT),
    chat_template: str = CHAT_TEMPLATE,
) -> int:
    """Learn it and write it to a new directory; returns how many tokens it has.

    Digits stand alone, so that a number's tokens are its digits. Spaces and line breaks are kept as they are.

    Args:
        vocab_size: at most; a small text holds fewer pieces.
        special_tokens: never split. They show in decoded text.

    Raises:
        DataError: no text, or no room for the bytes and special tokens.
    """
    reserved = NUM_BYTES + 4 + len(special_tokens)
    if vocab_size <= reserved:
        raise DataError(
            f"the vocabulary must have more than {reserved} tokens, for bytes and special tokens; got {vocab_size}"
        )
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        model = Path(scratch, "tokenizer.model")
        _train(lines, model, vocab_size=vocab_size, special_tokens=special_tokens)
        settings = {
            "tokenizer_class": "LlamaTokenizer",
            "add_prefix_space": False,
            "bos_token": BOS,
            "eos_token": EOS,
            "unk_token": UNK,
            "pad_token": PAD,
        }
        Path(scratch, "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        tokenizer = LlamaTokenizer.from_pretrained(scratch)
        tokenizer.chat_template = chat_template
        tokenizer.save_pretrained(directory)
    _check(directory, special_tokens)
    return len(tokenizer)


def _train(lines: Iterable[str], model: Path, *, vocab_size: int, special_tokens: Sequence[str]) -> None:
    with model.open("wb") as file:
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=file,
                model_type="bpe",
                vocab_size=vocab_size,
                hard_vocab_limit=False,
                user_defined_symbols=list(special_tokens),
                unk_id=0,
                bos_id=1,
                eos_id=2,
                pad_id=3,
                byte_fallback=True,
                split_digits=True,
                # Words may hold any signs: `\boxed{` becomes one token where it is frequent.
                split_by_unicode_script=False,
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                normalization_rule_name="identity",
                minloglevel=1,
            )
        except (OSError, RuntimeError) as error:
            raise DataError(f"sentencepiece cannot learn a tokenizer from these texts: {error}") from error


def _check(directory: Path, special_tokens: Sequence[str]) -> None:
    """What transformers loads gives back any text."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    for text in ("12+30 = 42.\n  {x}", "ü 数 \\boxed{7}", *special_tokens):
        found = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False))
        if found != text:
            raise DataError(f"the tokenizer in {directory} must give back any text; {text!r} came back as {found!r}")


def copy_tokenizer(source: Path, target: Path) -> None:
    """The tokenizer's files, for a model directory."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(source / name, target / name)
