"""Run under torchrun: save, load and export the policy at several layouts; what it writes is compared by the test.

`ranks_resume.py write WORK` on 2 ranks (saves at TP 2, loads at TP 2, PP 2 and DP 2), then `ranks_resume.py read WORK`
on one. WORK holds `hf`, the source model, and for `write` the small disks `full` and `few_files`.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from megatron_k15.checkpoint.export import export_hf
from megatron_k15.checkpoint.resume import find_newest, load_resume, save_resume
from megatron_k15.config import ParallelConfig
from megatron_k15.errors import CheckpointError
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.hf_files import HfWeights
from megatron_k15.models.loading import load_hf_weights
from megatron_k15.models.policy import build_policy
from megatron_k15.models.slices import weight_slices
from megatron_k15.parallel.context import ParallelContext, initialize
from megatron_k15.parallel.cpu_megatron import redirect_cuda


class Run:
    def __init__(self, work: Path, context: ParallelContext) -> None:
        self.work, self.context = work, context
        self.source = work / "hf"
        self.architecture = Architecture.from_hf(self.source)
        (self.model,) = build_policy(self.architecture, context, dtype="fp32")
        self.layout = f"{context.tensor_size}x{context.pipeline_size}x{context.data_size}"

    def fill(self) -> None:
        weights = HfWeights.open(self.source, self.architecture)
        load_hf_weights([self.model], weights, self.architecture, self.context)

    def export(self, directory: Path) -> None:
        slices = weight_slices([self.model], self.architecture, self.context)
        export_hf(directory, slices, architecture=self.architecture, source_dir=self.source, context=self.context)

    def save(self, root: Path, iteration: int) -> None:
        state = {"model": self.model.sharded_state_dict()}
        master = {"iteration": iteration, "note": "λ"}
        save_resume(root, iteration, state, master, context=self.context, num_kept=2)

    def load(self) -> None:
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.fill_(float("nan"))
        newest = find_newest(self.work / "resume")
        assert newest is not None
        state = {"model": self.model.sharded_state_dict()}
        loaded, master = load_resume(newest, state, context=self.context)
        assert master == {"iteration": 3, "note": "λ"}
        self.model.load_state_dict(loaded["model"])
        self.export(self.work / f"loaded_{self.layout}")

    def refused(self, what: str, act: object) -> None:
        """Every rank gets the same error, and gets it soon."""
        try:
            act()  # type: ignore[operator]
        except CheckpointError as error:
            messages: list[str] = [""] * self.context.world_size
            dist.all_gather_object(messages, str(error))
            assert len(set(messages)) == 1, messages
            if self.context.rank == 0:
                print(f"{what}: {error}")
        else:
            raise AssertionError(f"{what} was not refused")


def write(run: Run) -> None:
    run.fill()
    run.export(run.work / f"export_{run.layout}")
    if run.layout != "2x1x1":
        return
    for iteration in (1, 2, 3):
        run.save(run.work / "resume", iteration)
    run.save(run.work / "resume", 3)
    run.refused("save, full", lambda: run.save(run.work / "full" / "resume", 1))
    run.refused("save, few files", lambda: run.save(run.work / "few_files", 1))
    run.refused("export, full", lambda: run.export(run.work / "full" / "hf"))
    run.refused("export, source", lambda: run.export(run.source))
    run.refused("export, taken", lambda: run.export(run.work / "resume"))
    slices = weight_slices([run.model], run.architecture, run.context)
    kept = [item for item in slices if item.rule.hf_name != "model.norm.weight"]
    run.refused(
        "export, incomplete",
        lambda: export_hf(
            run.work / "never", kept, architecture=run.architecture, source_dir=run.source, context=run.context
        ),
    )


def main() -> None:
    action, work = sys.argv[1], Path(sys.argv[2])
    if not torch.cuda.is_available():
        redirect_cuda()
    # Joined here, so that a layout's end does not end the process group.
    dist.init_process_group("gloo")
    layouts = [(2, 1), (1, 2), (1, 1)] if action == "write" else [(1, 1)]
    for tensor_size, pipeline_size in layouts:
        parallel = ParallelConfig(tensor_parallel_size=tensor_size, pipeline_parallel_size=pipeline_size)
        with initialize(parallel, seed=0) as context:
            run = Run(work, context)
            if action == "write":
                write(run)
            run.load()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
