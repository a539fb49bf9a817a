"""The sandbox service: `python -m megatron_k15.sandbox`. Prints one line with its address when it takes submissions.

Two processes: this one, the guardian, clears up after the other, the server, whatever end that comes to.
"""

import argparse
import os
import sys
from pathlib import Path

from megatron_k15.errors import K15Error
from megatron_k15.sandbox.guardian import Guardian
from megatron_k15.sandbox.values import TOKEN_VARIABLE


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    guardian = Guardian(parent_pid=options.parent)
    # Before anything large is imported: the guardian stays small.
    if guardian.fork():
        return guardian.watch()
    from megatron_k15.sandbox.server import serve

    try:
        serve(options, os.environ.get(TOKEN_VARIABLE) or None)
    except K15Error as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m megatron_k15.sandbox",
        description=f"Runs untrusted programs over HTTP. Beyond loopback it wants a token in {TOKEN_VARIABLE}.",
    )
    parser.add_argument(
        "--listen",
        default="127.0.0.1:8300",
        metavar="HOST:PORT",
        help="or unix:PATH; port 0: a free one (%(default)s)",
    )
    parser.add_argument("--backend", default="bubblewrap", choices=("bubblewrap", "crun"))
    parser.add_argument("--slots", type=int, default=0, help="programs at one time; 0: one per core (%(default)s)")
    parser.add_argument("--max-waiting", type=int, default=1024, help="queue length; more are refused (%(default)s)")
    parser.add_argument("--max-body-bytes", type=int, default=64 << 20, help="largest submission (%(default)s)")
    parser.add_argument("--languages", type=Path, help="a YAML file with more rows for the table of languages")
    parser.add_argument(
        "--package",
        action="append",
        default=[],
        metavar="NAME",
        help="an installed package that jailed Python can import",
    )
    parser.add_argument(
        "--first-uid",
        type=int,
        default=64000,
        help="slots run as users from here on that no other sandbox of this host has taken (%(default)s)",
    )
    parser.add_argument("--parent", type=int, default=0, help="end when the process with this id does")
    return parser


if __name__ == "__main__":
    sys.exit(main())
