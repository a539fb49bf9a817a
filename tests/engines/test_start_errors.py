"""A vLLM that cannot start: one error with vLLM's own reason."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from megatron_k15.engines.log_excerpt import failure_reason, last_line, log_lines
from megatron_k15.engines.pool import EnginePool
from megatron_k15.errors import EngineError, ModelError
from tests.conftest import tiny_engine_config

WORKER_LOG = """\
(EngineCore pid=12) INFO 11-24 03:17:29 [core.py:133] Initializing a V1 LLM engine
(Worker pid=13) ERROR 11-24 03:17:30 [multiproc_executor.py:882] WorkerProc failed to start.
(Worker pid=13) ERROR 11-24 03:17:30 [multiproc_executor.py:882] Traceback (most recent call last):
(Worker pid=13) ERROR 11-24 03:17:30 [multiproc_executor.py:882]   File "weight_utils.py", line 9, in safe_open
(Worker pid=13) ERROR 11-24 03:17:30 [multiproc_executor.py:882] safetensors.SafetensorError: incomplete metadata
(EngineCore pid=12) ERROR 11-24 03:17:31 [core.py:1400] Exception: WorkerProc initialization failed due to an exception
(APIServer pid=11) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
CONFIG_LOG = """\
(APIServer pid=11) pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
(APIServer pid=11)   Value error, max_model_len (99999) is greater than the derived max_model_len
(APIServer pid=11)     For further information visit https://errors.pydantic.dev/2.12/v/value_error
"""


def _start(model_dir: Path, log_dir: Path) -> None:
    async def start() -> None:
        async with EnginePool(tiny_engine_config(), model_dir=model_dir, dtype="fp32", log_dir=log_dir):
            pass

    asyncio.run(start())


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (WORKER_LOG, "safetensors.SafetensorError: incomplete metadata"),
        (CONFIG_LOG, "for ModelConfig Value error, max_model_len (99999) is greater than the derived max_model_len"),
        ("one\n\ntwo\n", "one\ntwo"),
    ],
)  # fmt: skip
def test_the_first_exception_is_the_reason(tmp_path, log, reason):
    path = tmp_path / "vllm.log"
    path.write_text(log)
    assert failure_reason(log_lines(path)).endswith(reason)


def test_lines_of_an_earlier_start_are_not_quoted(tmp_path):
    path = tmp_path / "vllm.log"
    path.write_text("ValueError: old\n")
    start = path.stat().st_size
    path.write_text("ValueError: old\nINFO 11-24 03:17:29 [a.py:1] new\n")
    assert failure_reason(log_lines(path, start)) == "new"
    assert last_line(["x" * 200], 10) == "x" * 9 + "…"
    assert log_lines(tmp_path / "none") == []


def test_a_model_that_vllm_does_not_know_is_one_error(tiny_model_dir, tmp_path):
    """The real vLLM refuses it; nothing of it stays behind."""
    broken = shutil.copytree(tiny_model_dir, tmp_path / "model")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(
        json.dumps({**config, "model_type": "foo", "architectures": ["FooForCausalLM"]})
    )
    with pytest.raises(EngineError, match="model type `foo`") as caught:
        _start(broken, tmp_path)
    assert len(str(caught.value)) < 1000
    assert "Traceback" not in str(caught.value)


def test_a_directory_without_config_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json"):
        _start(tmp_path, tmp_path)
