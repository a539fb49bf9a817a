"""The whole recipe of the report at small scale, from nothing: every stage as the command that a user would type.

    make recipe          or: python examples/recipe/recipe.py [--run-dir DIR] [--only STAGE …] [--list] [--small]

A second call goes on where the first stopped. `--only` does stages again, and with the next call what depends on them.
"""

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import yaml
from report import write_report
from stages import ROOT, Runner, Stage, StageError

HERE = Path(__file__).resolve().parent
PYTHON = sys.executable
EVALUATED = ("pretrain", "sft", "long_cot", "rl", "merge", "shortest", "dpo", "long2short_rl")
"""Stages whose model is evaluated, in the table's order."""

MAX_TOKENS = 256
MAX_MODEL_LEN = 320


class Recipe:
    """The stages' commands.

    Args:
        small: a fraction of the work, to try the commands; the figures then mean nothing.
        seed: of sampling and training, from 0.
        recipe_dir: of another run, whose data and models are used where this one's stages do not make them.
    """

    def __init__(self, run_dir: Path, *, small: bool = False, seed: int = 0, recipe_dir: Path | None = None) -> None:
        self._dir = run_dir
        self._small = small
        self._seed = seed
        self._recipe_dir = recipe_dir
        self._data = (recipe_dir or run_dir) / "data"

    def stages(self) -> list[Stage]:
        stages = [self._write_data(), self._tokenizer(), self._start(), *self._corpora(), self._pretrain()]
        stages += [self._sft("sft", "pretrain", self._data / "chats.jsonl", "sft.yaml", after=("data",))]
        stages += self._long_cot()
        stages += [self._rl("rl", "long_cot", "rl_problems", "rl.yaml")]
        stages += self._long2short()
        return stages + [self._evaluate(name) for name in EVALUATED]

    def long2short_stages(self) -> list[Stage]:
        """From the other run's models, with this one's seed."""
        made = self._long2short()
        known = {stage.name for stage in made}
        stages = made + [self._evaluate(name) for name in EVALUATED if name in known]
        return [replace(stage, after=tuple(name for name in stage.after if name in known)) for stage in stages]

    def _model(self, name: str) -> Path:
        """Where a stage leaves its Hugging Face directory."""
        if name == "merge":
            return self._dir / "merge"
        is_given = self._recipe_dir is not None and name in ("sft", "rl")
        return (self._recipe_dir if is_given and self._recipe_dir else self._dir) / name / "hf"

    def _stage(self, name: str, writes: Path, *command: object, after: tuple[str, ...] = (), config: str = "") -> Stage:
        reads = (HERE / config,) if config else ()
        words = (PYTHON, *map(str, command))
        return Stage(name=name, command=words, writes=writes, after=after, reads=reads)

    def _tool(self, name: str, writes: Path, tool: str, *options: object, after: tuple[str, ...]) -> Stage:
        return self._stage(name, writes, f"tools/{tool}.py", *options, after=after)

    def _write_data(self) -> Stage:
        share = ("--small",) if self._small else ()
        script = HERE / "write_data.py"
        stage = self._stage("data", self._data, script, self._data, *share)
        return replace(stage, reads=(script, HERE / "sums.py"))

    def _tokenizer(self) -> Stage:
        texts = (self._data / "good.jsonl", self._data / "questions.jsonl")
        directory = self._dir / "tokenizer"
        return self._tool(
            "tokenizer",
            directory,
            "train_tokenizer",
            *texts,
            "--vocab-size",
            384,
            "--output",
            directory,
            after=("data",),
        )

    def _start(self) -> Stage:
        """The architecture and the tokenizer; pretraining draws the weights."""
        start = self._dir / "start"
        script = HERE / "make_start.py"
        return self._stage("start", start, script, self._dir / "tokenizer", start, after=("tokenizer",))

    def _corpora(self) -> list[Stage]:
        quality = ("--good", self._data / "good.jsonl", "--bad", self._data / "bad.jsonl", "--rate", "0:0", "0.5:1")
        found = []
        for name in ("documents", "questions", "books"):
            prefix = self._dir / "corpus" / name
            options = ("--documents", self._data / f"{name}.jsonl", "--tokenizer", self._dir / "start")
            more = quality if name == "documents" else ()
            found.append(
                self._tool(
                    f"corpus_{name}",
                    prefix.with_name(f"{name}.idx"),
                    "build_corpus",
                    *options,
                    "--output",
                    prefix,
                    *more,
                    after=("data", "start"),
                )
            )
        return found

    def _pretrain(self) -> Stage:
        config = yaml.safe_load((HERE / "pretrain.yaml").read_text())
        for phase in config["phases"]:
            if self._small:
                phase |= {"num_steps": 60 if phase["name"] == "language" else 10, "sequences_per_step": 8}
                phase |= {"sequences_per_micro_batch": 8}
            for mix in phase["data"]:
                mix["path"] = str(self._dir / "corpus" / mix["path"])
        phases = yaml.safe_dump(config["phases"], default_flow_style=True, width=10_000).strip()
        after = ("start", "corpus_documents", "corpus_questions", "corpus_books")
        return self._train(
            "pretrain", "train_pretrain", "pretrain.yaml", self._dir / "start", f"phases={phases}", after=after
        )

    def _train(
        self, name: str, program: str, config: str, model: Path, *overrides: str, after: tuple[str, ...]
    ) -> Stage:
        run_dir = self._dir / name
        return self._stage(
            name,
            run_dir,
            "-m",
            f"megatron_k15.{program}",
            "--config",
            HERE / config,
            f"model.path={model}",
            f"run_dir={run_dir}",
            *([f"seed={self._seed}"] if self._seed else []),
            *overrides,
            after=after,
            config=config,
        )

    def _sft(self, name: str, start: str, rows: Path, config: str, *, after: tuple[str, ...]) -> Stage:
        files = f"data.files=[{rows}]"
        return self._train(name, "train_sft", config, self._model(start), files, after=(start, *after))

    def _sampled(self, name: str, model: str, problems: str, tool: str, *options: object) -> Stage:
        """Rows of training data from a model's answers."""
        rows = self._dir / "rows" / f"{name}.jsonl"
        count = 2 if self._small else 8
        asked = ("--max-tokens", MAX_TOKENS, "--max-model-len", MAX_MODEL_LEN, "--dtype", "fp32")
        return self._tool(
            f"{name}_rows",
            rows,
            tool,
            *("--prompts", self._data / f"{problems}.jsonl", "--model", self._model(model), "--output", rows),
            *("--num-samples", count, *asked, "--answer-extraction", "boxed", *self._seeded(), *options),
            after=("data", model),
        )

    def _seeded(self) -> tuple[object, ...]:
        return ("--seed", self._seed) if self._seed else ()

    def _long_cot(self) -> list[Stage]:
        template = ("--template", "Think hard: {prompt}", "--num-samples", 2)
        kinds = ("--sign", "reflection=they differ", "--min-kinds", 0 if self._small else 2)
        rows = self._sampled("long_cot", "sft", "long_cot_problems", "build_long_cot", *template, *kinds)
        return [rows, self._sft("long_cot", "sft", rows.writes, "long_cot.yaml", after=(rows.name,))]

    def _rl(self, name: str, start: str, problems: str, config: str) -> Stage:
        overrides = [f"prompts.files=[{self._data / problems}.jsonl]"]
        if self._small:
            overrides += ["num_iterations=2", "rollout.prompts_per_iteration=2", "prompts.curriculum=false"]
        return self._train(name, "train_rl", config, self._model(start), *overrides, after=(start, "data"))

    def _long2short(self) -> list[Stage]:
        """Four ways from the model that thinks long to one that thinks shorter (§2.4)."""
        short = self._sampled("shortest", "rl", "short_problems", "build_shortest")
        # Asks nothing: the answers lie in the folder that both write to.
        pairs = self._sampled("dpo", "rl", "short_problems", "build_preferences", "--max-pairs", 2)
        files = f"data.files=[{pairs.writes}]"
        merged = self._dir / "merge"
        models = ("--models", self._model("rl"), self._model("sft"), "--output", merged)
        return [
            self._tool("merge", merged, "merge_checkpoints", *models, after=("rl", "sft")),
            short,
            self._sft("shortest", "rl", short.writes, "shortest.yaml", after=(short.name,)),
            pairs,
            self._train("dpo", "train_dpo", "dpo.yaml", self._model("rl"), files, after=("rl", pairs.name)),
            self._rl("long2short_rl", "merge", "rl_problems", "long2short_rl.yaml"),
        ]

    def _evaluate(self, name: str) -> Stage:
        output = self._dir / "evaluation" / name
        return self._tool(
            f"evaluate_{name}",
            output / "results.json",
            "evaluate",
            *("--model", self._model(name), "--prompts", self._data / "test_problems.jsonl", "--output", output),
            *("--num-samples", 4, "--k", 4, "--max-tokens", MAX_TOKENS, "--max-model-len", MAX_MODEL_LEN),
            *("--dtype", "fp32", "--answer-extraction", "boxed", *self._seeded()),
            after=("data", name),
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Kimi k1.5's recipe at small scale.")
    parser.add_argument("--run-dir", type=Path, default=ROOT / "runs" / "recipe")
    parser.add_argument("--only", nargs="+", default=[], metavar="STAGE", help="do these again, whatever was done")
    parser.add_argument("--list", action="store_true", help="print every stage's command and stop")
    parser.add_argument("--small", action="store_true", help="a fraction of the work, to try the commands")
    options = parser.parse_args(arguments)
    stages = Recipe(options.run_dir.resolve(), small=options.small).stages()
    if options.list:
        for stage in stages:
            print(f"{stage.name}: {shlex.join(stage.command)}")
        return 0
    runner = Runner(stages, options.run_dir.resolve())
    try:
        runner.run(options.only)
    except StageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on with this stage", file=sys.stderr)
        return 130
    if not options.only:
        print(write_report(options.run_dir.resolve(), EVALUATED, runner.seconds()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
