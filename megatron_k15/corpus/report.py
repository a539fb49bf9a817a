"""What became of the documents: numbers, the terminal's table, a picture."""

import json
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from megatron_k15.corpus.pipeline import NUM_BINS, Corpus
from megatron_k15.corpus.settings import CorpusSettings

REPORT, PICTURE = "report.json", "report.png"


def write_report(corpus: Corpus, settings: CorpusSettings, directory: Path) -> None:
    values = {**asdict(corpus), "settings": asdict(settings)}
    (directory / REPORT).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def funnel_table(corpus: Corpus) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("documents")
    table.add_column("", justify="right")
    table.add_row("read", f"{corpus.num_read:,}")
    for reason, count in corpus.dropped.items():
        table.add_row(f"  left out: {reason.replace('_', ' ')}", f"{count:,}")
    table.add_row("in the data", f"{corpus.num_distinct:,}")
    table.add_row("with repetitions", f"{corpus.num_documents:,}")
    table.add_row("tokens", f"{corpus.num_tokens:,}")
    for name, value in corpus.facts.items():
        table.add_row(name, f"{value:.3f}")
    return table


def draw_report(corpus: Corpus, settings: CorpusSettings, path: Path) -> None:
    """Left: what was left out, by reason. Right: documents by score, with the sampling rate."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (funnel, scores) = pyplot.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    names = ["in the data", *(f"left out: {reason.replace('_', ' ')}" for reason in corpus.dropped)]
    funnel.barh(names[::-1], [corpus.num_distinct, *corpus.dropped.values()][::-1], color="tab:blue")
    funnel.set(xlabel="documents", title=f"{corpus.num_read:,} documents read")
    if corpus.score_bins:
        edges = [index / NUM_BINS for index in range(NUM_BINS)]
        scores.bar(edges, corpus.score_bins, width=1 / NUM_BINS, align="edge", color="tab:blue", alpha=0.6)
        scores.set(xlabel="combined score", ylabel="documents", xlim=(0, 1), title="score and sampling rate")
        rate = scores.twinx()
        points = [index / 400 for index in range(401)]
        rate.plot(points, [settings.rate(point) for point in points], color="tab:red", drawstyle="steps-post")
        rate.set(ylabel="sampling rate", ylim=(0, None))
        rate.yaxis.label.set_color("tab:red")
    else:
        scores.axis("off")
        scores.text(0.5, 0.5, "no scores: every document once", ha="center")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
