"""Write a trained model to a folder that `load_reward` and `load_judge` read.

A classifier or judge is written as transformers has it, a GRM as a language model with `v_head.*`
tensors, an ArmoRM under the published tensor names. The folder appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import nn

from rewards.checkpoints.record import write_record
from rewards.encoding.bos import BOS_COUNT
from rewards.encoding.encoder import Encoder
from rewards.encoding.eos import EOS_COUNT
from rewards.encoding.formats import HH_NAMES
from rewards.models.armorm import ATTRIBUTES, REGRESSION, TRANSFORM
from rewards.training import distributed
from rewards.training.gating import GatingMLP
from rewards.training.losses import base_of
from rewards.training.settings import GRMSettings
from rewards.types import Format
from rollout.storage.files import share_like_others

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "ArmoRMHeads",
    "chat_template_of",
    "export_armorm",
    "export_classifier",
    "export_grm",
    "export_model",
    "head_keys",
    "merged",
]


def export_classifier(
    model: nn.Module, encoder: Encoder, folder: Path, *, attention: str | None, recipe: str
) -> None:
    """Write a `*ForSequenceClassification` folder with `reward.json`.

    It has safetensors, one label, and a tokenizer with one PAD, whose chat template writes the text
    that was trained on.
    """

    def finish(partial: Path) -> None:
        write_record(partial, encoder.describe(), recipe=recipe)

    tokenizer = encoder.tokenizer
    tokenizer.chat_template = chat_template_of(encoder)
    if encoder.max_length is not None:
        tokenizer.model_max_length = encoder.max_length  # other libraries read the limit here
    tokenizer.truncation_side = encoder.truncation_side
    export_model(model, tokenizer, folder, attention=attention, finish=finish)


def export_model(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    attention: str | None,
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Write the weights with adapters merged, config and tokenizer to `folder`.

    `attention` is the implementation that the model came with; `finish` may add files before the
    folder gets its name. Of several processes the first writes, and the others wait for it.
    """
    if distributed.is_first():
        _write(model, tokenizer, folder, attention, finish or (lambda partial: None))
    distributed.barrier()


