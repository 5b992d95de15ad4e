"""Tiny random pairwise judges with Llama 3's special tokens, and the card's own computation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rewards.types import Comparison
from rollout.types import Completion, Group, Message, Prompt

SPECIALS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
]
HEADER = "<|start_header_id|>assistant<|end_header_id|>\n\n"
_TURNS = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
)
# Llama 3's template as first published, and as it was mended
ALWAYS = _TURNS + "{{ '" + HEADER + "' }}"
FIXED = _TURNS + "{% if add_generation_prompt %}{{ '" + HEADER + "' }}{% endif %}"
TWICE = ALWAYS + "{% if add_generation_prompt %}{{ '" + HEADER + "' }}{% endif %}"
# from the card of RLHFlow/pair-preference-model-LLaMA3-8B, as everything in `card_probability`
PLAIN = (
    "\n{% for message in messages %}{% if loop.index0 % 2 == 0 %}\n\n<turn> user\n"
    " {{ message['content'] }}{% else %}\n\n<turn> assistant\n {{ message['content'] }}"
    "{% endif %}{% endfor %}\n\n\n"
)
CARD_PROMPT = (
    "[CONTEXT] {context} [RESPONSE A] {response_A} [RESPONSE B] {response_B} \n"  # one line
)


def tokenizer(chat_template: str | None = ALWAYS, *, without: str = "") -> Any:
    """One token per byte but for those of `without`, and Llama 3's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = [one for one in sorted(pre_tokenizers.ByteLevel.alphabet()) if one not in without]
    vocabulary = {token: index for index, token in enumerate([*SPECIALS, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIALS)
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=SPECIALS[0], eos_token=SPECIALS[1]
    )
    made.chat_template = chat_template
    return made


def model(*, tied: bool = False, seed: int = 0, family: str = "llama", **changes: Any) -> Any:
    """A random language model with verdicts that differ visibly."""
    import torch
    from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, LlamaConfig

    torch.manual_seed(seed)
    kinds = {"llama": LlamaConfig, "gemma2": Gemma2Config, "cohere": CohereConfig}
    settings: dict[str, Any] = {
        "vocab_size": 261, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
        "max_position_embeddings": 2048, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
        "tie_word_embeddings": tied, "initializer_range": 0.2, **changes,
    }  # fmt: skip
    return AutoModelForCausalLM.from_config(kinds[family](**settings)).eval()


def checkpoint(folder: Path, made_tokenizer: Any = None, **changes: Any) -> Path:
    """A complete judge folder."""
    model(**changes).save_pretrained(folder)
    (made_tokenizer or tokenizer()).save_pretrained(folder)
    return folder


def scale_labels(folder: Path, factor: float) -> Path:
    """Multiply the label rows of an untied output embedding: log-odds as large as you like."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    for label in ("A", "B"):
        (row,) = tokenizer().encode(label, add_special_tokens=False)
        tensors["lm_head.weight"][row] *= factor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def card_texts(comparison: Comparison) -> list[str]:
    """What the card feeds to the model: chosen as A, then as B. Its chat template is `ALWAYS`."""
    own, plain = tokenizer(ALWAYS), tokenizer(PLAIN)
    context = plain.apply_chat_template(list(comparison.prompt), tokenize=False)
    responses = [comparison.first, comparison.second]
    texts = []
    for chosen_position in (0, 1):
        prompt = CARD_PROMPT.format(
            context=context,
            response_A=responses[chosen_position],
            response_B=responses[1 - chosen_position],
        )
        rendered = own.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False)
        texts.append(rendered.replace(own.bos_token, ""))
    return texts


def card_log_odds(folder: Path, comparison: Comparison) -> list[float]:
    """[log-odds of A in the order given, and swapped]: full logits, one row at a time."""
    import torch

    own, loaded = tokenizer(ALWAYS), _whole_model(folder)
    (a,), (b,) = (own.encode(label, add_special_tokens=False) for label in "AB")
    found = []
    for text in card_texts(comparison):
        ids = own.encode(text, return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            logits = loaded(ids).logits[0, -1].double()
        found.append(float(logits[a] - logits[b]))
    return found


@cache
def _whole_model(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def card_probability(folder: Path, comparison: Comparison, temperature: float = 1.0) -> float:
    """The card's `avg_prob_chosen`, its exponentials written so that they cannot overflow."""
    probs_chosen = []
    for chosen_position, log_odds in enumerate(card_log_odds(folder, comparison)):
        logits = np.array([log_odds, 0.0]) / temperature
        weights = np.exp(logits - logits.max())
        probs_chosen.append(weights[chosen_position] / weights.sum())
    return float(np.mean(probs_chosen))


def compared(prompt: str | Sequence[Any], first: str, second: str) -> Comparison:
    turns = [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt
    return Comparison(turns, first, second)


def group(id: str, responses: list[str], prompt: Any = "what?", **fields: Any) -> Group:
    completions = tuple(Completion(text, (1,), "stop") for text in responses)
    return Group(Prompt(id, prompt, fields), completions, policy_version=0)
