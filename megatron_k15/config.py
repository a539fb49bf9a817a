"""The configuration of a run: YAML plus `key=value`, checked when it is built. Imports no torch.

`load_config(path, overrides)` returns a `Config`. Every room gets only its own part. Units are in the names.
Defaults follow the report (`§` marks its section) where it gives a number.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from megatron_k15.errors import ConfigError

DTYPES = ("auto", "bf16", "fp32")


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def _at_least(name: str, value: float | None, minimum: float) -> None:
    if value is not None and not value >= minimum:
        raise ConfigError(f"{name} must be at least {minimum}, got {value}")


def _above_zero(name: str, value: float | None) -> None:
    if value is not None and not value > 0:
        raise ConfigError(f"{name} must be above 0, got {value}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    path: str = ""
    """A Hugging Face directory (config.json, safetensors, tokenizer), or `package:smollm2-135m-instruct`, the small
    model that a package of the lock file carries."""
    dtype: str = "auto"
    """`bf16`, `fp32`, or `auto`: bf16 on CUDA and on CPUs with bf16 instructions, else fp32."""
    chat_template: bool = True
    """Apply the tokenizer's chat template to prompts; off means plain text continuation."""

    def __post_init__(self) -> None:
        _one_of("model.dtype", self.dtype, DTYPES)


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Degrees of the trainer. Data parallelism takes what is left of the world size."""

    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    virtual_pipeline_parallel_size: int | None = None
    """Model chunks per pipeline rank: the interleaved schedule. None means plain 1F1B."""
    sequence_parallel: bool = False
    use_distributed_optimizer: bool = True

    def __post_init__(self) -> None:
        _at_least("parallel.tensor_parallel_size", self.tensor_parallel_size, 1)
        _at_least("parallel.pipeline_parallel_size", self.pipeline_parallel_size, 1)
        _at_least("parallel.virtual_pipeline_parallel_size", self.virtual_pipeline_parallel_size, 2)
        if self.virtual_pipeline_parallel_size and self.pipeline_parallel_size < 2:
            raise ConfigError(
                "parallel.virtual_pipeline_parallel_size needs parallel.pipeline_parallel_size of at least 2"
            )
        if self.sequence_parallel and self.tensor_parallel_size < 2:
            raise ConfigError("parallel.sequence_parallel needs parallel.tensor_parallel_size of at least 2")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Online mirror descent (§2.3.2)."""

    tau: float = 0.1
    """Weight of the square of the whole-response log-ratio."""
    baseline: str = "mean"
    """`mean` (r̄, the report's default) or `log_mean_exp` (τ log mean exp(r/τ))."""
    learning_rate: float = 1e-6
    min_learning_rate: float | None = None
    """None: constant. Otherwise decays linearly over the run's iterations."""
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1e-8
    clip_grad_norm: float = 1.0
    """0 turns clipping off."""
    optimizer: str = "adam"
    """`adam` or `sgd`."""
    reset_optimizer: bool = True
    """Reset the optimizer state at the start of each iteration, as the report does."""
    steps_per_iteration: int = 1
    """Optimizer steps; the groups of an iteration are split evenly over them."""
    max_tokens_per_micro_batch: int = 4096
    """Packed length of one micro-batch, over all its sequences."""
    share_prompts: bool = True
    """Compute a prompt once for all of its responses in a micro-batch. With Transformer Engine each response carries a
    copy of its own; the results are the same."""
    recompute: bool = False
    """Recompute every layer's activations in the backward pass."""
    importance_correction: str = "off"
    """`off`, or `truncated`: weight each token by min(exp(trainer - behaviour logprob), importance_clip)."""
    importance_clip: float = 2.0
    kernels: str = "fused"
    """How the loss and the advantages are computed: `fused` (csrc/, never the logits of all tokens at once), or
    `reference`, plain PyTorch. The results are the same."""
    zero_variance_groups: str = "keep"
    """Groups whose rewards are all equal: `keep` (they still pull towards the reference) or `drop`."""
    loss_segments: str = "current"
    """Which tokens of responses that took several iterations enter the loss (§2.6.2): `current`, those that this
    iteration's weights sampled; `all`, which wants importance_correction."""

    def __post_init__(self) -> None:
        _above_zero("train.tau", self.tau)
        _one_of("train.baseline", self.baseline, ("mean", "log_mean_exp"))
        _above_zero("train.learning_rate", self.learning_rate)
        _one_of("train.optimizer", self.optimizer, ("adam", "sgd"))
        _at_least("train.steps_per_iteration", self.steps_per_iteration, 1)
        _at_least("train.max_tokens_per_micro_batch", self.max_tokens_per_micro_batch, 1)
        _one_of("train.importance_correction", self.importance_correction, ("off", "truncated"))
        _one_of("train.kernels", self.kernels, ("fused", "reference"))
        _one_of("train.zero_variance_groups", self.zero_variance_groups, ("keep", "drop"))
        _one_of("train.loss_segments", self.loss_segments, ("current", "all"))


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    prompts_per_iteration: int = 16
    responses_per_prompt: int = 8
    """k of §2.3.2."""
    max_response_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 turns top-k off."""
    repetition_max_pattern_tokens: int = 0
    """vLLM ends a response in which a pattern of up to this many tokens repeats; 0 turns this off."""
    repetition_min_count: int = 8
    max_concurrent_requests: int = 256
    """Requests in flight per vLLM instance."""
    request_timeout_seconds: float = 600.0
    stop_at: tuple[str, ...] = ()
    """Strings that end a response, besides the end-of-sequence token."""
    budget_tokens: int | None = None
    """Partial rollouts (§2.6.2): output tokens per response and iteration; what has not ended by then goes on in the
    next iteration, up to max_response_tokens. None: every response ends in its iteration."""
    max_staleness: int | None = None
    """No token that enters training is of weights more than this many versions old. None: no limit."""
    at_max_staleness: str = "end"
    """What happens to a group that cannot keep max_staleness by waiting: `end` its open responses as they are (finish
    reason `aborted`) and train on it now, or `drop` it."""
    max_open_groups: int | None = None
    """Prompts under way at once, unfinished ones of earlier iterations included: fewer new ones are drawn where they
    would be more. None: no limit; there are at most prompts_per_iteration x max_response_tokens / budget_tokens.
    With in_flight_updates: 2 x prompts_per_iteration."""
    in_flight_updates: bool = False
    """Responses go on while the trainer trains. An iteration takes the first prompts_per_iteration groups that are
    complete; new weights reach the others in the middle of a response."""

    def __post_init__(self) -> None:
        _at_least("rollout.prompts_per_iteration", self.prompts_per_iteration, 1)
        _at_least("rollout.responses_per_prompt", self.responses_per_prompt, 2)
        _at_least("rollout.max_response_tokens", self.max_response_tokens, 1)
        _above_zero("rollout.temperature", self.temperature)
        _at_least("rollout.max_concurrent_requests", self.max_concurrent_requests, 1)
        _above_zero("rollout.request_timeout_seconds", self.request_timeout_seconds)
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"rollout.top_p must be in (0, 1], got {self.top_p}")
        _at_least("rollout.top_k", self.top_k, 0)
        _at_least("rollout.budget_tokens", self.budget_tokens, 1)
        _at_least("rollout.max_staleness", self.max_staleness, 0)
        _one_of("rollout.at_max_staleness", self.at_max_staleness, ("end", "drop"))
        _at_least("rollout.max_open_groups", self.max_open_groups, 1)
        if self.in_flight_updates and self.budget_tokens is not None:
            raise ConfigError("rollout.in_flight_updates has no use for rollout.budget_tokens: set one of the two")
        if self.in_flight_updates and (self.max_open_groups or self.prompts_per_iteration) < self.prompts_per_iteration:
            raise ConfigError(
                f"rollout.in_flight_updates waits for prompts_per_iteration ({self.prompts_per_iteration}) groups: "
                f"rollout.max_open_groups must be at least that, got {self.max_open_groups}"
            )

    @property
    def continues(self) -> bool:
        """True when a response may take several iterations."""
        return self.budget_tokens is not None or self.in_flight_updates

    @property
    def most_new_prompts(self) -> int:
        """The most that one iteration may draw."""
        if self.in_flight_updates:
            return self.max_open_groups or 2 * self.prompts_per_iteration
        return self.prompts_per_iteration

    @property
    def truncates(self) -> bool:
        """True when sampling cuts the distribution, so that behaviour logprobs are not the model's."""
        return self.top_p < 1 or self.top_k > 0


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """vLLM, one process (group) per instance, bound to loopback."""

    num_engines: int = 1
    tensor_parallel_size: int = 1
    dtype: str = "auto"
    """As `model.dtype`; `auto` takes the trainer's."""
    max_model_len: int = 1024
    """Longest prompt plus response, in tokens."""
    kv_cache_bytes: int | None = None
    """KV cache per vLLM worker. None: 1 GiB on CPU; vLLM's own choice of GPU memory on CUDA."""
    gpu_memory_utilization: float = 0.6
    enable_prefix_caching: bool = True
    startup_timeout_seconds: float = 300.0
    max_restarts: int = 5
    """Restarts of one instance, over the run, before the run gives up."""
    health_interval_seconds: float = 2.0
    hang_timeout_seconds: float = 60.0
    """An instance whose health check has not answered for this long is killed and restarted."""

    def __post_init__(self) -> None:
        _at_least("engine.num_engines", self.num_engines, 1)
        _at_least("engine.tensor_parallel_size", self.tensor_parallel_size, 1)
        _one_of("engine.dtype", self.dtype, DTYPES)
        _at_least("engine.max_model_len", self.max_model_len, 8)
        _above_zero("engine.startup_timeout_seconds", self.startup_timeout_seconds)


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """Weights from the trainer to vLLM."""

    backend: str = "auto"
    """`shared_memory`, `ipc`, `nccl`; `auto` is shared_memory on CPU and ipc on CUDA."""
    logprob_gap_limit: float | None = None
    """Largest mean |trainer - vLLM| logprob over the probe batch after a sync. None: 1e-4 in fp32, 0.02 in bf16."""
    num_probe_sequences: int = 4
    timeout_seconds: float = 300.0

    def __post_init__(self) -> None:
        _one_of("transfer.backend", self.backend, ("auto", "shared_memory", "ipc", "nccl"))
        _above_zero("transfer.logprob_gap_limit", self.logprob_gap_limit)
        _at_least("transfer.num_probe_sequences", self.num_probe_sequences, 1)