def _write(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    attention: str | None,
    finish: Callable[[Path], None],
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
    share_like_others(partial)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def merged(model: nn.Module) -> PreTrainedModel:
    """Return the plain model, peft's adapters added to its weights in place."""
    return cast("PreTrainedModel", getattr(model, "merge_and_unload", lambda: model)())


def chat_template_of(encoder: Encoder) -> str:
    """Return a template that renders conversations as `encoder` reads them, BOS and EOS included.

    For the format "chat" it is the tokenizer's own, unchanged.
    """
    if encoder.format == "chat":
        return encoder.tokenizer.chat_template
    front = "{{ bos_token }}" * BOS_COUNT[encoder.bos]
    end = "{{ eos_token }}" * EOS_COUNT[encoder.eos]
    if end:
        end = f"{{% if not add_generation_prompt %}}{end}{{% endif %}}"
    if encoder.format == "plain":
        return front + "{% for m in messages %}{{ m['content'] }}{% endfor %}" + end
    if encoder.format in _IN_TURN:
        return front + _CHECK_TURNS + _IN_TURN[encoder.format] + end
    between = encoder.separator.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return (
        front + "{% for m in messages %}"
        "{% if m['role'] not in ['user', 'assistant'] %}"
        "{{ raise_exception('this format knows user and assistant') }}{% endif %}"
        f"{{% if not loop.first %}}{{{{ '{between}' }}}}{{% endif %}}"
        f"{{{{ ('{HH_NAMES['user']}' if m['role'] == 'user' else '{HH_NAMES['assistant']}')"
        " + m['content'] }}{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ '{between}{HH_NAMES['assistant'].rstrip()}' }}}}"
        "{% endif %}" + end
    )


# the formats that have user and assistant in turn alone
_CHECK_TURNS = (
    "{% for m in messages %}{% if m['role'] != ['user', 'assistant'][loop.index0 % 2] %}"
    "{{ raise_exception('this format has user and assistant in turn') }}{% endif %}{% endfor %}"
)
_IN_TURN: dict[Format, str] = {
    "ultrarm": "{% for m in messages %}{% if not loop.first %}{{ '\\n\\n' }}{% endif %}"
    "{{ ('Human: ' if m['role'] == 'user' else 'Assistant: ') + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\nAssistant:' }}{% endif %}",
    "beaver": "{{ 'BEGINNING OF CONVERSATION: ' }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{% if not loop.first %}{{ eos_token or '</s>' }}{% endif %}"
    "{{ 'USER: ' + m['content'] + ' ASSISTANT:' }}{% else %}{{ m['content'] }}{% endif %}"
    "{% endfor %}",
}


def export_grm(
    model: nn.Module,
    encoder: Encoder,
    folder: Path,
    settings: GRMSettings,
    *,
    attention: str | None,
) -> None:
    """Write a GRM folder: a language model with adapters merged, and the value head's tensors.

    The head has the published names, config.json the keys that GRM's own class reads; tokenizer and
    `reward.json` are beside them. There is no `auto_map`, since no Python file is written.
    """
    for key, value in head_keys(settings).items():
        setattr(base_of(model).config, key, value)

    def finish(partial: Path) -> None:
        write_record(partial, encoder.describe(), recipe="grm")

    export_model(model, encoder.tokenizer, folder, attention=attention, finish=finish)


def head_keys(settings: GRMSettings) -> Mapping[str, object]:
    """Return the keys of config.json from which GRM's wrapper class builds the head."""
    return {
        "vhead_layer_type": "mlp" if settings.head_layers else "linear",
        "vhead_num_layers": settings.head_layers,
        "vhead_num_neurons": settings.head_neurons,
        "vhead_num_output": 1,
        "summary_dropout_prob": settings.head_dropout,
    }


ARCHITECTURE = "LlamaForRewardModelWithGating"


@dataclass(frozen=True)
class ArmoRMHeads:
    """ArmoRM's trained parts for K rewards: regression (K, H), M (K, K), the gate, and K names."""

    regression_KH: np.ndarray
    transform_KK: np.ndarray
    gate: GatingMLP
    attributes: Sequence[str]


def export_armorm(
    folder: Path,
    transformer: PreTrainedModel,
    encoder: Encoder,
    heads: ArmoRMHeads,
    dtype: torch.dtype | None,
) -> None:
    """Write transformer, heads (float32, as published), config.json and tokenizer to `folder`.

    The folder appears whole or not at all. `dtype` is that of the files the transformer came from:
    its weights, which were frozen, are written in it where that loses nothing. There is no
    `auto_map`, since no Python file is written.
    """
    gate = heads.gate
    tensors = {
        f"model.{name}": _stored_as(tensor, dtype)
        for name, tensor in transformer.state_dict().items()
    }
    tensors[REGRESSION] = torch.from_numpy(heads.regression_KH)
    tensors[TRANSFORM] = torch.from_numpy(heads.transform_KK)
    tensors |= {f"gating.{name}": tensor.float() for name, tensor in gate.state_dict().items()}
    keys = {
        "architectures": [ARCHITECTURE],
        "num_objectives": len(heads.attributes),
        "gating_temperature": gate.temperature,
        # where there are no hidden layers, this is the width of the only layer
        "gating_hidden_dim": len(tensors["gating.layers.0.weight"]),
        "gating_n_hidden": len(gate.layers) - 1,
        ATTRIBUTES: list(heads.attributes),
    }
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # from an attempt that was killed
    partial.mkdir(parents=True)
    _write_config(partial, transformer.config, keys)
    _write_tensors(partial, tensors)
    encoder.tokenizer.save_pretrained(partial)
    reading = {"format": encoder.format, "bos": encoder.bos}
    write_record(partial, reading, recipe="armorm", attributes=list(heads.attributes))
    share_like_others(partial)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def _stored_as(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """Return the tensor in `dtype` if that holds it exactly, else unchanged."""
    if dtype is None or not tensor.is_floating_point():
        return tensor
    cast = tensor.to(dtype)
    return cast if torch.equal(cast.to(tensor.dtype), tensor) else tensor


def _write_config(folder: Path, config: PreTrainedConfig, keys: Mapping[str, object]) -> None:
    config.save_pretrained(folder)
    path = folder / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    for key in ("auto_map", "id2label", "label2id"):  # these describe the starting model
        written.pop(key, None)
    path.write_text(json.dumps({**written, **keys}, indent=2) + "\n", encoding="utf-8")


def _write_tensors(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write safetensors files, with an index where there are several."""
    from huggingface_hub import save_torch_state_dict

    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_torch_state_dict(whole, folder, metadata={"format": "pt"})
