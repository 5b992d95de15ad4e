"""Models, rows and measures of time and memory for `experiments.gpu.accept`."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TINY = "--tiny" in sys.argv
ROOT = Path(os.environ.get("ACCEPT_TMP") or Path(tempfile.gettempdir()) / "accept")
LLAMA3_8B = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "max_position_embeddings": 8192, "head_dim": 128,
}  # fmt: skip
SMALL = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048,
    "head_dim": 32,
}  # fmt: skip
ABOUT_1B = {
    **SMALL, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
}  # fmt: skip
LOOP = SMALL if TINY else ABOUT_1B
BIG = SMALL if TINY else LLAMA3_8B
SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
GIB = 2**30


def on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def device() -> str:
    return "cuda" if on_gpu() else "cpu"


def timed(call: Callable[[], object], times: int = 1) -> float:
    """Return the mean seconds of a call over `times` calls, the GPU's work included."""
    import torch

    wait = torch.cuda.synchronize if on_gpu() else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(times):
        call()
    wait()
    return (time.perf_counter() - start) / times


def peak_gib() -> float | None:
    import torch

    return round(torch.cuda.max_memory_allocated() / GIB, 2) if on_gpu() else None


def reserved_gib() -> float | None:
    import torch

    return round(torch.cuda.memory_reserved() / GIB, 2) if on_gpu() else None


def llama(dtype: Any, config: dict[str, int]) -> Any:
    """Return a Llama with random weights, which are made on the device, in a second."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    settings: Any = LlamaConfig
    with torch.device(device()):
        return AutoModelForCausalLM.from_config(settings(**config, **SPECIAL), dtype=dtype)


def saved_policy(name: str, dtype: Any, config: dict[str, int]) -> str:
    import tiny_models

    folder = ROOT / name
    if not (folder / "tokenizer.json").exists():
        llama(dtype, config).save_pretrained(folder)
        tiny_models.tokenizer().save_pretrained(folder)
    return str(folder)


def small_policy(folder: Path) -> Path:
    import tiny_models

    return tiny_models.checkpoint(folder, "llama")


def selected_rows(name: str, rows: int, prompt: int, response: int) -> str:
    path = ROOT / name
    lines = []
    for number in range(rows):
        ids = {"prompt_token_ids": [0] + [5 + number] * prompt, "token_ids": [9] * response + [1]}
        lines.append(json.dumps({"id": str(number), "sample": 0, "response": "", **ids}))
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def sft(model: str, checkpoint: str | None = None, **settings: Any) -> Any:
    from raft.config.train import TrainConfig
    from raft.updates.trainer import build_trainer

    return build_trainer(model, TrainConfig(**settings), checkpoint=checkpoint)


def trees(prompts: int, responses: int, prompt: int, response: int, vocabulary: int) -> Any:
    """Return rows of token ids of different lengths, `responses` after each random prompt."""
    import numpy as np

    draw = np.random.default_rng(0)
    rows: list[list[int]] = []
    for _ in range(prompts):
        head = draw.integers(3, vocabulary, prompt).tolist()
        for _ in range(responses):
            length = int(draw.integers(response // 2, response * 3 // 2))
            rows.append(head + draw.integers(3, vocabulary, length).tolist())
    return rows


def loop_config(policy: str) -> dict[str, object]:
    """Return the config of a run with a random reward model, made here, as reward and gold."""
    import tiny_models
    from transformers import LlamaConfig, LlamaForSequenceClassification

    folder = ROOT / "reward_loop"
    if not folder.exists():
        settings: Any = LlamaConfig
        config = settings(**LOOP, num_labels=1, **SPECIAL)
        LlamaForSequenceClassification(config).save_pretrained(folder)
        tiny_models.tokenizer().save_pretrained(folder)
    prompts = ROOT / "prompts.jsonl"
    rows = ({"prompt": f"The cat number {number} sat on"} for number in range(80))
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reward = {"kind": "model", "model": str(folder), "format": "plain"}
    return {
        "run_dir": str(ROOT / "run"),
        "iterations": 2,
        "policy": {"model": policy, "engine": "transformers", "max_num_seqs": 128},
        "prompts": {"path": str(prompts), "per_iteration": 32},
        "sampling": {"k": 4, "max_new_tokens": 32},
        "reward": reward,
        "gold": reward,
        "train": {
            "learning_rate": 1e-4, "batch_size": 16, "micro_batch_size": 4,
            "gradient_checkpointing": True,
        },
        "eval": {"prompts": 16, "k": 2},
    }  # fmt: skip
