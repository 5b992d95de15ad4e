"""From a trained model to a folder that anyone loads. It appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rewards.bos import BOS_COUNT, Bos
from rewards.encoding import Encoder
from rewards.formats import HH_NAMES, Format
from rewards.training import processes
from rewards.training.record import write_record

__all__ = ["chat_template_of", "export_classifier", "export_model", "merged"]


def export_classifier(
    model: Any, encoder: Encoder, folder: Path, *, attention: str | None, recipe: str
) -> None:
    """A `*ForSequenceClassification` folder: safetensors, tokenizer with a chat template that
    writes what was trained on, one PAD, one label, and `reward.json`."""

    def finish(partial: Path) -> None:
        write_record(partial, encoder.describe(), recipe=recipe)

    tokenizer = encoder.tokenizer
    tokenizer.chat_template = chat_template_of(encoder.format, encoder.bos, encoder)
    if encoder.max_length is not None:
        tokenizer.model_max_length = encoder.max_length  # where other libraries look for it
    tokenizer.truncation_side = encoder.truncation_side
    export_model(model, tokenizer, folder, attention=attention, finish=finish)


def export_model(
    model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    attention: str | None,
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Weights with adapters merged, config and tokenizer; `finish` may add files before the
    folder gets its name. `attention` is the implementation the model came with.

    Of several processes the first writes, and the others wait until the folder is there.
    """
    if processes.is_first():
        _write(model, tokenizer, folder, attention, finish or (lambda partial: None))
    processes.wait()


def _write(
    model: Any, tokenizer: Any, folder: Path, attention: str | None, finish: Callable[[Path], None]
) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    whole = merged(model)
    if attention is not None:
        whole.set_attn_implementation(attention)
    whole.config.use_cache = True
    whole.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    finish(partial)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def merged(model: Any) -> Any:
    """The plain model; peft's adapters are added to its weights, in place."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def chat_template_of(format: Format, bos: Bos, encoder: Encoder) -> str:
    """A template that renders conversations as `encoder` reads them, BOS included.

    "chat" has its own, which stays as it is.
    """
    if format == "chat":
        return encoder.tokenizer.chat_template
    front = "{{ bos_token }}" * BOS_COUNT[bos]
    if format == "plain":
        return front + "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    between = encoder.separator.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return (
        front + "{% for m in messages %}"
        "{% if m['role'] not in ['user', 'assistant'] %}"
        "{{ raise_exception('this format knows user and assistant') }}{% endif %}"
        f"{{% if not loop.first %}}{{{{ '{between}' }}}}{{% endif %}}"
        f"{{{{ ('{HH_NAMES['user']}' if m['role'] == 'user' else '{HH_NAMES['assistant']}')"
        " + m['content'] }}{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ '{between}{HH_NAMES['assistant'].rstrip()}' }}}}"
        "{% endif %}"
    )
