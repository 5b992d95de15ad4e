"""The subcommand `raft eval-reward`: its arguments, and what it hands on."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raft.cli_rewards import add_model_arguments, model_settings
from rewards.evaluation.forms import FORMS
from rollout.errors import InputError

if TYPE_CHECKING:
    from rewards.evaluation.evaluate import Scorer

__all__ = ["add_eval_reward", "eval_reward"]

Command = Callable[[str, str, Any], argparse.ArgumentParser]

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
        raise InputError("eval-reward: nothing to evaluate; give --reward, --judge or --scores")
    if options.bootstrap is not None and options.bootstrap < 100:
        raise InputError(f"--bootstrap {options.bootstrap}: intervals need 100 resamples or more")
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
    from raft.reward_spec import read_spec, split_tournament
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