@dataclass(frozen=True, kw_only=True)
class ColocateConfig:
    """Trainer and vLLM take turns on the same devices (§2.6.3)."""

    mode: str = "off"
    """`off`: both keep their memory. `sleep`: vLLM keeps its process and gives back weights and KV cache while the
    trainer trains. `restart`: vLLM is ended then, and started anew with dummy weights. In both the trainer gives back
    parameters, gradients and optimizer state during rollouts."""
    start_early: bool = False
    """`restart`: start vLLM before the trainer has given its memory back; needs room for both."""
    offload_dir: str = ""
    """Where the trainer's bytes wait on a CPU; empty means `<run_dir>/offload`. On CUDA it is pinned host memory."""

    def __post_init__(self) -> None:
        _one_of("colocate.mode", self.mode, ("off", "sleep", "restart"))
        if self.start_early and self.mode != "restart":
            raise ConfigError(f"colocate.start_early goes with colocate.mode=restart, got mode {self.mode}")


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """Where prompts come from and in which order they are drawn (§2.3.4)."""

    files: tuple[str, ...] = ()
    """JSONL or Parquet with `prompt` or `messages`, `answer`, and optionally `id`, `tags`, `difficulty`, `task`."""
    reasoning_gym: dict[str, dict[str, int | float | bool | str]] = field(default_factory=dict)
    """reasoning-gym tasks by name, each with its own settings."""
    num_train: int = 1000
    """Prompts taken from each reasoning-gym task."""
    instruction: str = "{prompt}"
    """Wraps each prompt; `{prompt}` stands for the question."""
    max_prompt_tokens: int = 512
    """A longer prompt is refused when the set is read."""
    curriculum: bool = False
    """Easy first: before `curriculum_transition_iteration` all prompts are drawn alike, then only hard ones."""
    curriculum_transition_iteration: int = 0
    curriculum_min_difficulty: float = 0.5
    """`hard` means a difficulty of at least this."""
    prioritized: bool = False
    """Draw problem i in proportion to 1 - s_i, its tracked success rate."""
    success_rate_momentum: float = 0.5
    """Weight of the newest observation in s_i, which starts at 0."""
    bad_lines: str = "error"
    """`error`, or `skip`: count and report them."""

    def __post_init__(self) -> None:
        _one_of("prompts.bad_lines", self.bad_lines, ("error", "skip"))
        _at_least("prompts.num_train", self.num_train, 1)
        _at_least("prompts.max_prompt_tokens", self.max_prompt_tokens, 1)
        _at_least("prompts.curriculum_transition_iteration", self.curriculum_transition_iteration, 0)
        if not 0 <= self.curriculum_min_difficulty <= 1:
            raise ConfigError(
                f"prompts.curriculum_min_difficulty must be in [0, 1], got {self.curriculum_min_difficulty}"
            )
        if "{prompt}" not in self.instruction:
            raise ConfigError(f"prompts.instruction must contain {{prompt}}, got {self.instruction!r}")
        if not 0 < self.success_rate_momentum <= 1:
            raise ConfigError(f"prompts.success_rate_momentum must be in (0, 1], got {self.success_rate_momentum}")


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Terms of the reward; each is named in the logs."""

    correct_reward: float = 1.0
    wrong_reward: float = 0.0
    answer_extraction: str = "boxed_or_last_number"
    """`boxed`, `last_number`, `boxed_or_last_number`, or `tag` (<answer>…</answer>)."""
    length_weight: float = 0.0
    """Weight of the length reward (§2.3.3)."""
    length_warmup_iterations: int = 0
    """The length reward is zero before this iteration, constant afterwards."""
    format_pattern: str = ""
    """A regular expression that a response must hold somewhere to avoid `format_penalty` (`.` matches newlines); empty
    turns the term off."""
    format_penalty: float = 0.0
    repetition_penalty: float = 0.0
    """Subtracted from a response that ended by repetition."""
    num_workers: int = 1
    """Processes that compare answers."""
    timeout_seconds: float = 5.0
    """Per answer; past it the answer counts as wrong and the worker is replaced."""

    def __post_init__(self) -> None:
        allowed = ("boxed", "last_number", "boxed_or_last_number", "tag")
        _one_of("reward.answer_extraction", self.answer_extraction, allowed)
        _at_least("reward.length_weight", self.length_weight, 0)
        _at_least("reward.num_workers", self.num_workers, 1)
        _above_zero("reward.timeout_seconds", self.timeout_seconds)
        _at_least("reward.length_warmup_iterations", self.length_warmup_iterations, 0)
        _at_least("reward.format_penalty", self.format_penalty, 0)
        _at_least("reward.repetition_penalty", self.repetition_penalty, 0)
        try:
            re.compile(self.format_pattern)
        except re.error as error:
            raise ConfigError(f"reward.format_pattern must be a regular expression; {error}") from error


@dataclass(frozen=True, kw_only=True)
class SandboxConfig:
    """Where the programs of `code` prompts run (§2.6.4)."""

    address: str = ""
    """`http://HOST:PORT` or `unix:PATH` of a running sandbox. Empty: a run with code prompts starts one of its own
    (as root, with bubblewrap installed), and restarts it."""
    token_variable: str = "K15_SANDBOX_TOKEN"
    """The environment variable that holds the token of a sandbox beyond loopback."""
    backend: str = "bubblewrap"
    """`bubblewrap` or `crun`, of a sandbox of the run's own."""
    num_slots: int = 0
    """Programs at one time in a sandbox of the run's own; 0: one per core."""
    max_concurrent_requests: int = 32
    request_timeout_seconds: float = 3600.0
    """Longest silence of a sandbox named by `address` before a submission is sent again: its turn in the queue, and all
    of its cases."""
    patience_seconds: float = 1200.0
    """The run stops when no verdict on a submission can be had for so long after a first failure."""
    hang_timeout_seconds: float = 30.0
    """A sandbox of the run's own that has not answered for this long is killed and restarted."""
    max_restarts: int = 20
    """Restarts of a sandbox of the run's own, over the run, before the run gives up."""

    def __post_init__(self) -> None:
        _one_of("sandbox.backend", self.backend, ("bubblewrap", "crun"))
        if self.address and not self.address.startswith(("http://", "unix:")):
            raise ConfigError(f"sandbox.address must be http://HOST:PORT or unix:PATH, got {self.address!r}")
        _at_least("sandbox.num_slots", self.num_slots, 0)
        _at_least("sandbox.max_concurrent_requests", self.max_concurrent_requests, 1)
        _above_zero("sandbox.request_timeout_seconds", self.request_timeout_seconds)
        _above_zero("sandbox.patience_seconds", self.patience_seconds)
        _above_zero("sandbox.hang_timeout_seconds", self.hang_timeout_seconds)
        _at_least("sandbox.max_restarts", self.max_restarts, 0)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    num_prompts: int = 0
    """Held-out prompts, answered greedily before the first and after the last iteration; 0 turns this off."""
    every_iterations: int = 0
    """Evaluate in between as well; 0 does not."""
    files: tuple[str, ...] = ()
    """Held-out files; empty holds out `num_prompts` of the reasoning-gym tasks, disjoint from training."""

    def __post_init__(self) -> None:
        _at_least("evaluation.num_prompts", self.num_prompts, 0)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    every_iterations: int = 10
    """0 saves no resume checkpoints."""
    num_kept: int = 2
    resume: bool = True
    """Continue from the newest good checkpoint of `run_dir`, where there is one."""
    export_dir: str = ""
    """The Hugging Face directory written at the end; empty means `<run_dir>/hf`."""

    def __post_init__(self) -> None:
        _at_least("checkpoint.num_kept", self.num_kept, 1)


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    tensorboard: bool = True
    wandb: str = "offline"
    """`offline` (files below the run's directory), `online`, or `off`."""
    wandb_project: str = "megatron_k15"
    num_samples_saved: int = 8
    """Trajectories written per iteration with their rewards; 0 saves none."""

    def __post_init__(self) -> None:
        _one_of("metrics.wandb", self.wandb, ("off", "offline", "online"))
        _at_least("metrics.num_samples_saved", self.num_samples_saved, 0)


