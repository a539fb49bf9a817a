"""All vLLM instances of a run behind one door: requests in, responses out; weights in, all instances on them.

A request goes to the ready instance with the fewest in flight. When its vLLM dies or hangs, that request alone is sent
again, to whichever instance is ready first; a restarted vLLM gets the current weights before it gets any request.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from megatron_k15.config import EngineConfig
from megatron_k15.engines.agreement import check_agreement
from megatron_k15.engines.client import EngineClient, EngineGone
from megatron_k15.engines.dispatch import Dispatch
from megatron_k15.engines.instance import Instance
from megatron_k15.engines.joining.roster import Roster
from megatron_k15.engines.model_facts import on_cpu, vocab_size
from megatron_k15.engines.plugin import SHARED_MEMORY_BACKEND
from megatron_k15.engines.sidecar import OnProgress, Sidecar
from megatron_k15.engines.types import EngineStats, GenerateRequest, Generation, WeightUpdate
from megatron_k15.errors import EngineError

JOIN_PROBE = tuple(range(1, 17))
"""Tokens whose logprobs show that a joined instance holds the weights it should."""


class EnginePool:
    """Use it as `async with EnginePool(...) as pool:`. One event loop, the one it was started in."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        model_dir: Path,
        dtype: str,
        log_dir: Path,
        backend: str = SHARED_MEMORY_BACKEND,
        max_concurrent: int = 256,
        request_timeout_seconds: float = 600.0,
        weight_timeout_seconds: float = 300.0,
        gpus: Sequence[Sequence[int]] | None = None,
        colocate: str = "off",
        runner: str = "generate",
        roster: Roster | None = None,
    ) -> None:
        """
        Args:
            model_dir: a Hugging Face directory; vLLM starts from its weights, version 0.
            dtype: `bf16` or `fp32`.
            log_dir: one `vllm_<index>.log` per instance.
            backend: weight-transfer engine inside vLLM. After an update in parts (`begin_update`), a vLLM that dies
                cannot be brought back to the current weights, and the pool gives up.
            max_concurrent: requests in flight per instance; more wait here.
            request_timeout_seconds: for one request on one vLLM, once it has been sent.
            weight_timeout_seconds: for one vLLM to load a weight version.
            gpus: local GPU numbers of each instance; None leaves the choice to vLLM.
            colocate: `colocate.mode`: how `release` gives memory back.
            runner: `generate`, or `pooling` for a model that gives scores.
            roster: instances on other machines; the pool starts and stops it.

        Raises:
            ModelError: model_dir has no readable config.json.
        """
        self._request_timeout_seconds = request_timeout_seconds
        self._weight_timeout_seconds = weight_timeout_seconds
        self._backend = backend
        self._on_progress: OnProgress = lambda text: None
        self._init_info: Mapping[str, object] | None = None
        self._update: WeightUpdate | None = None
        self._awaiting_update = False
        """The weights of `_update` are no longer, or not yet, whole in shared memory."""
        self._colocate = colocate
        self._released = False
        self._paused = False
        self._in_parts = False
        """Weights came in parts, straight from the trainers' GPUs: nobody keeps them for a vLLM that starts anew."""
        self._updating = asyncio.Lock()
        self._restoring = asyncio.Lock()
        self._counts = {"requests": 0, "prompt_tokens": 0, "generated_tokens": 0}
        use_cpu, num_token_ids = on_cpu(), vocab_size(model_dir)
        self._on_cpu = use_cpu

        def sidecar(index: int) -> Sidecar:
            return Sidecar(
                index=index,
                config=config,
                model_dir=model_dir,
                dtype=dtype,
                log_path=log_dir / f"vllm_{index}.log",
                backend=backend,
                on_cpu=use_cpu,
                vocab_size=num_token_ids,
                gpus=gpus[index] if gpus is not None else None,
                colocate=colocate,
                runner=runner,
                on_progress=lambda text: self._on_progress(text),
            )

        self._instances = [
            Instance(index, config, lambda index=index: sidecar(index), self._prepare)  # type: ignore[misc]
            for index in range(config.num_engines)
        ]
        self._roster = roster
        self._dispatch = Dispatch(
            self._instances, lambda: roster.ready if roster is not None else (), max_concurrent=max_concurrent
        )

    async def start(self, on_progress: OnProgress = lambda text: None) -> None:
        """Start all instances at once. `on_progress` is told about once a second what is waited for, here and at
        restarts.

        Raises:
            EngineError: one did not start; the others have been stopped.
        """
        self._on_progress = on_progress
        try:
            await asyncio.gather(*(instance.start() for instance in self._instances))
            if self._roster is not None and not self._roster.is_open:
                await self._roster.start(check=self._check_joined, on_ready=self._dispatch.wake)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop all instances. Requests in flight fail with EngineError. May be called twice."""
        if self._roster is not None:
            await self._roster.stop()
        await asyncio.gather(*(instance.stop() for instance in self._instances))
        await self._dispatch.wake()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def restarts(self) -> int:
        """Over all instances, since the start."""
        return sum(instance.num_restarts for instance in self._instances)

    @property
    def pids(self) -> tuple[int, ...]:
        """vLLM's processes, instance by instance: API server, engine core, workers."""
        return tuple(pid for instance in self._instances for pid in instance.pids)

    def stats(self) -> EngineStats:
        joined = self._roster.ready if self._roster is not None else []
        return EngineStats(
            num_requests=self._counts["requests"],
            num_prompt_tokens=self._counts["prompt_tokens"],
            num_generated_tokens=self._counts["generated_tokens"],
            num_resent=self._dispatch.num_resent,
            num_restarts=self.restarts,
            num_in_flight=sum(own.num_in_flight for own in self._instances)
            + sum(other.num_in_flight for other in joined),
            num_joined=len(joined),
            num_answered_by_joined=self._dispatch.num_answered_by_joined,
        )

    async def generate(self, request: GenerateRequest) -> Generation:
        """Sample one response; survives the death of the vLLM that works on it.

        Raises:
            EngineError: no instance is left, weights are half loaded, or vLLM gave an answer that must not be used.
        """
        self._counts["requests"] += 1
        self._counts["prompt_tokens"] += len(request.token_ids)
        generation = await self._dispatch.on_any(lambda client: client.generate(request, self._request_timeout_seconds))
        self._counts["generated_tokens"] += len(generation.token_ids)
        return generation

    async def chat(self, body: Mapping[str, object], limit_seconds: float) -> str:
        """The answer's text to an OpenAI-style chat; survives the death of the vLLM that works on it.

        Raises:
            EngineError: no instance is left, or there was no answer within the limit.
        """
        return await self._dispatch.on_any(lambda client: client.chat(body, limit_seconds))

    async def scores(self, sequences: Sequence[Sequence[int]], limit_seconds: float) -> tuple[float, ...]:
        """A score per sequence of token ids, from a pool whose runner is `pooling`; survives as `chat` does.

        Raises:
            EngineError: no instance is left, or there was no answer within the limit.
        """
        return await self._dispatch.on_any(lambda client: client.scores(sequences, limit_seconds))

    async def prompt_logprobs(self, sequences: Sequence[Sequence[int]]) -> tuple[tuple[float, ...], ...]:
        """ln p of every given token at temperature 1, 0.0 for each sequence's first, from every instance.

        Raises:
            EngineError: instances disagree: one of them does not hold the weights that the others hold.
        """

        async def one_instance(instance: Instance) -> list[tuple[float, ...]]:
            async def one(sequence: Sequence[int]) -> tuple[float, ...]:
                return await self._dispatch.on(
                    instance, lambda client: client.prompt_logprobs(sequence, self._request_timeout_seconds)
                )

            return list(await asyncio.gather(*(one(sequence) for sequence in sequences)))

        first, *others = await asyncio.gather(*(one_instance(instance) for instance in self._instances))
        for instance, other in zip(self._instances[1:], others, strict=True):
            check_agreement(first, other, instance.index)
        return tuple(first)

    async def init_weight_transfer(self, init_info: Mapping[str, object]) -> None:
        """Prepare the weight-transfer engine in all instances, now and after each restart."""
        self._init_info = dict(init_info)
        await self._on_all("weight transfer set-up", lambda client: self._init(client))

    async def announce_update(self) -> None:
        """Say that the weights handed over last are about to be overwritten, and wait until no vLLM reads them.

        A vLLM that dies between this and `update_weights` is restarted, but stays paused until `update_weights`: what
        lies in shared memory is no version. The others go on with the weights they have.
        """
        async with self._restoring:
            self._awaiting_update = True

    async def update_weights(self, update_info: Mapping[str, object], version: int) -> None:
        """Put all instances on weight version `version`. Requests in flight are held meanwhile and go on with it.

        Raises:
            EngineError: an instance refused the weights. All stay paused, and generate() raises, until an update
                succeeds: instances that may hold different weights sample nothing.
        """
        update = WeightUpdate(info=dict(update_info), version=version)
        async with self._updating:
            self._update, self._awaiting_update = update, False
            if self._roster is not None:
                await self._roster.follow(update)
            try:
                await self._on_all(f"weight version {version}", lambda client: self._load(client, update))
            except EngineError as error:
                self._dispatch.error, self._awaiting_update = error, True
                await self._hold_joined()
                await self._dispatch.wake()
                raise
            self._dispatch.error = None
            if not self._paused:
                await self._on_all("resume", lambda client: client.resume())
            if self._roster is not None:
                await self._roster.wait_for_loads()

    async def open_transfer(self, init_infos: Sequence[Mapping[str, object]]) -> None:
        """Let every instance meet the trainers, each with its own `init_infos` entry; for updates in parts."""
        self._in_parts = True
        limit = self._weight_timeout_seconds
        await self._on_all(
            "weight transfer set-up", lambda client: client.init_weight_transfer(init_infos[client.index], limit)
        )

    async def begin_update(self) -> None:
        """Hold all instances for an update in parts: `load_part` for each, then `finish_update`.

        Raises:
            EngineError: as `update_weights`, here and in the next two.
        """
        self._in_parts = self._awaiting_update = True

        async def begin(client: EngineClient) -> None:
            await client.pause()
            await client.begin_update(self._weight_timeout_seconds)

        await self._on_all_or_break("weight update", begin)

    async def load_part(self, update_info: Mapping[str, object]) -> None:
        limit = self._weight_timeout_seconds
        await self._on_all_or_break("a part of a weight update", lambda client: client.load_part(update_info, limit))

    async def finish_update(self, version: int) -> None:
        limit = self._weight_timeout_seconds
        await self._on_all_or_break(f"weight version {version}", lambda client: client.finish_update(version, limit))
        self._awaiting_update, self._dispatch.error = False, None
        if not self._paused:
            await self._on_all("resume", lambda client: client.resume())

    async def _on_all_or_break(self, what: str, call: Callable[[EngineClient], Awaitable[None]]) -> None:
        try:
            await self._on_all(what, call)
        except EngineError as error:
            self._dispatch.error = error
            await self._dispatch.wake()
            raise

    @property
    def resident_bytes(self) -> int:
        """Resident host memory of all vLLM processes."""
        return sum(instance.resident_bytes for instance in self._instances)

    async def release(self) -> None:
        """Give the memory of weights and KV cache back, as `colocate.mode` says. Nothing may be in flight."""
        self._released = self._awaiting_update = True
        await self._hold_joined()
        if self._colocate == "restart":
            await asyncio.gather(*(instance.shut_down() for instance in self._instances))
        else:
            await self._on_all("sleep", self._sleep)

    async def take_back(self, on_progress: OnProgress) -> None:
        """Undo `release`: instances are held until `update_weights`, since they have no weights."""
        if self._colocate == "restart":
            self._released = False
            await self.start(on_progress)
        else:
            await self._on_all("wake-up", self._wake_up)
            self._released = False

    async def _sleep(self, client: EngineClient) -> None:
        await client.pause()
        await client.sleep(on_cpu=self._on_cpu, limit_seconds=self._weight_timeout_seconds)

    async def _wake_up(self, client: EngineClient) -> None:
        await client.wake_up(on_cpu=self._on_cpu, limit_seconds=self._weight_timeout_seconds)
        await client.pause()

    async def pause(self, mode: str = "keep") -> None:
        """Stop sampling. `keep` freezes requests in flight until `resume`."""
        self._paused = True
        await self._on_all("pause", lambda client: client.pause(mode))
        if self._roster is not None:
            await self._roster.pause(mode)

    async def resume(self) -> None:
        if self._dispatch.error is not None:
            raise self._dispatch.error
        self._paused = False
        await self._on_all("resume", lambda client: client.resume())
        if self._roster is not None:
            await self._roster.resume()

    async def abort(self) -> None:
        """End all requests in flight: they return what they have, finish reason `aborted`."""
        await self._on_all("abort", lambda client: client.abort_all())
        if self._roster is not None:
            await self._roster.abort()

    async def _prepare(self, client: EngineClient) -> None:
        """Bring a fresh vLLM to where the others are: current weights, paused or not."""
        if self._in_parts:
            raise EngineError(f"a vLLM cannot be restarted with weights that came through {self._backend!r}")
        if self._init_info is not None:
            await self._init(client)
        if self._update is None and not self._is_held:
            return
        await client.pause()
        if self._released:
            await client.sleep(on_cpu=self._on_cpu, limit_seconds=self._weight_timeout_seconds)
        async with self._restoring:
            if self._update is not None and not self._awaiting_update:
                await client.load_weights(self._update, self._weight_timeout_seconds)
        if not self._is_held:
            await client.resume()

    @property
    def _is_held(self) -> bool:
        """True while a fresh vLLM must not sample."""
        return self._paused or self._awaiting_update or self._updating.locked()

    async def _init(self, client: EngineClient) -> None:
        assert self._init_info is not None
        await client.init_weight_transfer(self._init_info, self._weight_timeout_seconds)

    async def _load(self, client: EngineClient, update: WeightUpdate) -> None:
        await client.pause()
        await client.load_weights(update, self._weight_timeout_seconds)

    async def _on_all(self, what: str, call: Callable[[EngineClient], Awaitable[None]]) -> None:
        """Run `call` on every instance; wait for all, then raise the first error.

        An instance that dies meanwhile is restarted, and `_prepare` leaves it in the state that `call` was to reach.
        """

        async def one(instance: Instance) -> None:
            client = await instance.ready_client()
            instance.updating = True
            try:
                await call(client)
            except EngineGone as gone:
                instance.updating = False
                instance.suspect(client)
                if await instance.ready_client() is client:
                    raise EngineError(f"{what} failed, though that vLLM is alive: {gone}") from gone
            except EngineError as error:
                raise EngineError(f"{what} failed: {error}") from error
            finally:
                instance.updating = False

        results = await asyncio.gather(*(one(instance) for instance in self._instances), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _hold_joined(self) -> None:
        if self._roster is not None:
            await self._roster.hold()

    async def _check_joined(self, client: EngineClient, update: WeightUpdate) -> None:
        """Does a joined instance compute what ours compute? Nothing is said where ours have gone on meanwhile."""
        theirs = await client.prompt_logprobs(JOIN_PROBE, self._request_timeout_seconds)
        ours = await self._dispatch.on(
            self._instances[0], lambda own: own.prompt_logprobs(JOIN_PROBE, self._request_timeout_seconds)
        )
        if self._update is update and not self._awaiting_update:
            check_agreement([ours], [theirs], client.index)
