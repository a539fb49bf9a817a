"""The whole way: sampled difficulty, guesses, what a second run asks again, what is left open, and the files."""

import asyncio
import json
from pathlib import Path

import pytest

from megatron_k15.config import RewardConfig
from megatron_k15.curation.outcome import Curated
from megatron_k15.curation.pipeline import Pipeline
from megatron_k15.curation.report import report_numbers, write_results
from megatron_k15.curation.settings import CurationSettings
from megatron_k15.errors import DataError
from megatron_k15.prompts.files import read_files
from megatron_k15.prompts.question import Question
from megatron_k15.rewards.score import Scorer
from megatron_k15.rows.problems import Problems
from megatron_k15.sampling.samples import Sampler
from tests.curation.questions import reasons
from tests.sampling.scripted_model import ScriptedModel, question

QUESTIONS = [
    question("What is 3 + 4 in the usual numbers?", "7", "easy"),
    question("What is 30 + 40 in the usual numbers?", "70", "middling"),
    question("What is 300 + 400 in the usual numbers?", "700", "never"),
    question("What is the largest of 1, 2 and 3?", "3", "guessable"),
    question("Prove that 2 is even, in words.", "2 = 2·1", "proof"),
]
REASONED = {
    "easy": [r"3 + 4 is \boxed{7}"],
    "middling": [r"\boxed{70}", r"\boxed{71}"],
    "guessable": [r"\boxed{3}", r"\boxed{2}", r"\boxed{2}", r"\boxed{2}", r"\boxed{2}"],
}
GUESSED = {"guessable": ["2", "1", "3", "2", "1", "2", "1", "2"], "middling": [r"\boxed{69}"]}


def scripted(**changes: object) -> ScriptedModel:
    return ScriptedModel(**{"reasoned": REASONED, "guessed": GUESSED, **changes})  # type: ignore[arg-type]


def curate(model: ScriptedModel, path: Path, settings: CurationSettings | None = None) -> tuple[Curated, int]:
    """The result, and how many prompts were asked anew."""
    with Scorer(RewardConfig()) as scorer:
        sampler = Sampler(model, scorer, path / "samples.jsonl", lambda text: None)
        pipeline = Pipeline(settings=settings or CurationSettings(), sampler=sampler)
        return asyncio.run(pipeline.run(QUESTIONS, [])), sampler.num_asked


def test_pass_rates_and_guesses_decide(tmp_path: Path) -> None:
    model = scripted()
    curated, _ = curate(model, tmp_path)
    expected = {"easy": "trivial", "middling": None, "never": None, "guessable": "easy_to_hack", "proof": "proof"}
    assert reasons(curated.candidates) == expected
    by_id = {one.question.id: one for one in curated.candidates}
    assert [by_id[name].question.difficulty for name in ("easy", "middling", "never")] == [0.0, 0.5, 1.0]
    assert by_id["guessable"].num_right_guesses == 1
    # The report's numbers: 10 answers at a high temperature, 8 guesses without reasoning.
    asks = {(name, "Guess" in ask.instruction): (ask.num_answers, ask.temperature) for name, ask in model.asked}
    assert asks["middling", False] == (10, 1.0)
    assert asks["middling", True] == (8, 1.0)
    assert ("easy", True) not in asks, "a trivial prompt is not guessed at"
    assert ("proof", False) not in asks, "a model answers only what the cheap rules leave"


def test_thresholds_move_what_is_kept(tmp_path: Path) -> None:
    lenient = CurationSettings(max_pass_rate=1.0, max_right_guesses=1, min_pass_rate=0.1, exclude_proofs=False)
    curated, _ = curate(scripted(), tmp_path, lenient)
    expected = {"easy": None, "middling": None, "never": "too_hard", "guessable": None, "proof": "too_hard"}
    assert reasons(curated.candidates) == expected


