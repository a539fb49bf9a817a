"""JSONL or Parquet documents → indexed pretraining data (App. B.1): rules, duplicates, quality, sampling rates.

python tools/build_corpus.py --documents FILE … --tokenizer DIR --output corpus/web [--good FILE --bad FILE]

Writes corpus/web.bin, corpus/web.idx and a report in corpus/web_report/. See docs/corpus.md.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from megatron_k15.corpus.classifier import QualityClassifier
from megatron_k15.corpus.documents import read_documents
from megatron_k15.corpus.model_score import ModelScore
from megatron_k15.corpus.pipeline import CorpusPipeline
from megatron_k15.corpus.report import PICTURE, draw_report, funnel_table, write_report
from megatron_k15.corpus.settings import CorpusSettings
from megatron_k15.errors import ConfigError, DataError, K15Error
from megatron_k15.models.package_model import resolve_model
from megatron_k15.models.tokenizer import load_tokenizer
from megatron_k15.program import ignore_expected_warnings
from megatron_k15.rows.problems import Problems

MIN_EXAMPLES = 10


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    console = Console(highlight=False, markup=False)
    ignore_expected_warnings()
    try:
        _build(options, console)
    except K15Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _build(options: argparse.Namespace, console: Console) -> None:
    def say(text: str) -> None:
        console.print(text, soft_wrap=True)

    given = {name: getattr(options, name) for name in _defaults()}
    settings = CorpusSettings(**given, rates=_rates(options.rate) if options.rate else CorpusSettings.rates)
    report_dir = options.output.with_name(f"{options.output.name}_report")
    report_dir.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(
        options.tokenizer if options.tokenizer.is_dir() else resolve_model(str(options.tokenizer))
    )
    classifier, facts = _classifier(options, settings.seed, say)
    model = ModelScore(resolve_model(str(options.score_model))) if options.score_model else None
    pipeline = CorpusPipeline(settings, options.documents, report_dir, say=say, classifier=classifier, model=model)
    corpus = replace(pipeline.run(tokenizer, options.output), facts=facts)
    write_report(corpus, settings, report_dir)
    draw_report(corpus, settings, report_dir / PICTURE)
    console.print(funnel_table(corpus))
    say(f"wrote {options.output}.bin and .idx, and {report_dir}")


def _classifier(
    options: argparse.Namespace, seed: int, say: Callable[[str], None]
) -> tuple[QualityClassifier | None, dict[str, float]]:
    if bool(options.good) != bool(options.bad):
        raise ConfigError("a classifier learns from both: --good and --bad")
    if not options.good:
        return None, {}
    problems = Problems(mode="error")
    good, bad = (
        [document.text for document in read_documents(files, problems)] for files in (options.good, options.bad)
    )
    problems.settle()
    if min(len(good), len(bad)) < MIN_EXAMPLES:
        raise DataError(f"--good and --bad need {MIN_EXAMPLES} examples each; got {len(good)} and {len(bad)}")
    classifier = QualityClassifier(seed)
    accuracy = classifier.fit(good, bad)
    say(f"classifier: {accuracy:.3f} right on a fifth of {len(good)} good and {len(bad)} bad examples, held out")
    return classifier, {"classifier's accuracy": accuracy}


def _rates(given: list[str]) -> tuple[tuple[float, float], ...]:
    try:
        pairs = [tuple(map(float, text.split(":"))) for text in given]
        return tuple((score, rate) for score, rate in pairs)
    except ValueError as error:
        raise ConfigError(f"--rate must be SCORE:RATE, got {' '.join(given)}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Build indexed pretraining data (docs/corpus.md).")
    parser.add_argument("--documents", type=Path, nargs="+", required=True, metavar="FILE", help="rows with `text`")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="DIR", help="or a model's directory")
    parser.add_argument("--output", type=Path, required=True, metavar="PREFIX")
    quality = parser.add_argument_group("quality (without these, every document that passes is taken once)")
    quality.add_argument("--good", type=Path, nargs="+", default=[], metavar="FILE", help="examples for a classifier")
    quality.add_argument("--bad", type=Path, nargs="+", default=[], metavar="FILE")
    quality.add_argument("--score-model", default="", metavar="DIR", help="a language model that scores documents")
    quality.add_argument("--rate", nargs="+", default=[], metavar="SCORE:RATE", help="steps, as 0:0 0.25:0.5 0.5:1")
    rules = parser.add_argument_group("rules, with their defaults")
    for name, default in _defaults().items():
        rules.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help=str(default))
    return parser


def _defaults() -> dict[str, Any]:
    return {field.name: field.default for field in fields(CorpusSettings) if field.name != "rates"}


if __name__ == "__main__":
    sys.exit(main())
