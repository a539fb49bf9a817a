"""The cheap rules: what no classifier need look at."""

from megatron_k15.corpus.settings import CorpusSettings

MIN_LINES = 10


def broken_rule(text: str, settings: CorpusSettings) -> str | None:
    """The name of the first rule that a document breaks."""
    if len(text) < settings.min_characters:
        return "too_short"
    if len(text) > settings.max_characters:
        return "too_long"
    words = text.split()
    mean = sum(map(len, words)) / len(words)
    if not settings.min_mean_word <= mean <= settings.max_mean_word:
        return "word_length"
    symbols = sum(not (character.isalnum() or character.isspace()) for character in text)
    if symbols > settings.max_symbol_share * len(text):
        return "symbols"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) >= MIN_LINES and 1 - len(set(lines)) / len(lines) > settings.max_repeated_lines:
        return "repeated_lines"
    return None
