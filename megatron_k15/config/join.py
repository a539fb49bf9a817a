"""vLLM instances on other machines that come and go while a run goes on."""

from dataclasses import dataclass

from megatron_k15.config.checks import above_zero, at_least, one_of
from megatron_k15.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class JoinConfig:
    listen: str = ""
    """`HOST:PORT` on which rank 0 lets vLLM instances of other machines join (`python -m megatron_k15.engines.serve
    --join`). Empty: nobody may, and no port is opened."""
    token_variable: str = "K15_JOIN_TOKEN"
    """The environment variable with the secret that both sides must hold; needed wherever `listen` is set."""
    etcd: str = ""
    """`http://HOST:PORT` of an etcd that keeps membership and weight versions; empty: torchrun's own store."""
    transfer: str = "http"
    """How joined instances fetch weights: `http`, with the token; `mooncake_tcp` or `mooncake_rdma`, by Mooncake's
    transfer engine where both sides have it installed. That one asks for no token: for networks nobody else is on."""
    patience_seconds: float = 10.0
    """An instance that has not been heard of for this long is dropped, and its requests are sent again elsewhere. It
    may come back."""
    load_wait_seconds: float = 10.0
    """A rollout waits for so long, once the run's own instances have new weights, for joined ones that still fetch or
    load them: requests are given out when it starts. Later ones get what is left over."""
    check_timeout_seconds: float = 60.0
    """Longest time that a joined instance may take to answer a control call, loading of weights excepted."""

    def __post_init__(self) -> None:
        one_of("join.transfer", self.transfer, ("http", "mooncake_tcp", "mooncake_rdma"))
        above_zero("join.patience_seconds", self.patience_seconds)
        at_least("join.load_wait_seconds", self.load_wait_seconds, 0)
        above_zero("join.check_timeout_seconds", self.check_timeout_seconds)
        if self.listen and not self.listen.rpartition(":")[2].isdigit():
            raise ConfigError(f"join.listen must be HOST:PORT, got {self.listen!r}")
        if self.etcd and not self.etcd.startswith(("http://", "https://")):
            raise ConfigError(f"join.etcd must be http://HOST:PORT, got {self.etcd!r}")