def test_a_second_run_asks_nothing_again(tmp_path: Path) -> None:
    first, asked = curate(scripted(), tmp_path)
    assert asked == 4 + 3
    samples = tmp_path / "samples.jsonl"
    samples.write_bytes(samples.read_bytes()[:-10])  # a crash cut off the last line
    second, asked = curate(scripted(), tmp_path)
    assert asked == 1
    assert reasons(first.candidates) == reasons(second.candidates)
    _, asked = curate(scripted(), tmp_path, CurationSettings(difficulty_temperature=0.7))
    assert asked == 4, "another temperature is another question; the guesses are known"
    _, asked = curate(scripted(name="another model"), tmp_path)
    assert asked == 7


def test_prompts_without_an_answer_are_open_until_a_later_run(tmp_path: Path) -> None:
    curated, _ = curate(scripted(silent={"never"}), tmp_path)
    assert curated.num_open == 1
    curated, asked = curate(scripted(), tmp_path)
    assert (curated.num_open, asked) == (0, 2)


def test_programs_are_asked_for_as_such_and_never_guessed(tmp_path: Path) -> None:
    """No answer holds a program, so that no sandbox is needed to judge it."""
    model = ScriptedModel(reasoned={"program": ["I would sort them."]})
    program = question("Sort the given numbers on one line.", "", "program", task="code")
    with Scorer(RewardConfig()) as scorer:
        sampler = Sampler(model, scorer, tmp_path / "samples.jsonl", lambda text: None)
        curated = asyncio.run(Pipeline(settings=CurationSettings(), sampler=sampler).run([program], []))
    assert [(name, "fenced code block" in ask.instruction) for name, ask in model.asked] == [("program", True)]
    assert (reasons(curated.candidates), curated.num_open) == ({"program": None}, 0)


def test_a_model_may_tag_and_the_rules_help_out(tmp_path: Path) -> None:
    model = ScriptedModel(reasoned={"easy": ["Physics."], "middling": ["cooking"]}, silent={"never"})
    curated = asyncio.run(Pipeline(settings=CurationSettings(), sampler=None, subjects_by=model).run(QUESTIONS, []))
    disciplines = {one.question.id: one.discipline for one in curated.candidates}
    assert (disciplines["easy"], disciplines["middling"], disciplines["never"]) == (
        "physics",
        "arithmetic",
        "arithmetic",
    )
    assert {name for name, _ in model.asked} == {"easy", "middling", "never", "guessable"}


def test_samples_of_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_text('{"some": "thing"}\n')
    with pytest.raises(DataError, match="must hold samples of this program"):
        curate(scripted(), tmp_path)


def test_the_files_are_a_prompt_set_and_a_reason_for_all_others(tmp_path: Path) -> None:
    curated, _ = curate(scripted(), tmp_path)
    write_results(curated, tmp_path)
    problems = Problems(mode="error")
    kept: list[Question] = read_files([str(tmp_path / "prompts.jsonl")], problems)
    problems.settle()
    assert [(one.id, one.difficulty) for one in kept] == [("middling", 0.5), ("never", 1.0)]
    assert "domain:math" in kept[0].tags
    dropped = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert {row["id"]: row["detail"] for row in dropped} == {
        "easy": "10 of 10 answers were right",
        "guessable": "1 of 8 guesses without reasoning were right",
        "proof": "'Prove'",
    }
    assert json.loads((tmp_path / "report.json").read_text()) == report_numbers(curated)


def test_the_report_counts(tmp_path: Path) -> None:
    curated, _ = curate(scripted(), tmp_path)
    numbers = report_numbers(curated)
    assert (numbers["num_read"], numbers["num_kept"]) == (5, 2)
    assert list(numbers["left_after"].values()) == [5, 5, 5, 4, 3, 2, 2]
    # Pass rates 1, 0.5, 0 and 0.2 are difficulties 0, 0.5, 1 and 0.8.
    assert numbers["difficulty"]["sampled"] == [1, 0, 0, 0, 0, 1, 0, 0, 1, 0, 1]
    assert numbers["difficulty"]["kept"] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    assert sum(counts["read"] for counts in numbers["domains"].values()) == 5
