"""Tiny random checkpoints and a byte-level tokenizer, made on the spot."""

from __future__ import annotations

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
