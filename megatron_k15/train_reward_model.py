"""Training of the classic reward model (§2.3.5): the entry point.

    torchrun --nproc-per-node N -m megatron_k15.train_reward_model --config FILE [key=value …] [--dry-run]

A language model under a new head of one row learns to tell right responses from wrong ones, given the reference answer.
"""

import sys
from typing import Any

from megatron_k15.config import RewardModelTrainingConfig
from megatron_k15.program import run_program, world_size


def main(arguments: list[str] | None = None) -> int:
    return run_program(
        "train_reward_model",
        "Training of a classic reward model on megatron-core.",
        RewardModelTrainingConfig,
        plan=_plan,
        run=run,
        interrupted="the same command goes on from the newest checkpoint",
        arguments=arguments,
    )


def _plan(config: RewardModelTrainingConfig) -> str:
    from megatron_k15.stage_plan import describe_packed_stage

    return describe_packed_stage(config, world_size=world_size())


def run(config: RewardModelTrainingConfig) -> None:
    """One rank's part of a run, from start to end."""
    from megatron_k15.data.correctness import JudgementEncoder
    from megatron_k15.data.preparation import Encode
    from megatron_k15.models.tokenizer import load_tokenizer
    from megatron_k15.offline import OfflineTraining
    from megatron_k15.packed_stream import PackedStream
    from megatron_k15.stage_parts import started
    from megatron_k15.training.correctness import Correctness

    with started(config, config.phases) as stage:
        tokenizer = load_tokenizer(stage.model_dir)

        def make_encode() -> Encode:
            return JudgementEncoder(tokenizer=tokenizer, vocab_size=stage.architecture.vocab_size).encode

        tokens = stage.prepare(config.data, make_encode, what="judgement")
        stream = PackedStream(tokens, stage, config, unit_size=1, per_token=False)
        trainer = stage.trainer(Correctness(), scores=True)
        changes = _config_changes(stage.architecture.hf_name, tokenizer)
        OfflineTraining(config, stage, trainer, stream, config_changes=changes).run()


def _config_changes(hf_name: str, tokenizer: Any) -> dict[str, Any]:
    """What makes transformers load the directory as a classifier with one label.

    It takes the score at the last token that is no padding: padding must be another token than the last one.
    """
    others = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id)
    padding = next((token for token in others if token not in (None, tokenizer.eos_token_id)), None)
    return {
        "architectures": [hf_name.replace("ForCausalLM", "ForSequenceClassification")],
        "id2label": {"0": "correct"},
        "label2id": {"correct": 0},
        "pad_token_id": padding,
    }


if __name__ == "__main__":
    sys.exit(main())
