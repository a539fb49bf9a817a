"""docs/kernels.md: its command builds, its snippet runs; what it says of traffic is counted in test_emulation.py."""

import torch

from tests.documents import code_blocks, run_shown


def test_the_build_command() -> None:
    (command,) = code_blocks("docs/kernels.md", "bash")
    done = run_shown(command)
    assert done.returncode == 0, done.stderr
    assert "is up to date" in done.stdout


def test_the_snippet() -> None:
    (snippet,) = code_blocks("docs/kernels.md", "python")
    names: dict[str, object] = {}
    exec(compile(snippet, "docs/kernels.md", "exec"), names)
    found = names["found"]
    logits = names["hidden"] @ names["weight"].t()  # type: ignore[operator,attr-defined]
    logprobs = logits.log_softmax(-1)[torch.arange(5), torch.tensor([3, 1, 4, 1, 5])]
    expected = (logprobs + 4.6).split([2, 3])
    torch.testing.assert_close(found.log_ratios_S, torch.stack([part.sum() for part in expected]))  # type: ignore[attr-defined]
