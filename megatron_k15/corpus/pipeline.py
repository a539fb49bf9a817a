"""The order of the steps: rules → duplicates → quality scores → sampling rates → tokens.

The files are read twice, and once more for each score, so that no text is held. Why a document left is written to
`dropped.jsonl`; what a model scored, to `model_scores.jsonl`, and the same model does not score it again.
"""

import json
import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from megatron_k15.corpus.classifier import QualityClassifier
from megatron_k15.corpus.documents import Document, read_documents
from megatron_k15.corpus.duplicates import Duplicates
from megatron_k15.corpus.model_score import ModelScore, percentiles
from megatron_k15.corpus.rules import broken_rule
from megatron_k15.corpus.settings import CorpusSettings
from megatron_k15.data.write_indexed import write_indexed
from megatron_k15.errors import DataError
from megatron_k15.json_lines import read_appended
from megatron_k15.models.tokenizer import text_tokens
from megatron_k15.rows.problems import Problems

MODEL_SCORES, DROPPED = "model_scores.jsonl", "dropped.jsonl"
NUM_BINS = 20
_BATCH = 256
_KEPT, _DROPPED = 1, 0


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What the report shows."""

    num_read: int
    dropped: Mapping[str, int]
    """By reason; `rate` for those that the sampling rate left out."""
    num_distinct: int
    """Documents that are in the data, once or more often."""
    num_documents: int
    """With repetitions."""
    num_tokens: int
    score_bins: Sequence[int]
    """Documents by combined score, in `NUM_BINS` bins from 0 to 1; empty without scores."""
    facts: Mapping[str, float]


class CorpusPipeline:
    def __init__(
        self,
        settings: CorpusSettings,
        files: Sequence[Path],
        output_dir: Path,
        *,
        say: Callable[[str], None],
        classifier: QualityClassifier | None = None,
        model: ModelScore | None = None,
    ) -> None:
        """
        Args:
            classifier: trained.
        """
        self._settings = settings
        self._files = files
        self._output_dir = output_dir
        self._say = say
        self._classifier = classifier
        self._model = model
        self._dropped: Counter[str] = Counter()

    def run(self, tokenizer: Any, prefix: Path) -> Corpus:
        """
        Args:
            tokenizer: a Hugging Face tokenizer with an end-of-sequence token.

        Raises:
            DataError: no document is left, or the tokenizer has no such token.
        """
        if tokenizer.eos_token_id is None:
            raise DataError("documents are told apart by the end-of-sequence token; this tokenizer has none")
        is_in = self._judge()
        scores = self._scores(is_in)
        self._say(f"{sum(is_in):,} of {len(is_in):,} documents pass rules and duplicates")
        copies = self._copies(is_in, scores)
        if not any(copies):
            raise DataError(f"no document is left: {dict(self._dropped.most_common())}, and {sum(is_in)} by their rate")
        tokens = self._tokens(tokenizer, is_in, copies)
        num_documents, num_tokens = write_indexed(prefix, tokens, vocab_size=len(tokenizer))
        return Corpus(
            num_read=len(is_in) + self._dropped["bad_row"],
            dropped=dict(self._dropped.most_common()),
            num_distinct=sum(count > 0 for count in copies),
            num_documents=num_documents,
            num_tokens=num_tokens,
            score_bins=_bins(scores) if scores else (),
            facts={},
        )

    def _documents(self) -> Iterator[Document]:
        yield from read_documents(self._files, Problems(mode="skip"))

    def _judge(self) -> array:
        """Per document of the files that could be read, whether rules and duplicates leave it."""
        problems, duplicates, is_in = Problems(mode="skip"), Duplicates(self._settings), array("b")
        with (self._output_dir / DROPPED).open("w", encoding="utf-8") as file:
            for document in read_documents(self._files, problems):
                reason = broken_rule(document.text, self._settings) or duplicates.found(document)
                is_in.append(_DROPPED if reason else _KEPT)
                if reason:
                    self._drop(file, document.where, reason)
                if len(is_in) % 10_000 == 0:
                    self._say(f"read {len(is_in):,} documents")
            for problem in problems.found:
                self._drop(file, problem, "bad_row")
        if problems.found:
            self._say(f"bad row: {problems.found[0]}" + (" and others" if len(problems.found) > 1 else ""))
        return is_in

    def _drop(self, file: TextIO, where: str, reason: str) -> None:
        self._dropped[reason] += 1
        file.write(json.dumps({"where": where, "reason": reason}, ensure_ascii=False) + "\n")

    def _scores(self, is_in: array) -> list[float]:
        """[documents that are in] combined scores in [0, 1]; empty where nothing scores."""
        parts: list[tuple[float, list[float]]] = []
        if self._classifier is not None:
            classified = [score for batch in self._batches(is_in) for score in self._classifier.scores(_texts(batch))]
            parts.append((self._settings.classifier_weight, classified))
        if self._model is not None:
            parts.append((self._settings.model_weight, percentiles(self._model_scores(self._model, is_in))))
        total = sum(weight for weight, _ in parts)
        if not parts:
            return []
        return [sum(weight * values[index] for weight, values in parts) / total for index in range(len(parts[0][1]))]

    def _model_scores(self, model: ModelScore, is_in: array) -> list[float]:
        path = self._output_dir / MODEL_SCORES
        known = {row["key"]: row["score"] for row in read_appended(path) if row.get("model") == model.identity}
        found: list[float] = []
        for batch in self._batches(is_in):
            new = [document for document in batch if document.key not in known]
            with path.open("a", encoding="utf-8") as file:
                for document, score in zip(new, model.scores(_texts(new)), strict=True):
                    known[document.key] = score
                    file.write(json.dumps({"key": document.key, "score": score, "model": model.identity}) + "\n")
            found += [known[document.key] for document in batch]
            self._say(f"model score: {len(found):,} of {sum(is_in):,} documents")
        return found

    def _batches(self, is_in: array) -> Iterator[list[Document]]:
        batch: list[Document] = []
        for document, kept in zip(self._documents(), is_in, strict=True):
            if kept:
                batch.append(document)
            if len(batch) == _BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    def _copies(self, is_in: array, scores: Sequence[float]) -> array:
        """How often each document is taken: its rate, rounded up or down at random in the right proportion."""
        rng, place, copies = random.Random(self._settings.seed), 0, array("l")
        for kept in is_in:
            if not kept:
                copies.append(0)
                continue
            rate = self._settings.rate(scores[place]) if scores else 1.0
            count = int(rate) + (rng.random() < rate - int(rate))
            copies.append(count)
            place += 1
        return copies

    def _tokens(self, tokenizer: Any, is_in: array, copies: array) -> Iterator[list[int]]:
        with (self._output_dir / DROPPED).open("a", encoding="utf-8") as file:
            for document, kept, count in zip(self._documents(), is_in, copies, strict=True):
                if count:
                    yield from [[*text_tokens(tokenizer, document.text), tokenizer.eos_token_id]] * count
                elif kept:
                    self._drop(file, document.where, "rate")


def _texts(documents: Sequence[Document]) -> list[str]:
    return [document.text for document in documents]


def _bins(scores: Sequence[float]) -> list[int]:
    counts = [0] * NUM_BINS
    for score in scores:
        counts[min(NUM_BINS - 1, int(score * NUM_BINS))] += 1
    return counts
