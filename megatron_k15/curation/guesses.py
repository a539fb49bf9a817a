"""What a model says that was told to guess (§2.1)."""

from megatron_k15.rewards.answers import extract_answer

MAX_GUESS_CHARACTERS = 200


def boxed_guess(text: str) -> str:
    """A model told not to explain may leave out the box too: a short answer is then all of it."""
    bare = text.strip()
    if extract_answer(bare, "boxed") is None and 0 < len(bare) <= MAX_GUESS_CHARACTERS:
        first_line = bare.splitlines()[0].removeprefix("Answer:").strip(" .")
        return f"\\boxed{{{first_line}}}"
    return bare
