"""One optimizer step, whatever is trained: the optimizer and how the loss is computed."""

from dataclasses import dataclass

from megatron_k15.config.checks import at_least, one_of


@dataclass(frozen=True, kw_only=True)
class UpdateConfig:
    """What RL and all supervised stages share, under the name `train`."""

    optimizer: str = "adam"
    """`adam` or `sgd`."""
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1e-8
    clip_grad_norm: float = 1.0
    """0 turns clipping off."""
    recompute: bool = False
    """Recompute every layer's activations in the backward pass."""
    kernels: str = "fused"
    """How losses (and RL's advantages) are computed: `fused` (csrc/, never the logits of all tokens at once), or
    `reference`, plain PyTorch. The results are the same."""

    def __post_init__(self) -> None:
        one_of("train.optimizer", self.optimizer, ("adam", "sgd"))
        one_of("train.kernels", self.kernels, ("fused", "reference"))
        at_least("train.clip_grad_norm", self.clip_grad_norm, 0)
