"""The commands about reward models themselves: train-reward, eval-reward."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from raft.cli.options import (
    JUDGE,
    MODEL,
    AddCommand,
    add_data_options,
    add_gpus,
    add_json,
    add_model_options,
    add_old_name,
    add_on_bad_row,
    add_seed,
    count,
    data_options,
    form_name,
    model_settings,
    print_result,
)
from rollout.errors import InputError

__all__ = ["add_eval_reward", "add_train_reward"]

log = logging.getLogger("raft")

_TRAIN = """\
examples:
  raft train-reward configs/reward/stories_pairs_cpu.yaml
  raft train-reward configs/reward/bradley_terry_llama3.yaml train.lora.r=16 run_dir=runs/lora
  raft train-reward --keys                            every key with its default
  torchrun --nproc-per-node 4 -m raft.cli train-reward CONFIG.yaml        on four GPUs
  torchrun --nproc-per-node 8 -m raft.cli train-reward CONFIG.yaml train.fsdp=true    in shards
  raft train-reward configs/reward/armorm_llama3_8b.yaml --gpus 8         ArmoRM's states on eight

The same command resumes after a kill. run_dir holds model/, its card README.md and metrics.jsonl.
"""
_EVAL = """\
examples:
  raft eval-reward --data pairs.jsonl --reward models/my-rm
  raft eval-reward --data reward-bench.parquet --reward models/a --reward models/b --out report.md
  raft eval-reward --data pairs.scored.jsonl --score-column scores    scores of raft score, no model
  raft eval-reward --data pairs.scored.jsonl --score-column gold      gold_chosen_score, ...
  raft eval-reward --data held_out.jsonl --train train.jsonl --reward models/my-rm

rows: preference pairs as raft score takes them, RewardBench, RewardBench 2, RM-Bench, JudgeBench,
LLMBar and HHH as they are published, and {"prompt","responses","ranks"}
"""
FORMS = (
    "pairs", "rewardbench", "rewardbench2", "rm-bench", "judgebench", "llmbar", "hhh", "listwise"
)  # fmt: skip


def add_train_reward(command: AddCommand) -> None:
    """Add `raft train-reward`."""
    made = command(
        "train-reward", _train_reward, "train a reward model on preference pairs", _TRAIN
    )
    made.add_argument(
        "config", nargs="?", metavar="CONFIG", help="YAML file; configs/reward/ has examples"
    )
    made.add_argument(
        "overrides", nargs="*", metavar="key=value", help="config key to override: seed=1"
    )
    add_gpus(made, "recipe armorm, whose states they extract side by side; else use torchrun")
    made.add_argument("--check", action="store_true", help="check the config and train nothing")
    made.add_argument("--keys", action="store_true", help="list every key with its default")
    add_json(made, "the metrics")


def _train_reward(options: argparse.Namespace) -> int:
    from raft.config.load import describe_keys
    from raft.config.train_reward import TrainRewardConfig, load_train_config

    if options.keys:
        lines = describe_keys(TrainRewardConfig)
        print_result(options, {"keys": lines}, "\n".join(lines))
        return 0
    if options.config is None:
        raise InputError("train-reward", "no config file is given", "name one, or give --keys")
    config = load_train_config(options.config, options.overrides)
    if options.check:
        from raft.reward_training.check import check_training

        check_training(config, hub=False)
        result = {"config": options.config, "valid": True, "command": "raft train-reward"}
        print_result(options, result, f"{options.config}: valid")
        return 0
    from raft.api.rewards import train_reward
    from rewards.training.card import accuracy_in_words
    from rewards.training.distributed import is_first

    made = train_reward(config, gpus=options.gpus)
    if is_first():  # of several processes only one prints
        result = {"run_dir": str(made.run_dir), "model": str(made.model), **made.metrics}
        lines = [f"model: {made.model}", f"accuracy: {accuracy_in_words(made.metrics)}"]
        print_result(options, result, "\n".join([*lines, f"card: {made.run_dir / 'README.md'}"]))
    return 0


def add_eval_reward(command: AddCommand) -> None:
    """Add `raft eval-reward`."""
    made = command(
        "eval-reward", _eval_reward, "measure rewards on preference pairs and benchmarks", _EVAL
    )
    made.add_argument(
        "--data", required=True, metavar="FILE", help="rows, or the name of a dataset"
    )
    add_data_options(made)
    made.add_argument(
        "--form",
        choices=FORMS,
        type=form_name,
        help="how to read the rows, where their columns do not tell",
    )
    column = made.add_argument(
        "--gold-column", metavar="NAME",
        help="column with the known order of responses (default: ranks, gold_scores ...)",
    )  # fmt: skip
    add_old_name(made, "--gold", column)
    made.add_argument(
        "--train", metavar="FILE",
        help="training pairs: count the prompts and pairs of the evaluation that are in them too",
    )  # fmt: skip
    made.add_argument(
        "--reward", action="append", default=[], metavar="MODEL",
        help=f"{MODEL}; may be repeated, to compare",
    )  # fmt: skip
    made.add_argument(
        "--judge", action="append", default=[], metavar="MODEL", help=f"{JUDGE}; may be repeated"
    )
    column = made.add_argument(
        "--score-column", action="append", default=[], metavar="NAME",
        help="evaluate stored scores: NAME_scores, NAME_chosen_score ... of the rows, or with "
        "scores the plain scores, chosen_score ...; may be repeated",
    )  # fmt: skip
    add_old_name(made, "--scores", column, nargs="?", const="scores")
    out = made.add_mutually_exclusive_group()
    out.add_argument(
        "--out", metavar="FILE",
        help="write the report to FILE.md and FILE.json (default: Markdown on stdout)",
    )  # fmt: skip
    out.add_argument(
        "--out-dir", metavar="DIR",
        help="write report.md, report.json and scored.jsonl, the rows with their scores",
    )  # fmt: skip
    made.add_argument(
        "--bootstrap", type=count, metavar="N",
        help="number of bootstrap resamples of an interval (default: 2000)",
    )  # fmt: skip
    add_on_bad_row(made, "is left out")
    add_seed(made, "the resamples")
    add_gpus(made, "they work on batches of rows")
    add_json(made, "the report")
    add_model_options(made)


def _eval_reward(options: argparse.Namespace) -> int:
    from raft.api.rewards import evaluate_reward
    from raft.config.reward_option import JUDGE_SECTIONS, read_spec
    from rewards.evaluation.report import as_markdown
    from rewards.evaluation.results import as_object

    if options.out is not None and not Path(options.out).suffix:
        log.warning("--out with a folder is now called --out-dir")
    settings, set_ = model_settings(options), options.assignments
    named = {"sections": JUDGE_SECTIONS, "kind": "pairwise"}
    draws = {} if options.bootstrap is None else {"resamples": options.bootstrap}
    found = evaluate_reward(
        options.data,
        {name: read_spec(name, settings, set_) for name in options.reward},
        judges={name: read_spec(name, settings, set_, **named) for name in options.judge},
        score_columns=options.score_column,
        form=options.form,
        gold_column=options.gold_column,
        train=options.train,
        seed=options.seed,
        out=options.out,
        out_dir=options.out_dir,
        on_bad_row=options.on_bad_row,
        gpus=options.gpus,
        **data_options(options),
        **draws,
    )
    text = "\n".join(f"report: {path}" for path in found.files) or as_markdown(found.report)
    print_result(options, as_object(found.report), text)
    return 0
