"""A quality classifier in the manner of fastText (Joulin et al. 2016): hashed words, pairs of words and short character
pieces, each with a small vector; their mean through one linear layer. Trained in seconds from good and bad examples.
"""

import random
import re
from collections.abc import Sequence
from itertools import pairwise

import torch
import xxhash
from torch import Tensor, nn

NUM_BUCKETS = 1 << 18
DIMENSIONS = 16
MAX_FEATURES = 4096
"""Of a document, from its beginning."""
CHARACTERS = 3
NUM_EPOCHS = 10
BATCH = 32
_WORD = re.compile(r"\w+|[^\w\s]")


class QualityClassifier:
    """`scores(texts)` are chances that a text is like the good examples."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._vectors = nn.EmbeddingBag(NUM_BUCKETS, DIMENSIONS, mode="mean")
        with torch.no_grad():
            self._vectors.weight.uniform_(-0.5, 0.5, generator=generator)
        self._linear = nn.Linear(DIMENSIONS, 1)
        nn.init.zeros_(self._linear.weight)
        nn.init.zeros_(self._linear.bias)
        self._seed = seed

    def fit(self, good: Sequence[str], bad: Sequence[str]) -> float:
        """Returns the accuracy on a fifth of the examples, which was kept out of training."""
        examples = [(text, 1.0) for text in good] + [(text, 0.0) for text in bad]
        rng = random.Random(self._seed)
        rng.shuffle(examples)
        held_out, train = examples[: len(examples) // 5], examples[len(examples) // 5 :]
        parameters = [*self._vectors.parameters(), *self._linear.parameters()]
        optimizer = torch.optim.Adagrad(parameters, lr=0.1)
        for _ in range(NUM_EPOCHS):
            rng.shuffle(train)
            for start in range(0, len(train), BATCH):
                batch = train[start : start + BATCH]
                logits = self._logits([text for text, _ in batch])
                labels = torch.tensor([label for _, label in batch])
                loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        right = [(score > 0.5) == (label == 1.0) for score, (_, label) in self._scored(held_out)]
        return sum(right) / max(1, len(right))

    @torch.no_grad()
    def scores(self, texts: Sequence[str]) -> list[float]:
        """In [0, 1], one per text."""
        return self._logits(texts).sigmoid().tolist() if texts else []

    def _scored(self, examples: Sequence[tuple[str, float]]) -> list[tuple[float, tuple[str, float]]]:
        return list(zip(self.scores([text for text, _ in examples]), examples, strict=True))

    def _logits(self, texts: Sequence[str]) -> Tensor:
        features = [_features(text) for text in texts]
        offsets = torch.tensor([0, *[len(one) for one in features[:-1]]]).cumsum(0)
        flat = torch.tensor([feature for one in features for feature in one])
        return self._linear(self._vectors(flat, offsets)).squeeze(1)


def _features(text: str) -> list[int]:
    words = _WORD.findall(text.lower())[:MAX_FEATURES]
    pieces = words + [f"{first} {second}" for first, second in pairwise(words)]
    flat = " ".join(words)[:MAX_FEATURES]
    pieces += ["#" + flat[start : start + CHARACTERS] for start in range(len(flat) - CHARACTERS + 1)]
    return [xxhash.xxh3_64_intdigest(piece.encode()) % NUM_BUCKETS for piece in pieces] or [0]
