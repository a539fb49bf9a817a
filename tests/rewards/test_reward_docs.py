"""The snippet of docs/rewards.md adds a term."""

import asyncio

from tests.documents import code_blocks
from tests.rewards.trajectories import prompt, trajectory


def test_the_shown_term_counts() -> None:
    (snippet,) = code_blocks("docs/rewards.md", "python")
    names: dict[str, object] = {}
    exec(compile(snippet, "docs/rewards.md", "exec"), names)
    with names["scorer"] as scorer:  # type: ignore[attr-defined]
        group = asyncio.run(scorer.score(prompt("19"), [trajectory("maybe 19"), trajectory("19")], 0))
    assert [dict(score.parts) for score in group.scores] == [
        {"answer": 1.0, "hedging": -0.5},
        {"answer": 1.0, "hedging": 0.0},
    ]
    assert [score.reward for score in group.scores] == [0.5, 1.0]
