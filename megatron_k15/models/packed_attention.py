"""Core attention over packed sequences for the local layer spec: megatron-core's own refuses them.

On GPUs Transformer Engine's attention takes its place; this one is for CPUs, and the reference.
"""

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from megatron_k15.models.packed_tokens import AttentionBucket, PackedSequences


class PackedAttention(nn.Module):
    """Causal attention within each sequence of a pack, in a few calls over sequences of similar lengths."""

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        cp_comm_type: str | None = None,
        softmax_scale: float | None = None,
        pg_collection: ProcessGroupCollection | None = None,
    ) -> None:
        super().__init__()
        assert attention_type == "self"
        assert attn_mask_type in (AttnMaskType.causal, AttnMaskType.padding_causal)
        self._scale = softmax_scale

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> Tensor:
        """query [T, 1, heads, d]; key and value [T, 1, kv heads, d] → [T, 1, heads * d]."""
        assert isinstance(packed_seq_params, PackedSequences), "this attention works on packed sequences"
        query, key, value = query.squeeze(1), key.squeeze(1), value.squeeze(1)
        outputs = [self._attend(query, key, value, bucket) for bucket in packed_seq_params.buckets]
        return torch.cat(outputs).index_select(0, packed_seq_params.order).flatten(1).unsqueeze(1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bucket: AttentionBucket) -> Tensor:
        """[n, heads, d] of the bucket's valid cells. Causality keeps tokens from seeing the padding behind them."""
        rows, length = bucket.gather_BL.shape
        cells = bucket.gather_BL.flatten()

        def rectangle(tensor: Tensor) -> Tensor:
            return tensor.index_select(0, cells).view(rows, length, *tensor.shape[1:]).transpose(1, 2)

        grouped = query.shape[1] != key.shape[1]
        out = nn.functional.scaled_dot_product_attention(
            rectangle(query), rectangle(key), rectangle(value), is_causal=True, scale=self._scale, enable_gqa=grouped
        )
        return out.transpose(1, 2).reshape(rows * length, *query.shape[1:]).index_select(0, bucket.valid)
