"""What can be run: a table. A YAML file adds rows to it (`--languages FILE`), without code.

A row says how the source file is called, how it is compiled (or not), and how it is run. `{python}` stands for the
jail's interpreter. Commands are absolute paths inside the jail; the source lies in /box, which is also where the
compiler leaves what is to be run.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from megatron_k15.errors import ConfigError
from megatron_k15.sandbox.values import MIB, Limits

COMPILER_LIMITS = Limits(
    cpu_seconds=30, wall_seconds=60, memory_bytes=1024 * MIB, output_bytes=MIB, max_processes=64, disk_bytes=256 * MIB
)


@dataclass(frozen=True, kw_only=True)
class Language:
    source_name: str
    run: tuple[str, ...]
    compile: tuple[str, ...] = ()
    """Empty: nothing to compile."""
    compile_limits: Limits = COMPILER_LIMITS
    environment: Mapping[str, str] = field(default_factory=dict)
    """Besides PATH, HOME, LANG and TMPDIR."""


def built_in_languages() -> dict[str, Language]:
    return {
        # -I: no environment variables, no user's packages, and no import of the current directory.
        "python": Language(source_name="main.py", run=("{python}", "-I", "/box/main.py")),
        "c": Language(
            source_name="main.c",
            compile=("/usr/bin/gcc", "-O2", "-std=gnu17", "-o", "/box/main", "/box/main.c", "-lm"),
            run=("/box/main",),
        ),
        "cpp": Language(
            source_name="main.cpp",
            compile=("/usr/bin/g++", "-O2", "-std=gnu++17", "-o", "/box/main", "/box/main.cpp"),
            run=("/box/main",),
        ),
        "bash": Language(source_name="main.sh", run=("/usr/bin/bash", "--norc", "--noprofile", "/box/main.sh")),
    }


def read_languages(path: Path) -> dict[str, Language]:
    """Rows of a YAML file: name → `source_name`, `run`, and optionally `compile`, `compile_limits`, `environment`.

    Raises:
        ConfigError: unreadable, or a row breaks a rule; the message names it.
    """
    try:
        rows = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"--languages must name a readable YAML file; {path}: {error}") from error
    if not isinstance(rows, dict):
        raise ConfigError(f"{path} must map names of languages to rows; found {type(rows).__name__}")
    return {str(name): _language(f"{path}: {name!s}", row) for name, row in rows.items()}


def _language(where: str, row: Any) -> Language:
    known = {"source_name", "run", "compile", "compile_limits", "environment"}
    if not isinstance(row, dict) or not {"source_name", "run"} <= row.keys() <= known:
        raise ConfigError(
            f"{where} must have source_name and run, and may have {', '.join(sorted(known))}; got {row!r}"
        )
    if "/" in str(row["source_name"]):
        raise ConfigError(f"{where}: source_name must be a plain file name, got {row['source_name']!r}")
    try:
        limits = replace(COMPILER_LIMITS, **row.get("compile_limits", {}))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: compile_limits: {error}") from error
    return Language(
        source_name=str(row["source_name"]),
        run=_command(where, row["run"]),
        compile=_command(where, row["compile"]) if row.get("compile") else (),
        compile_limits=limits,
        environment={str(key): str(value) for key, value in row.get("environment", {}).items()},
    )


def _command(where: str, value: Any) -> tuple[str, ...]:
    words = shlex.split(value) if isinstance(value, str) else [str(word) for word in value]
    if not words or not words[0].startswith(("/", "{python}")):
        raise ConfigError(f"{where}: a command must start with an absolute path or {{python}}, got {value!r}")
    return tuple(words)
