"""What is wrong with the rows of a run, collected over all files, so that one error names every bad line."""

import logging
from dataclasses import dataclass, field

from megatron_k15.errors import DataError

SHOWN = 10
log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Problems:
    """Bad lines found so far. `mode` is the `bad_lines` of the config's part named `section`."""

    mode: str
    section: str = "prompts"
    found: list[str] = field(default_factory=list)

    def add(self, where: str, rule: str) -> None:
        """Args:
        where: file and line, or task and draw.
        rule: what must hold, and what was found.
        """
        self.found.append(f"{where}: {rule}")

    def settle(self) -> None:
        """Raise what was found, or log it where bad lines are skipped. Says nothing when all is well.

        Raises:
            DataError: `mode` is `error` and something was found.
        """
        if not self.found:
            return
        shown = "\n  ".join(self.found[:SHOWN])
        more = f"\n  … and {len(self.found) - SHOWN} more" if len(self.found) > SHOWN else ""
        if self.mode == "skip":
            log.warning("%s: skipped %d bad lines:\n  %s%s", self.section, len(self.found), shown, more)
            return
        raise DataError(
            f"{self.section}: {len(self.found)} bad lines; correct them, or set {self.section}.bad_lines=skip:\n"
            f"  {shown}{more}"
        )
