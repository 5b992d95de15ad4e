"""The commands that use a reward: score, rank, serve-reward."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from raft.cli.options import (
    JUDGE,
    MODEL,
    SCORINGS,
    AddCommand,
    Parser,
    add_data_options,
    add_gpus,
    add_json,
    add_model_options,
    add_old_name,
    add_on_bad_row,
    add_restart,
    add_seed,
    add_tournament_options,
    data_options,
    form_name,
    model_settings,
    positive,
    print_result,
)
from rollout.errors import InputError

if TYPE_CHECKING:
    from raft.api.rewards import Rows
    from rewards.spec import RewardSpec

__all__ = ["add_rank", "add_score", "add_serve_reward"]

_SCORE = """\
examples:
  raft score responses.jsonl --reward models/my-rm                     writes responses.scored.jsonl
  raft score responses.jsonl --reward function:length --out -          rows to stdout
  raft score responses.scored.jsonl --reward models/gold --output-column gold --out both.jsonl
  raft score pairs.jsonl --reward combined.yaml                        a reward: section
  raft score responses.jsonl --reward models/my-rm --gpus 8            a copy on each of 8 GPUs

rows: {"prompt", "responses": [...]} gets "scores"; {"prompt", "response"} and {"messages"} get
"score"; {"prompt", "chosen", "rejected"} gets "chosen_score" and "rejected_score"
"""
_RANK = """\
examples:
  raft rank responses.jsonl --judge models/judge                       a full round robin
  raft rank responses.jsonl --judge models/judge --method knockout     n - 1 comparisons
  raft rank responses.jsonl --reward function:length                   by score

rows: {"prompt", "responses": [...]}
"""
_SERVE = """\
examples:
  raft serve-reward --reward models/my-rm --port 8100
  raft serve-reward --judge models/judge --host 0.0.0.0 --token-env RAFT_TOKEN

