"""What the recipe is given: raw documents, chats for SFT, problems for RL and evaluation.

python examples/recipe/write_data.py DIRECTORY [--small]
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sums import Sum, draw

Row = dict[str, Any]

FORMS: tuple[tuple[str, Callable[[Sum, random.Random], str]], ...] = (
    ("Quick: ", lambda one, rng: one.at_once()),
    ("Step by step: ", lambda one, rng: one.step_by_step()),
    ("Think hard: ", lambda one, rng: one.checked(rng, error_share=0.3)),
)
"""A hint before the question, and the answer that it asks for."""

HARD_FROM = 5
"""So many numbers make a problem hard: the curriculum's second part."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of each, and how hard the sums are."""

    documents: int = 30_000
    questions: int = 16_000
    books: int = 700
    examples: int = 200
    """For the quality classifier, of good and of bad documents."""
    chats: int = 2000
    long_cot: int = 120
    rl: int = 3000
    short: int = 300
    test: int = 200
    fewest: int = 2
    most: int = 8
    largest: int = 30


SMALL = Sizes(
    documents=1500,
    questions=1500,
    books=40,
    examples=30,
    chats=200,
    long_cot=12,
    rl=40,
    short=12,
    test=12,
    fewest=1,
    most=2,
    largest=2,
)
"""Little, and so easy that it is learned in seconds: to try the commands."""


class Data:
    """Every file from a stream of random numbers of its own. No test problem is in any other file, but in the small
    set, which has not enough different ones."""

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        test = [self._draw(random.Random(f"test {index}")) for index in range(sizes.test)]
        self._test = list({one.question: one for one in test}.values())
        self._kept_out = {one.question for one in self._test} if sizes is not SMALL else set()

    def files(self) -> dict[str, Iterator[Row]]:
        sizes = self._sizes
        return {
            "documents": self._documents("documents", sizes.documents, bad_share=0.1),
            "questions": self._questions(sizes.questions),
            "books": self._books(sizes.books),
            "good": self._documents("good", sizes.examples, bad_share=0.0),
            "bad": self._documents("bad", sizes.examples, bad_share=1.0),
            "chats": self._chats(sizes.chats),
            "long_cot_problems": self._problems("long-CoT", sizes.long_cot),
            "rl_problems": self._problems("RL", sizes.rl),
            "short_problems": self._problems("short", sizes.short),
            "test_problems": map(_problem, self._test),
        }

    def _draw(self, rng: random.Random, **limits: int) -> Sum:
        sizes = self._sizes
        return draw(rng, **{"fewest": sizes.fewest, "most": sizes.most, "largest": sizes.largest, **limits})

    def _draw_other(self, rng: random.Random) -> Sum:
        while (one := self._draw(rng)).question in self._kept_out:
            pass
        return one

    def _documents(self, seed: str, count: int, *, bad_share: float) -> Iterator[Row]:
        """Sums in every form, as the web has them: with noise and copies among them."""
        rng = random.Random(seed)
        text = ""
        for _ in range(count):
            if rng.random() >= bad_share:
                one = self._draw_other(rng)
                _, answer = rng.choices(FORMS, (2, 5, 3))[0]
                text = f"{one.question} {answer(one, rng)}"
            elif rng.random() < 0.5 or not text:
                text = "".join(rng.choices("abcdefgh0123456789=.+ \\{}", k=rng.randint(20, 90)))
            yield {"text": text}  # where nothing new was drawn: a copy

    def _questions(self, count: int) -> Iterator[Row]:
        """Questions and answers for the cooldown, in the chat's form."""
        rng = random.Random("questions")
        for _ in range(count):
            one = self._draw_other(rng)
            hint, answer = rng.choice(FORMS)
            hint = rng.choice(("", hint))
            yield {"text": f"<|user|>{hint}{one.question}<|assistant|>{answer(one, rng)}"}

    def _books(self, count: int) -> Iterator[Row]:
        """Long documents: several sums, of more numbers, one after another."""
        rng = random.Random("books")
        more = {"fewest": 6, "most": 10} if self._sizes is not SMALL else {}
        for _ in range(count):
            sums = [self._draw(rng, **more) for _ in range(6)]
            yield {"text": "\n".join(f"{one.question} {one.checked(rng, error_share=0.2)}" for one in sums)}

    def _chats(self, count: int) -> Iterator[Row]:
        """Without a hint the short forms: long thoughts are for the next stage to teach."""
        rng = random.Random("chats")
        for _ in range(count):
            one = self._draw_other(rng)
            hint, answer = rng.choice(FORMS) if rng.random() < 0.5 else ("", rng.choices(FORMS, (6, 4, 0))[0][1])
            asked = {"role": "user", "content": hint + one.question}
            yield {"messages": [asked, {"role": "assistant", "content": answer(one, rng)}]}

    def _problems(self, seed: str, count: int) -> Iterator[Row]:
        rng = random.Random(seed)
        return (_problem(self._draw_other(rng)) for _ in range(count))


def _problem(one: Sum) -> Row:
    hard = len(one.numbers) >= HARD_FROM
    return {"prompt": one.question, "answer": str(one.total), "difficulty": 0.8 if hard else 0.2}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the recipe's data.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--small", action="store_true", help="little and easy, to try the commands")
    options = parser.parse_args(arguments)
    options.directory.mkdir(parents=True, exist_ok=True)
    for name, rows in Data(SMALL if options.small else Sizes()).files().items():
        path = options.directory / f"{name}.jsonl"
        with path.open("w") as file:
            count = sum(bool(file.write(json.dumps(row) + "\n")) for row in rows)
        print(f"{path}: {count:,} rows")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
