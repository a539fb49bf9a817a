"""Weights by Mooncake's transfer engine (§2.6.3), over RDMA or TCP: rank 0 registers its shared-memory segment, joined
machines read it. `pip install mooncake-transfer-engine` (or `…-non-cuda`) on both sides, and
`join.transfer=mooncake_tcp` or `mooncake_rdma`.

Mooncake asks for no token: whoever reaches its ports can read and write the registered memory. It is for networks that
nobody else is on.
"""

import ctypes
from typing import Any

from megatron_k15.engines.weight_segment import WeightSegment
from megatron_k15.errors import ConfigError, TransferError


def _engine(host: str, protocol: str) -> Any:
    """An initialised transfer engine that others reach as `host`."""
    try:
        from mooncake.engine import TransferEngine
    except ImportError as error:
        raise ConfigError(
            f"join.transfer=mooncake_… needs mooncake-transfer-engine on both sides; it cannot be imported: {error}"
        ) from error
    engine = TransferEngine()
    if engine.initialize(host, "P2PHANDSHAKE", protocol, "") != 0:
        raise TransferError(f"Mooncake's transfer engine did not start on {host} over {protocol}")
    return engine


class MooncakeSender:
    """Rank 0's end. Keeps one segment registered."""

    def __init__(self, protocol: str) -> None:
        self._protocol = protocol
        self._engine: Any = None
        self._host = ""
        self._segment: WeightSegment | None = None
        self._address = 0

    def describe(self, segment: WeightSegment, host: str) -> dict[str, Any]:
        """Where the segment's body can be read, for a reader that reaches this machine as `host`; takes `segment`
        over."""
        if self._engine is None:
            self._engine, self._host = _engine(host, self._protocol), host
        if self._segment is not None and self._segment.path == segment.path:
            segment.close()
        else:
            self.close()
            self._segment, self._address = segment, _register(self._engine, segment)
        assert self._segment is not None
        with self._segment.body() as body:
            return {
                "peer": f"{self._host}:{self._engine.get_rpc_port()}",
                "address": self._address,
                "num_bytes": len(body),
                "protocol": self._protocol,
            }

    def close(self) -> None:
        if self._segment is not None:
            self._engine.unregister_memory(self._address)
            self._segment.close()
            self._segment = None


class MooncakeReader:
    """A joined machine's end."""

    def __init__(self, host: str, protocol: str) -> None:
        self._engine = _engine(host, protocol)
        self._registered: dict[str, int] = {}

    def read(self, segment: WeightSegment, told: dict[str, Any]) -> None:
        """Fill the segment's body from where `MooncakeSender.describe` says. Blocks.

        Raises:
            TransferError: sizes differ, or the transfer failed.
        """
        address = self._registered.get(str(segment.path)) or _register(self._engine, segment)
        self._registered = {str(segment.path): address}
        with segment.body() as body:
            if len(body) != told["num_bytes"]:
                raise TransferError(f"the weights have {len(body)} bytes, {told['num_bytes']} are offered")
            code = self._engine.transfer_sync_read(told["peer"], address, int(told["address"]), len(body))
        if code != 0:
            raise TransferError(f"Mooncake could not read from {told['peer']} (code {code})")


def _register(engine: Any, segment: WeightSegment) -> int:
    """Make the segment's body known to the engine; returns its address."""
    with segment.body() as body:
        address = ctypes.addressof(ctypes.c_char.from_buffer(body))
        if engine.register_memory(address, len(body)) != 0:
            raise TransferError(f"Mooncake could not register {len(body)} bytes of {segment.path}")
        return address
