"""The tiny model with a chat template, and chats to train it on."""

import json
import shutil
from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
FORGETFUL = TEMPLATE.replace(
    "{{ message['content'] }}", "{{ message['content'] if loop.last else message['content'].split('</think>')[-1] }}"
)
"""As reasoning models' templates do: earlier turns lose their thoughts."""


def chat_model(tiny_model_dir: Path, directory: Path, template: str = TEMPLATE) -> Path:
    shutil.copytree(tiny_model_dir, directory)
    (directory / "chat_template.jinja").write_text(template)
    return directory


def turns(*contents: str) -> list[dict[str, str]]:
    """User and assistant by turns."""
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(contents)]


def write_rows(path: Path, rows: list[Any]) -> Path:
    """A text stands as it is, anything else as JSON."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def sums(count: int) -> list[dict[str, Any]]:
    """Chats of different lengths, some with two questions."""
    return [
        {"messages": turns(f"{i}+1", str(i + 1) * (1 + i % 5), *(("more", "ok") if i % 3 == 0 else ()))}
        for i in range(count)
    ]
