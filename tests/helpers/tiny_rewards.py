"""Tiny random checkpoints and a byte-level tokenizer, made on the spot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from rollout.types import Message

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
BOS_ID, EOS_ID, PAD_ID = 0, 1, 2

# the shape of Llama 3's template, with the date line of 3.2
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
DATED_TEMPLATE = (
    "{{ bos_token }}{% if not date_string is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}Today Date: {{ date_string }}\n"
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}</s>{% endfor %}"
)

EOT, START, END = "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"
# Llama 3's templates, first without and then with a header for the next answer, always
LLAMA3_TEMPLATE = (
    "{% for m in messages %}{% set content = '<|start_header_id|>' + m['role'] "
    "+ '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA3_APRIL_TEMPLATE = LLAMA3_TEMPLATE.replace("{% if add_generation_prompt %}", "{% if true %}")
_LLAMA3_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tokenizer(
    *, chat_template: str | None = CHAT_TEMPLATE, adds_bos: bool = True, pad: str | None = PAD
) -> Any:
    """One token per byte; `<s>`, `</s>`, `<pad>` are parsed from text, as published ones do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([BOS, EOS, PAD, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, BOS_ID)]
        )
    backend.add_special_tokens([BOS, EOS, PAD])  # parsed in text whichever of them pads
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=BOS, eos_token=EOS, pad_token=pad
    )
    made.chat_template = chat_template
    return made


def llama3_tokenizer(
    *, chat_template: str | None = LLAMA3_TEMPLATE, adds_bos: bool = True, ids: Any = None
) -> Any:
    """One token per byte, but one each for "assistant", "\\n\\n" and the special tokens.

    `ids` moves chosen tokens to other ids, those of Llama 3 for example.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    merges = [("assistant"[:n], "assistant"[n]) for n in range(1, 9)]
    merges += [("Ċ", "Ċ"), ("ĊĊ", "Ċ")]
    special = ["<|begin_of_text|>", "<|end_of_text|>", START, END, EOT]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*special, *alphabet, *(left + right for left, right in merges)]
    vocabulary = {token: index for index, token in enumerate(tokens)} | (ids or {})
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LLAMA3_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{special[0]} $A", special_tokens=[(special[0], vocabulary[special[0]])]
        )
    backend.add_special_tokens(special)
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=special[0], eos_token=special[1]
    )
    made.chat_template = chat_template
    return made


def llama3_ids(conversation: list[Message], *, bos: int = 1, end: str = "") -> list[int]:
    """Llama 3's template by hand, without our code or jinja."""
    text = "".join(f"{START}{m['role']}{END}\n\n{m['content'].strip()}{EOT}" for m in conversation)
    return [0] * bos + llama3_tokenizer()(text + end, add_special_tokens=False)["input_ids"]


def config(family: str, **changes: Any) -> Any:
    from transformers import GPT2Config, GPTNeoConfig, LlamaConfig

    ids = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    common = {"vocab_size": 259, "num_labels": 1, **ids, **changes}
    if family == "llama":
        return LlamaConfig(
            hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=32, **{"max_position_embeddings": 256, **common},
        )  # fmt: skip
    if family == "gpt2":
        return GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=256, **common)
    return GPTNeoConfig(
        hidden_size=32, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]],
        window_size=8, max_position_embeddings=256, **common,
    )  # fmt: skip


def model(family: str, *, seed: int = 0, **changes: Any) -> Any:
    """A random sequence classifier, its head large enough for scores that differ visibly."""
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(seed)
    made = AutoModelForSequenceClassification.from_config(config(family, **changes))
    torch.nn.init.normal_(made.score.weight, std=1.0)
    return made.eval()


def checkpoint(folder: Path, family: str, made_tokenizer: Any = None, **changes: Any) -> Path:
    """A complete model folder."""
    model(family, **changes).save_pretrained(folder)
    (made_tokenizer or tokenizer()).save_pretrained(folder)
    return folder


def reference_score(folder: Path, ids: list[int]) -> float:
    """The score by hand: one row, no padding, last hidden state times the head."""
    import torch
    from transformers import AutoModelForSequenceClassification

    loaded = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    backbone = getattr(loaded, loaded.base_model_prefix)
    with torch.no_grad():
        output = backbone(torch.tensor([ids]), output_hidden_states=True)
        return float(output.hidden_states[-1][0, -1] @ loaded.score.weight[0])


def chat(*turns: str) -> list[Message]:
    """Alternating user and assistant turns."""
    roles = ("user", "assistant")
    return [Message(role=roles[i % 2], content=turn) for i, turn in enumerate(turns)]


