"""The sequences of one pretraining phase, drawn from its data sets by megatron-core's GPTDataset and BlendedDataset.

Sequence i follows from seed and phase alone, whatever rank asks for it: a step's number is the whole position. Each
data set is walked in its own shuffled order, again and again where the phase is longer than it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from megatron.core.datasets.blended_dataset import BlendedDataset
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

from megatron_k15.config import MixConfig
from megatron_k15.errors import DataError


@dataclass(frozen=True, kw_only=True)
class _Tokens:
    """What GPTDataset asks of a tokenizer."""

    eod: int
    pad: int = -1
    """No token: nothing is padded."""
    vocab_size: None = None
    unique_identifiers: Any = None


class Blend:
    """Collective to make: rank 0 writes megatron-core's index files, the others then read them."""

    def __init__(
        self,
        mix: Sequence[MixConfig],
        *,
        num_sequences: int,
        sequence_tokens: int,
        end_of_document: int,
        vocab_size: int,
        seed: int,
        cache_dir: Path,
    ) -> None:
        """
        Args:
            cache_dir: for index files. They are found again by the data sets' paths: give changed data another one.
        """
        self._mix = list(mix)
        self._end_of_document = end_of_document
        self._vocab_size = vocab_size
        config = GPTDatasetConfig(
            random_seed=seed,
            sequence_length=sequence_tokens,
            blend=([entry.path for entry in mix], [entry.weight for entry in mix]),
            split="1,0,0",
            path_to_cache=str(cache_dir),
            tokenizer=_Tokens(eod=end_of_document),
            # Documents are told apart here: position and attention follow from how a sequence is cut into pieces.
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,
            # A sequence predicts its own tokens but the first: the next one does not begin within it.
            add_extra_token_to_sequence=False,
        )
        built = BlendedMegatronDatasetBuilder(GPTDataset, [num_sequences, 0, 0], lambda: True, config).build()
        self._data: GPTDataset | BlendedDataset = built[0]

    def pieces(self, index: int) -> list[tuple[int, ...]]:
        """Sequence number `index`, cut where attention must not reach back.

        Raises:
            DataError: a token that the model does not have.
        """
        sample = self._data[index]
        entry = self._mix[int(sample.get("dataset_id", 0))]
        tokens = sample["tokens"].numpy()
        if tokens.max() >= self._vocab_size or tokens.min() < 0:
            raise DataError(
                f"{entry.path}: token ids must be below the model's vocabulary of {self._vocab_size}, got "
                f"{int(tokens.max())}: it was made with another tokenizer"
            )
        if entry.attention == "full":
            return [tuple(tokens.tolist())]
        ends = np.flatnonzero(tokens[:-1] == self._end_of_document) + 1
        return [tuple(piece.tolist()) for piece in np.split(tokens, ends)]
