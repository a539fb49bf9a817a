"""What a run shows and keeps: terminal, JSONL, TensorBoard, wandb, sample trajectories; intervals for accuracies."""

from megatron_k15.metrics.intervals import accuracy_interval, paired_difference_interval
from megatron_k15.metrics.progress import Progress
from megatron_k15.metrics.writer import MetricsWriter

__all__ = ["MetricsWriter", "Progress", "accuracy_interval", "paired_difference_interval"]
