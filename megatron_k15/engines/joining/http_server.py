"""A small HTTP server that lets nobody in without the token."""

from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from megatron_k15.engines.joining.member import is_authorized
from megatron_k15.errors import EngineError

STOP_SECONDS = 2.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpServer:
    """`start`, then `stop`. Requests without the token are answered 401, before their bodies are read."""

    def __init__(self, routes: Sequence[web.RouteDef], token: str, *, max_body_bytes: int) -> None:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            if not is_authorized(request.headers.get("Authorization"), token):
                return web.json_response({"error": "a token is needed"}, status=401)
            return await handler(request)

        app = web.Application(middlewares=[guard], client_max_size=max_body_bytes)
        app.add_routes(routes)
        # A caller that hangs up ends its call here too: vLLM need not finish what nobody waits for.
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=STOP_SECONDS, handler_cancellation=True
        )

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which is chosen where 0 is given.

        Raises:
            EngineError: the address cannot be listened on.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise EngineError(f"{host}:{port} cannot be listened on: {error.strerror or error}") from error
        return self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()


def split_address(address: str) -> tuple[str, int]:
    """`HOST:PORT`; an IPv6 host stands in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
