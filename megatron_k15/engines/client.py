"""HTTP to one vLLM, over a Unix socket or a network: requests out, checked answers in.

Two kinds of failure are told apart: `EngineGone` (the connection failed: the process died or hangs; the request may be
sent again elsewhere) and `EngineError` (vLLM answered, and the answer is not one that may be used).
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import aiohttp

from megatron_k15.engines.types import GenerateRequest, Generation, WeightUpdate
from megatron_k15.errors import EngineError
from megatron_k15.types import VersionSpan

MODEL_NAME = "policy"
"""What the server calls its model; requests must name it."""
START_VERSION = "default"
"""What vLLM 0.32 calls the weights it started with. Here that is version 0."""
FINISH_REASONS = {"stop": "stop", "length": "length", "repetition": "repetition", "abort": "aborted"}
LOWEST_LOGPROB = -9000.0
"""vLLM sends -9999 for a logprob that is missing, NaN or -inf."""
ENGINE_IS_DEAD = ("EngineCore encountered an issue", "EngineDeadError")
"""What the API server says, with status 500, to requests in flight when its engine core or a worker dies."""
CONTROL_SECONDS = 600.0
"""Limit of a control call. Long: it waits for the model's present step, and a hung vLLM is found by `Instance`."""
CONNECT_SECONDS = 10.0


class EngineGone(Exception):  # noqa: N818 - a state of the connection, handled by the pool, never shown to a user
    """The vLLM behind the connection died or does not answer."""


class EngineSilent(EngineGone):
    """It did not answer within the limit of the call."""


