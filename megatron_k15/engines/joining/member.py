"""What rank 0 knows of an instance that joined, and the secret both sides hold."""

import hmac
import os
import re
from dataclasses import dataclass
from typing import Any, Self

from megatron_k15.errors import ConfigError

MIN_TOKEN_CHARACTERS = 16
ADDRESS = re.compile(r"[\w.:\[\]-]{1,255}:\d{1,5}")


@dataclass(frozen=True, kw_only=True)
class Member:
    """An instance and one life of its vLLM."""

    id: str
    """Of the serving process; letters, digits, `-` and `_`."""
    life: int
    """Counts the starts of its vLLM: one that was started anew holds no weights yet."""
    address: str
    """`HOST:PORT` of its proxy."""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """
        Raises:
            ValueError: it says something else.
        """
        member = cls(id=str(value["id"]), life=int(value["life"]), address=str(value["address"]))
        if not re.fullmatch(r"[\w-]{1,64}", member.id) or not re.fullmatch(
            r"[\w.:\[\]-]{1,255}:\d{1,5}", member.address
        ):
            raise ValueError(f"an instance needs an id and HOST:PORT, got {member}")
        return member

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "life": self.life, "address": self.address}


def read_token(variable: str) -> str:
    """The secret of the environment variable `variable`.

    Raises:
        ConfigError: there is none, or it is short enough to be guessed.
    """
    token = os.environ.get(variable, "").strip()
    if len(token) < MIN_TOKEN_CHARACTERS:
        raise ConfigError(
            f"joining needs a secret of at least {MIN_TOKEN_CHARACTERS} characters in {variable}, on both sides "
            f"(`openssl rand -hex 16` makes one); found {len(token)} characters"
        )
    return token


def authorization(token: str) -> dict[str, str]:
    """The header that carries it."""
    return {"Authorization": f"Bearer {token}"}


def is_authorized(header: str | None, token: str) -> bool:
    """Takes as long for a wrong token as for a right one."""
    return hmac.compare_digest((header or "").encode(), f"Bearer {token}".encode())
