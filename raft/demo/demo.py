"""`raft demo`: train a policy and a reward model, run RAFT and draw its curves, offline on a CPU.

Finished parts stay in the folder, so the same command goes on after an interruption.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from raft.config.load import make_config
from raft.config.train_reward import make_train_config
from raft.demo import corpus, gold, policy, preferences
from raft.loop import run
from raft.resources import VLLM_IMPORTS
from raft.reward_training.run import RESULT, train_reward
from raft.runs.metrics import Numbers, read_numbers
from raft.workers.fork_server import shared_server
from rollout.storage.files import write_json, write_whole

_MAX_NEW_TOKENS = 40
# a chat template of plain continuation: no roles, nothing between prompt and response
CONTINUATION_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
)


@dataclass(frozen=True)
class Size:
    """Numbers of texts, pairs and prompts; the defaults take about two minutes on two cores."""

    texts: int = 8_000
    pairs: int = 2_400
    prompts: int = 1_024
    per_iteration: int = 128
    held_out: int = 128
    iterations: int = 4


def run_demo(out: str | Path, seed: int = 0, size: Size | None = None) -> Path:
    """Fill the folder `out` with policy/, preferences.jsonl, reward_model/ and raft/, the run.

    Returns the run's folder. Parts that are finished are not made again.
    """
    size = size or Size()
    start = time.monotonic()
    root = Path(os.path.realpath(out))
    root.mkdir(parents=True, exist_ok=True)
    # while one core trains, another loads libraries and starts Ray for the run
    with shared_server((*VLLM_IMPORTS, "raft.updates.sft", "raft.updates.objective")):
        _load_libraries()
        with _ray(root):
            folder = _parts(root, seed, size)
    print(_table(read_numbers(folder)))
    print(_closing(folder, size.iterations, time.monotonic() - start))
    return folder


def _ray(root: Path) -> AbstractContextManager[None]:
    """Return a context that starts Ray for the run beside other work.

    It does nothing where the reward model is finished: the run then starts Ray itself.
    """
    if (root / "reward_model" / RESULT).exists():
        return nullcontext()
    from raft.workers.ray_start import starting

    return starting()


def _load_libraries() -> None:
    """Import the libraries of the first parts, without garbage collection, which is slow here."""
    gc.disable()
    for name in ("transformers.models.llama.modeling_llama", "rewards.training.fit"):
        import_module(name)
    gc.enable()
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def _parts(root: Path, seed: int, size: Size) -> Path:
    """Make the parts that are not finished, print a title for each, and return the run's folder."""
    _part("1/4  a small policy learns a generated corpus of customer letters")
    _once(root / "policy", lambda folder: _policy(folder, seed, size))
    _part("2/4  noisy preferences: two letters per request, labelled by an erring judge")
    _once_file(root / "preferences.jsonl", lambda: _preferences(root / "policy", seed, size))
    _part("3/4  a Bradley-Terry reward model learns from them")
    _reward_model(root, seed)
    _part("4/4  RAFT: 8 samples per prompt, keep the best, fine-tune, repeat")
    prompts = root / "prompts.jsonl"
    _once_file(prompts, lambda: _rows(corpus.train_prompts(size.prompts, seed)))
    held_out = root / "held_out.jsonl"
    _once_file(held_out, lambda: _rows(corpus.heldout_prompts(size.held_out, seed)))
    return run(make_config(demo_config(root, seed, size), where="the demo's config"))


def demo_config(root: Path, seed: int, size: Size) -> dict[str, object]:
    """Return the config of the demo's RAFT run, as the keys of a config file of `raft run`."""
    return {
        "run_dir": str(root / "raft"),
        "seed": seed,
        "iterations": size.iterations,
        "policy": {"model": str(root / "policy"), "max_model_len": 128},
        "prompts": {"path": str(root / "prompts.jsonl"), "per_iteration": size.per_iteration},
        "sampling": {"k": 8, "max_new_tokens": _MAX_NEW_TOKENS},
        "reward": {"kind": "model", "model": str(root / "reward_model" / "model")},
        "gold": {"kind": "function", "function": "raft.demo.gold:gold"},
        "train": {
            "learning_rate": 5e-4,
            "epochs": 1,
            "batch_size": 16,
            "optimizer": "fresh",
            "schedule": "linear",
        },
        "eval": {"prompts": str(root / "held_out.jsonl"), "k": 4, "every": 1},
    }