class EngineClient:
    """All calls raise EngineGone or EngineError; none is retried here."""

    def __init__(self, socket_path: Path, *, index: int = 0, vocab_size: int | None = None) -> None:
        """
        Args:
            socket_path: where vLLM listens.
            index: of the instance, for messages.
            vocab_size: token ids in answers must be below it.
        """
        connector = aiohttp.UnixConnector(str(socket_path), limit=0, force_close=True)
        self._set_up(connector, "http://vllm", {}, index=index, who=f"vLLM {index}", vocab_size=vocab_size)

    @classmethod
    def over_network(cls, address: str, *, headers: Mapping[str, str], vocab_size: int | None = None) -> Self:
        """A client of the proxy at `address` (`HOST:PORT`) in front of a vLLM on another machine."""
        client = cls.__new__(cls)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        client._set_up(
            connector, f"http://{address}", headers, index=-1, who=f"vLLM at {address}", vocab_size=vocab_size
        )
        return client

    def _set_up(
        self,
        connector: aiohttp.BaseConnector,
        url: str,
        headers: Mapping[str, str],
        *,
        index: int,
        who: str,
        vocab_size: int | None,
    ) -> None:
        self.index = index
        self._url = url
        self._who = who
        self._vocab_size = vocab_size
        self.engine_is_dead = False
        """True once the API server said that the engine core behind it has died, or does not listen any more."""
        # A connection per call: one kept open may be closed by vLLM (after 5 idle seconds) just as it is used again.
        # No limit: the pool bounds the requests in flight, and control calls must never queue behind them.
        self._session = aiohttp.ClientSession(
            connector=connector, headers=headers, timeout=aiohttp.ClientTimeout(total=None)
        )

    async def close(self) -> None:
        await self._session.close()

    async def is_up(self) -> bool:
        """True once the API server answers, which it does when the model has been loaded."""
        try:
            await self.call("GET", "/v1/models", limit_seconds=5.0)
        except (EngineGone, EngineError):
            return False
        return True

    async def answers(self, limit_seconds: float) -> bool:
        """True if the engine core answers in time.

        `/health` is not asked: the API server answers it by itself while the engine core is stuck. `/is_paused` goes
        through the engine core's own loop, between two steps of the model.
        """
        try:
            await self.call("GET", "/is_paused", limit_seconds=limit_seconds)
        except EngineGone as gone:
            # An API server whose engine core died stops listening, then waits for calls that will never be answered.
            self.engine_is_dead |= isinstance(gone.__cause__, aiohttp.ClientConnectorError)
            return False
        except EngineError:
            return False
        return True

    async def warm_up(self, limit_seconds: float) -> None:
        """Generate a little, so that lazy set-up inside vLLM is paid at start and not by the first real request."""
        body = self._body([0] * 8, {"max_tokens": 2, "temperature": 1.0, "logprobs": 0, "ignore_eos": True})
        await self.call("POST", "/inference/v1/generate", body, limit_seconds=limit_seconds)

    async def scores(self, sequences: Sequence[Sequence[int]], limit_seconds: float) -> tuple[float, ...]:
        """What a model with one label gives each sequence of token ids, before any activation. Of a vLLM whose runner
        is `pooling`."""
        body = {"input": [list(tokens) for tokens in sequences], "task": "classify", "use_activation": False}
        answer = await self.call("POST", "/pooling", {"model": MODEL_NAME, **body}, limit_seconds=limit_seconds)
        return read_scores(answer, len(sequences), who=self._who)

    async def warm_up_scores(self, limit_seconds: float) -> None:
        await self.scores([[0] * 8], limit_seconds)

    async def generate(self, request: GenerateRequest, limit_seconds: float | None = None) -> Generation:
        """Sample one response."""
        answer = await self.call(
            "POST",
            "/inference/v1/generate",
            self._body(request.token_ids, sampling_params(request)),
            limit_seconds=limit_seconds,
        )
        return read_generation(answer, request, who=self._who, vocab_size=self._vocab_size)

    async def prompt_logprobs(self, token_ids: Sequence[int], limit_seconds: float | None = None) -> tuple[float, ...]:
        """ln p(token t | tokens before t) at temperature 1, for every given token; 0.0 for the first."""
        params = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "detokenize": False}
        answer = await self.call(
            "POST", "/inference/v1/generate", self._body(token_ids, params), limit_seconds=limit_seconds
        )
        return read_prompt_logprobs(answer, token_ids, who=self._who)

    async def chat(self, body: Mapping[str, object], limit_seconds: float) -> str:
        """The answer's text to an OpenAI-style chat; `body` holds messages and sampling parameters."""
        answer = await self.call(
            "POST", "/v1/chat/completions", {"model": MODEL_NAME, **body}, limit_seconds=limit_seconds
        )
        try:
            return str(answer["choices"][0]["message"]["content"] or "")
        except (KeyError, IndexError, TypeError) as error:
            raise EngineError(f"{self._who} must answer a chat with a message, got {str(answer)[:300]}") from error

    async def pause(self, mode: str = "keep") -> None:
        """Stop sampling, with the keys and values of requests in flight kept: `load_weights` drops them."""
        await self.call("POST", f"/pause?mode={mode}&clear_cache=false")

    async def resume(self) -> None:
        await self.call("POST", "/resume")

    async def abort_all(self) -> None:
        """End all requests in flight; they answer with what they have, finish reason `aborted`."""
        await self.call("POST", "/abort_requests", {})

    async def init_weight_transfer(self, init_info: Mapping[str, object], limit_seconds: float) -> None:
        await self.call("POST", "/init_weight_transfer_engine", {"init_info": init_info}, limit_seconds=limit_seconds)

    async def load_weights(self, update: WeightUpdate, limit_seconds: float) -> None:
        """Replace the weights. The engine must be paused; after an error its weights may be half old, half new."""
        await self.begin_update(limit_seconds)
        await self.load_part(update.info, limit_seconds)
        await self.finish_update(update.version, limit_seconds)

    async def begin_update(self, limit_seconds: float) -> None:
        await self.call("POST", "/start_weight_update", limit_seconds=limit_seconds)

    async def load_part(self, update_info: Mapping[str, object], limit_seconds: float) -> None:
        await self.call("POST", "/update_weights", {"update_info": dict(update_info)}, limit_seconds=limit_seconds)

    async def finish_update(self, version: int, limit_seconds: float) -> None:
        await self.call("POST", "/finish_weight_update", {"weight_version": str(version)}, limit_seconds=limit_seconds)
        # No key or value of the old weights may serve the new ones. Requests in flight hold theirs, and vLLM refuses to
        # reset them unless told to compute these anew.
        answer = await self.call("POST", "/reset_prefix_cache?reset_running_requests=true")
        if answer.get("success") is not True:
            raise EngineError(f"{self._who} must drop the keys and values of its old weights, and answered {answer}")

    async def sleep(self, *, on_cpu: bool, limit_seconds: float) -> None:
        """Give back the memory of weights and KV cache. Nothing may be in flight."""
        if on_cpu:
            await self.call("POST", "/collective_rpc", {"method": "k15_free_memory"}, limit_seconds=limit_seconds)
        else:
            await self.call("POST", "/sleep?level=2&mode=abort", limit_seconds=limit_seconds)

    async def wake_up(self, *, on_cpu: bool, limit_seconds: float) -> None:
        """Take it again. The next weight version must be loaded before anything is sampled."""
        if not on_cpu:  # on a CPU memory comes back when it is written
            await self.call("POST", "/wake_up", limit_seconds=limit_seconds)

    async def weight_version(self) -> int:
        info = await self.call("GET", "/weight_info")
        return parse_version(info.get("weight_version"), who=self._who)

    def _body(self, token_ids: Sequence[int], params: Mapping[str, object]) -> dict[str, object]:
        return {"model": MODEL_NAME, "token_ids": list(token_ids), "sampling_params": params}

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        limit_seconds: float | None = CONTROL_SECONDS,
    ) -> dict[str, Any]:
        """One call of vLLM's HTTP interface; `path` may hold a query."""
        timeout = aiohttp.ClientTimeout(total=limit_seconds, sock_connect=CONNECT_SECONDS)
        try:
            async with self._session.request(method, f"{self._url}{path}", json=body, timeout=timeout) as response:
                text = await response.text()
                if response.status == 503 or (response.status == 500 and any(sign in text for sign in ENGINE_IS_DEAD)):
                    self.engine_is_dead = True
                    raise EngineGone(f"{self._who} says its engine is dead: {text[:300]}")
                if response.status != 200:
                    raise EngineError(
                        f"{self._who} must answer {path} with status 200, got {response.status}: {text[:2000]}"
                    )
                answer = await response.json() if text else {}
        except (aiohttp.ContentTypeError, ValueError) as error:
            raise EngineError(f"{self._who} must answer {path} with JSON, got {text[:300]!r}") from error
        except TimeoutError as error:
            raise EngineSilent(f"{self._who} did not answer {path} within {limit_seconds:g} s") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise EngineGone(f"{self._who} is gone: {error}") from error
        if not isinstance(answer, dict):
            raise EngineError(f"{self._who} must answer {path} with a JSON object, got {text[:300]!r}")
        return answer