@dataclass(frozen=True, kw_only=True)
class Config:
    """One RL run."""

    run_dir: str = "runs/rl"
    seed: int = 0
    num_iterations: int = 10
    max_minutes: float | None = None
    """Stop after the iteration in which this much time has passed; None does not."""
    wait_timeout_seconds: float = 1800.0
    """Longest time a trainer rank waits for the master between phases."""
    model: ModelConfig = field(default_factory=ModelConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)
    colocate: ColocateConfig = field(default_factory=ColocateConfig)
    prompts: PromptConfig = field(default_factory=PromptConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)

    def __post_init__(self) -> None:
        _at_least("num_iterations", self.num_iterations, 1)
        _above_zero("max_minutes", self.max_minutes)
        if self.rollout.truncates and self.train.importance_correction != "off":
            raise ConfigError(
                "train.importance_correction needs the model's own distribution: set rollout.top_p to 1 and "
                f"rollout.top_k to 0 (they are {self.rollout.top_p} and {self.rollout.top_k}), or turn it off"
            )
        if self.colocate.mode != "off" and self.rollout.in_flight_updates:
            raise ConfigError("rollout.in_flight_updates samples while the trainer trains: set colocate.mode=off")
        if self.colocate.mode != "off" and self.transfer.backend not in ("auto", "shared_memory"):
            raise ConfigError(
                f"colocate.mode={self.colocate.mode} hands weights over in shared memory, from a trainer that has "
                f"given its own away: set transfer.backend=shared_memory, got {self.transfer.backend}"
            )
        if self.rollout.continues and self.train.loss_segments == "all" and self.train.importance_correction == "off":
            raise ConfigError(
                "train.loss_segments=all trains on tokens that older weights sampled: set "
                "train.importance_correction=truncated as well, or train.loss_segments=current"
            )
        if self.rollout.prompts_per_iteration % self.train.steps_per_iteration:
            raise ConfigError(
                f"train.steps_per_iteration ({self.train.steps_per_iteration}) must divide "
                f"rollout.prompts_per_iteration ({self.rollout.prompts_per_iteration})"
            )


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read YAML, apply `key=value` overrides, check.

    Raises:
        ConfigError: an unreadable file, an unknown key, a value of the wrong type or out of range.
    """
    try:
        given = OmegaConf.load(path) if path else OmegaConf.create({})
        chosen = OmegaConf.merge(given, OmegaConf.from_dotlist(list(overrides)))
        merged = OmegaConf.merge(_schema(Config), _off_as_text(OmegaConf.to_container(chosen), Config))
        config = OmegaConf.to_object(merged)
    except FileNotFoundError as error:
        raise ConfigError(f"--config must name a YAML file; {path} does not exist") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path or 'overrides'}: {error}") from error
    assert isinstance(config, Config)
    return config


def to_yaml(config: Config) -> str:
    """The resolved config, in the form `load_config` reads."""
    return OmegaConf.to_yaml(OmegaConf.create(asdict(config)))


def _off_as_text(given: Any, cls: type) -> Any:
    """YAML reads `off` and `on` as booleans; where a field holds text they are meant as written."""
    if not isinstance(given, dict):
        return given
    types = {item.name: item.type for item in fields(cls)}

    def one(name: Any, value: Any) -> Any:
        wanted = types.get(name)
        if isinstance(wanted, type) and is_dataclass(wanted):
            return _off_as_text(value, wanted)
        return ("on" if value else "off") if wanted is str and isinstance(value, bool) else value

    return {name: one(name, value) for name, value in given.items()}


def _schema(cls: type) -> DictConfig:
    """Frozen dataclasses become read-only nodes, which would refuse the very overrides we merge."""
    schema = OmegaConf.structured(cls)

    def thaw(node: DictConfig, dataclass_type: type) -> None:
        OmegaConf.set_readonly(node, False)
        for item in fields(dataclass_type):
            if isinstance(item.type, type) and is_dataclass(item.type):
                thaw(node[item.name], item.type)

    thaw(schema, cls)
    return schema
