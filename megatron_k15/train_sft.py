"""Supervised fine-tuning on chats (§2.5.2, and §2.2 for the long-CoT warm-up): the entry point.

    torchrun --nproc-per-node N -m megatron_k15.train_sft --config FILE [key=value …] [--dry-run]

The loss is the cross entropy of the assistant's tokens, in packs that no example's attention leaves.
"""

import sys

from megatron_k15.config import SftConfig
from megatron_k15.program import run_program, world_size


def main(arguments: list[str] | None = None) -> int:
    return run_program(
        "train_sft",
        "Supervised fine-tuning on megatron-core.",
        SftConfig,
        plan=_plan,
        run=run,
        interrupted="the same command goes on from the newest checkpoint",
        arguments=arguments,
    )


def _plan(config: SftConfig) -> str:
    from megatron_k15.stage_plan import describe_packed_stage

    return describe_packed_stage(config, world_size=world_size())


def run(config: SftConfig) -> None:
    """One rank's part of a run, from start to end."""
    from megatron_k15.data.chat import ChatEncoder, read_messages
    from megatron_k15.data.preparation import Encode
    from megatron_k15.models.tokenizer import load_tokenizer
    from megatron_k15.offline import OfflineTraining
    from megatron_k15.packed_stream import PackedStream
    from megatron_k15.stage_parts import started
    from megatron_k15.training.cross_entropy import CrossEntropy

    with started(config, config.phases) as stage:

        def make_encode() -> Encode:
            encoder = ChatEncoder(tokenizer=load_tokenizer(stage.model_dir), vocab_size=stage.architecture.vocab_size)
            return lambda row: [encoder.encode(read_messages(row.get("messages")))]

        tokens = stage.prepare(config.data, make_encode, what="chat")
        stream = PackedStream(tokens, stage, config, unit_size=1, per_token=True)
        trainer = stage.trainer(CrossEntropy(fused=config.train.kernels == "fused"))
        OfflineTraining(config, stage, trainer, stream).run()


if __name__ == "__main__":
    sys.exit(main())
