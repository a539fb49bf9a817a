"""The judge over HTTP, and its training data."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from megatron_k15.config import RewardModelConfig
from megatron_k15.errors import EngineError
from megatron_k15.reward_parts import open_judge
from megatron_k15.rewards.cot.prompt import messages
from megatron_k15.rewards.cot.servers import EndpointChat, chat_text
from megatron_k15.rewards.cot.sft_data import JudgedExample, write_sft_examples
from megatron_k15.rewards.cot.verdict import read_verdict
from megatron_k15.rewards.verdicts import AnswerPair
from tests.documents import code_blocks, run_shown
from tests.rewards.cot.chat_server import chat_server

PAIR = AnswerPair(question="1 + 1?", reference="2", given="two")


def test_an_endpoint_is_asked_with_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K15_REWARD_MODEL_TOKEN", "secret")
    seen: list[dict[str, Any]] = []

    async def judge(address: str) -> list[bool | None]:
        config = RewardModelConfig(kind="cot", address=address, served_name="judge")
        async with open_judge(config, tmp_path) as source:
            return list(await source.judge([PAIR]))

    with chat_server(seen) as address:
        assert asyncio.run(judge(address)) == [True]
    (asked,) = seen
    assert (asked["path"], asked["model"], asked["authorization"]) == ("/v1/chat/completions", "judge", "Bearer secret")
    assert asked["messages"] == messages(PAIR, max_response_characters=6000)


def test_an_endpoint_that_is_not_there_is_an_error_of_its_own_kind() -> None:
    chat = EndpointChat("http://127.0.0.1:9", served_name="x", token_variable="NONE")
    with pytest.raises(EngineError, match="did not answer"):
        asyncio.run(chat.chat({"messages": []}, 2.0))


@pytest.mark.parametrize("answer", [None, {}, {"choices": []}, {"choices": [{"message": {"content": None}}]}])
def test_an_answer_without_text_is_refused(answer: object) -> None:
    with pytest.raises(ValueError, match=r"no (message|text)"):
        chat_text(answer)


def test_training_examples_are_what_is_asked_and_what_is_read(tmp_path: Path) -> None:
    said = {True: '"two" is 2', False: "ü"}
    examples = [JudgedExample(pair=PAIR, correct=correct, reasoning=text) for correct, text in said.items()]
    write_sft_examples(tmp_path / "train.jsonl", examples, max_response_characters=100)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    for row, example in zip(rows, examples, strict=True):
        user, assistant = row["messages"]
        assert [user] == messages(PAIR, max_response_characters=100)
        assert read_verdict(assistant["content"]) is example.correct


def test_the_shown_command_puts_the_judge_beside_the_rule() -> None:
    (command,) = code_blocks("docs/reward_models.md", "bash")
    model = "package:smollm2-135m-instruct"
    assert model in command
    seen: list[dict[str, Any]] = []
    with chat_server(seen) as address:
        done = run_shown(command.replace(model, address))
    assert done.returncode == 0, done.stderr
    assert len(seen) == 45
    assert re.search(r"cot_rm │ +45 │", done.stdout), done.stdout
