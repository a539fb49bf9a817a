"""The policy π_θ: megatron-core's GPTModel over packed sequences, from tokens to hidden states.

The head is applied by the training room, which needs it at response positions only. A reward model is the same with
another head: one row, which every tensor rank holds whole.
"""

from dataclasses import replace
from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_block import get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn.functional import silu

from megatron_k15.models.architecture import Architecture
from megatron_k15.models.layer_specs import block_spec, uses_transformer_engine
from megatron_k15.models.mapping import check_split
from megatron_k15.models.packed_tokens import PackedTokens
from megatron_k15.models.rotary import angles, inverse_frequencies
from megatron_k15.models.slices import mark_split_parameters
from megatron_k15.parallel.context import ParallelContext
from megatron_k15.parallel.platform import DTYPES


class PolicyModel(GPTModel):
    """One pipeline chunk. `forward(batch)` gives hidden states [T, 1, H], on this rank's part of T with sequence
    parallelism; `head_input` makes them whole on the last stage."""

    def __init__(
        self,
        architecture: Architecture,
        config: TransformerConfig,
        context: ParallelContext,
        *,
        pre_process: bool,
        post_process: bool,
        vp_stage: int | None,
    ) -> None:
        engine = uses_transformer_engine(context.platform)
        num_layers = get_num_layers_to_build(config, vp_stage, context.pipeline_rank)
        super().__init__(
            config=config,
            transformer_layer_spec=block_spec(
                transformer_engine=engine, qk_norm=architecture.qk_norm, num_layers=num_layers
            ),
            vocab_size=architecture.padded_vocab_size,
            max_sequence_length=architecture.max_positions,
            pre_process=pre_process,
            post_process=post_process,
            share_embeddings_and_output_weights=architecture.tied_embeddings and architecture.head == "lm",
            # Ours, in _preprocess: from explicit positions.
            position_embedding_type="none",
            pg_collection=context.groups,
            vp_stage=vp_stage,
        )
        if post_process and architecture.head == "score":
            del self.output_layer
            self.score = torch.nn.Linear(config.hidden_size, 1, bias=False, dtype=config.params_dtype)
        self._uses_transformer_engine = engine
        self.architecture = architecture
        self._context = context
        self.inverse_frequencies = inverse_frequencies(architecture)

    def forward(self, batch: PackedTokens) -> Tensor:
        sequences = batch.sequences
        if self._uses_transformer_engine:
            sequences = sequences.for_transformer_engine()
        return super().forward(
            input_ids=batch.token_ids_T.unsqueeze(0),
            position_ids=batch.positions_T.unsqueeze(0),
            attention_mask=None,
            packed_seq_params=sequences,
        )

    def _preprocess(
        self, input_ids: Tensor, position_ids: Tensor, packed_seq_params: Any = None, **_: Any
    ) -> tuple[Any, ...]:
        """Embedding on the first stage, rotary angles on all.

        Without Transformer Engine, one angle per token of the pack. Its fused "thd" rotation takes a table by
        position instead, and restarts at each sequence.
        """
        embedded = self.embedding(input_ids=input_ids, position_ids=position_ids) if self.pre_process else None
        positions = position_ids.squeeze(0)
        if self._uses_transformer_engine:
            positions = torch.arange(packed_seq_params.max_seqlen_q, device=positions.device)
        return embedded, angles(self.inverse_frequencies, positions), None, None, None, None

    def _postprocess(self, hidden_states: Tensor, **_: Any) -> Tensor:
        return hidden_states

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """megatron-core's; a language model's own version (0.16.1) insists on the vocabulary's head."""
        if self.architecture.head == "lm":
            return super().sharded_state_dict(prefix, sharded_offsets, metadata)
        return MegatronModule.sharded_state_dict(self, prefix, sharded_offsets, metadata)

    def set_rope_theta(self, theta: float) -> None:
        """The rotary base from now on."""
        self.architecture = replace(self.architecture, rope_theta=theta)
        self.inverse_frequencies = inverse_frequencies(self.architecture)

    def head_input(self, hidden: Tensor) -> Tensor:
        """[T, H], whole on every tensor rank; its gradient sums over the ranks' parts of a split head."""
        is_split = self.head_group is not None
        if self.config.sequence_parallel:
            hidden = gather_from_sequence_parallel_region(
                hidden, tensor_parallel_output_grad=is_split, group=self._context.groups.tp
            )
        elif is_split:
            hidden = copy_to_tensor_model_parallel_region(hidden, group=self._context.groups.tp)
        return hidden.squeeze(1)

    def head_weight(self) -> Tensor:
        """[V_local, H]: this tensor rank's rows of the head, without vocabulary padding. Last stage only."""
        if self.architecture.head == "score":
            return self.score.weight
        weight = (
            self.shared_embedding_or_output_weight()
            if self.share_embeddings_and_output_weights
            else self.output_layer.weight
        )
        num_rows = max(0, self.architecture.vocab_size - self.vocabulary_start)
        # A slice's backward pass would copy the whole gradient.
        return weight if num_rows >= len(weight) else weight[:num_rows]

    @property
    def head_group(self) -> torch.distributed.ProcessGroup | None:
        """Over which the head's rows are split; None where every tensor rank has all of them."""
        return self._context.groups.tp if self.architecture.head == "lm" else None

    @property
    def vocabulary_start(self) -> int:
        """Token id of the first row of this tensor rank's part of the vocabulary."""
        return self._context.tensor_rank * (self.vocab_size // self._context.tensor_size)


def build_policy(
    architecture: Architecture, context: ParallelContext, *, dtype: str, recompute: bool = False
) -> list[PolicyModel]:
    """This rank's chunks, weights not yet set: `models.loading` or a checkpoint fills them.

    Raises:
        ModelError: the split is impossible.
    """
    parallel = context.config
    check_split(
        architecture,
        tensor_size=context.tensor_size,
        pipeline_size=context.pipeline_size,
        num_chunks=context.num_chunks,
    )
    config = transformer_config(architecture, context, dtype=dtype, recompute=recompute)
    chunks = []
    for index in range(context.num_chunks):
        chunk = PolicyModel(
            architecture,
            config,
            context,
            pre_process=context.pipeline_rank == 0 and index == 0,
            post_process=context.is_last_stage and index == context.num_chunks - 1,
            vp_stage=index if parallel.virtual_pipeline_parallel_size else None,
        )
        chunks.append(chunk.to(context.platform.device))
    mark_split_parameters(chunks, architecture)
    return chunks


def transformer_config(
    architecture: Architecture, context: ParallelContext, *, dtype: str, recompute: bool = False
) -> TransformerConfig:
    """megatron-core's config of `architecture` in `dtype` (`fp32` or `bf16`) on this platform."""
    parallel, on_gpu = context.config, context.platform.name == "cuda"
    torch_dtype = DTYPES[dtype]
    recomputation: dict[str, Any] = {}
    if recompute:
        recomputation = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    return TransformerConfig(
        num_layers=architecture.num_layers,
        hidden_size=architecture.hidden_size,
        ffn_hidden_size=architecture.ffn_size,
        num_attention_heads=architecture.num_heads,
        num_query_groups=architecture.num_kv_heads,
        kv_channels=architecture.head_dim,
        normalization="RMSNorm",
        layernorm_epsilon=architecture.norm_eps,
        gated_linear_unit=True,
        activation_func=silu,
        add_bias_linear=False,
        add_qkv_bias=architecture.qkv_bias,
        qk_layernorm=architecture.qk_norm,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        params_dtype=torch_dtype,
        pipeline_dtype=torch_dtype,
        bf16=dtype == "bf16",
        tensor_model_parallel_size=context.tensor_size,
        pipeline_model_parallel_size=context.pipeline_size,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline_parallel_size,
        sequence_parallel=parallel.sequence_parallel,
        # Packs differ in length, so shapes travel with the activations. Not with the interleaved schedule, where
        # megatron-core 0.16.1 mixes up the shapes sent both ways between two ranks: there all packs have one size.
        variable_seq_lengths=context.num_chunks == 1,
        # At pipeline size 2 both neighbours are the same rank, and batched sends would be mixed up likewise.
        batch_p2p_comm=context.num_chunks == 1,
        overlap_p2p_comm=context.num_chunks > 1,
        # Required by variable_seq_lengths even where there is no mixture of experts (megatron-core 0.16.1).
        moe_token_dispatcher_type="alltoall",
        # The loss carries each sequence's share already: gradients are summed, never averaged.
        calculate_per_token_loss=True,
        # Weights come from a checkpoint: random ones would only cost time.
        perform_initialization=False,
        use_cpu_initialization=not on_gpu,
        bias_activation_fusion=on_gpu,
        bias_dropout_fusion=on_gpu,
        masked_softmax_fusion=on_gpu,
        apply_rope_fusion=on_gpu,
        gradient_accumulation_fusion=False,
        persist_layer_norm=on_gpu,
        **recomputation,
    )
