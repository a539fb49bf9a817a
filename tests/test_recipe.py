"""The recipe's commands, one after another, on little and easy data; how its stages are resumed and done again; what
its pictures and the ablations' tables are made of."""

import json
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.documents import ROOT, run_shown

FEWER = (
    "data tokenizer start corpus_documents corpus_questions corpus_books pretrain sft long_cot_rows long_cot rl merge "
    "shortest_rows dpo_rows dpo evaluate_merge"
)
"""Every program once; the other stages differ in their configs."""


@pytest.fixture(scope="module")
def examples() -> dict[str, ModuleType]:
    """The scripts beside each other, as they import one another."""
    import importlib

    folders = [str(ROOT / "examples" / name) for name in ("recipe", "ablations")]
    sys.path[:0] = folders
    try:
        names = ("stages", "recipe", "report", "sums", "write_data", "ablations", "outcome", "long2short")
        return {name: importlib.import_module(name) for name in names}
    finally:
        del sys.path[: len(folders)]


def test_the_commands_one_after_another(tmp_path: Path) -> None:
    recipe = f"python examples/recipe/recipe.py --small --run-dir {tmp_path}"
    done = run_shown(f"{recipe} --only {FEWER}", seconds=900, OMP_WAIT_POLICY="passive")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    result = json.loads((tmp_path / "evaluation" / "merge" / "results.json").read_text())["tasks"]["test_problems"]
    assert 0 <= result["pass@1"]["value"] <= 1
    assert result["mean_tokens"]["value"] > 1
    for name in ("pretrain", "sft", "long_cot", "rl", "dpo"):
        assert (tmp_path / name / "hf" / "model.safetensors").exists()
    again = run_shown(f"{recipe} --only merge", seconds=60)
    assert again.returncode == 0, again.stderr
    assert "[1/1] merge: " in again.stdout


@pytest.fixture
def chain(examples: dict[str, ModuleType], tmp_path: Path):
    """Two stages that append to a log of what was done, and the runner over them."""
    config = tmp_path / "config"
    config.write_text("1")
    said: list[str] = []

    def make(second: str = "print(open('one').read(), file=open('two', 'w'))"):
        def stage(name: str, code: str, **more: object) -> object:
            started = f"import os; os.chdir({str(tmp_path)!r}); print({name!r}, file=open('log', 'a')); "
            return examples["stages"].Stage(
                name=name, command=(sys.executable, "-c", started + code), writes=tmp_path / name, **more
            )

        stages = [
            stage("one", "print(1, file=open('one', 'a'))", reads=(config,)),
            stage("two", second, after=("one",)),
        ]
        return examples["stages"].Runner(stages, tmp_path, say=said.append)

    return make, said, config


def _log(folder: Path) -> list[str]:
    return (folder / "log").read_text().split()


def test_stages_are_done_once_and_again_where_something_changed(chain, tmp_path: Path) -> None:
    make, said, config = chain
    make().run()
    make().run()
    assert _log(tmp_path) == ["one", "two"]
    assert "done before" in said[-1]
    make().run(["one"])
    make().run()
    assert _log(tmp_path) == ["one", "two", "one", "two"], "the second depends on the first"
    assert (tmp_path / "one").read_text() == "1\n", "what was there is removed before a stage is done again"
    config.write_text("2")
    make().run()
    assert len(_log(tmp_path)) == 6
    (tmp_path / "two").unlink()
    make().run()
    assert _log(tmp_path)[6:] == ["two"], "what is gone is made again"
    assert set(make().seconds()) == {"one", "two"}


def test_a_stopped_stage_goes_on_with_what_it_has(examples, chain, tmp_path: Path) -> None:
    make, said, _ = chain
    code = "print('x', file=open('two', 'a')); print('why'); raise SystemExit(len(open('two').read()) < 4)"
    with pytest.raises(examples["stages"].StageError, match=r"(?s)stage two failed.*why"):
        make(code).run()
    make(code).run()
    assert (tmp_path / "two").read_text() == "x\nx\n"
    assert any("gone on with" in text for text in said)
    with pytest.raises(examples["stages"].StageError, match="no stage 'three'; there are one, two"):
        make().run(["three"])


def test_the_sums_say_what_they_add_up_to(examples) -> None:
    import random

    one = examples["sums"].Sum(numbers=(17, 5, 20))
    assert one.question == "Add a17 b5 c20."
    assert one.step_by_step() == "a17=17 b5=22 c20=42 \\boxed{42}"
    rng = random.Random(0)
    assert "First 42, then 42: same. \\boxed{42}" in one.checked(rng)
    mended = one.checked(rng, error_share=1.0)
    assert "they differ. Again: a17=17 b5=22 c20=42. \\boxed{42}" in mended
    files = examples["write_data"].Data(examples["write_data"].Sizes(documents=50, questions=200, chats=200)).files()
    rows = {name: list(rows) for name, rows in files.items()}
    test = {row["prompt"] for row in rows["test_problems"]}
    assert len(test) > 190
    assert not test & {row["prompt"] for name in ("rl", "long_cot", "short") for row in rows[f"{name}_problems"]}
    assert not any(question in row["text"] for question in test for row in rows["questions"])


