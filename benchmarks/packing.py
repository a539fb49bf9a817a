"""Plans packs of log-normal lengths: how full they are and how long it takes, compiled against plain Python.

python benchmarks/packing.py [--num-sequences 100000] [--repeats 5]
"""

import argparse
import json

import numpy as np
from rounds import machine, medians, ratio, timed_rounds

from megatron_k15.kernels import packing, reference

CAPACITY = 32768
MEAN = 800.0
SIGMA = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-sequences", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    draws = np.random.default_rng(0).lognormal(np.log(MEAN) - SIGMA**2 / 2, SIGMA, options.num_sequences)
    lengths = np.clip(draws, 1, CAPACITY).astype(int).tolist()
    packs = packing.best_fit(lengths, CAPACITY)
    records = timed_rounds(
        {
            "compiled": lambda _: packing.best_fit(lengths, CAPACITY),
            "python": lambda _: reference.best_fit(lengths, CAPACITY),
        },
        options.repeats,
    )
    result = {
        "num_sequences": len(lengths),
        "capacity_tokens": CAPACITY,
        "num_packs": len(packs),
        "fewest_packs": -(-sum(lengths) // CAPACITY),
        "fill": round(sum(lengths) / (len(packs) * CAPACITY), 6),
        "seconds": medians(records),
        "python_over_compiled": ratio(records, "python", "compiled"),
        **machine(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
