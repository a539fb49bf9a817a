"""One problem as its source gives it, before tokenization."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Message = Mapping[str, str]
"""`role` and `content`, as chat templates take them."""


@dataclass(frozen=True, kw_only=True)
class Question:
    id: str
    text: str
    """As a person reads it; for `messages`, their contents joined by blank lines."""
    messages: tuple[Message, ...] = ()
    """Empty for a plain `prompt`."""
    answer: str
    task: str = "math"
    tags: tuple[str, ...] = ()
    difficulty: float | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    where: str
    """File and line, or task and draw: what an error names."""

    @property
    def key(self) -> str:
        """Two questions are the same when their texts are, white space aside."""
        return " ".join(self.text.split())
