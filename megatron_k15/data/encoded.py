"""One sequence as a stage trains on it, before it has a place in a step."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Encoded:
    token_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    """Aligned with `token_ids`; the first is never in the loss."""
    label: float = 0.0
    """What a reward model has to say of it: 1 right, 0 wrong."""

    @property
    def num_loss_tokens(self) -> int:
        return sum(self.loss_mask)
