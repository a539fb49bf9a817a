"""What the recipe is given: raw documents, chats for SFT, problems for RL and evaluation. All from one seed.

python examples/recipe/write_data.py DIRECTORY [--share 1.0]
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sums import Sum, draw

FORMS: tuple[tuple[str, Callable[[Sum, random.Random], str]], ...] = (
    ("Quick: ", lambda one, rng: one.at_once()),
    ("Step by step: ", lambda one, rng: one.step_by_step()),
    ("Think hard: ", lambda one, rng: one.checked(rng, error_share=0.3)),
)
"""A hint before the question, and the answer that it asks for."""

HARD_FROM = 5
"""So many numbers make a problem hard: the curriculum's second part."""

HELD_OUT = 100_000
"""Seeds from here on are of problems to evaluate with."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the recipe's data.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="of the usual number of documents and chats")
    options = parser.parse_args(arguments)
    directory, share = options.directory, options.share
    directory.mkdir(parents=True, exist_ok=True)
    held_out = {one.question for one in _problems(HELD_OUT, 400)}
    files: dict[str, Iterator[dict[str, Any]]] = {
        "documents": _documents(round(30000 * share)),
        "questions": _questions(round(16000 * share), held_out),
        "books": _books(round(700 * share)),
        "good": _documents(200, seed=11, bad_share=0.0),
        "bad": _documents(200, seed=12, bad_share=1.0),
        "chats": _chats(round(2000 * share), held_out),
        "long_cot_problems": _rows(_problems(1, round(300 * share)), held_out),
        "rl_problems": _rows(_problems(2, round(3000 * share)), held_out),
        "short_problems": _rows(_problems(3, round(500 * share)), held_out),
        "test_problems": _rows(_problems(HELD_OUT, max(20, round(200 * share))), set()),
    }
    for name, rows in files.items():
        with (directory / f"{name}.jsonl").open("w") as file:
            count = sum(bool(file.write(json.dumps(row) + "\n")) for row in rows)
        print(f"{directory / name}.jsonl: {count:,} rows")
    return 0


def _documents(count: int, *, seed: int = 21, bad_share: float = 0.1) -> Iterator[dict[str, Any]]:
    """Sums in every form, as the web has them: with noise and copies among them."""
    rng = random.Random(seed)
    text = ""
    for _ in range(count):
        if rng.random() >= bad_share:
            one = draw(rng)
            _, answer = rng.choices(FORMS, (2, 5, 3))[0]
            text = f"{one.question} {answer(one, rng)}"
        elif rng.random() < 0.5 or not text:
            text = "".join(rng.choices("abcdefgh0123456789=.+ \\{}", k=rng.randint(20, 90)))
        yield {"text": text}  # where nothing new was drawn: a copy


def _questions(count: int, held_out: set[str]) -> Iterator[dict[str, Any]]:
    """Questions and answers for the cooldown, in the chat's form."""
    rng = random.Random(22)
    for _ in range(count):
        one = _draw_other(rng, held_out)
        hint, answer = rng.choice(FORMS)
        hint = rng.choice(("", hint))
        yield {"text": f"<|user|>{hint}{one.question}<|assistant|>{answer(one, rng)}"}


def _books(count: int) -> Iterator[dict[str, Any]]:
    """Long documents: sums of more numbers, one after another."""
    rng = random.Random(23)
    for _ in range(count):
        sums = [draw(rng, fewest=6, most=10) for _ in range(6)]
        yield {"text": "\n".join(f"{one.question} {one.checked(rng, error_share=0.2)}" for one in sums)}


def _chats(count: int, held_out: set[str]) -> Iterator[dict[str, Any]]:
    """Without a hint the short forms: long thoughts are for the next stage to teach."""
    rng = random.Random(24)
    for _ in range(count):
        one = _draw_other(rng, held_out)
        if rng.random() < 0.5:
            hint, answer = rng.choice(FORMS)
        else:
            hint, answer = "", rng.choices(FORMS, (6, 4, 0))[0][1]
        yield {
            "messages": [
                {"role": "user", "content": hint + one.question},
                {"role": "assistant", "content": answer(one, rng)},
            ]
        }


def _problems(seed: int, count: int) -> Iterator[Sum]:
    rng = random.Random(seed)
    return (draw(rng) for _ in range(count))


def _rows(problems: Iterator[Sum], held_out: set[str]) -> Iterator[dict[str, Any]]:
    for one in problems:
        if one.question not in held_out:
            hard = len(one.numbers) >= HARD_FROM
            yield {"prompt": one.question, "answer": str(one.total), "difficulty": 0.8 if hard else 0.2}


def _draw_other(rng: random.Random, held_out: set[str]) -> Sum:
    while (one := draw(rng)).question in held_out:
        pass
    return one


if __name__ == "__main__":
    raise SystemExit(main())
