"""The safetensors files of a Hugging Face directory, checked against its config as a whole, then read tensor by tensor.

Nothing is copied: a tensor is a view into the memory-mapped file. The mapping is private, so nothing written to a view
reaches the file. What the weights' files say of their dtype counts, never the config's word.

Read as transformers 5.19 reads it: `model.safetensors` comes before an index; rotary `inv_freq` buffers of old
checkpoints are skipped; a `lm_head.weight` beside tied embeddings is skipped where both are equal (transformers would
leave unequal ones untied, which is another architecture than the config's, so we refuse them).
"""

import re
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from megatron_k15.errors import ModelError
from megatron_k15.models.architecture import Architecture
from megatron_k15.models.mapped_file import MappedFile
from megatron_k15.models.mapping import weight_rules
from megatron_k15.models.weight_files import listed, read_header, weight_files

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""safetensors' name → torch's: the dtypes we read and write."""

_IGNORED = re.compile(r".*\.rotary_emb\.inv_freq")
_COMPARED_BYTES = 16 * 2**20


@dataclass(frozen=True, kw_only=True)
class TensorPlace:
    """Where a tensor's bytes stand. `start` is absolute within the file."""

    path: Path
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> "TensorPlace":
        row_bytes = prod(self.shape[1:]) * self.dtype.itemsize
        return replace(self, start=self.start + start * row_bytes, shape=(stop - start, *self.shape[1:]))


@dataclass(frozen=True, kw_only=True)
class HfWeights:
    """Every tensor that the architecture has, all of one dtype."""

    directory: Path
    places: dict[str, TensorPlace]
    """By Hugging Face name, in the order of `weight_rules`."""
    _maps: dict[Path, MappedFile] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, directory: str | Path, architecture: Architecture) -> Self:
        """Check all files against `architecture`; read no weights yet.

        Raises:
            ModelError: no safetensors, a missing or damaged file, a missing, extra or mis-shaped tensor, a mixed or
                unsupported dtype, tied embeddings beside another `lm_head.weight`. The message has the names.
        """
        directory = Path(directory)
        found = _read_headers(directory)
        tied_head = found.pop("lm_head.weight", None) if architecture.tied_embeddings else None
        shapes = {rule.hf_name: rule.hf_shape for rule in weight_rules(architecture)}
        _check_names(directory, architecture, found, shapes)
        weights = cls(directory=directory, places={name: found[name] for name in shapes})
        if tied_head:
            weights._check_tied_head(tied_head)
        return weights

    def tensor(self, hf_name: str) -> Tensor:
        """The tensor as a view into the mapped file, on the CPU; treat it as read-only."""
        return self._view(self.places[hf_name])

    def rows(self, hf_name: str, start: int, stop: int) -> Tensor:
        """Rows [start, stop) as a view whose storage is just these rows, which `torch.save` then writes alone."""
        place = self.places[hf_name].rows(start, stop)
        self._mapped(place.path).populate(place.start, place.num_bytes)
        return self._view(place)

    def dtype(self, hf_name: str) -> torch.dtype:
        return self.places[hf_name].dtype

    def release(self, hf_name: str) -> None:
        """Give back the memory that reading the tensor took. Its views stay valid: their pages are read again."""
        self._release(self.places[hf_name])

    def release_rows(self, hf_name: str, start: int, stop: int) -> None:
        self._release(self.places[hf_name].rows(start, stop))

    def _view(self, place: TensorPlace) -> Tensor:
        mapped = self._mapped(place.path)
        if place.start % place.dtype.itemsize:
            # Headers of old safetensors versions are not padded; such a tensor has to be copied.
            raw = mapped.tensor(place.start, torch.uint8, (place.num_bytes,))
            return raw.clone().view(place.dtype).view(place.shape)
        return mapped.tensor(place.start, place.dtype, place.shape)

    def _mapped(self, path: Path) -> MappedFile:
        if path not in self._maps:
            self._maps[path] = MappedFile.open(path)
        return self._maps[path]

    def _release(self, place: TensorPlace) -> None:
        self._mapped(place.path).release(place.start, place.num_bytes)

    def _check_tied_head(self, head: TensorPlace) -> None:
        embedding = self.places["model.embed_tokens.weight"]
        if (head.shape, head.dtype) == (embedding.shape, embedding.dtype) and self._equal(head, embedding):
            return
        raise ModelError(
            f"{self.directory}: config.json ties the embeddings, but lm_head.weight differs from "
            "model.embed_tokens.weight; set tie_word_embeddings to false, or remove lm_head.weight"
        )

    def _equal(self, left: TensorPlace, right: TensorPlace) -> bool:
        """Bit for bit (a NaN equals itself), in pieces, so that little of the file is in memory at once."""
        a, b = (self._view(place).view(-1).view(torch.uint8) for place in (left, right))
        pairs = zip(a.split(_COMPARED_BYTES), b.split(_COMPARED_BYTES), strict=True)
        for first, second in pairs:
            if not torch.equal(first, second):
                return False
            self._release(left)
            self._release(right)
        return True


def _read_headers(directory: Path) -> dict[str, TensorPlace]:
    found: dict[str, TensorPlace] = {}
    for path in weight_files(directory):
        for name, place in _read_header(path).items():
            if _IGNORED.fullmatch(name):
                continue
            if name in found:
                raise ModelError(f"{name} is in two files, {found[name].path.name} and {path.name}, of {directory}")
            found[name] = place
    return found


def _read_header(path: Path) -> dict[str, TensorPlace]:
    places, others = read_header(path)
    kept = [name for name in others if not _IGNORED.match(name)]
    if kept:
        raise ModelError(f"{path}: tensors must be {', '.join(DTYPES)}; got {listed(kept)}")
    return {
        name: TensorPlace(path=path, start=place.start, dtype=DTYPES[place.dtype], shape=place.shape)
        for name, place in places.items()
    }


def _check_names(
    directory: Path, architecture: Architecture, found: dict[str, TensorPlace], shapes: dict[str, tuple[int, ...]]
) -> None:
    where = f"{directory} does not hold the {architecture.hf_name} that its config.json describes"
    if missing := [name for name in shapes if name not in found]:
        raise ModelError(f"{where}: missing {listed(missing)}")
    if extra := [name for name in found if name not in shapes]:
        raise ModelError(f"{where}: unexpected {listed(extra)}")
    if wrong := [
        f"{name} is {list(found[name].shape)}, must be {list(shape)}"
        for name, shape in shapes.items()
        if found[name].shape != shape
    ]:
        raise ModelError(f"{where}: {listed(wrong)}")
    dtypes = {place.dtype for place in found.values()}
    if len(dtypes) > 1:
        _refuse_mixed(directory, found)


def _refuse_mixed(directory: Path, found: dict[str, TensorPlace]) -> None:
    counts: dict[torch.dtype, list[str]] = {}
    for name, place in found.items():
        counts.setdefault(place.dtype, []).append(name)
    fewest = min(counts.values(), key=len)
    sizes = ", ".join(f"{len(names)} in {dtype}" for dtype, names in counts.items())
    raise ModelError(
        f"{directory}: all tensors must have one dtype, got {sizes}; "
        f"in {found[fewest[0]].dtype} are {listed(fewest)}: cast the model first"
    )
