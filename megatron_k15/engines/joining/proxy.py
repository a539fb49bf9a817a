"""The one door to a vLLM that is bound to a Unix socket of its own machine: asks for the token, lets through what the
trainer needs, and nothing else. `/update_weights` fetches the version first."""

import json
from collections.abc import Callable

from aiohttp import web

from megatron_k15.engines.client import EngineClient, EngineGone
from megatron_k15.engines.joining.http_server import HttpServer
from megatron_k15.engines.joining.weight_download import WeightDownload
from megatron_k15.errors import EngineError, TransferError

MAX_BODY_BYTES = 64 << 20
"""Token ids of the longest prompt; the names of all tensors with their checksums."""
PASSED_ON = (
    ("GET", "/v1/models"),
    ("GET", "/is_paused"),
    ("GET", "/weight_info"),
    ("POST", "/inference/v1/generate"),
    ("POST", "/pause"),
    ("POST", "/resume"),
    ("POST", "/abort_requests"),
    ("POST", "/start_weight_update"),
    ("POST", "/finish_weight_update"),
    ("POST", "/reset_prefix_cache"),
)


class Proxy:
    def __init__(self, client: Callable[[], EngineClient | None], download: WeightDownload, *, token: str) -> None:
        """
        Args:
            client: of the vLLM here; None while it is being started.
        """
        self._client = client
        self._download = download
        routes = [web.route(method, path, self._pass_on) for method, path in PASSED_ON]
        routes.append(web.post("/update_weights", self._update_weights))
        self._server = HttpServer(routes, token, max_body_bytes=MAX_BODY_BYTES)

    async def start(self, host: str, port: int) -> int:
        """Returns the port."""
        return await self._server.start(host, port)

    async def stop(self) -> None:
        await self._server.stop()

    async def _pass_on(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read()) if request.can_read_body else None
        return await self._call(request.method, request.path_qs, body)

    async def _update_weights(self, request: web.Request) -> web.Response:
        try:
            info = (await request.json())["update_info"]
            here = await self._download.fetch(info)
        except (TransferError, KeyError, TypeError, ValueError) as error:
            return web.json_response({"error": str(error)}, status=500)
        return await self._call("POST", "/update_weights", {"update_info": here})

    async def _call(self, method: str, path: str, body: dict[str, object] | None) -> web.Response:
        client = self._client()
        if client is None:
            return web.json_response({"error": "vLLM is being started"}, status=503)
        try:
            # The caller's own limits are shorter, and end this call too when the connection ends.
            return web.json_response(await client.call(method, path, body, limit_seconds=None))
        except EngineGone as gone:
            return web.json_response({"error": str(gone)}, status=503)
        except EngineError as error:
            return web.json_response({"error": str(error)}, status=500)
