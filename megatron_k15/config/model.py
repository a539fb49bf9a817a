"""Which model, split how."""

from dataclasses import dataclass

from megatron_k15.config.checks import DTYPES, at_least, one_of
from megatron_k15.errors import ConfigError


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
        one_of("model.dtype", self.dtype, DTYPES)


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
        at_least("parallel.tensor_parallel_size", self.tensor_parallel_size, 1)
        at_least("parallel.pipeline_parallel_size", self.pipeline_parallel_size, 1)
        at_least("parallel.virtual_pipeline_parallel_size", self.virtual_pipeline_parallel_size, 2)
        if self.virtual_pipeline_parallel_size and self.pipeline_parallel_size < 2:
            raise ConfigError(
                "parallel.virtual_pipeline_parallel_size needs parallel.pipeline_parallel_size of at least 2"
            )
        if self.sequence_parallel and self.tensor_parallel_size < 2:
            raise ConfigError("parallel.sequence_parallel needs parallel.tensor_parallel_size of at least 2")
