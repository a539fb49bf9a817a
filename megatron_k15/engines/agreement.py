"""Do all vLLM instances hold the same weights? Their logprobs of the same tokens say so."""

from megatron_k15.errors import EngineError

AGREEMENT_LIMIT = 0.05
"""Largest mean difference in logprob, in nats, between instances that hold the same weights (bf16, other batches)."""


def check_agreement(first: list[tuple[float, ...]], other: list[tuple[float, ...]], index: int) -> None:
    """
    Args:
        first, other: logprobs of the same sequences by instances 0 and `index`.

    Raises:
        EngineError: they differ by more than `AGREEMENT_LIMIT` on average.
    """
    pairs = [(a, b) for row, other_row in zip(first, other, strict=True) for a, b in zip(row, other_row, strict=True)]
    gap = sum(abs(a - b) for a, b in pairs) / max(1, len(pairs))
    if not gap <= AGREEMENT_LIMIT:
        raise EngineError(
            f"all vLLM instances must hold the same weights; the prompt logprobs of instances 0 and {index} differ by "
            f"{gap:.4f} on average, more than {AGREEMENT_LIMIT}"
        )
