"""The report's comparisons at small scale: each ablation is one setting apart from its control, over several seeds.

    python examples/ablations/ablations.py [NAME …] [--seeds 3] [--recipe runs/recipe] [--run-dir runs/ablations]

Needs the recipe's long-CoT model and problems (`make recipe`). A second call goes on where the first stopped. Writes a
picture per ablation and results.md.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "recipe"))

from outcome import draw, results_table, summarize  # noqa: E402
from stages import ROOT, Runner, Stage, StageError  # noqa: E402


@dataclass(frozen=True, kw_only=True)
class Arm:
    label: str
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its runs' folders: arms with the same settings share them."""
        return "_".join(override.replace("=", "-") for override in self.overrides) or "base"


@dataclass(frozen=True, kw_only=True)
class Ablation:
    control: Arm
    variant: Arm
    claim: str
    """Of the report, or what systems differ in."""
    measures: tuple[str, ...] = ("accuracy",)


BASE = Arm(label="control")
PENALTY = "reward.length_weight=0.5"
STEPS = ("train.steps_per_iteration=4", "train.kernels=reference", "train.tau=0.5")

ABLATIONS = {
    "curriculum": Ablation(
        control=Arm(label="uniform"),
        variant=Arm(
            label="curriculum",
            overrides=("prompts.curriculum=true", "prompts.curriculum_transition_iteration=4"),
        ),
        claim="§2.3.4, Fig. 9: a curriculum beats uniform sampling",
    ),
    "negative_gradients": Ablation(
        control=Arm(label="mirror descent"),
        variant=Arm(label="ReST: no negative gradients", overrides=("train.negative_gradients=false",)),
        claim="Fig. 10: without negative gradients learning needs more samples",
    ),
    "length_penalty": Ablation(
        control=Arm(label="from the start", overrides=(PENALTY,)),
        variant=Arm(label="after a warm-up", overrides=(PENALTY, "reward.length_warmup_iterations=5")),
        claim="§2.3.3: the length penalty slows early training, hence its warm-up",
        measures=("accuracy", "tokens"),
    ),
    "baseline": Ablation(
        control=Arm(label="mean"),
        variant=Arm(label="log mean exp", overrides=("train.baseline=log_mean_exp",)),
        claim="§2.3.2: the mean of the rewards is an effective baseline",
    ),
    "prioritized": Ablation(
        control=Arm(label="uniform"),
        variant=Arm(label="prioritized", overrides=("prompts.prioritized=true",)),
        claim="§2.3.4: sampling by 1 - success rate steers to what is not yet known",
    ),
    "square": Ablation(
        control=Arm(label="of the whole response", overrides=STEPS),
        variant=Arm(label="of each token", overrides=(*STEPS, "train.square=token")),
        claim="§2.3.2 squares the response's log-ratio; other systems square each token's",
    ),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The report's comparisons at small scale.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ABLATIONS)}; all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipe", type=Path, default=ROOT / "runs" / "recipe")
    parser.add_argument("--run-dir", type=Path, default=ROOT / "runs" / "ablations")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="for all runs, e.g. num_iterations=2")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - ABLATIONS.keys():
        print(f"error: no such ablation: {', '.join(unknown)}", file=sys.stderr)
        return 1
    run_dir, recipe = options.run_dir.resolve(), options.recipe.resolve()
    if not (recipe / "long_cot" / "hf").is_dir():
        print(f"error: {recipe}/long_cot/hf is missing: run the recipe first (make recipe)", file=sys.stderr)
        return 1
    chosen = {name: ABLATIONS[name] for name in options.names or ABLATIONS}
    runner = Runner(_stages(chosen, options.seeds, recipe, run_dir, tuple(options.set)), run_dir)
    try:
        runner.run()
    except StageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    outcomes = {}
    for name, ablation in chosen.items():
        arms = {
            arm.label: [run_dir / arm.name / f"seed_{seed}" for seed in range(options.seeds)]
            for arm in (ablation.control, ablation.variant)
        }
        outcomes[name] = summarize(arms)
        draw(outcomes[name], run_dir / f"{name}.png", title=ablation.claim, measures=ablation.measures)
    table = results_table(outcomes, {name: ablation.claim for name, ablation in chosen.items()}, runner.seconds())
    (run_dir / "results.md").write_text(table + "\n")
    print(f"{table}\n\nwrote {run_dir}/results.md and {len(chosen)} pictures")
    return 0


def _stages(
    chosen: dict[str, Ablation], num_seeds: int, recipe: Path, run_dir: Path, more: tuple[str, ...]
) -> list[Stage]:
    """One run per arm and seed; arms that several ablations share run once. Seed by seed, so that a run that is
    stopped early has something of everything."""
    arms = {arm.name: arm for ablation in chosen.values() for arm in (ablation.control, ablation.variant)}
    return [
        _run(arm, seed, recipe, run_dir / arm.name / f"seed_{seed}", more)
        for seed in range(num_seeds)
        for arm in arms.values()
    ]


def _run(arm: Arm, seed: int, recipe: Path, directory: Path, more: tuple[str, ...]) -> Stage:
    command = (
        *(sys.executable, "-m", "megatron_k15.train_rl", "--config", str(HERE / "base.yaml")),
        f"model.path={recipe / 'long_cot' / 'hf'}",
        f"prompts.files=[{recipe / 'data' / 'rl_problems.jsonl'}]",
        f"evaluation.files=[{recipe / 'data' / 'test_problems.jsonl'}]",
        *(f"run_dir={directory}", f"seed={seed}", *arm.overrides, *more),
    )
    return Stage(name=f"{arm.name}_seed_{seed}", command=command, writes=directory, reads=(HERE / "base.yaml",))


if __name__ == "__main__":
    sys.exit(main())
