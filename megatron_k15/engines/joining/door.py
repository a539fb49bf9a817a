"""What rank 0 offers to instances that want to join: the model's small files, a register, the weights.

GET  /model            {"run", "engine", "dtype", "files": [name, …]}
GET  /model/<name>     config, tokenizer: vLLM starts with them and with dummy weights
POST /members          a Member: "I am here"; again every second
DELETE /members/<id>   "I leave"
GET  /weights/<n>      the bytes of version n, as they lie in the shared-memory segment behind its header
"""

import secrets
import time
from dataclasses import asdict
from pathlib import Path

from aiohttp import web

from megatron_k15.config import EngineConfig
from megatron_k15.engines.joining.http_server import HttpServer
from megatron_k15.engines.joining.member import Member
from megatron_k15.engines.joining.metadata import MetadataStore
from megatron_k15.engines.types import WeightUpdate

MODEL_FILES = (".json", ".txt", ".model", ".jinja")
"""Suffixes of what a vLLM with dummy weights reads."""
MAX_BODY_BYTES = 64 * 1024


class Door:
    def __init__(self, store: MetadataStore, *, token: str, model_dir: Path, dtype: str, engine: EngineConfig) -> None:
        """
        Args:
            engine: joined instances take its lengths and limits; their own machine decides the rest.
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
        self._update: WeightUpdate | None = None
        routes = [
            web.get("/model", self._model),
            web.get("/model/{name}", self._model_file),
            web.post("/members", self._join),
            web.delete("/members/{id}", self._leave),
            web.get("/weights/{version}", self._weights),
        ]
        self._server = HttpServer(routes, token, max_body_bytes=MAX_BODY_BYTES)

    async def open(self, host: str, port: int) -> int:
        """Returns the port."""
        return await self._server.start(host, port)

    async def close(self) -> None:
        await self._server.stop()

    async def offer(self, update: WeightUpdate) -> None:
        """Let this version be fetched, and no other."""
        self._update = update
        await self._store.put("weights", {"version": update.version})

    async def _model(self, request: web.Request) -> web.Response:
        told = {"run": self._run, "dtype": self._dtype, "engine": asdict(self._engine), "files": [*self._files]}
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
        update, asked = self._update, request.match_info["version"]
        if update is None or str(update.version) != asked:
            current = "none" if update is None else update.version
            return web.json_response({"error": f"version {asked} is not offered, but {current}"}, status=409)
        return web.FileResponse(str(update.info["path"]))
