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
    """A `*ForSequenceClassification` folder: safetensors, tokenizer with a chat template that
    writes what was trained on, one PAD, one label, and `reward.json`."""

    def finish(partial: Path) -> None:
        write_record(partial, encoder.describe(), recipe=recipe)

    tokenizer = encoder.tokenizer
    tokenizer.chat_template = chat_template_of(encoder)
    if encoder.max_length is not None:
        tokenizer.model_max_length = encoder.max_length  # where other libraries look for it
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
    """Weights with adapters merged, config and tokenizer; `finish` may add files before the
    folder gets its name. `attention` is the implementation the model came with.

    Of several processes the first writes, and the others wait until the folder is there.
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
    """The plain model; peft's adapters are added to its weights, in place."""
    return cast("PreTrainedModel", getattr(model, "merge_and_unload", lambda: model)())


def chat_template_of(encoder: Encoder) -> str:
    """A template that renders conversations as `encoder` reads them, BOS and EOS included.

    "chat" has its own, which stays as it is.
    """
    if encoder.format == "chat":
        return encoder.tokenizer.chat_template
    front = "{{ bos_token }}" * BOS_COUNT[encoder.bos]
    end = "{{ eos_token }}" * EOS_COUNT[encoder.eos]
    if end:
        end = f"{{% if not add_generation_prompt %}}{end}{{% endif %}}"
    if encoder.format == "plain":
        return front + "{% for m in messages %}{{ m['content'] }}{% endfor %}" + end
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


def export_grm(
    model: nn.Module,
    encoder: Encoder,
    folder: Path,
    settings: GRMSettings,
    *,
    attention: str | None,
) -> None:
    """Weights with adapters merged, the value head under published names, config keys that its own
    class reads, tokenizer, and `reward.json`. There is no `auto_map`: no Python file goes along.
    """
    for key, value in head_keys(settings).items():
        setattr(base_of(model).config, key, value)

    def finish(partial: Path) -> None:
        write_record(partial, encoder.describe(), recipe="grm")

    export_model(model, encoder.tokenizer, folder, attention=attention, finish=finish)


def head_keys(settings: GRMSettings) -> Mapping[str, object]:
    """What GRM's wrapper class builds the head from, in config.json."""
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
    """K rewards: regression (K, H), M (K, K), the gate, and their names."""

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
    """Write transformer, heads (float32, as published), config.json and tokenizer to `folder`,
    which appears whole or not at all.

    `dtype` is that of the files the transformer came from: its weights, which were frozen, go back
    to it where that loses nothing. There is no `auto_map`: no Python file goes along.
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
        # of a gate without hidden layers the first layer is the last
        "gating_hidden_dim": len(tensors["gating.layers.0.weight"]),
        "gating_n_hidden": len(gate.layers) - 1,
        ATTRIBUTES: list(heads.attributes),
    }
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an attempt that died
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
    """The tensor in `dtype` if that holds it exactly, else as it is."""
    if dtype is None or not tensor.is_floating_point():
        return tensor
    cast = tensor.to(dtype)
    return cast if torch.equal(cast.to(tensor.dtype), tensor) else tensor


def _write_config(folder: Path, config: PreTrainedConfig, keys: Mapping[str, object]) -> None:
    config.save_pretrained(folder)
    path = folder / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    for key in ("auto_map", "id2label", "label2id"):  # of the starting model
        written.pop(key, None)
    path.write_text(json.dumps({**written, **keys}, indent=2) + "\n", encoding="utf-8")


def _write_tensors(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """safetensors files, an index where there are several."""
    from huggingface_hub import save_torch_state_dict

    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_torch_state_dict(whole, folder, metadata={"format": "pt"})
