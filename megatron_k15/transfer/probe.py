"""Do trainer and vLLM compute the same? Logprobs of the same tokens from both sides.

Checksums show that the bytes arrived; only this shows what loading made of them (a tensor under another's name, a wrong
split, a stale copy).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from megatron_k15.errors import TransferError

LIMITS = {"fp32": 1e-4, "bf16": 0.02}
"""Largest mean |difference| in nats that rounding explains, by dtype."""


@dataclass(frozen=True, kw_only=True)
class Gap:
    """|trainer - vLLM| over the probe's tokens, in nats."""

    mean: float
    max: float
    num_tokens: int


def logprob_gap(trainer: Sequence[Sequence[float]], engine: Sequence[Sequence[float]]) -> Gap:
    """
    Args:
        trainer, engine: logprobs of the same tokens, one list per sequence.

    Raises:
        TransferError: there is no token to compare, or the lists differ in length.
    """
    if [len(values) for values in trainer] != [len(values) for values in engine]:
        raise TransferError("trainer and vLLM must give logprobs of the same tokens; they gave different numbers")
    pairs = zip(chain.from_iterable(trainer), chain.from_iterable(engine), strict=True)
    differences = [abs(ours - theirs) for ours, theirs in pairs]
    if not differences:
        raise TransferError("the logprob probe needs at least one token; its sequences have none in the loss")
    return Gap(mean=math.fsum(differences) / len(differences), max=max(differences), num_tokens=len(differences))


def check_gap(gap: Gap, limit: float | None, dtype: str, *, version: int) -> None:
    """Stop a run whose two halves have parted.

    Args:
        limit: of the mean; None takes the dtype's own.

    Raises:
        TransferError: the mean gap is above the limit, or not a number.
    """
    limit = LIMITS[dtype] if limit is None else limit
    if not gap.mean <= limit:
        raise TransferError(
            f"after weight version {version} trainer and vLLM must agree: the mean |logprob difference| over "
            f"{gap.num_tokens} probe tokens may be {limit:g} ({dtype}; transfer.logprob_gap_limit), it is "
            f"{gap.mean:.3g} (largest {gap.max:.3g}). vLLM does not sample from the trainer's "
            "policy, so nothing is trained on it. Check that both read the same model directory, in the same dtype"
        )
