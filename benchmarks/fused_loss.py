"""Policy loss and its gradients from hidden states and the output weight: time and memory, against others' ways.

One process, forward and backward once per round, at [2048 tokens, hidden 576, vocabulary 49,152] (`--size small`) or
[1024, 2048, 151,936] (`large`), fp32 or bf16:

    products         the three matrix products alone, into gradients that are already there: the baseline
    known            ours, first step of an iteration: every token's coefficient is known in time
    one_chunk        ours with reference logprobs, sequences that fit in one chunk
    recomputed       ours with reference logprobs, two sequences, each far longer than a chunk: four products, where the
                     weight's gradient has no room for all logits
    cross_entropy    ours
    eager            F.linear, log_softmax, gather, the loss, autograd
    chunked          the same in eight chunks of rows with torch.utils.checkpoint
    liger            liger-kernel's fused linear GRPO loss, where liger-kernel is installed
    trl              TRL's chunked log-softmax with autograd, where TRL is installed

`ratio` is a step's time over that of the products of the same round. `mib` is what the process holds at its peak beyond
what it held before the step and beyond the two gradients, read from VmHWM in a run of its own after a first one.

Prints one JSON line. `python benchmarks/fused_loss.py [--size large] [--dtype bf16] [--repeats N] [--steps NAMES]`
"""

import argparse
import json
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from resident import peak_growth_bytes
from rounds import machine, medians, ratio, timed_rounds
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from megatron_k15.kernels.linear_loss import linear_cross_entropy, linear_policy_loss
from megatron_k15.kernels.policy_loss import Sequences
from megatron_k15.parallel.platform import DTYPES

SIZES = {"small": (2048, 576, 49_152), "large": (1024, 2048, 151_936), "tiny": (64, 16, 300)}
TAU = 0.1
CHUNKS = 8