def sampling_params(request: GenerateRequest) -> dict[str, object]:
    """vLLM's SamplingParams of a request."""
    params: dict[str, object] = {
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "logprobs": 0,  # of the sampled token alone
        "ignore_eos": request.ignore_eos,
        "detokenize": bool(request.stop),  # text is needed inside vLLM only to find stop strings
    }
    if request.stop:
        params["stop"] = list(request.stop)
    if request.seed is not None:
        params["seed"] = request.seed
    if request.repetition_max_pattern_tokens:
        params["repetition_detection"] = {
            "max_pattern_size": request.repetition_max_pattern_tokens,
            "min_pattern_size": 1,
            "min_count": request.repetition_min_count,
        }
    return params


def read_generation(
    answer: Mapping[str, Any], request: GenerateRequest, *, who: str, vocab_size: int | None
) -> Generation:
    """Check an answer of `/inference/v1/generate` and make it ours.

    Raises:
        EngineError: a part is missing, lengths differ, a logprob is not finite, or an id is outside the vocabulary.
    """
    try:
        (choice,) = answer["choices"]
        token_ids = tuple(int(token) for token in choice["token_ids"])
        content = (choice["logprobs"] or {}).get("content") or []
        logprobs = tuple(float(item["logprob"]) for item in content)
        logprob_ids = tuple(int(item["token_id"]) for item in content)
        finish_reason = FINISH_REASONS[choice["finish_reason"]]
        versions = read_versions(choice["weight_versions"] or [], who=who)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EngineError(
            f"{who} must answer request {request.request_key!r} with one choice of token ids, logprobs, finish reason "
            f"and weight versions; {error!r} in {str(dict(answer))[:500]}"
        ) from error
    problem = _problem(token_ids, logprobs, logprob_ids, versions, request, vocab_size)
    if problem:
        raise EngineError(f"{who} gave an answer to request {request.request_key!r} that must not be used: {problem}")
    return Generation(
        token_ids=token_ids,
        logprobs=tuple(min(value, 0.0) for value in logprobs),
        finish_reason=finish_reason,  # type: ignore[arg-type]
        versions=versions,
    )


