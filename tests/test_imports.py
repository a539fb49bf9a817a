"""The house rule on imports: rooms import downwards, flow rooms do not know each other, and vllm and megatron stay in
their rooms. Parsed, not imported."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "megatron_k15"

LEVELS = [
    {"train_rl", "train_sft", "train_dpo", "train_reward_model", "train_pretrain"},
    {"leader_parts", "offline"},
    {"master"},
    {"evaluation", "rollout_phase"},
    {"parts"},
    {"colocate", "rl_plan", "stage_plan", "reference_sums"},
    {
        "weight_sync",
        "trainer_parts",
        "reward_parts",
        "iteration_metrics",
        "plan",
        "stage_parts",
        "packed_stream",
        "pretrain_stream",
        "planned_step",
    },
    {"trainer_group"},
    {"training_worker", "loaded_policy"},
    {"curation", "corpus"},
    {"sampling"},
    {
        "prompts",
        "data",
        "rollout",
        "rewards",
        "replay",
        "training",
        "transfer",
        "metrics",
        "event_loop",
        "simulation",
        "test_cases",
    },
    {"merging"},
    {"checkpoint"},
    {"engines", "models"},
    {"offload", "parallel", "kernels", "sandbox"},
    {"json_lines", "rows"},
    {"program"},
    {"config", "types", "errors"},
]
FLOW_ROOMS = {"prompts", "data", "rollout", "rewards", "replay", "training", "transfer"}
FOREIGN = {"vllm": {"engines"}, "megatron": {"parallel", "models", "training", "checkpoint", "transfer", "data"}}


def _room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def _imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append(node.module or "")
    return found


def _level(room: str) -> int:
    for index, rooms in enumerate(LEVELS):
        if room in rooms:
            return index
    raise AssertionError(f"room {room} stands on no level: add it to LEVELS and to ARCHITECTURE.md")


def _edges() -> dict[tuple[str, str], list[str]]:
    edges: dict[tuple[str, str], list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = _room(path)
        if room == "__init__":
            continue
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] == "megatron_k15" and len(parts) > 1 and parts[1] != room:
                edges.setdefault((room, parts[1]), []).append(str(path.relative_to(PACKAGE)))
    return edges


def test_rooms_import_downwards() -> None:
    upward = {edge: files for edge, files in _edges().items() if _level(edge[0]) > _level(edge[1])}
    assert not upward, upward


def test_flow_rooms_do_not_import_one_another() -> None:
    sideways = {edge: files for edge, files in _edges().items() if set(edge) <= FLOW_ROOMS}
    assert not sideways, sideways


def test_there_are_no_cycles_between_rooms() -> None:
    graph: dict[str, set[str]] = {}
    for source, target in _edges():
        graph.setdefault(source, set()).add(target)

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        stack = [start]
        while stack:
            for nxt in graph.get(stack.pop(), ()):
                if nxt not in seen:
                    seen.add(nxt)
                    stack.append(nxt)
        return seen

    cyclic = sorted(room for room in graph if room in reachable(room))
    assert not cyclic, cyclic


def test_vllm_and_megatron_stay_in_their_rooms() -> None:
    outside = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for name in _imports(path)
        for library, rooms in FOREIGN.items()
        if name.split(".")[0] == library and _room(path) not in rooms
    ]
    assert not outside, outside
