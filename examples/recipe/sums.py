"""The recipe's domain: sums of several numbers, of which each has a letter to be pointed at.

    Add a17 b5 c20.        a question
    \\boxed{42}             the answer at once: short, and mostly wrong from three numbers on
    a17=17 b5=22 c20=42 \\boxed{42}        step by step: the running sum after each number
    Plan: … Check: … First 42, then 42: same. \\boxed{42}      and again from behind; a third time where they differ

Thinking longer helps for a reason that holds for large models too: one pass through the layers adds two numbers well
and seven badly, and an error that is noticed can be mended.
"""

import random
from dataclasses import dataclass

LETTERS = "abcdefghijkl"


@dataclass(frozen=True, kw_only=True)
class Sum:
    numbers: tuple[int, ...]

    @property
    def question(self) -> str:
        return "Add " + " ".join(f"{letter}{number}" for letter, number in self._named()) + "."

    @property
    def total(self) -> int:
        return sum(self.numbers)

    def _named(self) -> list[tuple[str, int]]:
        return list(zip(LETTERS, self.numbers, strict=False))

    def steps(self, *, backwards: bool = False, error_at: int | None = None, error: int = 0) -> str:
        """Letter, number and running sum of each.

        Args:
            error_at: the step whose sum is wrong by `error`, and all after it.
        """
        named = self._named()[::-1] if backwards else self._named()
        total, words = 0, []
        for index, (letter, number) in enumerate(named):
            total += number + (error if index == error_at else 0)
            words.append(f"{letter}{number}={total}")
        return " ".join(words)

    def boxed(self) -> str:
        return f"\\boxed{{{self.total}}}"

    def at_once(self) -> str:
        return self.boxed()

    def step_by_step(self) -> str:
        return f"{self.steps()} {self.boxed()}"

    def checked(self, rng: random.Random, *, error_share: float = 0.0) -> str:
        """Plan, steps, evaluation from behind, and where the first two differ, reflection and another way.

        Args:
            error_share: of the answers whose first pass has an error, which the check finds.
        """
        plan = f"Plan: {LETTERS[0]} to {LETTERS[len(self.numbers) - 1]}, then check."
        check = f"Check: {self.steps(backwards=True)}. First"
        if rng.random() >= error_share:
            return f"{plan} {self.steps()}. {check} {self.total}, then {self.total}: same. {self.boxed()}"
        at, error = rng.randrange(len(self.numbers)), rng.choice((-1, 1, 10))
        wrong = self.steps(error_at=at, error=error)
        return (
            f"{plan} {wrong}. {check} {self.total + error}, then {self.total}: they differ. "
            f"Again: {self.steps()}. {self.boxed()}"
        )


def draw(rng: random.Random, *, fewest: int, most: int, largest: int) -> Sum:
    count = rng.randint(fewest, most)
    return Sum(numbers=tuple(rng.randint(1, largest) for _ in range(count)))
