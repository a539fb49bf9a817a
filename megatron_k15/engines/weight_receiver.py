"""The receiving end of a weight transfer over shared memory, inside every vLLM worker.

    open the segment → header complete? → every checksum right? → load, layer by layer → header still the same?

All of it in vLLM's `update_weights`, which the pool calls while vLLM is paused; `start_weight_update` and
`finish_weight_update` have nothing to do. Loading goes through vLLM's layer-wise reload, as vLLM's own `ipc` engine
does: a plain `load_weights` would meet weights that oneDNN or a quantizer has repacked. Tensors are views of the shared
memory; each worker's loaders narrow them to its tensor-parallel slice and copy that alone.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from vllm.distributed.parallel_state import get_world_group
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.logger import init_logger
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

from megatron_k15.engines.weight_segment import TORCH_DTYPES, SegmentLayout, WeightSegment, read_layout
from megatron_k15.errors import TransferError

# A child of vLLM's logger: vLLM configures only its own.
logger = init_logger("vllm.k15_weight_receiver")


@dataclass
class InitInfo(WeightTransferInitInfo):
    """Nothing has to be agreed on beforehand."""


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """What `weight_segment.update_info` makes."""

    path: str
    version: int
    dtype: str
    tensors: list[tuple[str, list[int], str]]
    """(Hugging Face name, full shape, checksum)."""


class SharedMemoryReceiver(WeightTransferEngine[InitInfo, UpdateInfo]):
    """Errors before the first weight is loaded leave the weights in use as they were; vLLM answers them with status
    500 and the message."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo

    _segment: WeightSegment | None = None
    """Kept mapped over updates: mapping it anew would cost a page fault per page."""

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        pass

    def start_weight_update(self) -> None:
        pass

    def receive_weights(self, update_info: UpdateInfo) -> None:
        started = time.perf_counter()
        layout, checksums = read_layout(update_info.dtype, update_info.tensors)
        self._agree(self._problem(update_info, layout, checksums))
        segment = self._segment
        assert segment is not None, "_problem maps it"
        checked = time.perf_counter()
        self._load(segment)
        segment.check_complete(update_info.version, checksums)
        loaded = time.perf_counter()
        logger.info(
            "weight version %d: %.0f MB, checked in %.3f s (%.1f GB/s), loaded in %.3f s",
            update_info.version,
            layout.total_bytes / 1e6,
            checked - started,
            layout.total_bytes / 1e9 / (checked - started),
            loaded - checked,
        )

    def finish_weight_update(self) -> None:
        pass

    def shutdown(self) -> None:
        self._close()

    def _problem(self, update_info: UpdateInfo, layout: SegmentLayout, checksums: dict[str, str]) -> str:
        """Why this update must not be loaded, "" if it may."""
        try:
            self._check_dtype(layout)
            segment = self._map(update_info.path, layout)
            segment.check_complete(update_info.version, checksums)
            self._check_bytes(segment, checksums)
            segment.check_complete(update_info.version, checksums)
        except TransferError as error:
            return str(error)
        return ""

    def _check_dtype(self, layout: SegmentLayout) -> None:
        ours = self.model_config.dtype
        if TORCH_DTYPES[layout.dtype] != ours:
            raise TransferError(
                f"weights must come in the dtype that vLLM runs in, {ours}: the trainers cast; they sent {layout.dtype}"
            )

    def _map(self, path: str, layout: SegmentLayout) -> WeightSegment:
        """The segment, mapped: the one of the last update where it is the same file with the same layout."""
        present = self._segment
        if present is None or str(present.path) != path or present.layout != layout:
            self._close()
            self._segment = WeightSegment.open(path, layout, writable=False)
        assert self._segment is not None
        return self._segment

    def _check_bytes(self, segment: WeightSegment, checksums: dict[str, str]) -> None:
        """Hash this worker's share of the tensors: all workers read the same memory; `_agree` joins the verdicts."""
        group = get_world_group()
        names = [slot.name for slot in segment.layout.slots][group.rank_in_group :: group.world_size]
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            found = list(threads.map(segment.checksum, names))
        wrong = [name for name, checksum in zip(names, found, strict=True) if checksum != checksums[name]]
        if wrong:
            raise TransferError(
                f"{len(wrong)} tensors in {segment.path} do not have the checksums announced for them; the first is "
                f"{wrong[0]}"
            )

    def _agree(self, problem: str) -> None:
        """Raise, on every worker, the first problem that any of them found: all load, or none."""
        group = get_world_group()
        problems: list[str | None] = [problem]
        if group.world_size > 1:
            problems = [None] * group.world_size
            torch.distributed.all_gather_object(problems, problem, group=group.cpu_group)
        if first := next(filter(None, problems), None):
            raise TransferError(first)

    def _load(self, segment: WeightSegment) -> None:
        """Copy every tensor into the model, which must ask for no other.

        A layer of which nothing came would keep its old weights, and vLLM would only warn; of one that got a part, the
        rest would be uninitialised memory.
        """
        expected = {name for name, _ in self.model.named_parameters()}
        initialize_layerwise_reload(self.model)
        try:
            tensors = ((slot.name, segment.tensor(slot.name)) for slot in segment.layout.slots)
            loaded = self.model.load_weights(tensors)
            missing = sorted(expected - loaded) if loaded is not None else []
            missing += self._half_loaded()
        finally:
            # Also after an error: a layer left half loaded would take the next update's tensors for its missing ones.
            finalize_layerwise_reload(self.model, self.model_config)
            self._repack_tied_head()
        if missing:
            raise TransferError(f"a weight version holds every tensor of the model; not all came for {missing[:5]}")

    def _repack_tied_head(self) -> None:
        """A head tied to the embedding gets no tensor of its own, so the reload passes it by; on CPUs it keeps a packed
        copy of the weights (vLLM 0.32), which would stay those of the start."""
        for layer in self.model.modules():
            if isinstance(layer, ParallelLMHead):
                layer.quant_method.process_weights_after_loading(layer)

    def _half_loaded(self) -> list[str]:
        """Layers that still wait for elements, embeddings excepted: their vocabulary may be padded."""
        infos = [(name, layer, get_layerwise_info(layer)) for name, layer in self.model.named_modules()]
        return [
            name
            for name, layer, info in infos
            if info.can_load() and 0 < info.load_numel < (info.load_numel_total or 0)
            if not isinstance(layer, VocabParallelEmbedding)
        ]

    def _close(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None
