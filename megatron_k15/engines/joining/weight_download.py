"""Weights over the network into this machine's shared memory, where vLLM's workers read them as they do beside the
trainer: same segment, same checksums.

By HTTP, or where the run says so by Mooncake's transfer engine: either fills the segment's body.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp

from megatron_k15.engines.joining.mooncake import MooncakeReader
from megatron_k15.engines.weight_segment import HEADER_BYTES, SegmentLayout, WeightSegment, read_layout, update_info
from megatron_k15.errors import TransferError

CHUNK_BYTES = 4 << 20
SILENCE_SECONDS = 30.0


class WeightDownload:
    """Keeps one segment, over versions of the same layout."""

    def __init__(self, session: aiohttp.ClientSession, url: str, *, mooncake: MooncakeReader | None = None) -> None:
        """
        Args:
            session: with the token in its headers.
            url: of rank 0's door.
            mooncake: fetches the bytes instead of HTTP.
        """
        self._mooncake = mooncake
        self._session = session
        self._url = url
        self._segment: WeightSegment | None = None

    async def fetch(self, info: Mapping[str, Any]) -> dict[str, Any]:
        """Fetch the version that rank 0 describes; returns the same description of the copy here.

        Raises:
            TransferError: it cannot be had whole, or there is no room for it. Bytes that changed on the way are found
                by vLLM, which compares every checksum.
        """
        layout, checksums = read_layout(info["dtype"], info["tensors"])
        version = int(info["version"])
        segment = self._segment_of(layout)
        segment.begin(version)
        await (self._download(version, segment) if self._mooncake is None else self._read(version, segment))
        segment.complete(version, checksums)
        return update_info(segment, version, checksums)

    def close(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment.unlink()
            self._segment = None

    def _segment_of(self, layout: SegmentLayout) -> WeightSegment:
        if self._segment is None or self._segment.layout != layout:
            self.close()
            self._segment = WeightSegment.create(layout)
        return self._segment

    async def _download(self, version: int, segment: WeightSegment) -> None:
        limits = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_SECONDS, sock_read=SILENCE_SECONDS)
        ask = {"Range": f"bytes={HEADER_BYTES}-"}
        try:
            async with self._session.get(f"{self._url}/weights/{version}", headers=ask, timeout=limits) as response:
                if response.status != 206:
                    raise TransferError(f"version {version} must be offered: {(await response.text())[:300]}")
                with segment.body() as body:
                    position = 0
                    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                        if position + len(chunk) > len(body):
                            raise TransferError(f"version {version} has {len(body)} bytes, more came")
                        body[position : position + len(chunk)] = chunk
                        position += len(chunk)
                    if position != len(body):
                        raise TransferError(f"version {version} has {len(body)} bytes, {position} came")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TransferError(f"version {version} did not come whole: {error!r}") from error

    async def _read(self, version: int, segment: WeightSegment) -> None:
        assert self._mooncake is not None
        limits = aiohttp.ClientTimeout(total=SILENCE_SECONDS)
        try:
            async with self._session.get(f"{self._url}/weights/{version}/mooncake", timeout=limits) as response:
                if response.status != 200:
                    raise TransferError(f"version {version} must be offered: {(await response.text())[:300]}")
                told = await response.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TransferError(f"version {version} cannot be asked for: {error!r}") from error
        await asyncio.to_thread(self._mooncake.read, segment, told)