def _policy(folder: Path, seed: int, size: Size) -> str:
    report = policy.train_policy(folder, corpus.texts(size.texts, seed), seed)
    return (
        f"{report.parameters:,} parameters, loss {report.losses[0]:.2f} → {report.losses[-1]:.2f}"
    )


def _preferences(policy_dir: Path, seed: int, size: Size) -> str:
    prompts = corpus.train_prompts(size.pairs, seed)
    pairs = preferences.preference_pairs(policy_dir, prompts, gold.gold, seed)
    return "".join(json.dumps(pair) + "\n" for pair in pairs)


def reward_config(root: Path, seed: int) -> dict[str, object]:
    """Return the config of the demo's reward model, as keys of a file of `raft train-reward`."""
    return {
        "run_dir": str(root / "reward_model"),
        "seed": seed,
        "recipe": "bradley_terry",
        "model": str(root / "policy"),
        "data": [str(root / "preferences.jsonl")],
        "chat_template": CONTINUATION_TEMPLATE,
        "loss": {"center": 0.01},
        "train": {
            "learning_rate": 2e-3,
            "epochs": 1,
            "batch_size": 16,
            "schedule": "linear",
            "warmup_steps": 10,
            "layout": "padded",  # for sides this short, packed rows take half as long again
        },
        "eval_steps": 1000,
        "log_steps": 50,
    }


def _reward_model(root: Path, seed: int) -> None:
    start, kept = time.monotonic(), (root / "reward_model" / RESULT).exists()
    _, found = train_reward(make_train_config(reward_config(root, seed), "the demo's config"))
    taken = "kept" if kept else f"{time.monotonic() - start:.0f} s"
    print(
        f"     accuracy {found['eval/accuracy']:.2f} on {found['pairs/held_out']} held-out noisy "
        f"pairs, {found['pairs/train']} to learn from ({taken})",
        flush=True,
    )


def _once(folder: Path, make: Callable[[Path], str]) -> None:
    """Make a folder unless it exists, and print its summary.

    It is made under another name and renamed, so that it appears whole or not at all.
    """
    note = folder / "demo.json"
    start = time.monotonic()
    if not folder.exists():
        working = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(working, ignore_errors=True)
        summary = make(working)
        write_json(working / note.name, {"summary": summary})
        os.replace(working, folder)
        print(f"     {summary} ({time.monotonic() - start:.0f} s)", flush=True)
    else:
        print(f"     {json.loads(note.read_text())['summary']} (kept)", flush=True)


def _once_file(path: Path, make: Callable[[], str]) -> None:
    if not path.exists():
        start = time.monotonic()
        text = make()
        write_whole(path, text)
        print(
            f"     {path.name}: {text.count(chr(10))} rows ({time.monotonic() - start:.0f} s)",
            flush=True,
        )


def _rows(prompts: list[str]) -> str:
    return "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)


def _part(title: str) -> None:
    print(f"\n{title}", flush=True)


def _table(rows: Sequence[Numbers]) -> str:
    """Format a table of reward and gold reward per iteration for the terminal."""
    header = f"{'iteration':>9}  {'held-out reward':>16}  {'best of 4':>9}  {'gold reward':>14}"
    lines = ["", header]
    for row in rows:
        reward = f"{row['eval/reward_mean']:.2f} ± {row['eval/reward_ci95']:.2f}"
        gold_reward = f"{row['eval/gold_mean']:.2f} ± {row['eval/gold_ci95']:.2f}"
        best = f"{row['eval/best_of_k']:.2f}"
        lines.append(f"{row.iteration:>9}  {reward:>16}  {best:>9}  {gold_reward:>14}")
    return "\n".join(lines)


def _closing(folder: Path, iterations: int, seconds: float) -> str:
    here = Path("configs/hh_gpt_neo_2.7b.yaml")
    config = here if here.exists() else "CONFIG.yaml"  # a wheel contains no configs
    return f"""
curves   {folder / "curves.png"}
samples  {folder / "iterations"}/NNN/rollouts.jsonl, selected.jsonl, eval.jsonl
policy   {folder / "iterations" / f"{iterations:03d}" / "checkpoint"}
took     {seconds:.0f} s

next, all of it on one page; then a real model{" (its card's recipe; wants a GPU)" * here.exists()}:
  raft report {folder}
  raft run {config}"""
