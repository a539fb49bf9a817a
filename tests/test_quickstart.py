"""The README's main command at reduced size: the real model, from `make` to a directory that other programs load."""

import json
import os
import re
import subprocess
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_k15.config import EngineConfig, RewardModelConfig
from megatron_k15.engines.pool import EnginePool
from megatron_k15.event_loop import EventLoopThread
from megatron_k15.rewards.cot.judge import CotJudge
from megatron_k15.rewards.cot.servers import PoolChat
from megatron_k15.rewards.verdict_cache import VerdictCache
from megatron_k15.rewards.verdicts import AnswerPair, Verdict
from megatron_k15.transfer.probe import LIMITS, logprob_gap
from tests.documents import ROOT, code_blocks, run_shown

SMALL = (
    "num_iterations=2",
    "prompts.num_train=16",
    "rollout.prompts_per_iteration=4",
    "rollout.responses_per_prompt=4",
    "evaluation.num_prompts=8",
    "checkpoint.every_iterations=0",
)


def test_the_quickstart_trains_and_leaves_a_model_that_others_load(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    output = _quickstart(run_dir)
    for when in ("before training", "after training"):
        assert re.search(rf"held-out accuracy {when}: [01]\.\d+ \(95% interval", output), output[-3000:]
    assert len(re.findall(r"iteration \d \| reward .* logprob gap", output)) == 2
    # Trainer and vLLM on the real model, before the first sync's weights have moved and after each update.
    (before,) = re.findall(r"trainer and vLLM agree: mean \|logprob difference\| (\S+) nats", output)
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    after = [record["sync/logprob_gap_mean"] for record in records if record["kind"] == "iteration"]
    assert len(after) == 2
    assert all(float(gap) < LIMITS["fp32"] for gap in (before, *after))
    assert list((run_dir / "tensorboard").iterdir())
    assert list((run_dir / "wandb").glob("offline-run-*"))
    _run_readme_commands(run_dir, tmp_path)
    _check_both_load(run_dir / "hf", tmp_path / "logs")


def _quickstart(run_dir: Path) -> str:
    arguments = " ".join((f"run_dir={run_dir}", *SMALL))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    result = subprocess.run(
        ["make", "quickstart", f"ARGS={arguments}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-6000:]
    return result.stdout


def _run_readme_commands(run_dir: Path, folder: Path) -> None:
    """What the README does with the run afterwards, on this run."""
    (block,) = code_blocks("README.md", "bash")
    command = block.replace("runs/quickstart", str(run_dir)).replace("curves.png", str(folder / "curves.png"))
    result = run_shown(command)
    assert result.returncode == 0, result.stderr
    assert "finish reason:" in result.stdout
    assert (folder / "curves.png").exists()


def _check_both_load(exported: Path, log_dir: Path) -> None:
    """transformers and vLLM load the export and compute the same from it."""
    tokenizer = AutoTokenizer.from_pretrained(exported)
    ids = tokenizer("The sum of 12 and 7 is 19, and the sum of 19 and 4 is 23.").input_ids
    model = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    with torch.no_grad():
        logprobs = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    theirs = logprobs.gather(-1, torch.tensor(ids)[1:, None]).squeeze(-1).tolist()
    config = EngineConfig(max_model_len=512, kv_cache_bytes=1 << 26)
    pool = EnginePool(config, model_dir=exported, dtype="fp32", log_dir=log_dir)
    with EventLoopThread() as loop:
        loop.run(pool.start(), seconds=300, waiting_for="vLLM to start from the export")
        try:
            (ours,) = loop.run(pool.prompt_logprobs([ids]), seconds=120, waiting_for="prompt logprobs")
            verdicts = loop.run(_judged(pool), seconds=120, waiting_for="a verdict")
        finally:
            loop.run(pool.stop(), seconds=60, waiting_for="vLLM to stop")
    assert logprob_gap([ours[1:]], [theirs]).mean < LIMITS["fp32"]
    assert None not in verdicts, "its form is enforced, whatever a model of this size thinks"


async def _judged(pool: EnginePool) -> list[Verdict]:
    """The same model as a judge (docs/reward_models.md)."""
    config = RewardModelConfig(kind="cot", path="x", max_reasoning_characters=80, max_tokens=120)
    judge = CotJudge(PoolChat(pool, name="smollm2"), config, VerdictCache(None))
    return await judge.judge([AnswerPair(question="12 + 7?", reference="19", given=given) for given in ("19", "20")])
