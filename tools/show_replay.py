"""Look into a replay buffer: its files, the groups under way, the segments of one prompt. Changes nothing.

python tools/show_replay.py RUN_DIR_OR_CHECKPOINT [--prompt ID] [--all]
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from megatron_k15.errors import K15Error
from megatron_k15.metrics.printable import printable
from megatron_k15.replay.inspection import FileSummary, GroupSummary, records_of, summarise


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Show what a replay buffer holds.")
    parser.add_argument("folder", type=Path, help="a run_dir, or a checkpoint of one")
    parser.add_argument("--prompt", help="show this prompt's segments, token by token")
    parser.add_argument("--all", action="store_true", help="also the groups whose responses have all ended")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, markup=False, emoji=False)
    try:
        if options.prompt is not None:
            _show_prompt(console, options.folder, options.prompt)
            return 0
        files, groups = summarise(options.folder)
    except K15Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console.print(_file_table(files))
    shown = [group for group in groups if options.all or group.num_open]
    console.print(_group_table(shown))
    console.print(f"{len(groups)} groups, {sum(group.num_open > 0 for group in groups)} of them with open responses")
    return 1 if any(file.problem for file in files) else 0


def _file_table(files: list[FileSummary]) -> Table:
    table = Table("file", "bytes", "records", "torn bytes", "damage", box=None)
    for file in files:
        table.add_row(
            file.path.name, str(file.num_bytes), str(file.num_records), str(file.num_torn_bytes), file.problem or "none"
        )
    return table


def _group_table(groups: list[GroupSummary]) -> Table:
    table = Table("drawn in", "prompt", "open", "tokens of each response", "weight versions", box=None)
    for group in groups:
        responses = [group.responses[index] for index in sorted(group.responses)]
        versions = sorted(set().union(*(response.versions for response in responses)))
        tokens = ", ".join(
            f"{response.num_tokens}{'+' if response.finish_reason == 'budget' else ''}" for response in responses
        )
        span = f"{versions[0]} to {versions[-1]}" if versions else "none"
        table.add_row(str(group.drawn_iteration), printable(group.prompt_id), str(group.num_open), tokens, span)
    return table


def _show_prompt(console: Console, folder: Path, prompt_id: str) -> None:
    for record in records_of(folder, prompt_id):
        key = record.key
        title = f"iteration {key.iteration}, drawn in {key.drawn_iteration}, response {key.sample_index}"
        console.print(f"{title}, from token {key.offset}: {record.finish_reason}")
        for segment in record.segments:
            table = Table("token", "logprob", "in loss", box=None, title=f"weights {segment.versions[0].version}")
            for values in zip(segment.token_ids, segment.logprobs, segment.loss_mask, strict=True):
                table.add_row(*map(str, values))
            console.print(table)


if __name__ == "__main__":
    sys.exit(main())
