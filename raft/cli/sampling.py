"""The commands `raft sample` and `raft bon`: their arguments, and what they hand on.

From a command line to the config of a drawing: `raft sample` and `raft bon` read no YAML.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raft.assemble import check_model
from raft.config.load import apply_override, make_config
from raft.config.run import RunConfig
from rollout.errors import InputError

if TYPE_CHECKING:
    from raft.best_of_n.command import Outputs
    from raft.best_of_n.judged import Selection

__all__ = [
    "add_sampling",
    "bon",
    "drawing_config",
    "sample",
]

Command = Callable[[str, str, Any], argparse.ArgumentParser]

_PROMPTS = "prompts: JSONL (.gz too), Parquet, plain text, or a dataset's name"
_M = "model folder, hub name, function:NAME, or YAML file with a reward: section"
_SAMPLE = """\
examples:
  raft sample prompts.jsonl --policy models/mine --k 8
  raft sample corpus.txt --policy models/mine --k 4 --set prompts.first_words=8
"""
_BON = """\
examples:
  raft bon prompts.jsonl --policy models/mine --reward models/rm --gold models/gold --n 64
  raft bon prompts.jsonl --policy models/mine --judge models/judge --n 16
  raft bon prompts.pool.jsonl --n 32                     a stored pool: no model is needed
  raft bon scored.jsonl --by grm_scores --gold-by gold_scores --out curves/grm

