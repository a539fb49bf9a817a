"""What a layer is built of: Transformer Engine's modules on GPUs, megatron-core's own (with our norm and attention,
where its own assert) on CPUs. The same parameters under both; `mapping.te_name` says where the names differ."""

from importlib.util import find_spec

from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

from megatron_k15.errors import ConfigError
from megatron_k15.models.packed_attention import PackedAttention
from megatron_k15.models.rms_norm import RMSNorm
from megatron_k15.parallel.platform import Platform


def uses_transformer_engine(platform: Platform) -> bool:
    """True on CUDA.

    Raises:
        ConfigError: a GPU is present and Transformer Engine is not installed.
    """
    if platform.name == "cpu":
        return False
    if find_spec("transformer_engine") is None:
        raise ConfigError("training on GPUs needs transformer-engine: pip install 'megatron_k15[gpu]' (docs/gpu.md)")
    return True


def block_spec(*, transformer_engine: bool, qk_norm: bool, num_layers: int) -> TransformerBlockSubmodules:
    """`num_layers` layers (of this rank's chunk) and the final norm."""
    if transformer_engine:
        from megatron.core.extensions.transformer_engine import TENorm

        layer = get_gpt_layer_with_transformer_engine_spec(qk_layernorm=qk_norm)
        return TransformerBlockSubmodules(layer_specs=[layer] * num_layers, layer_norm=TENorm)
    return TransformerBlockSubmodules(layer_specs=[_local_layer(qk_norm)] * num_layers, layer_norm=RMSNorm)


def _local_layer(qk_norm: bool) -> ModuleSpec:
    head_norm = RMSNorm if qk_norm else IdentityOp
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=RMSNorm,
            self_attention=ModuleSpec(
                module=SelfAttention,
                params={"attn_mask_type": AttnMaskType.causal},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=ColumnParallelLinear,
                    core_attention=PackedAttention,
                    linear_proj=RowParallelLinear,
                    q_layernorm=head_norm,
                    k_layernorm=head_norm,
                ),
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=RMSNorm,
            mlp=ModuleSpec(
                module=MLP,
                submodules=MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear),
            ),
            mlp_bda=get_bias_dropout_add,
            # Checkpoints carry Transformer Engine's names: both specs read both.
            sharded_state_dict_keys_map={
                "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
                "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_",
            },
        ),
    )
