"""The commands that draw from a policy: sample, bon."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from raft.cli.options import (
    DTYPES,
    JUDGE,
    MODEL,
    TEMPLATES,
    AddCommand,
    Parser,
    add_chat_template_kwargs,
    add_data_options,
    add_json,
    add_model_options,
    add_old_name,
    add_on_bad_row,
    add_restart,
    add_seed,
    add_set,
    add_tournament_options,
    data_options,
    model_settings,
    positive,
    print_result,
)

if TYPE_CHECKING:
    from raft.api.drawing import Drawing
    from rewards.spec import RewardSpec

__all__ = ["add_bon", "add_sample"]

log = logging.getLogger("raft")

_PROMPTS = "prompts: JSONL (.gz too), Parquet, plain text, or a dataset's name"
_POLICY_ENGINES = ("auto", "vllm", "transformers", "toy")
_DEFAULT_N = 64
_SAMPLE = """\
examples:
  raft sample prompts.jsonl --policy models/mine -n 8
  raft sample corpus.txt --policy models/mine -n 4 --set prompts.first_words=8

writes one row per prompt, {"id", "prompt", "responses": [...], ...}, in the order of the prompts
"""
_BON = """\
examples:
  raft bon prompts.jsonl --policy models/mine --reward models/rm --gold models/gold -n 64
  raft bon prompts.jsonl --policy models/mine --judge models/judge -n 16
  raft bon prompts.pool.jsonl -n 32                      a stored pool: no model is needed
  raft bon scored.jsonl --score-column grm_scores --gold-column gold_scores --out-dir curves

