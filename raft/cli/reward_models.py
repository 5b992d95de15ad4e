"""The subcommand `raft train-reward`: its arguments, and what it prints.

The subcommand `raft eval-reward`: its arguments, and what it hands on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raft.cli.rewards import add_model_arguments, model_settings
from rewards.evaluation.forms import FORMS
from rollout.errors import InputError

if TYPE_CHECKING:
    from rewards.evaluation.evaluate import Scorer

__all__ = [
    "add_eval_reward",
    "add_train_reward",
    "eval_reward",
    "train_reward",
]

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
    from raft.config.load import describe_keys
    from raft.config.train_reward import TrainRewardConfig, load_train_config

    if options.keys:
        print("\n".join(describe_keys(TrainRewardConfig)))
        return 0
    if options.config is None:
        raise InputError("train-reward", "no config file given", "name one, or give --keys")
    config = load_train_config(options.config, options.overrides)
    if options.check:
        print(f"{options.config}: valid")
        return 0
    from raft.reward_training.run import train_reward as train

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


_M = "model folder, hub name, function:NAME, or YAML file; may be repeated, to compare"
_EVAL_EXAMPLES = """\
examples:
  raft eval-reward --data pairs.jsonl --reward models/my-rm
  raft eval-reward --data reward-bench.parquet --reward models/a --reward models/b --out report.md
  raft eval-reward --data pairs.scored.jsonl --scores        scores of raft score, no model
  raft eval-reward --data pairs.scored.jsonl --scores gold   gold_chosen_score, gold_rejected_score

rows: preference pairs as raft score takes them, RewardBench, RewardBench 2, RM-Bench, JudgeBench,
LLMBar and HHH as they are published, and {"prompt","responses","ranks"}
"""
# what has no use for it decides by itself what happens to a number that is not finite
_NO_POLICY = ("combine",)


def add_eval_reward(command: Command) -> None:
    """Add the subcommand; `command(name, text, run)` makes its parser."""
    made = command("eval-reward", "measure rewards on preferences and benchmarks", eval_reward)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.epilog = _EVAL_EXAMPLES
    made.add_argument("--data", required=True, metavar="FILE", help="rows, or a dataset's name")
    made.add_argument("--split", default="train", help="of a dataset (default: train)")
    made.add_argument("--form", choices=FORMS, help="of the rows, where columns do not tell")
    made.add_argument(
        "--gold", metavar="COLUMN", help="known order of responses (default: ranks, gold_scores …)"
    )
    made.add_argument("--reward", action="append", default=[], metavar="M", help=_M)
    made.add_argument("--judge", action="append", default=[], metavar="J", help="pairwise model")
    made.add_argument(
        "--scores",
        action="append",
        nargs="?",
        const="",
        default=[],
        metavar="NAME",
        help="scores in the rows: chosen_score, scores …, or NAME_chosen_score, NAME_scores …",
    )
    made.add_argument(
        "--out",
        metavar="DIR|FILE.md",
        help="report as Markdown and JSON; in a folder the "
        "rows with their scores too, for --scores (default: Markdown on stdout)",
    )
    made.add_argument("--json", action="store_true", help="JSON on stdout")
    made.add_argument(
        "--bootstrap", type=int, metavar="B", help="resamples of intervals (default: 2000)"
    )
    made.add_argument("--seed", type=int, default=0, help="of the resamples (default: 0)")
    add_model_arguments(made)


def eval_reward(options: argparse.Namespace) -> int:
    """0 when done. Raises InputError and RewardError."""
    if not (options.reward or options.judge or options.scores):
        raise InputError("eval-reward", "nothing to evaluate", "give --reward, --judge or --scores")
    if options.bootstrap is not None and options.bootstrap < 100:
        raise InputError(
            f"--bootstrap {options.bootstrap}",
            "intervals need 100 resamples or more",
        )
    from rewards.evaluation.evaluate import eval_reward as run
    from rewards.evaluation.report import (
        as_json,
        as_markdown,
        check_output,
        kept_rows,
        write_report,
    )

    check_output(options.out)
    draws = {} if options.bootstrap is None else {"resamples": options.bootstrap}
    report = run(
        options.data,
        _scorers(options),
        form=options.form,
        gold=options.gold,
        split=options.split,
        seed=options.seed,
        keep=kept_rows(options.out),
        **draws,
    )
    if options.out is not None:
        written = write_report(report, options.out)
        if not options.json:
            print(*(f"report: {path}" for path in written), sep="\n")
    if options.json:
        print(as_json(report))
    elif options.out is None:
        print(as_markdown(report), end="")
    return 0


def _scorers(options: argparse.Namespace) -> list[Scorer]:
    from raft.config.reward_option import read_spec, split_tournament
    from rewards.evaluation.evaluate import Scorer

    settings, assignments = model_settings(options), options.assignments
    found = []
    for name in options.reward:
        found.append(Scorer(name, _with_policy(read_spec(name, settings, assignments))))
    for name in options.judge:
        sections = ("judge", "reward")
        spec = read_spec(name, settings, assignments, sections=sections, kind="pairwise")
        judge, _ = split_tournament(spec)
        found.append(Scorer(name, _with_policy(judge), judge=True))
    return [*found, *(Scorer(name or None) for name in options.scores)]


def _with_policy(spec: dict[str, Any]) -> dict[str, Any]:
    """A number that is not finite is a missing score, and counted."""
    return spec if spec["kind"] in _NO_POLICY else {"non_finite": "missing", **spec}
