"""Random training sequences for the tests of this room."""

import torch

from megatron_k15.types import TrainingSequence


def random_sequences(
    count: int, *, vocab_size: int, seed: int = 0, shortest: int = 6, longest: int = 24
) -> list[TrainingSequence]:
    """Of different lengths, with a hole in each loss mask and advantages of both signs; every two begin alike, with
    the three tokens before the loss."""
    generator = torch.Generator().manual_seed(seed)
    sequences = []
    prompt: list[int] = []
    for number in range(count):
        length = int(torch.randint(shortest, longest + 1, (1,), generator=generator))
        tokens = torch.randint(4, vocab_size, (length,), generator=generator).tolist()
        prompt = tokens[:3] if number % 2 == 0 else prompt
        tokens[:3] = prompt
        mask = [position >= 3 for position in range(length)]
        mask[4] = False
        behaviour = (-torch.rand(length, generator=generator)).tolist()
        sequences.append(
            TrainingSequence(
                token_ids=tuple(tokens),
                loss_mask=tuple(mask),
                behaviour_logprobs=tuple(value if seen else 0.0 for value, seen in zip(behaviour, mask, strict=True)),
                advantage=float(torch.randn((), generator=generator)),
                weight=1.0 / count,
            )
        )
    return sequences
