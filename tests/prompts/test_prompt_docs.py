"""What docs/prompts.md shows is what the code takes."""

from pathlib import Path

from megatron_k15.config import load_config
from megatron_k15.prompts.prompt_set import load_prompt_sets
from tests.documents import code_blocks
from tests.prompts.tokenizer import byte_tokenizer


def test_the_shown_rows_and_settings_load(tmp_path: Path) -> None:
    (rows,) = code_blocks("docs/prompts.md", "json")
    files_yaml, gym_yaml = code_blocks("docs/prompts.md", "yaml")
    (tmp_path / "rows.jsonl").write_text(rows)
    (tmp_path / "files.yaml").write_text(files_yaml)
    (tmp_path / "gym.yaml").write_text(gym_yaml)
    overrides = [f"prompts.files=[{tmp_path / 'rows.jsonl'}]", "evaluation.num_prompts=0"]
    config = load_config(tmp_path / "files.yaml", overrides)
    tokenizer = byte_tokenizer()
    sets = load_prompt_sets(config.prompts, config.evaluation, tokenizer=tokenizer, chat_template=True, seed=0)
    assert [prompt.answer for prompt in sets.train] == ["19", "42"]
    assert tokenizer.decode(sets.train[0].token_ids).endswith("Put the answer in \\boxed{}.<|assistant|>")
    config = load_config(tmp_path / "gym.yaml", ["prompts.num_train=30", "prompts.max_prompt_tokens=2000"])
    sets = load_prompt_sets(config.prompts, config.evaluation, tokenizer=tokenizer, chat_template=True, seed=0)
    assert (len(sets.train), len(sets.held_out)) == (60, 200)
