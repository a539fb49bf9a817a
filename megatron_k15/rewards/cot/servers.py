"""Where the judging model runs: a vLLM of the run's own, watched and restarted like the policy's, or another server."""

import os
from collections.abc import Mapping
from typing import Any

import aiohttp

from megatron_k15.engines.pool import EnginePool
from megatron_k15.errors import EngineError


class PoolChat:
    """A pool that was started for it. Its weights never change."""

    def __init__(self, pool: EnginePool, *, name: str) -> None:
        self._pool = pool
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    async def chat(self, body: Mapping[str, Any], limit_seconds: float) -> str:
        return await self._pool.chat(body, limit_seconds)


class EndpointChat:
    def __init__(self, address: str, *, served_name: str, token_variable: str) -> None:
        self._url = f"{address.rstrip('/')}/v1/chat/completions"
        self._served_name = served_name
        token = os.environ.get(token_variable)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    @property
    def name(self) -> str:
        return f"{self._url} {self._served_name}"

    async def chat(self, body: Mapping[str, Any], limit_seconds: float) -> str:
        timeout = aiohttp.ClientTimeout(total=limit_seconds)
        try:
            async with (
                aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session,
                session.post(self._url, json={"model": self._served_name, **body}) as response,
            ):
                if response.status != 200:
                    said = (await response.text())[:300]
                    raise EngineError(f"{self._url} must answer with status 200, got {response.status}: {said}")
                return chat_text(await response.json())
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise EngineError(f"{self._url} did not answer: {error!r}") from error


def chat_text(answer: Any) -> str:
    """
    Raises:
        ValueError: not an answer of `/v1/chat/completions` with text in it.
    """
    try:
        text = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"no message in {str(answer)[:300]}") from error
    if not isinstance(text, str):
        raise ValueError(f"no text in {str(answer)[:300]}")
    return text