writes STEM.pool.jsonl (all responses with their scores), STEM.best.jsonl (the best of each prompt),
STEM.bon.json (the curve for every n, with intervals) and STEM.bon.png; STEM is that of FILE
"""
# options that in these commands are about the policy and not about a reward
_OF_POLICY = ("dtype", "engine", "set", "chat_template_kwargs")
_DRAWING = (
    "temperature", "top_p", "top_k", "max_new_tokens", "engine", "dtype", "template",
    "chat_template_kwargs", "max_prompts", "seed", "on_bad_row",
)  # fmt: skip


def add_sample(command: AddCommand) -> None:
    """Add `raft sample`."""
    made = command("sample", _sample, "draw K responses to each prompt of a file", _SAMPLE)
    made.add_argument("file", metavar="PROMPTS", help=_PROMPTS)
    made.add_argument("--policy", required=True, metavar="MODEL", help="model folder or hub name")
    number = made.add_argument(
        "-n",
        "--num-responses",
        type=positive,
        metavar="K",
        help="responses to a prompt (default: 8)",
    )
    add_old_name(made, "--k", number)
    made.add_argument(
        "--out", metavar="FILE", help="JSONL file (default: STEM.sampled.jsonl beside PROMPTS)"
    )
    _add_drawing(made)
    add_on_bad_row(made, "prompt is left out")
    add_restart(made)
    add_json(made, "a summary")


def _sample(options: argparse.Namespace) -> int:
    from raft.api.drawing import sample

    found = sample(
        options.file, options.policy, options.num_responses, out=options.out,
        restart=options.restart, **_drawing(options),
    )  # fmt: skip
    print_result(options, found.summary, f"responses: {found.path}")
    return 0


def add_bon(command: AddCommand) -> None:
    """Add `raft bon`."""
    made = command("bon", _bon, "select the best of n responses, and measure every n", _BON)
    made.add_argument("file", metavar="FILE", help=f"{_PROMPTS}; without --policy, a scored pool")
    made.add_argument("--policy", metavar="MODEL", help="model folder or hub name to draw from")
    number = made.add_argument(
        "-n", "--num-responses", type=positive, metavar="N",
        help=f"responses to select from (default: {_DEFAULT_N}; of a stored pool, all)",
    )  # fmt: skip
    add_old_name(made, "--n", number)
    out = made.add_mutually_exclusive_group()
    out.add_argument("--out-dir", metavar="DIR", help="folder of the files (default: that of FILE)")
    # the former option, which named the files as well as their folder
    out.add_argument("--out", metavar="STEM", help=argparse.SUPPRESS)
    by = made.add_mutually_exclusive_group()
    by.add_argument("--reward", metavar="MODEL", help=f"select by this reward: {MODEL}")
    by.add_argument("--judge", metavar="MODEL", help=f"select by a tournament of this {JUDGE}")
    column = by.add_argument(
        "--score-column", metavar="NAME", help="select by this column of a pool (default: scores)"
    )
    add_old_name(by, "--by", column)
    gold = made.add_mutually_exclusive_group()
    gold.add_argument(
        "--gold", metavar="MODEL", help="measure what is selected by this reward or judge too"
    )
    column = gold.add_argument(
        "--gold-column", metavar="NAME",
        help="measure by this column of a pool too (default: gold_scores where there is one)",
    )  # fmt: skip
    add_old_name(gold, "--gold-by", column)
    add_tournament_options(
        made, "default: knockout. round_robin gives a curve for every n, other methods the win "
        "rate of the best of all"
    )  # fmt: skip
    _add_drawing(made)
    add_model_options(made, without=_OF_POLICY)
    add_on_bad_row(made, "prompt is left out")
    add_restart(made)
    add_json(made, "the curve")


def _add_drawing(parser: Parser) -> None:
    group = parser.add_argument_group("how the policy draws")
    group.add_argument("--temperature", type=float, metavar="T", help="temperature (default: 1)")
    group.add_argument(
        "--top-p", type=float, metavar="P",
        help="draw from the most likely tokens of this total probability (default: 1)",
    )  # fmt: skip
    group.add_argument(
        "--top-k", type=int, metavar="K", help="draw from the K most likely tokens (default: all)"
    )
    group.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="most tokens of a response (default: 128)"
    )
    add_seed(group, "everything that is drawn", default=None)
    group.add_argument(
        "--engine",
        choices=_POLICY_ENGINES,
        help="what runs the policy (default: vllm where it can)",
    )
    group.add_argument("--dtype", choices=DTYPES, help="precision of the policy's weights")
    group.add_argument("--template", choices=TEMPLATES, help="how a prompt becomes text")
    add_chat_template_kwargs(group)
    limit = group.add_argument(
        "--max-prompts", type=positive, metavar="N", help="take the first N prompts only"
    )
    add_old_name(group, "--limit", limit)
    add_data_options(group)
    group.add_argument("--inline", action="store_true", help="draw in this process, without Ray")
    add_set(
        group, "any other key of a run's config under policy, prompts, sampling or cluster, for "
        "example cluster.rollout_workers=2"
    )  # fmt: skip


def _bon(options: argparse.Namespace) -> int:
    from raft.api.drawing import best_of_n
    from raft.bon.command import as_table
    from raft.config.reward_option import JUDGE_SECTIONS, read_spec

    if options.out is not None:
        log.warning("--out STEM is replaced by --out-dir DIR and works for one more release")
    settings = model_settings(options, without=_OF_POLICY)

    def spec(given: str | None, sections: Sequence[str], kind: str = "model") -> RewardSpec | None:
        return None if given is None else read_spec(given, settings, sections=sections, kind=kind)

    found = best_of_n(
        options.file,
        policy=options.policy,
        reward=spec(options.reward, ("reward",)),
        judge=spec(options.judge, JUDGE_SECTIONS, "pairwise"),
        gold=spec(options.gold, ("gold", "reward", "judge")),
        n=options.num_responses,
        score_column=options.score_column,
        gold_column=options.gold_column,
        method=options.method,
        budget=options.budget,
        tie=options.tie,
        out_dir=options.out_dir,
        stem=options.out,
        restart=options.restart,
        **_drawing(options),
    )
    files = "".join(f"\n{what}: {path}" for what, path in found.result["out"].items())
    print_result(options, found.result, as_table(found.result) + files)
    return 0


def _drawing(options: argparse.Namespace) -> Drawing:
    """Return the options on how the policy draws, without those that were not given."""
    given = {name: getattr(options, name) for name in _DRAWING} | {
        "inline": options.inline or None,
        "settings": options.assignments or None,
        **data_options(options),
    }
    return cast("Drawing", {name: value for name, value in given.items() if value is not None})
