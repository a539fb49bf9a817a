"""What each tool keeps of a prompt's answers."""

from megatron_k15.sampling.choosing import Choice
from megatron_k15.sampling.long_cot import choose_long_cot, kind_counts, kinds_shown
from megatron_k15.sampling.preferences import choose_preferences
from megatron_k15.sampling.rejection import choose_correct
from megatron_k15.sampling.samples import Sample
from megatron_k15.sampling.shortest import choose_shortest
from tests.sampling.scripted_model import question

QUESTION = question("What is 3 + 4?")


def sample(text: str, num_tokens: int, correct: bool = True, is_whole: bool = True) -> Sample:
    return Sample(text=text, num_tokens=num_tokens, correct=correct, is_whole=is_whole)


def _texts(choice: Choice, key: str = "") -> list[str]:
    return [row[key] if key else row["messages"][-1]["content"] for row in choice.rows]


def test_the_shortest_correct_whole_answer():
    samples = [sample("long 7", 30), sample("7", 9), sample("cut 7", 3, is_whole=False), sample("8", 2, correct=False)]
    choice = choose_shortest(QUESTION, samples)
    assert choice.rows == [
        {
            "messages": [{"role": "user", "content": "What is 3 + 4?"}, {"role": "assistant", "content": "7"}],
            "id": "q",
        }
    ]
    assert choose_shortest(QUESTION, samples[2:]) == Choice((), "no correct answer")
    turns = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "3 + 4?"})
    (row,) = choose_shortest(question("3 + 4?", messages=turns), samples).rows
    assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant"]


def test_preferences_are_the_reports():
    """Negatives: wrong and longer, correct and 1.5 times as long. Not: wrong and shorter, correct and a bit longer."""
    samples = [
        sample("shortest", 10),
        sample("a bit longer", 14),
        sample("half longer", 15),
        sample("wrong, longer", 11, correct=False),
        sample("wrong, as long", 10, correct=False),
        sample("wrong, cut off", 40, correct=False, is_whole=False),
    ]
    choice = choose_preferences(QUESTION, samples)
    assert _texts(choice, "rejected") == ["wrong, cut off", "half longer", "wrong, longer"]
    assert {(row["chosen"], row["prompt"]) for row in choice.rows} == {("shortest", "What is 3 + 4?")}
    assert len(choose_preferences(QUESTION, samples, max_pairs=1).rows) == 1
    assert _texts(choose_preferences(QUESTION, samples, length_ratio=1.4), "rejected")[-2:] == [
        "a bit longer",
        "wrong, longer",
    ]
    assert choose_preferences(QUESTION, samples[:2]).why_none == "no answer that is longer and wrong, or much longer"
    assert choose_preferences(QUESTION, samples[3:]).why_none == "no correct answer"


def test_rejection_sampling_keeps_different_answers_in_their_order():
    samples = [sample("b", 9), sample("a", 3), sample("b", 9), sample("wrong", 1, correct=False), sample("c", 5)]
    assert _texts(choose_correct(QUESTION, samples, max_per_prompt=2)) == ["b", "a"]
    assert choose_correct(QUESTION, samples[3:4], max_per_prompt=2).why_none == "no correct answer"


def test_long_thoughts_show_their_kinds():
    both = sample("Plan: add. Check: 7.", 9)
    three = sample("Plan: add. Check: 7. Wait, again: 7", 12)
    plain = sample("It is 7.", 30)
    assert kinds_shown(three.text) == {"planning", "evaluation", "reflection"}
    assert kinds_shown("an explanation of checkers in airplanes") == {"evaluation"}, "words begin where a word begins"
    assert _texts(choose_long_cot(QUESTION, [both, three, plain])) == [three.text]
    assert _texts(choose_long_cot(QUESTION, [both, three, plain], max_per_prompt=5)) == [three.text, both.text]
    none = choose_long_cot(QUESTION, [plain])
    assert none.why_none == "no correct answer that shows 2 kinds of thought"
    assert kind_counts([both.text, three.text]) == {"planning": 2, "evaluation": 2, "reflection": 1, "exploration": 0}
