"""The loss of online mirror descent (§2.3.2), from token logprobs.

    s_j  = Σ_t (logp_t - ref_t)                     over the tokens of response j
    loss = -Σ_j w_j [a_j s_j - (τ/2) s_j²]

The square is of the whole response's log-ratio, not of each token's: every token of response j gets the coefficient
w_j (a_j - τ s_j). `square="token"` is the loss of other systems, for comparison: Σ_t (logp_t - ref_t)² in its place.

Legend: N tokens in the loss, S sequences.
"""

from typing import NamedTuple

from torch import Tensor


class PolicyLoss(NamedTuple):
    loss: Tensor
    """Scalar, differentiable."""
    log_ratios_S: Tensor
    """[S] s_j, detached."""


def mirror_descent_loss(
    logprobs_N: Tensor,
    sequence_N: Tensor,
    advantages_S: Tensor,
    weights_S: Tensor,
    *,
    tau: float,
    reference_N: Tensor | None = None,
    behaviour_N: Tensor | None = None,
    importance_clip: float = 2.0,
    square: str = "response",
) -> PolicyLoss:
    """
    Args:
        logprobs_N: differentiable log π_θ of each token.
        sequence_N: int64, the sequence of each token.
        advantages_S: a_j. weights_S: w_j, which sum to 1 over an optimizer step.
        reference_N: log π_i of each token; None where π_θ still is π_i, so that s = 0 and only its gradient counts.
        behaviour_N: logprobs under the policy that sampled. Given, each token's gradient is weighted by
            min(π_θ / π_behaviour, importance_clip), the truncated importance correction; the value of s stays.
    """
    detached_N = logprobs_N.detach()
    reference_N = detached_N if reference_N is None else reference_N.to(logprobs_N.dtype)
    log_ratios_N = logprobs_N - reference_N
    if behaviour_N is not None:
        importance_N = (detached_N - behaviour_N.to(logprobs_N.dtype)).exp().clamp(max=importance_clip)
        # The value of each log-ratio, with its gradient scaled by the token's importance.
        log_ratios_N = log_ratios_N.detach() + importance_N * (logprobs_N - detached_N)
    log_ratios_S = _sum_by_sequence(log_ratios_N, sequence_N, advantages_S)
    if square == "token":
        squares_S = _sum_by_sequence(log_ratios_N.square(), sequence_N, advantages_S)
    else:
        squares_S = log_ratios_S.square()
    advantages_S, weights_S = advantages_S.to(logprobs_N.dtype), weights_S.to(logprobs_N.dtype)
    loss = -(weights_S * (advantages_S * log_ratios_S - tau / 2 * squares_S)).sum()
    return PolicyLoss(loss, log_ratios_S.detach())


def _sum_by_sequence(values_N: Tensor, sequence_N: Tensor, like_S: Tensor) -> Tensor:
    return values_N.new_zeros(like_S.shape).index_add(0, sequence_N, values_N)
