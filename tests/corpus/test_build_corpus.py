"""Documents in, indexed data out that pretraining reads; what is scored once is not scored again."""

import json
import random
import shlex
import shutil
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_k15.corpus.model_score import ModelScore
from megatron_k15.data.indexed import check_indexed
from tests.documents import code_blocks
from tools.build_corpus import main


def _prose(index: int) -> str:
    rng = random.Random(index)
    return (
        " ".join(rng.choice(("river", "field", "night", "water", "morning", "stone")) for _ in range(30)) + f" {index}."
    )


def _write(path: str, texts: list[str]) -> None:
    Path(path).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


@pytest.fixture
def folder(tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model_dir, "models/start")
    junk = [f"buy!!! $$$ {index} cheap cheap cheap now" for index in range(20)]
    prose = [_prose(index) for index in range(60)]
    _write("web.jsonl", [*prose, prose[3], prose[4].replace("30 ", "31 "), "tiny", *junk])
    with Path("web.jsonl").open("a") as file:
        file.write('not json\n{"text": 7}\n')
    _write("good.jsonl", [_prose(1000 + index) for index in range(40)])
    _write("bad.jsonl", [f"cheap $$$ buy now!!! {index}" for index in range(40)])
    return tmp_path


def _documents(prefix: str) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained("models/start")
    data = IndexedDataset(prefix)
    found = []
    for index in range(len(data)):
        tokens = data[index].tolist()
        assert tokens[-1] == tokenizer.eos_token_id
        found.append(tokenizer.decode(tokens[:-1]))
    return found


def _report(name: str) -> dict:
    return json.loads(Path(f"corpus/{name}_report/report.json").read_text())


def _dropped(name: str) -> dict[str, str]:
    lines = Path(f"corpus/{name}_report/dropped.jsonl").read_text().splitlines()
    rows = map(json.loads, lines)
    return {row["where"]: row["reason"] for row in rows}


def test_the_documents_commands(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, with_quality = (
        shlex.split(block.replace("\\\n", ""))[2:] for block in code_blocks("docs/corpus.md", "bash")
    )
    assert main(plain) == 0
    kept = _documents("corpus/web")
    assert kept[:60] == [_prose(index) for index in range(60)]
    report = _report("web")
    assert (report["dropped"]["bad_row"], report["dropped"]["too_short"]) == (2, 1)
    assert report["dropped"]["duplicate"] >= 1
    assert report["num_documents"] == report["num_distinct"] == len(kept) == check_indexed("corpus/web").num_documents
    assert report["num_read"] == report["num_distinct"] + sum(report["dropped"].values())
    reasons = _dropped("web")
    assert reasons["web.jsonl:63"] == "too_short"
    assert dict(Counter(reasons.values())) == report["dropped"]

    assert main(with_quality) == 0
    better, report = _documents("corpus/good_web"), _report("good_web")
    assert len(set(better)) == report["num_distinct"] < len(better) + report["dropped"]["rate"]
    share = sum("buy" in text for text in better) / len(better)
    assert share < sum("buy" in text for text in kept) / len(kept), "junk is sampled down"
    assert sum(report["score_bins"]) == len(kept)
    assert dict(Counter(_dropped("good_web").values())) == report["dropped"]
    assert Path("corpus/good_web_report/report.png").read_bytes().startswith(b"\x89PNG")

    def never(self: ModelScore, texts: list[str]) -> list[float]:
        assert not texts, "scored before"
        return []

    monkeypatch.setattr(ModelScore, "scores", never)
    assert main(with_quality) == 0
    assert _documents("corpus/good_web") == better
    assert "classifier: 1.000 right" in capsys.readouterr().out


def test_another_model_scores_anew(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained("models/start")
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.normal_(std=0.5, generator=torch.Generator().manual_seed(index))
    shutil.copytree("models/start", "models/other")
    model.save_pretrained("models/other")

    def build(name: str, scorer: str) -> bytes:
        plain = ["--documents", "web.jsonl", "--tokenizer", "models/start", "--output", f"corpus/{name}"]
        assert main([*plain, "--score-model", f"models/{scorer}"]) == 0
        return Path(f"corpus/{name}.bin").read_bytes()

    first, second = build("web", "start"), build("web", "other")
    assert second == build("fresh", "other") != first


def test_parquet_gives_the_same_bytes(folder: Path) -> None:
    rows = [{"text": _prose(index), "source": "web"} for index in range(40)]
    _write("rows.jsonl", [str(row["text"]) for row in rows])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), "rows.parquet")
    for kind in ("jsonl", "parquet"):
        assert main(["--documents", f"rows.{kind}", "--tokenizer", "models/start", "--output", f"corpus/{kind}"]) == 0
    for part in ("bin", "idx"):
        jsonl, parquet = (Path(f"corpus/{kind}.{part}").read_bytes() for kind in ("jsonl", "parquet"))
        assert parquet == jsonl
    assert len(_documents("corpus/parquet")) == 40


def test_a_control_token_in_a_text_is_letters(folder: Path) -> None:
    eos = AutoTokenizer.from_pretrained("models/start").eos_token
    _write("foreign.jsonl", [f"{_prose(1)} {eos} and {_prose(2)}"])
    plain = ["--documents", "foreign.jsonl", "--tokenizer", "models/start", "--output", "corpus/foreign"]
    assert main(plain) == 0
    data = IndexedDataset("corpus/foreign")
    assert (data[0] == AutoTokenizer.from_pretrained("models/start").eos_token_id).sum() == 1


def test_what_is_wrong_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = ["--documents", "web.jsonl", "--tokenizer", "models/start", "--output", "corpus/web"]
    _write("few.jsonl", ["x y z"] * 3)
    _write("none.jsonl", ["x y"])
    for more, says in (
        (["--good", "good.jsonl"], "both: --good and --bad"),
        (["--good", "good.jsonl", "--bad", "few.jsonl"], "10 examples each; got 40 and 3"),
        (["--rate", "x"], "--rate must be SCORE:RATE"),
        (["--rate", "0.5:1"], "rates must begin at score 0"),
        (["--rate", "0:nan"], "rates must be finite"),
        (["--classifier-weight", "0"], "must be above 0"),
        (["--min-characters", "-1"], "min_characters must be at least 0, got -1"),
        (["--min-characters", "50", "--max-characters", "40"], "characters 50 to 40"),
        (["--max-symbol-share", "nan"], "max_symbol_share is a share, from 0 to 1, got nan"),
        (["--documents", "none.jsonl"], "no document is left: {'too_short': 1}"),
        (["--documents", "nowhere.jsonl"], "cannot be read"),
    ):
        assert main([*plain, *more]) == 1
        assert says in capsys.readouterr().err
    assert not list(Path("corpus").glob("*.bin"))
