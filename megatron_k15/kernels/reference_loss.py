"""The losses over logits in plain PyTorch with autograd, whole vocabulary: what the fused ones are measured against.

Legend: N tokens, V vocabulary, S sequences.
"""

import torch
from torch import Tensor

from megatron_k15.kernels.policy_loss import PolicyLoss, Sequences
from megatron_k15.kernels.reference import computed_dtype, owners


def policy_loss_reference(
    logits_NV: Tensor,
    targets_N: Tensor,
    sequences: Sequences,
    *,
    tau: float,
    importance_clip: float = 2.0,
    temperature: float = 1.0,
) -> PolicyLoss:
    """`policy_loss.policy_loss` with every result, entropies included."""
    dtype = computed_dtype(logits_NV)
    reference_N, behaviour_N, mask_N, bounds, advantages_S, weights_S = sequences.to(dtype)
    log_softmax_NV = (logits_NV.to(dtype) / temperature).log_softmax(-1)
    logprobs_N = log_softmax_NV.gather(1, targets_N.unsqueeze(1)).squeeze(1)
    detached_N = logprobs_N.detach()
    reference_N = detached_N if reference_N is None else reference_N

    def sums(values_N: Tensor) -> Tensor:
        in_loss_N = torch.where(mask_N, values_N, 0)
        return in_loss_N.new_zeros(len(advantages_S)).index_add(0, owners(bounds), in_loss_N)

    log_ratios_S, ratios_N = sums(logprobs_N - reference_N), logits_NV.new_empty(0, dtype=dtype)
    if behaviour_N is not None:
        ratios_N = torch.where(mask_N, detached_N - behaviour_N, 0).exp()
        # The value of s, with each token's gradient scaled by its importance.
        log_ratios_S = log_ratios_S.detach() + sums(ratios_N.clamp(max=importance_clip) * (logprobs_N - detached_N))
    loss = -(weights_S * (advantages_S * log_ratios_S - tau / 2 * log_ratios_S.square())).sum()
    entropies_N = -(log_softmax_NV.exp() * log_softmax_NV.clamp(min=torch.finfo(dtype).min)).sum(-1)
    return PolicyLoss(loss, detached_N, log_ratios_S.detach(), entropies_N.detach(), ratios_N)


def cross_entropy_reference(logits_NV: Tensor, targets_N: Tensor, weights_N: Tensor) -> Tensor:
    """-Σ_n w_n log π_n."""
    dtype = computed_dtype(logits_NV)
    logprobs_N = logits_NV.to(dtype).log_softmax(-1).gather(1, targets_N.unsqueeze(1)).squeeze(1)
    return -torch.where(weights_N == 0, 0, weights_N.to(dtype) * logprobs_N).sum()
