"""The length reward (§2.3.3) against the report's formula, by hand."""

from megatron_k15.rewards.length import length_rewards


def test_right_and_wrong_responses() -> None:
    """min 10, max 30: λ = 0.5, 0.25, 0, −0.25, −0.5 at lengths 10, 15, 20, 25, 30; a wrong one gets min(0, λ)."""
    lengths = [10, 15, 20, 25, 30]
    assert length_rewards(lengths, [True] * 5) == [0.5, 0.25, 0.0, -0.25, -0.5]
    assert length_rewards(lengths, [False] * 5) == [0.0, 0.0, 0.0, -0.25, -0.5]


def test_equal_lengths_give_nothing() -> None:
    assert length_rewards([7, 7, 7], [True, False, True]) == [0.0, 0.0, 0.0]
