"""The commands `raft score` and `raft rank`: their arguments, and what they hand on.

The command `raft serve-reward`: a reward or judge for other programs, over HTTP.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from rollout.errors import InputError

__all__ = [
    "add_model_arguments",
    "add_reward_commands",
    "add_serve",
    "model_settings",
]

_M = "model folder, hub name, function:NAME, or YAML file with a reward: section"
Command = Callable[[str, str, Any], argparse.ArgumentParser]


def add_reward_commands(command: Command) -> None:
    """Add both; `command(name, help, run)` makes a parser."""
    score = command("score", "score the responses in a file; goes on where it was stopped", _score)
    score.add_argument("file", metavar="FILE", help="JSONL (.gz too), Parquet, or a dataset's name")
    score.add_argument("--reward", required=True, metavar="M", help=_M)
    _add_file_arguments(score, "scored")
    add_model_arguments(score)
    score.add_argument("--missing", action="store_true", help="scores that are not finite are null")
    score.add_argument(
        "--form",
        choices=("responses", "response", "messages", "pair"),
        help="how to read rows that can be read in several ways",
    )
    score.add_argument("--as", dest="name", metavar="NAME", help="add NAME_scores, not scores")

    rank = command("rank", "rank each prompt's responses by a judge or a reward", _rank)
    rank.add_argument("file", metavar="FILE", help="rows of prompt and responses, as score's")
    by = rank.add_mutually_exclusive_group(required=True)
    by.add_argument("--judge", metavar="M", help="pairwise model: folder, hub name, or YAML file")
    by.add_argument("--reward", metavar="M", help=f"{_M}; ranks by score, unless with --method")
    _add_tournament_arguments(rank)
    _add_file_arguments(rank, "ranked")
    add_model_arguments(rank)


def _add_tournament_arguments(parser: argparse.ArgumentParser) -> None:
    settings = parser.add_argument_group("tournament")
    settings.add_argument(
        "--method",
        help="round_robin (default; ranks everyone), knockout, sequential, pivot, best_and_worst, "
        "double_elimination or swiss",
    )
    settings.add_argument(
        "--score",
        help="round_robin: copeland (default), mean_probability, mean_logit or bradley_terry; "
        "swiss: points (default) or bradley_terry",
    )
    settings.add_argument("--rounds", type=_positive, metavar="N", help="of swiss")
    settings.add_argument("--budget", type=_count, metavar="N", help="most comparisons per prompt")
    settings.add_argument(
        "--tie", type=float, metavar="D", help="P within D of 1/2 is a tie (default: 0)"
    )
    settings.add_argument("--seed", type=int, help="of the draws (default: 0)")


def _add_file_arguments(parser: argparse.ArgumentParser, ending: str) -> None:
    parser.add_argument("--out", help=f"JSONL file, - for stdout (default: FILE.{ending}.jsonl)")
    parser.add_argument("--split", default="train", help="of a dataset (default: train)")
    parser.add_argument(
        "--batch-rows",
        type=_positive,
        metavar="N",
        help="rows worked on at a time (default: up to 512 conversations)",
    )
    parser.add_argument("--replace", action="store_true", help="overwrite columns of that name")
    parser.add_argument(
        "--restart", action="store_true", help="begin anew, and replace a finished file"
    )
    parser.add_argument("--json", action="store_true", help="summary as JSON on stdout")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    settings = parser.add_argument_group("how a model is read (default: as it was published)")
    settings.add_argument("--family", help="classifier, armorm or grm")
    settings.add_argument("--format", help="chat, hh or plain")
    settings.add_argument("--bos", help="BOS tokens: single, double or none")
    settings.add_argument(
        "--max-length", type=_positive, metavar="N", help="tokens; longer conversations are cut"
    )
    settings.add_argument("--dtype", help="float32, bfloat16 or float16")
    settings.add_argument("--engine", help="what runs the model (default: auto)")
    settings.add_argument("--device", help="cpu, cuda, cuda:1 … (default: a GPU if any)")
    settings.add_argument(
        "--set",
        dest="assignments",
        action="append",
        default=[],
        metavar="key=value",
        help="any other setting of the reward, arguments.unit=chars say; may be repeated",
    )


def _score(options: argparse.Namespace) -> int:
    from raft.config.reward_option import read_spec
    from rewards.scoring.score import score_file

    _check_output(options)
    settings = model_settings(options)
    settings["non_finite"] = "missing" if options.missing else None
    summary = score_file(
        options.file,
        read_spec(options.reward, settings, options.assignments),
        form=options.form,
        name=options.name,
        **_file_settings(options),
    )
    _say(summary, "scores", options)
    return 0


def _rank(options: argparse.Namespace) -> int:
    from raft.config.reward_option import read_spec, split_tournament
    from rewards.scoring.rank import Tournament, rank_file

    _check_output(options)
    settings, assignments, chosen = model_settings(options), options.assignments, {}
    judge = reward = None
    if options.judge is not None:
        spec = read_spec(
            options.judge, settings, assignments, sections=("judge", "reward"), kind="pairwise"
        )
        judge, chosen = split_tournament(spec)
    else:
        reward = read_spec(options.reward, settings, assignments)
    for name in ("method", "score", "rounds", "budget", "tie", "seed"):
        if getattr(options, name) is not None:
            chosen[name] = getattr(options, name)
    summary = rank_file(
        options.file,
        judge=judge,
        reward=reward,
        tournament=Tournament(**chosen),
        **_file_settings(options),
    )
    _say(summary, "ranked", options)
    return 0


def _check_output(options: argparse.Namespace) -> None:
    if options.json and options.out == "-":
        raise InputError("--json", "the rows go to stdout already", "name a file with --out")


def model_settings(options: argparse.Namespace) -> dict[str, Any]:
    names = ("family", "format", "bos", "max_length", "dtype", "engine", "device")
    return {name: getattr(options, name) for name in names}


def _file_settings(options: argparse.Namespace) -> dict[str, Any]:
    names = ("out", "split", "batch_rows", "replace", "restart")
    return {name: getattr(options, name) for name in names}


def _say(summary: dict[str, Any], what: str, options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(summary))
    elif options.out != "-":
        print(f"{what}: {summary['out']}")


def _positive(text: str) -> int:
    if _count(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return int(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text} is no whole number")
    return int(text)


_PORT = 8100


def add_serve(command: Command) -> None:
    """Add the subcommand; `command(name, help, run)` makes its parser."""
    made = command("serve-reward", "serve a reward model or a judge over HTTP", _serve)
    served = made.add_mutually_exclusive_group(required=True)
    served.add_argument("--reward", metavar="M", help="as `raft score --reward` takes it")
    served.add_argument("--judge", metavar="M", help="as `raft rank --judge` takes it")
    made.set_defaults(interrupted="stopped serving")
    made.add_argument("--host", default="127.0.0.1", help="default: this machine alone")
    made.add_argument("--port", type=int, default=_PORT, help=f"0: any (default: {_PORT})")
    made.add_argument(
        "--token-env",
        metavar="NAME",
        help="environment variable with the bearer token that clients must send; needed for "
        "other hosts",
    )
    add_model_arguments(made)


def _serve(options: argparse.Namespace) -> int:
    from raft.config.reward_option import read_spec, split_tournament
    from rewards.build import build_judge, build_reward
    from rewards.remote.server import serve

    settings, assignments = model_settings(options), options.assignments
    where = {"host": options.host, "port": options.port, "token_env": options.token_env}
    if options.reward is not None:
        reward = read_spec(options.reward, settings, assignments)
        serve(build_reward(**reward), **where)
        return 0
    spec = read_spec(
        options.judge, settings, assignments, sections=("judge", "reward"), kind="pairwise"
    )
    judge, _ = split_tournament(spec)
    serve(build_judge(**judge), **where)
    return 0