class Problem:
    """Random hidden states, weight and a policy loss over sequences of 128 tokens (`tiny`: 16)."""

    def __init__(self, size: str, dtype: str) -> None:
        num_tokens, hidden_size, vocabulary = SIZES[size]
        torch.manual_seed(0)
        self.hidden = (torch.randn(num_tokens, hidden_size) * 0.5).to(DTYPES[dtype]).requires_grad_()
        self.weight = (torch.randn(vocabulary, hidden_size) * 0.05).to(DTYPES[dtype]).requires_grad_()
        self.targets = torch.randint(vocabulary, (num_tokens,))
        self.reference = torch.full((num_tokens,), -10.0)
        self.mask = torch.ones(num_tokens, dtype=torch.bool)

    def sequences(self, count: int, *, with_reference: bool) -> Sequences:
        num_tokens = len(self.targets)
        bounds = torch.arange(count + 1) * (num_tokens // count)
        advantages, weights = torch.linspace(-1, 1, count), torch.full((count,), 1 / count)
        reference = self.reference if with_reference else None
        return Sequences(reference, None, self.mask, bounds, advantages, weights)

    def clear(self) -> None:
        self.hidden.grad = self.weight.grad = None


def ours(problem: Problem, sequences: Sequences) -> None:
    hidden, weight, targets = problem.hidden, problem.weight, problem.targets
    linear_policy_loss(hidden, weight, targets, sequences, tau=TAU, in_place=True).loss.backward()


def ours_cross_entropy(problem: Problem) -> None:
    weights = torch.full((len(problem.targets),), 1 / len(problem.targets))
    linear_cross_entropy(problem.hidden, problem.weight, problem.targets, weights, in_place=True).loss.backward()


def policy_loss_of(logprobs: Tensor, sequences: Sequences) -> Tensor:
    assert sequences.reference_N is not None
    count = len(sequences.advantages_S)
    s = (logprobs - sequences.reference_N).view(count, -1).sum(1)
    return -(sequences.weights_S * (sequences.advantages_S * s - TAU / 2 * s * s)).sum()


def logprobs_of(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.linear(hidden, weight).float().log_softmax(-1).gather(1, targets[:, None]).squeeze(1)


def eager(problem: Problem, sequences: Sequences) -> None:
    policy_loss_of(logprobs_of(problem.hidden, problem.weight, problem.targets), sequences).backward()


def chunked(problem: Problem, sequences: Sequences) -> None:
    parts = [
        checkpoint(logprobs_of, hidden, problem.weight, targets, use_reentrant=False)
        for hidden, targets in zip(problem.hidden.chunk(CHUNKS), problem.targets.chunk(CHUNKS), strict=True)
    ]
    policy_loss_of(torch.cat(parts), sequences).backward()


def liger(problem: Problem, sequences: Sequences) -> None:
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    count = len(sequences.advantages_S)
    loss = LigerFusedLinearGRPOLoss(beta=0.0, compiled=False, use_ref_model=False)
    loss(
        problem.hidden.view(count, -1, problem.hidden.shape[1]),
        problem.weight,
        problem.targets.view(count, -1),
        problem.mask.view(count, -1).float(),
        sequences.advantages_S,
    )[0].backward()


def trl(problem: Problem, sequences: Sequences) -> None:
    from trl.trainer.utils import selective_log_softmax

    logits = F.linear(problem.hidden, problem.weight)
    policy_loss_of(selective_log_softmax(logits, problem.targets).float(), sequences).backward()


class Products:
    """logits = h Wᵀ, dh = g W, dW = gᵀ h, into memory that is there already: what no way can do without."""

    def __init__(self, problem: Problem) -> None:
        self._hidden, self._weight = problem.hidden.detach(), problem.weight.detach()
        self._logits = self._hidden.new_empty(len(self._hidden), len(self._weight))
        self._hidden_gradient, self._weight_gradient = torch.empty_like(self._hidden), torch.empty_like(self._weight)

    def __call__(self) -> None:
        torch.mm(self._hidden, self._weight.t(), out=self._logits)
        torch.mm(self._logits, self._weight, out=self._hidden_gradient)
        torch.mm(self._logits.t(), self._hidden, out=self._weight_gradient)


def steps_of(problem: Problem, names: list[str]) -> dict[str, Callable[[], None]]:
    short = problem.sequences(len(problem.targets) // (16 if len(problem.targets) < 128 else 64), with_reference=True)
    steps: dict[str, Callable[[], None]] = {
        "known": partial(ours, problem, problem.sequences(16, with_reference=False)),
        "one_chunk": partial(ours, problem, short),
        "recomputed": partial(ours, problem, problem.sequences(2, with_reference=True)),
        "cross_entropy": partial(ours_cross_entropy, problem),
        "eager": partial(eager, problem, short),
        "chunked": partial(chunked, problem, short),
        "liger": partial(liger, problem, short),
        "trl": partial(trl, problem, short),
    }
    return {name: steps[name] for name in names}


def peak_mib(problem: Problem, step: Callable[[], None]) -> float:
    """Resident memory at the peak of one step, beyond that before it and the two gradients, in MiB."""
    problem.clear()
    gradients = sum(value.numel() * value.element_size() for value in (problem.hidden, problem.weight))
    return round((peak_growth_bytes(step) - gradients) / 2**20, 1)


def _installed(names: list[str]) -> list[str]:
    from importlib.util import find_spec

    packages = {"liger": "liger_kernel", "trl": "trl"}
    return [name for name in names if name not in packages or find_spec(packages[name])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", default="known,one_chunk,recomputed,cross_entropy,eager,chunked,liger,trl")
    arguments = parser.parse_args()
    problem = Problem(arguments.size, arguments.dtype)
    steps = steps_of(problem, _installed(arguments.steps.split(",")))
    for step in steps.values():
        step()
        problem.clear()
    mib = {name: peak_mib(problem, step) for name, step in steps.items()}
    problem.clear()
    products = Products(problem)

    def timed(step: Callable[[], None], timer: object) -> None:
        problem.clear()
        step()

    rounds = {"products": products, **steps}
    records = timed_rounds({name: partial(timed, step) for name, step in rounds.items()}, arguments.repeats)
    result = {
        "benchmark": "fused_loss",
        "size": dict(zip(("tokens", "hidden", "vocabulary"), SIZES[arguments.size], strict=True)),
        "dtype": arguments.dtype,
        "ratio": {name: ratio(records, name, "products") for name in steps},
        "seconds": medians(records),
        "mib": mib,
        "baseline": "products",
        "repeats": arguments.repeats,
        **machine(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
