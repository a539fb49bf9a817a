"""Run under torchrun on 4 ranks: megatron-core's own GPTModel loads what the converter wrote, at several TP x PP.

Arguments: the folder with the cases (`<case>/hf`, `<case>/megatron`); afterwards `qwen3/saved` is what megatron-core
saved at TP 2 x PP 2.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.transformer_config import TransformerConfig
from safetensors.torch import load_file

from megatron_k15.checkpoint.save_strategy import SaveStrategy
from megatron_k15.config import ParallelConfig
from megatron_k15.models.architecture import Architecture
from megatron_k15.parallel.context import ParallelContext, initialize
from megatron_k15.parallel.cpu_megatron import redirect_cuda

LAYOUTS = ((1, 1), (2, 1), (1, 2), (2, 2))


def build_model(a: Architecture, context: ParallelContext) -> GPTModel:
    """megatron-core's model with megatron-core's own layers: none of our model code."""
    config = TransformerConfig(
        num_layers=a.num_layers,
        hidden_size=a.hidden_size,
        num_attention_heads=a.num_heads,
        num_query_groups=a.num_kv_heads,
        ffn_hidden_size=a.ffn_size,
        kv_channels=a.head_dim,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        add_qkv_bias=a.qkv_bias,
        qk_layernorm=a.qk_norm,
        normalization="RMSNorm",
        use_cpu_initialization=True,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        gradient_accumulation_fusion=False,
        persist_layer_norm=False,
        tensor_model_parallel_size=context.tensor_size,
        pipeline_model_parallel_size=context.pipeline_size,
        pipeline_dtype=torch.float32,
    )
    return GPTModel(
        config,
        get_gpt_layer_local_spec(normalization="RMSNorm", qk_layernorm=a.qk_norm),
        vocab_size=a.padded_vocab_size,
        max_sequence_length=a.max_positions,
        position_embedding_type="rope",
        share_embeddings_and_output_weights=a.tied_embeddings,
        pre_process=context.pipeline_rank == 0,
        post_process=context.is_last_stage,
    )


def expected(hf: dict[str, torch.Tensor], a: Architecture, context: ParallelContext, name: str) -> torch.Tensor:
    """The parameter `name` of this rank, written down a second time, from megatron-core's documentation."""
    tp, rank = context.tensor_size, context.tensor_rank
    if name in ("embedding.word_embeddings.weight", "output_layer.weight"):
        source = "model.embed_tokens" if a.tied_embeddings or name.startswith("embedding") else "lm_head"
        padded = torch.zeros(a.padded_vocab_size, a.hidden_size)
        padded[: a.vocab_size] = hf[f"{source}.weight"]
        return padded.chunk(tp)[rank]
    if name == "decoder.final_layernorm.weight":
        return hf["model.norm.weight"]
    local, module, kind = name.removeprefix("decoder.layers.").split(".", 1)[0], *name.split(".")[-2:]
    prefix = f"model.layers.{int(local) + context.pipeline_rank * a.num_layers // context.pipeline_size}"
    match module:
        case "input_layernorm":
            return hf[f"{prefix}.input_layernorm.weight"]
        case "pre_mlp_layernorm":
            return hf[f"{prefix}.post_attention_layernorm.weight"]
        case "q_layernorm" | "k_layernorm":
            return hf[f"{prefix}.self_attn.{module[0]}_norm.weight"]
        case "linear_proj":
            return hf[f"{prefix}.self_attn.o_proj.weight"].chunk(tp, dim=1)[rank]
        case "linear_fc2":
            return hf[f"{prefix}.mlp.down_proj.weight"].chunk(tp, dim=1)[rank]
        case "linear_fc1":
            halves = [hf[f"{prefix}.mlp.{half}_proj.weight"].chunk(tp)[rank] for half in ("gate", "up")]
            return torch.cat(halves)
        case "linear_qkv":
            q, k, v = (hf[f"{prefix}.self_attn.{letter}_proj.{kind}"].split(a.head_dim) for letter in "qkv")
            per_group = a.num_heads // a.num_kv_heads
            rows = [
                head
                for group in range(a.num_kv_heads)
                for head in (*q[group * per_group : (group + 1) * per_group], k[group], v[group])
            ]
            return torch.cat(rows).chunk(tp)[rank]
    raise AssertionError(f"unknown parameter {name}")


def check(case: Path, context: ParallelContext) -> None:
    architecture = Architecture.from_hf(case / "hf")
    model = build_model(architecture, context)
    loaded = dist_checkpointing.load(model.sharded_state_dict(), str(case / "megatron"))
    model.load_state_dict(loaded)
    hf = {name: tensor for path in (case / "hf").glob("*.safetensors") for name, tensor in load_file(path).items()}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected(hf, architecture, context, name)), (case.name, name)
    if (case.name, context.tensor_size, context.pipeline_size) == ("qwen3", 2, 2):
        if context.rank == 0:
            (case / "saved").mkdir()
        dist.barrier()
        dist_checkpointing.save(model.sharded_state_dict(), str(case / "saved"), sharded_strategy=SaveStrategy())


def main() -> None:
    cases = sorted(Path(sys.argv[1]).iterdir())
    # Joined here, so that a layout's end does not end the process group.
    if not torch.cuda.is_available():
        redirect_cuda()
    dist.init_process_group("gloo")
    for tensor_size, pipeline_size in LAYOUTS:
        parallel = ParallelConfig(tensor_parallel_size=tensor_size, pipeline_parallel_size=pipeline_size)
        with initialize(parallel, seed=0) as context:
            for case in cases:
                check(case, context)
            if context.rank == 0:
                print(f"loaded at {tensor_size}x{pipeline_size}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
