"""A language model's opinion of a document: the mean log-likelihood of its tokens.

The report asks a model to grade quality; what a small model can say is how much a text is like what it was trained on.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from megatron_k15.models.identity import model_identity
from megatron_k15.models.tokenizer import load_tokenizer, text_tokens

MAX_TOKENS = 512
"""Of a document, from its beginning."""


class ModelScore:
    def __init__(self, model_dir: Path) -> None:
        """
        Raises:
            ModelError: no tokenizer.
        """
        self.identity = model_identity(str(model_dir), model_dir)
        self._tokenizer = load_tokenizer(model_dir)
        self._model = AutoModelForCausalLM.from_pretrained(model_dir).eval()

    @torch.no_grad()
    def scores(self, texts: Sequence[str]) -> list[float]:
        """Mean log-likelihood per token, in nats; one document after another."""
        return [self._score(text) for text in texts]

    def _score(self, text: str) -> float:
        tokens = torch.tensor([text_tokens(self._tokenizer, text)[:MAX_TOKENS]])
        if tokens.shape[1] < 2:
            return -math.log(len(self._tokenizer))  # nothing to predict: as good as guessing
        return -float(self._model(tokens, labels=tokens).loss)


def percentiles(values: Sequence[float]) -> list[float]:
    """The share of the other values that are lower, of each; equal ones count half."""
    ordered = sorted(values)
    first: dict[float, int] = {}
    count: dict[float, int] = {}
    for index, value in enumerate(ordered):
        first.setdefault(value, index)
        count[value] = count.get(value, 0) + 1
    others = max(1, len(values) - 1)
    return [(first[value] + (count[value] - 1) / 2) / others for value in values]
