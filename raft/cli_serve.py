"""The command `raft serve-reward`: a reward or judge for other programs, over HTTP."""

from __future__ import annotations

import argparse

from raft.cli_rewards import Command, add_model_arguments, model_settings

__all__ = ["add_serve"]

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
    from raft.reward_spec import read_spec, split_tournament
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
