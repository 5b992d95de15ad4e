"""One tiny reward model in the files of many frameworks; random weights.

Every layout is made of the same transformer, so that one reference computes the right value of all.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tiny_rewards as tiny

# closes turns with EOS and a line break, and renders no BOS; and the same with one
CHATML = "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '</s>\n' }}{% endfor %}"
BOS_CHATML = "{{ bos_token }}" + CHATML

TALK = tiny.chat("why?", "because")
TALKS = [TALK, tiny.chat("why?", "because of it"), tiny.chat("a", "b", "and then?", "nothing")]


def text_of(talk: Any) -> str:
    """CHATML by hand."""
    return "".join(f"<{m['role']}>{m['content']}</s>\n" for m in talk)


def ids_of(text: str, *, bos: int = 1) -> list[int]:
    return [tiny.BOS_ID] * bos + tiny.tokenizer()(text, add_special_tokens=False)["input_ids"]


def base(folder: Path, template: str | None = CHATML, **more: Any) -> Path:
    """As transformers saves a classifier: `model.*` and `score.weight`."""
    made = tiny.tokenizer(chat_template=template, **more)
    return tiny.checkpoint(folder, "llama", made, initializer_range=0.1)


def change(
    folder: Path, tensors: Mapping[str, Any], beside: Mapping[str, Any] | None = None, **config: Any
) -> Path:
    """Replace the tensors, add LLaMA-Factory's value_head.safetensors, set keys of config.json."""
    from safetensors.torch import save_file

    tiny.save_tensors(folder, {name: tensor.clone() for name, tensor in tensors.items()})
    if beside is not None:
        save_file(dict(beside), folder / "value_head.safetensors")
    tiny.change_config(folder, **config)
    return folder


def renamed(folder: Path, head: str, **config: Any) -> Path:
    """`score.weight` under another name, as the classes of other frameworks have it."""
    tensors = tiny.tensors_of(folder)
    return change(folder, {head: tensors.pop("score.weight"), **tensors}, **config)


def summary() -> dict[str, Any]:
    """The head of TRL's value-head models."""
    import torch

    drawn = torch.Generator().manual_seed(7)
    weight, bias = torch.randn(1, 64, generator=drawn), torch.randn(1, generator=drawn)
    return {"v_head.summary.weight": weight, "v_head.summary.bias": bias}


def two_layers(stem: str, width: int = 64) -> dict[str, Any]:
    import torch

    torch.manual_seed(8)
    tensors: dict[str, Any] = {}
    tiny.linear(tensors, f"{stem}.0", 64, width)
    tiny.linear(tensors, f"{stem}.2", width, 1)
    return tensors


def language_model(folder: Path, template: str | None = CHATML, **more: Any) -> Path:
    """The transformer with an output embedding in place of the head."""
    import torch

    base(folder, template, **more)
    tensors = tiny.tensors_of(folder)
    tensors["lm_head.weight"] = torch.randn(259, 64)
    del tensors["score.weight"]
    return change(folder, tensors, architectures=["LlamaForCausalLM"])


def adapter(folder: Path, base_model: Path, task: str = "SEQ_CLS") -> Path:
    """A LoRA adapter of a classifier with its head, or of a language model; all of it random."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    kind = {"SEQ_CLS": "SequenceClassification", "CAUSAL_LM": "CausalLM"}[task]
    auto = getattr(transformers, f"AutoModelFor{kind}")
    torch.manual_seed(3)
    head = {"modules_to_save": ["score"]} if task == "SEQ_CLS" else {}
    labels = {"num_labels": 1} if task == "SEQ_CLS" else {}
    wrapped = get_peft_model(
        auto.from_pretrained(base_model, **labels),
        LoraConfig(task_type=task, r=4, target_modules=["q_proj", "v_proj"], **head),  # type: ignore[arg-type]
    )
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.normal_(0, 0.5)
    wrapped.peft_config["default"].base_model_name_or_path = str(base_model.resolve())
    wrapped.save_pretrained(str(folder))
    return folder


def without_weights(folder: Path, copy: Path) -> Path:
    """A copy of everything but the weights."""
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    return copy


def states(folder: Path, rows: list[list[int]]) -> Any:
    """(N, H): transformers' last hidden state of each row's last token, one row at a time."""
    import torch
    from transformers import LlamaModel

    model = LlamaModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return torch.stack([model(torch.tensor([ids])).last_hidden_state[0, -1] for ids in rows])
