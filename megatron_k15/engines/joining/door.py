"""What rank 0 offers to instances that want to join: the model's small files, a register, the weights.

GET  /model            {"run", "engine", "dtype", "files": [name, …]}
GET  /model/<name>     config, tokenizer: vLLM starts with them and with dummy weights
POST /members          a Member: "I am here"; again every second
DELETE /members/<id>   "I leave"
GET  /weights/<n>      the bytes of version n, as they lie in the shared-memory segment behind its header
"""

import asyncio
import secrets
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aiohttp import web

from megatron_k15.config import EngineConfig
from megatron_k15.engines.joining.http_server import HttpServer
from megatron_k15.engines.joining.member import Member
from megatron_k15.engines.joining.metadata import MetadataStore
from megatron_k15.engines.joining.mooncake import MooncakeSender
from megatron_k15.engines.types import WeightUpdate
from megatron_k15.engines.weight_segment import WeightSegment, read_layout

MODEL_FILES = (".json", ".txt", ".model", ".jinja")
"""Suffixes of what a vLLM with dummy weights reads."""
MAX_BODY_BYTES = 64 * 1024


class Door:
    def __init__(
        self,
        store: MetadataStore,
        *,
        token: str,
        model_dir: Path,
        dtype: str,
        engine: EngineConfig,
        transfer: str = "http",
    ) -> None:
        """
        Args:
            engine: joined instances take its lengths and limits; their own machine decides the rest.
            transfer: `join.transfer`.
        """
        self._store = store
        self._run = secrets.token_hex(8)
        self._dtype = dtype
        self._engine = engine
        self._files = {
            path.name: path
            for path in sorted(model_dir.iterdir())
            if path.suffix in MODEL_FILES and not path.name.endswith(".index.json")
        }
        self._transfer = transfer
        self._mooncake = MooncakeSender(transfer.removeprefix("mooncake_")) if transfer != "http" else None
        self._update: WeightUpdate | None = None
        routes = [
            web.get("/model", self._model),
            web.get("/model/{name}", self._model_file),
            web.post("/members", self._join),
            web.delete("/members/{id}", self._leave),
            web.get("/weights/{version}", self._weights),
            web.get("/weights/{version}/mooncake", self._mooncake_weights),
        ]
        self._server = HttpServer(routes, token, max_body_bytes=MAX_BODY_BYTES)

    async def open(self, host: str, port: int) -> int:
        """Returns the port."""
        return await self._server.start(host, port)

    async def close(self) -> None:
        await self._server.stop()
        if self._mooncake is not None:
            self._mooncake.close()

    async def offer(self, update: WeightUpdate) -> None:
        """Let this version be fetched, and no other."""
        self._update = update
        await self._store.put("weights", {"version": update.version})

    async def _model(self, request: web.Request) -> web.Response:
        told = {"run": self._run, "dtype": self._dtype, "engine": asdict(self._engine), "files": [*self._files]}
        told["transfer"] = self._transfer
        return web.json_response(told)

    async def _model_file(self, request: web.Request) -> web.StreamResponse:
        path = self._files.get(request.match_info["name"])
        if path is None:
            return web.json_response({"error": "no such file"}, status=404)
        return web.FileResponse(path)

    async def _join(self, request: web.Request) -> web.Response:
        try:
            member = Member.from_json(await request.json())
        except (ValueError, KeyError, TypeError) as error:
            return web.json_response({"error": f"not a member: {error}"}, status=400)
        await self._store.put(f"members/{member.id}", {**member.to_json(), "heard": time.time()})
        return web.json_response({"run": self._run})

    async def _leave(self, request: web.Request) -> web.Response:
        await self._store.delete(f"members/{request.match_info['id']}")
        return web.json_response({})

    async def _weights(self, request: web.Request) -> web.StreamResponse:
        """A version that is overwritten meanwhile is found by its checksums, on the other side."""
        update = self._offered(request)
        return update if isinstance(update, web.Response) else web.FileResponse(str(update.info["path"]))

    async def _mooncake_weights(self, request: web.Request) -> web.Response:
        update = self._offered(request)
        if isinstance(update, web.Response):
            return update
        if self._mooncake is None:
            return web.json_response({"error": "join.transfer is http"}, status=404)
        info: Any = update.info
        layout, _ = read_layout(info["dtype"], info["tensors"])
        segment = WeightSegment.open(info["path"], layout)
        assert request.transport is not None
        here = request.transport.get_extra_info("sockname")[0]
        return web.json_response(await asyncio.to_thread(self._mooncake.describe, segment, here))

    def _offered(self, request: web.Request) -> WeightUpdate | web.Response:
        update, asked = self._update, request.match_info["version"]
        if update is None or str(update.version) != asked:
            current = "none" if update is None else update.version
            return web.json_response({"error": f"version {asked} is not offered, but {current}"}, status=409)
        return update
