"""How good a source of verdicts is: its verdicts beside labels → accuracy, precision, recall (§2.3.5's spot check).

Undecided is not right: it counts against accuracy and recall, not against precision, and is shown by itself.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from megatron_k15.errors import DataError
from megatron_k15.rewards.verdicts import AnswerPair, Verdict, VerdictSource


@dataclass(frozen=True, kw_only=True)
class LabelledPair:
    pair: AnswerPair
    label: bool
    category: str = ""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Verdicts counted against labels."""

    true_right: int = 0
    """Verdict right, label right."""
    false_right: int = 0
    true_wrong: int = 0
    false_wrong: int = 0
    undecided_right: int = 0
    """Undecided about a pair whose label is right."""
    undecided_wrong: int = 0

    @property
    def num_pairs(self) -> int:
        return self.true_right + self.false_right + self.true_wrong + self.false_wrong + self.num_undecided

    @property
    def num_undecided(self) -> int:
        return self.undecided_right + self.undecided_wrong

    @property
    def accuracy(self) -> float:
        return _share(self.true_right + self.true_wrong, self.num_pairs)

    @property
    def precision(self) -> float:
        return _share(self.true_right, self.true_right + self.false_right)

    @property
    def recall(self) -> float:
        return _share(self.true_right, self.true_right + self.false_wrong + self.undecided_right)

    def to_json(self) -> dict[str, float | int | None]:
        measures = {"accuracy": self.accuracy, "precision": self.precision, "recall": self.recall}
        rounded = {name: None if value != value else round(value, 4) for name, value in measures.items()}
        return {"num_pairs": self.num_pairs, "num_undecided": self.num_undecided, **rounded}


@dataclass(frozen=True, kw_only=True)
class SourceScore:
    name: str
    verdicts: tuple[Verdict, ...]
    total: Tally
    by_category: Mapping[str, Tally]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            **self.total.to_json(),
            "pairs_per_second": round(self.total.num_pairs / max(self.seconds, 1e-9), 1),
            "by_category": {category: tally.to_json() for category, tally in self.by_category.items()},
        }


def _share(count: int, of: int) -> float:
    """NaN where there is nothing to be right about."""
    return count / of if of else float("nan")


async def score_source(source: VerdictSource, pairs: Sequence[LabelledPair]) -> SourceScore:
    """Ask once about all pairs.

    Raises:
        RewardError: the source is gone.
    """
    started = time.perf_counter()
    verdicts = tuple(await source.judge([labelled.pair for labelled in pairs]))
    seconds = time.perf_counter() - started
    assert len(verdicts) == len(pairs)
    categories = dict.fromkeys(labelled.category for labelled in pairs)
    together = list(zip(pairs, verdicts, strict=True))
    return SourceScore(
        name=source.name,
        verdicts=verdicts,
        total=_tally(together),
        by_category={name: _tally([one for one in together if one[0].category == name]) for name in categories},
        seconds=seconds,
    )


def _tally(judged: Sequence[tuple[LabelledPair, Verdict]]) -> Tally:
    def count(verdict: Verdict, label: bool) -> int:
        return sum(given is verdict and labelled.label is label for labelled, given in judged)

    return Tally(
        true_right=count(True, True),
        false_right=count(True, False),
        true_wrong=count(False, False),
        false_wrong=count(False, True),
        undecided_right=count(None, True),
        undecided_wrong=count(None, False),
    )


def read_labelled_pairs(paths: Sequence[Path]) -> list[LabelledPair]:
    """JSON lines with `reference`, `given`, `label`, and optionally `category`, `question`, `response`.

    Raises:
        DataError: names the first bad line and the rule it breaks.
    """
    return [pair for path in paths for pair in _read(path)]


def _read(path: Path) -> list[LabelledPair]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"labelled pairs must be a readable UTF-8 file of JSON lines; {path}: {error}") from error
    pairs = []
    for number, line in enumerate(lines, start=1):
        try:
            pairs.append(_labelled(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            rule = f"`{error.args[0]}` is missing" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{path}:{number}: {rule}") from error
    return pairs


def _labelled(row: Any) -> LabelledPair:
    if not isinstance(row, Mapping):
        raise ValueError(f"must be one JSON object; got {type(row).__name__}")
    texts = {name: row[name] for name in ("reference", "given")}
    texts |= {name: row.get(name, "") for name in ("question", "response", "category")}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"`{name}` must be text; got {type(text).__name__}")
    if not isinstance(row["label"], bool):
        raise ValueError(f"`label` must be true or false; got {row['label']!r}")
    category = texts.pop("category")
    return LabelledPair(pair=AnswerPair(**texts), label=row["label"], category=category)


def score_table(scores: Sequence[SourceScore]) -> Table:
    """Sources side by side."""
    table = Table(title="verdicts against labels")
    table.add_column("source")
    for name in ("pairs", "accuracy", "precision", "recall", "undecided", "pairs/s"):
        table.add_column(name, justify="right")
    for score in scores:
        total = score.total
        shares = [_percent(value) for value in (total.accuracy, total.precision, total.recall)]
        speed = f"{total.num_pairs / max(score.seconds, 1e-9):,.0f}"
        table.add_row(score.name, str(total.num_pairs), *shares, str(total.num_undecided), speed)
    return table


def _percent(share: float) -> str:
    return "–" if share != share else f"{share:.1%}"


def category_table(scores: Sequence[SourceScore]) -> Table:
    """Accuracy by category, sources side by side."""
    table = Table(title="accuracy by category")
    table.add_column("category")
    table.add_column("pairs", justify="right")
    for score in scores:
        table.add_column(score.name, justify="right")
    for category in scores[0].by_category:
        tallies = [score.by_category[category] for score in scores]
        table.add_row(category, str(tallies[0].num_pairs), *(f"{tally.accuracy:.0%}" for tally in tallies))
    return table