writes STEM.pool.jsonl (all responses with their scores), STEM.best.jsonl (the best of each),
STEM.bon.json (the curve for every n, with intervals) and STEM.bon.png
"""
_DEFAULT_N = 64
# of a YAML file: where each option finds its settings
_REWARD_SECTIONS = {"reward": ("reward",), "gold": ("gold", "reward", "judge")}


def add_sampling(command: Command) -> None:
    """Add both; `command(name, text, run)` makes a parser."""
    made = command("sample", "draw K responses to each prompt of a file", sample)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.epilog = _SAMPLE
    made.add_argument("file", metavar="PROMPTS", help=_PROMPTS)
    made.add_argument("--policy", required=True, metavar="M", help="model folder or hub name")
    made.add_argument("--k", type=int, metavar="K", help="responses per prompt (default: 8)")
    made.add_argument("--out", help="JSONL file (default: STEM.sampled.jsonl)")
    _add_sampling(made)

    made = command("bon", "best-of-n: the best responses, and what every n is worth", bon)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.epilog = _BON
    made.add_argument("file", metavar="FILE", help=f"{_PROMPTS}; without --policy, a scored pool")
    made.add_argument("--policy", metavar="M", help="model folder or hub name that draws")
    made.add_argument("--n", type=int, help=f"responses that compete (default: {_DEFAULT_N}, all)")
    made.add_argument("--out", metavar="STEM", help="of the files (default: of FILE, beside it)")
    by = made.add_mutually_exclusive_group()
    by.add_argument("--reward", metavar="R", help=f"selects: {_M}")
    by.add_argument("--judge", metavar="J", help="selects by tournament: pairwise model or YAML")
    by.add_argument("--by", metavar="COLUMN", help="selects, of a stored pool (default: scores)")
    gold = made.add_mutually_exclusive_group()
    gold.add_argument("--gold", metavar="G", help="measured beside it, as --reward; or a judge")
    gold.add_argument("--gold-by", metavar="COLUMN", help="of a stored pool (default: gold_scores)")
    _add_tournament(made)
    _add_sampling(made)


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    settings = parser.add_argument_group("drawing")
    settings.add_argument("--temperature", type=float, metavar="T", help="(default: 1)")
    settings.add_argument("--top-p", type=float, metavar="P", help="(default: 1)")
    settings.add_argument("--top-k", type=int, metavar="K", help="(default: 0, all tokens)")
    settings.add_argument("--max-new-tokens", type=int, metavar="N", help="(default: 128)")
    settings.add_argument("--seed", type=int, help="of all that is drawn (default: 0)")
    settings.add_argument("--engine", help="vllm or transformers (default: vLLM where it can)")
    settings.add_argument("--dtype", help="of the policy: float32, bfloat16 or float16")
    settings.add_argument("--template", help="auto, chat, plain, hh or hh_hash")
    settings.add_argument("--limit", type=int, metavar="N", help="take the first N prompts only")
    settings.add_argument("--inline", action="store_true", help="in this process, without Ray")
    settings.add_argument(
        "--set",
        dest="assignments",
        action="append",
        default=[],
        metavar="key=value",
        help="any other key of a run's config under policy, prompts, sampling or cluster, such as "
        "cluster.rollout_workers=2; may be repeated",
    )
    parser.add_argument(
        "--restart", action="store_true", help="begin anew, and replace files that are there"
    )
    parser.add_argument("--json", action="store_true", help="summary as JSON on stdout")


def _add_tournament(parser: argparse.ArgumentParser) -> None:
    settings = parser.add_argument_group("tournament")
    settings.add_argument(
        "--method",
        help="as raft rank's (default: knockout, n - 1 comparisons; round_robin has a curve for "
        "every n, other methods know the win rate of the best of all)",
    )
    settings.add_argument("--tie", type=float, metavar="D", help="P within D of 1/2 is a tie")
    settings.add_argument("--budget", type=int, metavar="N", help="most comparisons per prompt")


def sample(options: argparse.Namespace) -> int:
    """0 when the file is there. Raises InputError."""
    from raft.best_of_n.draw import draw_pool, pool_path

    path = pool_path(options.out, options.file, "sampled")
    summary = draw_pool(_config("sample", options, options.k), path, restart=options.restart)
    print(json.dumps(summary) if options.json else f"responses: {summary['out']}")
    return 0


def bon(options: argparse.Namespace) -> int:
    """0 when the curve is there. Raises InputError and RewardError."""
    from raft.best_of_n.command import Judged, as_table, best_of_n, outputs

    if options.n is not None and options.n < 1:
        raise InputError(f"--n {options.n}", "at least one response must compete")
    if (options.seed or 0) < 0:
        raise InputError(f"--seed {options.seed}", "must be 0 or more")
    out = outputs(options.out, options.file)
    selection, rewards = _rewards(options)
    pool = _drawn(options, out, selection, rewards)
    judged, by, gold = Judged(), options.by or "scores", options.gold_by
    n = options.n
    if selection is not None:
        from raft.best_of_n.judged import WINS, judge_pool

        judge_pool(pool, out.judged, selection, n=n, restart=options.restart)
        plays = selection.tournament is not None
        ranks_all = not plays or selection.method == "round_robin"
        pool, gold = out.judged, WINS
        judged = Judged(points=plays, ranks_all=ranks_all, win_rate=True)
    found = best_of_n(
        pool, out, by=by, gold=gold, n=n, judged=judged, seed=options.seed or 0,
        restart=options.restart,
    )  # fmt: skip
    if options.json:
        print(json.dumps(found))
        return 0
    print(as_table(found))
    for what, path in found["out"].items():
        print(f"{what}: {path}")
    return 0


def _drawn(
    options: argparse.Namespace,
    out: Outputs,
    selection: Selection | None,
    rewards: dict[str, dict[str, Any]],
) -> Path:
    """The pool: drawn now or before, or the file that is named."""
    if options.policy is None:
        if given := _of_drawing(options):
            raise InputError(
                f"{', '.join(given)}",
                f"without --policy nothing is drawn, and {options.file} is taken as it is",
                "leave them out",
            )
        for name in ("reward", "gold"):
            if getattr(options, name) is not None and name in rewards:
                raise InputError(
                    f"--{name}",
                    f"without --policy, {options.file} is a pool that has its scores",
                    f"add others by `raft score --reward {getattr(options, name)} --as "
                    "NAME`, and name their column with --by or --gold-by",
                )
        return Path(options.file).expanduser()
    if options.by is not None or options.gold_by is not None:
        raise InputError("--by, --gold-by", "name columns of a stored pool", "leave --policy out")
    if not rewards and selection is None:
        raise InputError("bon", "nothing selects", "give --reward or --judge")
    from raft.best_of_n.draw import draw_pool, pool_path

    options.n = options.n or _DEFAULT_N
    # one more, with which the others are compared, takes no part in the selection
    k = options.n + (selection is not None)
    path = pool_path(str(out.pool), options.file, "pool")
    draw_pool(_config("bon", options, k), path, rewards=rewards, restart=options.restart)
    return path


def _of_drawing(options: argparse.Namespace) -> list[str]:
    """The options given that say how a policy draws."""
    names = (
        "temperature", "top_p", "top_k", "max_new_tokens", "engine", "dtype", "template", "limit",
    )  # fmt: skip
    given = [f"--{name}".replace("_", "-") for name in names if getattr(options, name) is not None]
    return given + ["--inline"] * options.inline + ["--set"] * bool(options.assignments)


def _rewards(options: argparse.Namespace) -> tuple[Selection | None, dict[str, dict[str, Any]]]:
    """What a judge has to do, and the rewards that score while the policy draws."""
    from raft.best_of_n.judged import Selection
    from raft.config.reward_option import read_spec, split_tournament
    from rewards.scoring.rank import Tournament

    chosen = {name: getattr(options, name) for name in ("method", "tie", "budget", "seed")}
    given = {name: value for name, value in chosen.items() if value is not None}
    rewards: dict[str, dict[str, Any]] = {}
    found: Selection | None = None
    if options.judge is not None:
        spec = read_spec(options.judge, {}, sections=("judge", "reward"), kind="pairwise")
        judge, tournament = split_tournament(spec)
        found = Selection(judge, Tournament(**{**tournament, **given}))
    for name in ("reward", "gold"):
        named = getattr(options, name)
        if named is None:
            continue
        spec = read_spec(named, {}, sections=_REWARD_SECTIONS[name])
        if spec["kind"] != "pairwise":
            _check_no_judge(spec, f"--{name} {named}")
            rewards[name] = spec
            continue
        judge, tournament = split_tournament(spec)
        if found is not None:
            raise InputError(
                "--gold",
                "one judge is enough: the win rate is by the one that selects",
            )
        plays = Tournament(**{**tournament, **given}) if name == "reward" else None
        found = Selection(judge, plays)
    if found is not None and found.tournament is not None and rewards:
        raise InputError(
            "--gold",
            "a judge selects, and the win rate is measured",
            "for another measure, add its scores to STEM.judged.jsonl by `raft score`, then "
            "`raft bon` that file with --gold-by",
        )
    if (found is None or found.tournament is None) and (options.method or options.budget):
        raise InputError(
            "--method, --budget",
            "are of a tournament",
            "give --judge, or leave them out",
        )
    return found, rewards


def _check_no_judge(spec: dict[str, Any], where: str) -> None:
    for member in spec.get("members", []):
        if member["kind"] == "pairwise":
            raise InputError(
                where,
                "has a judge among its members, whose points have no mean over prompts",
                "use the judge alone, with --judge",
            )
        _check_no_judge(member, where)


def _config(command: str, options: argparse.Namespace, k: int | None) -> Any:

    given = {
        "seed": options.seed,
        "policy.model": options.policy,
        "policy.engine": options.engine,
        "policy.dtype": options.dtype,
        "policy.template": options.template,
        "prompts.path": options.file,
        "prompts.limit": options.limit,
        "sampling.k": k,
        "sampling.temperature": options.temperature,
        "sampling.top_p": options.top_p,
        "sampling.top_k": options.top_k,
        "sampling.max_new_tokens": options.max_new_tokens,
        "cluster.address": "inline" if options.inline else None,
    }
    return drawing_config(command, given, options.assignments)


# what a drawing has of a run's config
_SECTIONS = ("seed", "policy", "prompts", "sampling", "cluster")


def drawing_config(
    command: str, options: Mapping[str, Any], assignments: Sequence[str] = ()
) -> RunConfig:
    """A run without iterations, of which only drawing is asked: its reward is never built.

    Args:
        command: names the command in messages.
        options: dotted keys (`policy.model`) and their values, None where not given.
        assignments: `key.sub=value`, over the options.

    Raises:
        InputError: a key that a drawing has no use for, a value out of range, a missing folder.
    """
    data: dict[str, Any] = {}
    for key, value in options.items():
        if value is not None:
            section, _, name = key.rpartition(".")
            (data.setdefault(section, {}) if section else data)[name] = value
    for assignment in assignments:
        section = assignment.partition("=")[0].partition(".")[0]
        if section not in _SECTIONS:
            raise InputError(
                f"--set {assignment}",
                f"{command} has no such key",
                f"use {', '.join(_SECTIONS)}, as in `raft validate --keys`",
            )
        apply_override(data, assignment)
    unused = {"run_dir": ".", "iterations": 0, "reward": {"kind": "function", "function": "length"}}
    config = make_config({**data, **unused}, where=f"raft {command}")
    check_model(config.policy.model, "--policy")
    return config
