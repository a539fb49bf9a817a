"""The one table between Hugging Face and megatron-core weights.

`weight_rules(architecture)` lists a `WeightRule` per Hugging Face tensor: which megatron-core parameter holds it and a
function that *views* exactly its elements inside a tensor-parallel shard of that parameter. Import copies into the
view, export copies out of it, and weight transfer copies out of it into shared memory.

megatron-core's layouts (0.16.1): `linear_qkv` interleaves by query group, [q * heads_per_group, k, v] per group;
`linear_fc1` is [gate; up] *within each tensor-parallel rank*; the vocabulary is padded.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from torch import Tensor

from megatron_k15.errors import ModelError
from megatron_k15.models.architecture import Architecture

View = Callable[[Tensor], Tensor]
"""Local megatron-core shard → a strided view with the elements, in order, of the local slice of the HF tensor."""


def _whole(shard: Tensor) -> Tensor:
    return shard


@dataclass(frozen=True, kw_only=True)
class WeightRule:
    """One Hugging Face tensor inside one megatron-core parameter."""

    hf_name: str
    hf_shape: tuple[int, ...]
    mcore_name: str
    """With the global layer number, as in the state dict of an unsplit GPTModel."""
    mcore_shape: tuple[int, ...]
    """Unsplit, with the vocabulary padded."""
    shard_dim: int | None = None
    """The dimension tensor parallelism splits, the same in both layouts; None: every rank holds it whole."""
    view: View = _whole

    def hf_region(self, tensor_rank: int, tensor_size: int) -> tuple[int, int]:
        """(start, length) along `shard_dim` (0 where it is None) of the HF tensor that `tensor_rank` holds.

        The last ranks may hold less, or nothing: their rows are vocabulary padding.
        """
        if self.shard_dim is None:
            return 0, self.hf_shape[0]
        size = self.hf_shape[self.shard_dim]
        # Padding stands at the end of the vocabulary only; elsewhere padded and real sizes are equal.
        padded = self.mcore_shape[0] if self.is_vocabulary else size
        length = padded // tensor_size
        start = min(tensor_rank * length, size)
        return start, min(length, size - start)

    @property
    def is_vocabulary(self) -> bool:
        return self.mcore_name in (EMBEDDING, OUTPUT)

    def local_view(self, shard: Tensor, tensor_rank: int, tensor_size: int) -> Tensor:
        """The local slice of the HF tensor inside `shard`, without padding rows."""
        if self.is_vocabulary:
            return shard[: self.hf_region(tensor_rank, tensor_size)[1]]
        return self.view(shard)


EMBEDDING = "embedding.word_embeddings.weight"
OUTPUT = "output_layer.weight"
SCORE = "score.weight"


def weight_rules(architecture: Architecture) -> tuple[WeightRule, ...]:
    """Every tensor of the model, in Hugging Face's order, from the family's own table."""
    family = importlib.import_module(f"megatron_k15.models.families.{architecture.family}")
    return family.weight_rules(architecture)


def te_name(mcore_name: str) -> str:
    """The parameter's name under Transformer Engine, which fuses the two norms into the linears behind them.

    megatron-core's checkpoints carry these names whatever the layers are built of.
    """
    return mcore_name.replace("input_layernorm.", "self_attention.linear_qkv.layer_norm_").replace(
        "pre_mlp_layernorm.", "mlp.linear_fc1.layer_norm_"
    )


def num_parameters(architecture: Architecture) -> int:
    return sum(prod(rule.hf_shape) for rule in weight_rules(architecture))


def check_split(architecture: Architecture, *, tensor_size: int, pipeline_size: int, num_chunks: int = 1) -> None:
    """Refuse an impossible split.

    Raises:
        ModelError: naming the size that does not divide.
    """
    if tensor_size < 1 or pipeline_size < 1:
        raise ModelError(
            f"tensor_parallel_size and pipeline_parallel_size must be at least 1, got {tensor_size} and {pipeline_size}"
        )
    sizes = {
        "attention heads": architecture.num_heads,
        "key-value heads": architecture.num_kv_heads,
        "feed-forward size": architecture.ffn_size,
        "padded vocabulary": architecture.padded_vocab_size,
        "hidden size": architecture.hidden_size,
    }
    for name, size in sizes.items():
        if size % tensor_size:
            raise ModelError(f"tensor_parallel_size {tensor_size} must divide the {name}, {size}")
    stages = pipeline_size * num_chunks
    if architecture.num_layers % stages:
        raise ModelError(
            f"pipeline_parallel_size {pipeline_size} x {num_chunks} chunk(s) must divide the number of layers, "
            f"{architecture.num_layers}"
        )


# The pieces that families are made of.


def embedding(a: Architecture) -> WeightRule:
    return WeightRule(
        hf_name="model.embed_tokens.weight",
        hf_shape=(a.vocab_size, a.hidden_size),
        mcore_name=EMBEDDING,
        mcore_shape=(a.padded_vocab_size, a.hidden_size),
        shard_dim=0,
    )


def output_head(a: Architecture) -> list[WeightRule]:
    """Nothing where the embedding serves as the head, or there is none."""
    if a.head == "score":
        return [
            WeightRule(
                hf_name="score.weight",
                hf_shape=(1, a.hidden_size),
                mcore_name=SCORE,
                mcore_shape=(1, a.hidden_size),
            )
        ]
    if a.tied_embeddings or a.head == "none":
        return []
    return [
        WeightRule(
            hf_name="lm_head.weight",
            hf_shape=(a.vocab_size, a.hidden_size),
            mcore_name=OUTPUT,
            mcore_shape=(a.padded_vocab_size, a.hidden_size),
            shard_dim=0,
        )
    ]


def norm(hf_name: str, mcore_name: str, size: int) -> WeightRule:
    return WeightRule(hf_name=hf_name, hf_shape=(size,), mcore_name=mcore_name, mcore_shape=(size,))


def qkv(a: Architecture, hf_prefix: str, mcore_name: str, kind: str) -> list[WeightRule]:
    """q_proj, k_proj, v_proj inside linear_qkv. `kind` is `weight` or `bias`."""
    per_group = a.num_heads // a.num_kv_heads
    columns = (a.hidden_size,) if kind == "weight" else ()
    rows = a.num_kv_heads * (per_group + 2) * a.head_dim

    def heads(first: int, last: int) -> View:
        def view(shard: Tensor) -> Tensor:
            return shard.view(-1, per_group + 2, a.head_dim, *columns)[:, first:last]

        return view

    spans = {"q": (0, per_group), "k": (per_group, per_group + 1), "v": (per_group + 1, per_group + 2)}
    return [
        WeightRule(
            hf_name=f"{hf_prefix}.{letter}_proj.{kind}",
            hf_shape=((last - first) * a.num_kv_heads * a.head_dim, *columns),
            mcore_name=mcore_name,
            mcore_shape=(rows, *columns),
            shard_dim=0,
            view=heads(first, last),
        )
        for letter, (first, last) in spans.items()
    ]


def gate_up(a: Architecture, hf_prefix: str, mcore_name: str) -> list[WeightRule]:
    def half(index: int) -> View:
        return lambda shard: shard.view(2, -1, a.hidden_size)[index]

    return [
        WeightRule(
            hf_name=f"{hf_prefix}.{name}.weight",
            hf_shape=(a.ffn_size, a.hidden_size),
            mcore_name=mcore_name,
            mcore_shape=(2 * a.ffn_size, a.hidden_size),
            shard_dim=0,
            view=half(index),
        )
        for index, name in enumerate(("gate_proj", "up_proj"))
    ]


def row_parallel(hf_name: str, mcore_name: str, shape: tuple[int, int]) -> WeightRule:
    """Split along its input."""
    return WeightRule(hf_name=hf_name, hf_shape=shape, mcore_name=mcore_name, mcore_shape=shape, shard_dim=1)


def dense_decoder(a: Architecture) -> tuple[WeightRule, ...]:
    """The pre-norm SwiGLU decoder that all our families share, with what the architecture switches on."""
    rules = [embedding(a)]
    for layer in range(a.num_layers):
        rules += _layer(a, f"model.layers.{layer}", f"decoder.layers.{layer}")
    rules.append(norm("model.norm.weight", "decoder.final_layernorm.weight", a.hidden_size))
    return (*rules, *output_head(a))


def _layer(a: Architecture, hf: str, mcore: str) -> list[WeightRule]:
    attention, mlp = f"{mcore}.self_attention", f"{mcore}.mlp"
    rules = qkv(a, f"{hf}.self_attn", f"{attention}.linear_qkv.weight", "weight")
    if a.qkv_bias:
        rules += qkv(a, f"{hf}.self_attn", f"{attention}.linear_qkv.bias", "bias")
    if a.qk_norm:
        rules.append(norm(f"{hf}.self_attn.q_norm.weight", f"{attention}.q_layernorm.weight", a.head_dim))
        rules.append(norm(f"{hf}.self_attn.k_norm.weight", f"{attention}.k_layernorm.weight", a.head_dim))
    projection = (a.hidden_size, a.num_heads * a.head_dim)
    rules.append(row_parallel(f"{hf}.self_attn.o_proj.weight", f"{attention}.linear_proj.weight", projection))
    rules += gate_up(a, f"{hf}.mlp", f"{mlp}.linear_fc1.weight")
    rules.append(row_parallel(f"{hf}.mlp.down_proj.weight", f"{mlp}.linear_fc2.weight", (a.hidden_size, a.ffn_size)))
    rules.append(norm(f"{hf}.input_layernorm.weight", f"{mcore}.input_layernorm.weight", a.hidden_size))
    rules.append(norm(f"{hf}.post_attention_layernorm.weight", f"{mcore}.pre_mlp_layernorm.weight", a.hidden_size))
    return rules