def transformer_tensors(config: Any, *, seed: int = 0) -> dict[str, Any]:
    """`model.*` of a random causal language model, and `lm_head.weight` where it is not tied."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(config)
    tensors = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    if config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    return tensors


def linear(tensors: dict[str, Any], name: str, inputs: int, outputs: int) -> None:
    """Add weight and bias, large enough for outputs that differ visibly."""
    import torch

    tensors[f"{name}.weight"] = torch.randn(outputs, inputs) * (2 / inputs) ** 0.5
    tensors[f"{name}.bias"] = torch.randn(outputs) * 0.1


def write_checkpoint(
    folder: Path, config: Any, tensors: Mapping[str, Any], made_tokenizer: Any, **keys: Any
) -> Path:
    """config.json with further `keys`, one safetensors file, tokenizer."""
    from safetensors.torch import save_file

    config.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text()) | keys
    (folder / "config.json").write_text(json.dumps(written))
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    made_tokenizer.save_pretrained(folder)
    return folder


def armorm(
    folder: Path,
    made_tokenizer: Any = None,
    *,
    objectives: int = 19,
    width: int = 32,
    hidden: int = 3,
) -> Path:
    """A checkpoint with config keys and tensors of `LlamaForRewardModelWithGating`."""
    import torch

    made_tokenizer = made_tokenizer or llama3_tokenizer()
    made = config("llama", vocab_size=len(made_tokenizer), max_position_embeddings=512)
    tensors = transformer_tensors(made)
    del tensors["lm_head.weight"]
    tensors["regression_layer.weight"] = torch.randn(objectives, 64) * 0.2
    transform = torch.eye(objectives)
    if objectives > 4:  # takes verbosity out of every other reward, and of itself
        transform[4] -= torch.rand(objectives)
        transform[4, 4] = 0.0
    tensors["reward_transform_matrix"] = transform
    sizes = [64, *[width] * hidden, objectives]
    for number, (inputs, outputs) in enumerate(pairwise(sizes)):
        linear(tensors, f"gating.layers.{number}", inputs, outputs)
    tensors[f"gating.layers.{hidden}.weight"] *= 5  # the temperature is 10
    tensors["gating.logit_scale"] = torch.tensor([1.3])
    return write_checkpoint(
        folder, made, tensors, made_tokenizer,
        architectures=["LlamaForRewardModelWithGating"],
        auto_map={
            "AutoModelForSequenceClassification": "modeling_custom.LlamaForRewardModelWithGating"
        },
        num_objectives=objectives, gating_temperature=10, gating_hidden_dim=width,
        gating_n_hidden=hidden,
    )  # fmt: skip


def grm(
    folder: Path, made_config: Any, made_tokenizer: Any, *, hidden: int = 1, prefix: str = ""
) -> Path:
    """A checkpoint of a language model with GRM's value head; linear where `hidden` is 0."""
    tensors = transformer_tensors(made_config)
    if hidden == 0:
        linear(tensors, "v_head.summary", made_config.hidden_size, 1)
    sizes = [made_config.hidden_size, *[48] * hidden, 1]
    for number in range(hidden + 1 if hidden else 0):
        linear(tensors, f"v_head.summary.{2 * number}", sizes[number], sizes[number + 1])
    kind = {"vhead_layer_type": "mlp" if hidden else "linear", "vhead_num_layers": hidden}
    wrapper = "model.AutoModelForCausalLMWithValueHead"
    return write_checkpoint(
        folder, made_config, {prefix + name: tensor for name, tensor in tensors.items()},
        made_tokenizer,
        auto_map={"AutoModel": wrapper, "AutoModelForSequenceClassification": wrapper},
        vhead_num_neurons=1024, **kind,
    )  # fmt: skip


def tensors_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def save_tensors(folder: Path, tensors: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})


def poison(folder: Path, made_tokenizer: Any, word: str = "Z") -> None:
    """Let every state behind a token be no number."""
    tensors = tensors_of(folder)
    (token,) = made_tokenizer(word, add_special_tokens=False)["input_ids"]
    tensors["model.embed_tokens.weight"][token] = float("nan")
    save_tensors(folder, tensors)


def change_config(folder: Path, **changes: Any) -> None:
    """Set keys of config.json; None removes one."""
    found = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in found.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


def shard(folder: Path) -> None:
    """Two files and an index instead of one file."""
    from safetensors.torch import save_file

    tensors = tensors_of(folder)
    names = sorted(tensors)
    weight_map = {}
    for number, half in enumerate((names[::2], names[1::2])):
        file = f"model-{number + 1:05}-of-00002.safetensors"
        save_file({n: tensors[n] for n in half}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(half, file)
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def as_bin(folder: Path) -> None:
    """`pytorch_model.bin` instead of safetensors."""
    import torch

    torch.save(tensors_of(folder), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
