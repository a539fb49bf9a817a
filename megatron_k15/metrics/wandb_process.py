"""The process that talks to wandb for `wandb_feed.py`.

Standard input: a header line (directory, project, name, mode, config_yaml), then {"iteration": …, "values": {…}} lines;
at its end wandb finishes the run.
"""

import json
import sys

import wandb
import yaml


def main() -> None:
    header = json.loads(sys.stdin.readline())
    run = wandb.init(
        project=header["project"],
        name=header["name"],
        dir=header["directory"],
        mode=header["mode"],
        config=yaml.safe_load(header["config_yaml"]),
    )
    for line in sys.stdin:
        record = json.loads(line)
        run.log(record["values"], step=record["iteration"])
    run.finish()


if __name__ == "__main__":
    main()
