"""The command line's side of `answering.py`: options, and the answerer that they name."""

import argparse
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from megatron_k15.config import EngineConfig
from megatron_k15.engines.pool import EnginePool
from megatron_k15.errors import ConfigError
from megatron_k15.models.identity import model_identity
from megatron_k15.models.package_model import resolve_model
from megatron_k15.models.tokenizer import load_tokenizer
from megatron_k15.sampling.answering import Answerer, EndpointAnswerer, PoolAnswerer


def add_answerer_options(parser: argparse._ActionsContainer, *, max_model_len: int = 1024) -> None:
    parser.add_argument("--model", default="", help="a Hugging Face directory or package:NAME; with --endpoint a name")
    parser.add_argument("--endpoint", default="", help="OpenAI-compatible URL with its /v1; the key: OPENAI_API_KEY")
    parser.add_argument("--max-model-len", type=int, default=max_model_len)
    parser.add_argument("--num-engines", type=int, default=1)
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--chat-template", action=argparse.BooleanOptionalAction, default=True)


@asynccontextmanager
async def open_answerer(
    options: argparse.Namespace, log_dir: Path, say: Callable[[str], None]
) -> AsyncIterator[Answerer | None]:
    """The endpoint, vLLM on `--model` which starts with the first question, or nobody.

    Raises:
        ConfigError: an endpoint without the name of its model.
        ModelError: a bad model directory.
    """
    if options.endpoint:
        if not options.model:
            raise ConfigError("--endpoint needs --model, the name of its model")
        key = os.environ.get("OPENAI_API_KEY", "")
        yield EndpointAnswerer(name=options.model, base_url=options.endpoint, api_key=key)
    elif options.model:
        model_dir = resolve_model(options.model)
        config = EngineConfig(max_model_len=options.max_model_len, num_engines=options.num_engines)
        pool = EnginePool(config, model_dir=model_dir, dtype=options.dtype, log_dir=log_dir)

        async def start() -> None:
            say(f"starting vLLM on {options.model} (log: {log_dir}/vllm_0.log)")
            await pool.start()

        try:
            yield PoolAnswerer(
                name=model_identity(options.model, model_dir),
                pool=pool,
                tokenizer=load_tokenizer(model_dir),
                max_model_len=options.max_model_len,
                chat_template=options.chat_template,
                start=start,
            )
        finally:
            await pool.stop()
    else:
        yield None