rewards/README.md has the requests and answers; reward: {kind: remote, url: ...} uses the server.
"""
_PORT = 8100


def add_score(command: AddCommand) -> None:
    """Add `raft score`."""
    made = command(
        "score", _score, "score the responses in a file, or resume where that stopped", _SCORE
    )
    made.add_argument("file", metavar="FILE", help="JSONL (.gz too), Parquet, or a dataset's name")
    made.add_argument("--reward", required=True, metavar="MODEL", help=MODEL)
    _add_file_options(made, "scored")
    column = made.add_argument(
        "--output-column", metavar="NAME",
        help="write NAME_scores (NAME_score, NAME_chosen_score, ...) instead of scores",
    )  # fmt: skip
    add_old_name(made, "--as", column)
    made.add_argument(
        "--missing", action="store_true",
        help="write null for a score that is not finite, instead of stopping",
    )  # fmt: skip
    made.add_argument(
        "--form", choices=("responses", "response", "messages", "pairs"), type=form_name,
        help="how to read rows whose columns fit several forms",
    )  # fmt: skip
    add_model_options(made)


def _score(options: argparse.Namespace) -> int:
    from raft.api.rewards import score
    from raft.config.reward_option import read_spec

    _check_output(options)
    settings = model_settings(options) | {"non_finite": "missing" if options.missing else None}
    found = score(
        options.file,
        read_spec(options.reward, settings, options.assignments),
        out=options.out,
        output_column=options.output_column,
        form=options.form,
        gpus=options.gpus,
        **_rows(options),
    )
    _print_summary(options, found.summary, "scores")
    return 0


def add_rank(command: AddCommand) -> None:
    """Add `raft rank`."""
    made = command(
        "rank", _rank, "rank the responses to each prompt, by a judge or a reward", _RANK
    )
    made.add_argument("file", metavar="FILE", help="JSONL (.gz too), Parquet, or a dataset's name")
    by = made.add_mutually_exclusive_group(required=True)
    by.add_argument("--judge", metavar="MODEL", help=JUDGE)
    by.add_argument(
        "--reward", metavar="MODEL", help=f"{MODEL}; ranks by score where no --method is given"
    )
    group = add_tournament_options(made, "default: round_robin, which ranks all responses")
    group.add_argument(
        "--score", choices=SCORINGS,
        help="how comparisons become an order: of round_robin copeland (default), "
        "mean_probability, mean_logit or bradley_terry; of swiss points (default) or bradley_terry",
    )  # fmt: skip
    group.add_argument("--rounds", type=positive, metavar="N", help="number of Swiss rounds")
    add_seed(group, "the draws of a tournament", default=None)
    _add_file_options(made, "ranked")
    add_model_options(made)


def _rank(options: argparse.Namespace) -> int:
    from raft.api.rewards import rank

    _check_output(options)
    reward, judge = _reward_or_judge(options)
    names = ("method", "score", "rounds", "budget", "tie", "seed")
    tournament = {name: getattr(options, name) for name in names}
    found = rank(
        options.file, judge=judge, reward=reward, out=options.out, gpus=options.gpus,
        **tournament, **_rows(options),
    )  # fmt: skip
    _print_summary(options, found.summary, "ranked")
    return 0


def _reward_or_judge(options: argparse.Namespace) -> tuple[RewardSpec | None, RewardSpec | None]:
    """Return the spec of `--reward` or of `--judge`, whichever was given, and None for the other.

    Raises InputError as `read_spec` does.
    """
    from raft.config.reward_option import JUDGE_SECTIONS, read_spec

    settings, assignments = model_settings(options), options.assignments
    if options.judge is None:
        return read_spec(options.reward, settings, assignments), None
    named = {"sections": JUDGE_SECTIONS, "kind": "pairwise"}
    return None, read_spec(options.judge, settings, assignments, **named)


def _add_file_options(parser: Parser, ending: str) -> None:
    parser.add_argument(
        "--out", metavar="FILE",
        help=f"JSONL file, - for stdout (default: STEM.{ending}.jsonl beside FILE)",
    )  # fmt: skip
    add_data_options(parser)
    parser.add_argument(
        "--batch-rows", type=positive, metavar="N",
        help="rows to work on at a time (default: as many as hold 512 conversations)",
    )  # fmt: skip
    add_gpus(parser, "they work on batches of rows, which are written in order")
    parser.add_argument(
        "--replace", action="store_true", help="overwrite columns of that name in the rows"
    )
    add_on_bad_row(parser, "keeps its place with null scores")
    add_restart(parser)
    add_json(parser, "a summary")


def _check_output(options: argparse.Namespace) -> None:
    if options.json and options.out == "-":
        raise InputError("--json", "the rows go to stdout already", "name a file with --out")


def _rows(options: argparse.Namespace) -> Rows:
    return {
        "batch_rows": options.batch_rows,
        "replace": options.replace,
        "restart": options.restart,
        "on_bad_row": options.on_bad_row,
        **data_options(options),
    }


def _print_summary(options: argparse.Namespace, summary: Mapping[str, object], what: str) -> None:
    print_result(options, summary, "" if options.out == "-" else f"{what}: {summary['out']}")


def add_serve_reward(command: AddCommand) -> None:
    """Add `raft serve-reward`."""
    made = command(
        "serve-reward", _serve_reward, "serve a reward model or a judge over HTTP", _SERVE,
        interrupted="stopped serving",
    )  # fmt: skip
    served = made.add_mutually_exclusive_group(required=True)
    served.add_argument("--reward", metavar="MODEL", help=MODEL)
    served.add_argument("--judge", metavar="MODEL", help=JUDGE)
    made.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine alone)"
    )
    made.add_argument(
        "--port", type=int, default=_PORT, help=f"port, 0 for any free one (default: {_PORT})"
    )
    made.add_argument(
        "--token-env", metavar="NAME",
        help="environment variable with the bearer token that clients must send; required for "
        "other hosts",
    )  # fmt: skip
    add_gpus(made, "they answer requests side by side")
    add_model_options(made)


def _serve_reward(options: argparse.Namespace) -> int:
    from raft.workers.spread import on_gpus
    from rewards.build import as_judge, build_judge, build_reward
    from rewards.remote.server import serve

    reward, judge = _reward_or_judge(options)
    if reward is not None:
        specs, build = [reward], partial(build_reward, reward)
    else:
        assert judge is not None, "the parser asks for one of the two"
        specs, build = [judge], partial(build_judge, as_judge(judge))
    with on_gpus(options.gpus, specs) as place:
        served = place(build)
        serve(served, host=options.host, port=options.port, token_env=options.token_env)
    return 0
