"""The subcommand `raft train-reward`: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rollout.errors import InputError

__all__ = ["add_train_reward", "train_reward"]

Command = Callable[[str, str, Any], argparse.ArgumentParser]

_TRAIN_EXAMPLES = """\
examples:
  raft train-reward configs/reward/stories_pairs_cpu.yaml
  raft train-reward configs/reward/bradley_terry_llama3.yaml train.lora.r=16 run_dir=runs/lora
  raft train-reward --keys                            every key with its default
  torchrun --nproc-per-node 4 -m raft.cli train-reward CONFIG.yaml        on four GPUs

The same command goes on after a kill. In run_dir: model/, the card in README.md, metrics.jsonl.
"""


def add_train_reward(command: Command) -> None:
    """Add the subcommand; `command(name, text, run)` makes its parser."""
    made = command("train-reward", "train a reward model on preference pairs", train_reward)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.epilog = _TRAIN_EXAMPLES
    made.add_argument("config", nargs="?", help="YAML file; configs/reward/ has examples")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="for example seed=1")
    made.add_argument("--check", action="store_true", help="check the config and train nothing")
    made.add_argument("--keys", action="store_true", help="list every key with its default")
    made.add_argument("--json", action="store_true", help="print the metrics as JSON")


def train_reward(options: argparse.Namespace) -> int:
    """0 when the model is there. Raises InputError."""
    from raft.config import describe_keys
    from raft.train_config import load_train_config
    from raft.train_schema import TrainRewardConfig

    if options.keys:
        print("\n".join(describe_keys(TrainRewardConfig)))
        return 0
    if options.config is None:
        raise InputError("train-reward: name a config file, or --keys")
    config = load_train_config(options.config, options.overrides)
    if options.check:
        print(f"{options.config}: valid")
        return 0
    from raft.train_reward import train_reward as train

    folder, metrics = train(config)
    from rewards.training.distributed import is_first

    if not is_first():  # of several processes one speaks
        return 0
    print(_as_json(folder, metrics) if options.json else _as_text(folder, metrics))
    return 0


def _as_json(folder: Path, metrics: dict[str, Any]) -> str:
    return json.dumps({"run_dir": str(folder), "model": str(folder / "model"), **metrics})


def _as_text(folder: Path, metrics: dict[str, Any]) -> str:
    from rewards.training.card import accuracy_in_words

    accuracy = f"accuracy: {accuracy_in_words(metrics)}"
    return "\n".join([f"model: {folder / 'model'}", accuracy, f"card: {folder / 'README.md'}"])
