"""Online mirror descent: the loss, micro-batches, when the optimizer is reset."""

from dataclasses import dataclass

from megatron_k15.config.checks import above_zero, at_least, one_of
from megatron_k15.config.update import UpdateConfig
from megatron_k15.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrainConfig(UpdateConfig):
    """Online mirror descent (§2.3.2)."""

    tau: float = 0.1
    """Weight of the square of the log-ratio."""
    square: str = "response"
    """Of which log-ratio: `response`, the whole response's, as the report has it, or `token`, a sum of each token's own
    square, as other systems have it; this one wants `kernels=reference`."""
    negative_gradients: bool = True
    """False: a response below its baseline gets the advantage 0 instead of being pushed away (ReST, Fig. 10)."""
    baseline: str = "mean"
    """`mean` (r̄, the report's default) or `log_mean_exp` (τ log mean exp(r/τ))."""
    learning_rate: float = 1e-6
    min_learning_rate: float | None = None
    """None: constant. Otherwise decays linearly over the run's iterations."""
    reset_optimizer: bool = True
    """Reset the optimizer state at the start of each iteration, as the report does."""
    steps_per_iteration: int = 1
    """Optimizer steps; the groups of an iteration are split evenly over them."""
    max_tokens_per_micro_batch: int = 4096
    """Packed length of one micro-batch, over all its sequences."""
    share_prompts: bool = True
    """Compute a prompt once for all of its responses in a micro-batch. With Transformer Engine each response carries a
    copy of its own; the results are the same."""
    importance_correction: str = "off"
    """`off`, or `truncated`: weight each token by min(exp(trainer - behaviour logprob), importance_clip)."""
    importance_clip: float = 2.0
    zero_variance_groups: str = "keep"
    """Groups whose rewards are all equal: `keep` (they still pull towards the reference) or `drop`."""
    loss_segments: str = "current"
    """Which tokens of responses that took several iterations enter the loss (§2.6.2): `current`, those that this
    iteration's weights sampled; `all`, which wants importance_correction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero("train.tau", self.tau)
        one_of("train.square", self.square, ("response", "token"))
        if self.square == "token" and self.kernels == "fused":
            raise ConfigError("train.square=token is not in the kernels: set train.kernels=reference")
        one_of("train.baseline", self.baseline, ("mean", "log_mean_exp"))
        above_zero("train.learning_rate", self.learning_rate)
        at_least("train.steps_per_iteration", self.steps_per_iteration, 1)
        at_least("train.max_tokens_per_micro_batch", self.max_tokens_per_micro_batch, 1)
        one_of("train.importance_correction", self.importance_correction, ("off", "truncated"))
        one_of("train.zero_variance_groups", self.zero_variance_groups, ("keep", "drop"))
        one_of("train.loss_segments", self.loss_segments, ("current", "all"))
