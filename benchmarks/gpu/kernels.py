"""On one GPU: bytes per second of the passes over logits, and the fused loss against the three products and eager.

`statistics` and `gradient` are given as a part of the copy rate measured in the same run (`clone` of the same logits
reads and writes each byte once). Prints one JSON line. `python benchmarks/gpu/kernels.py [--repeats N]`
"""

import argparse
import json
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F

from megatron_k15.kernels import native
from megatron_k15.kernels.linear_loss import linear_policy_loss
from megatron_k15.kernels.policy_loss import Sequences

NUM_TOKENS, HIDDEN, VOCABULARY = 4096, 2048, 151_936


def milliseconds(step: Callable[[], object], repeats: int) -> float:
    """Median over rounds, by CUDA events."""
    times = []
    for _ in range(repeats + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        step()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times[2:])[repeats // 2]


def passes(repeats: int) -> dict[str, float]:
    x = torch.randn(NUM_TOKENS, VOCABULARY, device="cuda", dtype=torch.bfloat16)
    columns = torch.randint(VOCABULARY, (NUM_TOKENS,), device="cuda")
    kernels, size = native.operators(x), x.numel() * x.element_size()
    statistics = kernels.softmax_statistics(x, columns, 1.0, False)
    rows = (columns, 1.0, statistics[0].contiguous(), statistics[1].contiguous(), torch.ones_like(statistics[0]))
    copy = 2 * size / milliseconds(x.clone, repeats)
    forward = size / milliseconds(lambda: kernels.softmax_statistics(x, columns, 1.0, False), repeats)
    backward = 2 * size / milliseconds(lambda: kernels.logit_gradient_(x, *rows), repeats)
    return {"statistics": forward / copy, "gradient": backward / copy, "copy_gb_per_second": copy / 1e6}


def losses(repeats: int) -> dict[str, float]:
    hidden = torch.randn(NUM_TOKENS, HIDDEN, device="cuda", dtype=torch.bfloat16).requires_grad_()
    weight = (torch.randn(VOCABULARY, HIDDEN, device="cuda") * 0.02).bfloat16().requires_grad_()
    columns = torch.randint(VOCABULARY, (NUM_TOKENS,), device="cuda")
    count = 16
    bounds = torch.arange(count + 1, device="cuda") * (NUM_TOKENS // count)
    ones = torch.full((count,), 1 / count, device="cuda")
    mask = torch.ones(NUM_TOKENS, dtype=torch.bool, device="cuda")
    parts = Sequences(None, None, mask, bounds, ones, ones)
    logits = torch.empty(NUM_TOKENS, VOCABULARY, device="cuda", dtype=torch.bfloat16)

    def products() -> None:
        with torch.no_grad():
            torch.mm(hidden, weight.t(), out=logits)
            torch.mm(logits, weight)
            torch.mm(logits.t(), hidden)

    def fused() -> None:
        linear_policy_loss(hidden, weight, columns, parts, tau=0.1, in_place=True).loss.backward()
        hidden.grad = weight.grad = None

    def eager() -> None:
        (-F.linear(hidden, weight).float().log_softmax(-1).gather(1, columns[:, None]).mean()).backward()
        hidden.grad = weight.grad = None

    floor = milliseconds(products, repeats)
    return {"fused": milliseconds(fused, repeats) / floor, "eager": milliseconds(eager, repeats) / floor}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    if not torch.cuda.is_available():
        print("skipped: needs a GPU with a CUDA build of torch", file=sys.stderr)
        return 0
    result = {"benchmark": "gpu_kernels", "gpu": torch.cuda.get_device_name(), "of_copy_rate": passes(repeats)}
    print(json.dumps({**result, "over_three_products": losses(repeats), "repeats": repeats}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
