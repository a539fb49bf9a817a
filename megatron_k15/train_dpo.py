"""Direct preference optimization (§2.4): the entry point.

    torchrun --nproc-per-node N -m megatron_k15.train_dpo --config FILE [key=value …] [--dry-run]

The reference is the model that the run starts from: its logprobs are computed once, before the first step, and kept.
"""

import sys

from megatron_k15.config import DpoConfig
from megatron_k15.program import run_program, world_size


def main(arguments: list[str] | None = None) -> int:
    return run_program(
        "train_dpo",
        "DPO on megatron-core.",
        DpoConfig,
        plan=_plan,
        run=run,
        interrupted="the same command goes on from the newest checkpoint",
        arguments=arguments,
    )


def _plan(config: DpoConfig) -> str:
    from megatron_k15.stage_plan import describe_packed_stage

    return describe_packed_stage(config, world_size=world_size())


def run(config: DpoConfig) -> None:
    """One rank's part of a run, from start to end."""
    from megatron_k15.data.chat import ChatEncoder
    from megatron_k15.data.preferences import encode_pair
    from megatron_k15.data.preparation import Encode
    from megatron_k15.models.tokenizer import load_tokenizer
    from megatron_k15.offline import OfflineTraining
    from megatron_k15.packed_stream import PackedStream
    from megatron_k15.reference_sums import reference_sums
    from megatron_k15.stage_parts import started
    from megatron_k15.training.preferences import Preferences

    with started(config, config.phases) as stage:

        def make_encode() -> Encode:
            encoder = ChatEncoder(tokenizer=load_tokenizer(stage.model_dir), vocab_size=stage.architecture.vocab_size)
            return lambda row: encode_pair(row, encoder)

        tokens = stage.prepare(config.data, make_encode, what="preference")
        stream = PackedStream(tokens, stage, config, unit_size=2, per_token=False)
        objective = Preferences(beta=config.beta, fused=config.train.kernels == "fused")
        trainer = stage.trainer(objective)
        stream.set_references(*reference_sums(trainer, objective, tokens, stream, stage))
        OfflineTraining(config, stage, trainer, stream).run()


if __name__ == "__main__":
    sys.exit(main())
