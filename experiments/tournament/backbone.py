"""stories260k with what a pairwise judge needs: a chat template, and tokens for its verdicts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

__all__ = ["make_backbone"]

# the verdict of a judge is the first token after the prompt
_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}\n"
    "The better one is {% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


def make_backbone(model: Path, out: Path) -> None:
    """Copy `model` to `out`, once, with tokens for A and B, initialized from the old ones' mean."""
    if out.exists():
        return
    from transformers import AddedToken, AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens([AddedToken(label, single_word=True) for label in "AB"])
    tokenizer.chat_template = _TEMPLATE
    network: Any = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    network.resize_token_embeddings(len(tokenizer), mean_resizing=True)
    working = out.with_name(f".{out.name}.partial")
    shutil.rmtree(working, ignore_errors=True)
    network.save_pretrained(working)
    tokenizer.save_pretrained(working)
    os.replace(working, out)
