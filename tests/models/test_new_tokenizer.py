import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from megatron_k15.errors import DataError
from megatron_k15.models.new_tokenizer import copy_tokenizer, train_tokenizer
from tools import train_tokenizer as tool

LINES = [f"Add a{n} b{n + 1}. \\boxed{{{2 * n + 1}}}" for n in range(200)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(LINES, directory, vocab_size=300)
    return directory


def test_any_text_comes_back_and_digits_stand_alone(directory: Path):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    for text in ("Add a17 b18.", "  two  spaces\n\ttab", "\u00fc \u6570 \U0001f600", "never seen: ~^|"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == text
    pieces = tokenizer.tokenize("Add a1234.")
    assert pieces[-5:] == ["1", "2", "3", "4", "."]
    assert tokenizer.tokenize("Add a1. \\boxed{")[-1] == "\u2581\\boxed{"  # frequent, so one token


def test_chats_and_their_ends(directory: Path):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    chat = [{"role": "user", "content": "Add a1."}, {"role": "assistant", "content": "1"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert text == "<|user|>Add a1.<|assistant|>1</s>"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.convert_tokens_to_ids("<|user|>") == ids[0]


def test_it_equals_sentencepiece_on_its_own_text(directory: Path, tmp_path: Path):
    """What transformers loads cuts as the library cuts that learned it."""
    import sentencepiece

    prefix = tmp_path / "own"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_prefix=str(prefix),
        model_type="bpe",
        vocab_size=300,
        hard_vocab_limit=False,
        user_defined_symbols=["<|user|>", "<|assistant|>"],
        pad_id=3,
        byte_fallback=True,
        split_digits=True,
        split_by_unicode_script=False,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    reference = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    for line in [*LINES, "<|user|>Add c5 \u6570<|assistant|>"]:
        assert tokenizer.encode(line, add_special_tokens=False) == reference.encode(line)


def test_what_cannot_be_learned_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="more than 262 tokens"):
        train_tokenizer(LINES, tmp_path / "small", vocab_size=262)
    with pytest.raises(DataError, match="cannot learn"):
        train_tokenizer([], tmp_path / "none", vocab_size=300)


def test_the_tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": line}) + "\n" for line in LINES))
    output = tmp_path / "out"
    command = [str(rows), "--vocab-size", "300", "--output", str(output)]
    assert tool.main(command) == 0
    assert "tokens" in capsys.readouterr().out
    assert tool.main(command) == 1
    assert "must be a new directory" in capsys.readouterr().err
    (tmp_path / "model").mkdir()
    copy_tokenizer(output, tmp_path / "model")
    assert AutoTokenizer.from_pretrained(tmp_path / "model").eos_token == "</s>"
    rows.write_text('{"text": 3}\n')
    assert tool.main([str(rows), "--vocab-size", "300", "--output", str(tmp_path / "new")]) == 1
    assert "line 1" in capsys.readouterr().err