def _evaluated(folder: Path, name: str, accuracy: float, tokens: float) -> None:
    (folder / "evaluation" / name).mkdir(parents=True)
    estimate = {"value": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05}
    task = {"pass@1": estimate, "maj@4": estimate, "mean_tokens": {"value": tokens, "low": tokens, "high": tokens}}
    (folder / "evaluation" / name / "results.json").write_text(json.dumps({"tasks": {"test_problems": task}}))


def _run(folder: Path, accuracies: list[float], held_out: float) -> Path:
    folder.mkdir(parents=True)
    records = [
        {"kind": "iteration", "iteration": i, "reward/accuracy": value, "rollout/mean_response_tokens": 30 + i}
        for i, value in enumerate(accuracies)
    ]
    end = {"kind": "evaluation", "iteration": 9, "evaluation/accuracy": held_out, "evaluation/mean_response_tokens": 40}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in [*records, end]))
    return folder


def test_the_recipes_report(examples, tmp_path: Path) -> None:
    names = examples["recipe"].EVALUATED
    for index, name in enumerate(names):
        _evaluated(tmp_path, name, 0.1 * (index + 1), 10.0 * index)
    _run(tmp_path / "rl", [0.4, 0.6], 0.5)
    changes = {"prompts": {"curriculum": True, "curriculum_transition_iteration": 1}, "reward": {"length_weight": 0}}
    (tmp_path / "rl" / "config.yaml").write_text(json.dumps(changes))
    text = examples["report"].write_report(tmp_path, names, {"rl": 60.0, "evaluate_rl": 5.0, "data": 1.0, "start": 2.0})
    assert "| rl | 0.400 (0.350 to 0.450) | 0.400 | 30.0 | 65 |" in text
    assert "| data, tokenizer, corpora | | | | 3 |" in text
    for name in ("rl.png", "long2short.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_ablations_intervals_and_table(examples, tmp_path: Path) -> None:
    outcome = examples["outcome"]
    # Differences 0.1, 0.2, 0.3: mean 0.2, deviation 0.1, t = 4.303, so 4.303 * 0.1 / sqrt(3).
    found = outcome.difference([0.5, 0.5, 0.5], [0.6, 0.7, 0.8])
    assert (found.mean, found.half_width) == (pytest.approx(0.2), pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-4))
    assert outcome.interval([0.5]).half_width == float("inf")
    arms = {
        label: [_run(tmp_path / label / str(seed), [0.3, value], value) for seed, value in enumerate(values)]
        for label, values in {"uniform": (0.5, 0.6), "curriculum": (0.7, 0.9)}.items()
    }
    outcomes = {"curriculum": outcome.summarize(arms)}
    table = outcome.results_table(outcomes, {"curriculum": "Fig. 9"}, {"a": 60.0, "b": 120.0})
    assert "| curriculum: Fig. 9 | uniform: 0.550 ± " in table
    assert "+0.250 ±" in table
    assert "+0.125 ±" in table
    assert "2 runs, 3 minutes, 90 s each" in table
    outcome.draw(outcomes["curriculum"], tmp_path / "a.png", title="x", measures=("accuracy", "tokens"))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_long2short_over_seeds(examples, tmp_path: Path) -> None:
    module = examples["long2short"]
    runs = [tmp_path / "recipe", tmp_path / "seed_1"]
    for index, run in enumerate(runs):
        _evaluated(run, "dpo", 0.8 + 0.1 * index, 40.0)
    _evaluated(runs[0], "rl", 0.9, 90.0)
    points = {name: module._points(runs, name) for name in ("rl", "dpo")}
    assert points == {"rl": [(0.9, 90.0)], "dpo": [(0.8, 40.0), (0.9, 40.0)]}
    # Two seeds 0.1 apart: deviation 0.1 / sqrt(2), half-width 12.7062 * 0.05.
    assert "| DPO | 0.850 ± 0.635 | 40.0 ± 0.0 | 2 |" in module.results_table(points)
    assert "| RL | 0.900 | 90.0 | 1 |" in module.results_table(points)
    module.draw(points, tmp_path / "points.png")
    stages = examples["recipe"].Recipe(tmp_path / "seed_1", seed=1, recipe_dir=tmp_path / "recipe").long2short_stages()
    start = f"{tmp_path / 'recipe' / 'rl' / 'hf'}"
    begins = {stage.name for stage in stages if any(start in word for word in stage.command)}
    assert begins == {"merge", "shortest_rows", "shortest", "dpo_rows", "dpo"}
    assert {stage.name for stage in stages} >= {"merge", "shortest", "dpo", "long2short_rl", "evaluate_dpo"}


def test_every_ablation_is_a_config(examples, tmp_path: Path) -> None:
    """train_rl reads each arm's settings; control and variant differ; arms that are alike share their runs."""
    from megatron_k15.config import Config, load_config_of

    base = ROOT / "examples" / "ablations" / "base.yaml"
    found = examples["ablations"].ABLATIONS
    for ablation in found.values():
        control, variant = (load_config_of(Config, base, arm.overrides) for arm in (ablation.control, ablation.variant))
        assert control != variant
    stages = examples["ablations"]._stages(found, 2, tmp_path, tmp_path, ())
    assert len(stages) == 2 * (1 + 4 + 2 + 2)
    for config in ("rl", "long2short_rl"):
        load_config_of(Config, ROOT / "examples" / "recipe" / f"{config}.yaml", ["prompts.files=[x]"])