def _problem(
    token_ids: tuple[int, ...],
    logprobs: tuple[float, ...],
    logprob_ids: tuple[int, ...],
    versions: tuple[VersionSpan, ...],
    request: GenerateRequest,
    vocab_size: int | None,
) -> str:
    if len(token_ids) > request.max_tokens:
        return f"at most {request.max_tokens} tokens were asked for, {len(token_ids)} came"
    if logprob_ids != token_ids:
        return f"logprobs are of tokens {logprob_ids[:8]}..., the response is {token_ids[:8]}..."
    if vocab_size is not None and any(not 0 <= token < vocab_size for token in token_ids):
        return f"token ids must be in [0, {vocab_size}), got {min(token_ids)} to {max(token_ids)}"
    if bad := [value for value in logprobs if not (LOWEST_LOGPROB < value < 1e-3)]:
        return f"logprobs must be finite and not above 0, got {bad[:4]}"
    covered = [(span.start, span.end) for span in versions]
    edges = [0, *(end for _, end in covered)]
    if token_ids and ([start for start, _ in covered] != edges[:-1] or edges[-1] != len(token_ids)):
        return f"weight versions must cover tokens 0..{len(token_ids)} without gaps, got {covered}"
    return ""


def read_versions(spans: Sequence[Mapping[str, Any]], *, who: str) -> tuple[VersionSpan, ...]:
    return tuple(
        VersionSpan(version=parse_version(span["version"], who=who), start=int(span["start"]), end=int(span["end"]))
        for span in spans
    )


def parse_version(version: object, *, who: str) -> int:
    if version == START_VERSION:
        return 0
    if isinstance(version, str) and version.isascii() and version.isdigit():
        return int(version)
    raise EngineError(f"{who} must name weight versions by numbers, got {version!r}")


def read_scores(answer: Mapping[str, Any], count: int, *, who: str) -> tuple[float, ...]:
    """
    Raises:
        EngineError: not one finite score per sequence, in order.
    """
    try:
        by_index = {entry["index"]: entry["data"] for entry in answer["data"]}
        scores = tuple(float(value) for index in range(count) for (value,) in [by_index[index]])
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{who} must give one score per sequence, got {str(answer)[:300]}") from error
    if not all(map(math.isfinite, scores)):
        raise EngineError(f"{who} must give finite scores, got {scores}")
    return scores


def read_prompt_logprobs(answer: Mapping[str, Any], token_ids: Sequence[int], *, who: str) -> tuple[float, ...]:
    """One logprob per given token from vLLM's list of {token id: logprob}, whose first entry is null."""
    entries = answer.get("prompt_logprobs")
    if not isinstance(entries, list) or len(entries) != len(token_ids):
        raise EngineError(f"{who} must give one prompt logprob per token ({len(token_ids)}), got {str(entries)[:300]}")
    try:
        values = [float(entry[str(token)]["logprob"]) for entry, token in zip(entries[1:], token_ids[1:], strict=True)]
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{who} must give the logprob of each given token; {error!r} is missing") from error
    if not all(math.isfinite(value) and value > LOWEST_LOGPROB for value in values):
        raise EngineError(f"{who} must give finite prompt logprobs, got {values[:16]}...")
    return (0.0, *values)
