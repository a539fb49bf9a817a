"""The labelled pairs are what benchmarks/answer_pairs/README.md says of them."""

import runpy
from collections import Counter
from fractions import Fraction
from pathlib import Path

from tests.rewards.answer_pairs import FILES, labelled_rows


def test_there_are_enough_of_both_labels_in_every_category() -> None:
    rows = labelled_rows()
    assert len(rows) >= 500
    counts = Counter((row["category"], row["label"]) for row in rows)
    assert {category for category, _ in counts} >= {"units", "intervals", "sets", "fractions", "matrices", "Chinese"}
    assert all(counts[category, label] >= 3 for category, _ in counts for label in (True, False)), counts


def test_a_pair_has_one_label() -> None:
    labels: dict[tuple[str, str], bool] = {}
    for row in labelled_rows():
        pair = (row["reference"], row["given"])
        assert pair not in labels, pair
        labels[pair] = row["label"]


def test_comparing_strings_or_numbers_is_wrong_about_two_fifths() -> None:
    """A right answer that is neither the same text nor the same number: at least 40% of all pairs."""
    rows = labelled_rows()
    missed = [row for row in rows if row["label"] and not _same_text_or_number(row["reference"], row["given"])]
    assert len(missed) / len(rows) >= 0.4


def _same_text_or_number(first: str, second: str) -> bool:
    if first.strip() == second.strip():
        return True
    try:
        return Fraction(first.replace(",", "")) == Fraction(second.replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return False


def test_the_program_s_file_is_what_the_program_makes(tmp_path: Path) -> None:
    by_program = FILES[1]
    copy = tmp_path / "make_by_program.py"
    copy.write_text(by_program.with_name(copy.name).read_text(encoding="utf-8"), encoding="utf-8")
    runpy.run_path(str(copy), run_name="__main__")
    assert (tmp_path / by_program.name).read_bytes() == by_program.read_bytes()
