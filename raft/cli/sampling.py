"""The commands that draw from a policy: sample, bon."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Container
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from raft.cli.options import (
    DTYPES,
    JUDGE,
    MODEL,
    TEMPLATES,
    AddCommand,
    DataOptions,
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
from rollout.errors import InputError

if TYPE_CHECKING:
    from raft.bon.command import Outputs
    from raft.bon.judged import Selection
    from raft.config.run import RunConfig
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
# options that are about the policy here, and not about a reward
_OF_POLICY = ("dtype", "engine", "set", "chat_template_kwargs")
# option -> the section of a YAML file that its settings are read from, the first that is there
_REWARD_SECTIONS = {"reward": ("reward",), "gold": ("gold", "reward", "judge")}
# option -> the key of a run's config that it sets
_DRAWING = {
    "temperature": "sampling.temperature",
    "top_p": "sampling.top_p",
    "top_k": "sampling.top_k",
    "max_new_tokens": "sampling.max_new_tokens",
    "engine": "policy.engine",
    "dtype": "policy.dtype",
    "template": "policy.template",
    "chat_template_kwargs": "policy.chat_template_kwargs",
    "max_prompts": "prompts.limit",
}


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
    from raft.bon.draw import draw_pool, pool_path

    path = pool_path(options.out, options.file, "sampled")
    config = _config("sample", options, options.num_responses)
    summary = draw_pool(config, path, restart=options.restart)
    print_result(options, summary, f"responses: {summary['out']}")
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
    # the old way named the files as well as the folder
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
    from raft.bon.command import Judged, as_table, best_of_n, outputs

    if options.out is not None:
        log.warning("--out STEM is replaced by --out-dir DIR and works for one more release")
    out = outputs(options.out, options.file, folder=options.out_dir)
    selection, rewards = _rewards(options)
    pool = _drawn(options, out, selection, rewards)
    judged, by, gold = Judged(), options.score_column or "scores", options.gold_column
    n = options.num_responses
    named: DataOptions = {"split": "train", "columns": {}}
    if options.policy is None:
        named = data_options(options)
    if selection is not None:
        from raft.bon.judged import WINS, judge_pool

        judge_pool(
            pool, out.judged, selection, n=n, restart=options.restart,
            on_bad_row=options.on_bad_row, **named,
        )  # fmt: skip
        named = {"split": "train", "columns": {}}
        plays = selection.tournament is not None
        ranks_all = not plays or selection.method == "round_robin"
        pool, gold = out.judged, WINS
        judged = Judged(points=plays, ranks_all=ranks_all, win_rate=True)
    found = best_of_n(
        pool, out, by=by, gold=gold, n=n, judged=judged, seed=options.seed or 0,
        drawn=options.policy is not None or selection is not None,
        restart=options.restart, on_bad_row=options.on_bad_row, **named,
    )  # fmt: skip
    files = "".join(f"\n{what}: {path}" for what, path in found["out"].items())
    print_result(options, found, as_table(found) + files)
    return 0


def _drawn(
    options: argparse.Namespace,
    out: Outputs,
    selection: Selection | None,
    rewards: dict[str, RewardSpec],
) -> Path:
    """The pool: drawn now or before, or the file that is named."""
    if options.policy is None:
        _check_stored(options, rewards)
        return Path(options.file).expanduser()
    if options.score_column is not None or options.gold_column is not None:
        raise InputError(
            "--score-column, --gold-column",
            "name columns of a stored pool, but --policy draws a new one",
            "remove --policy, or these options",
        )
    if not rewards and selection is None:
        raise InputError("bon", "nothing selects among the responses", "give --reward or --judge")
    from raft.bon.draw import draw_pool, pool_path

    options.num_responses = options.num_responses or _DEFAULT_N
    # one more, with which the others are compared, takes no part in the selection
    k = options.num_responses + (selection is not None)
    path = pool_path(str(out.pool), options.file, "pool")
    draw_pool(_config("bon", options, k), path, rewards=rewards, restart=options.restart)
    return path


def _check_stored(options: argparse.Namespace, rewards: Container[str]) -> None:
    """Raise InputError for options that a stored pool has no use for."""
    given = [name for name in _DRAWING if getattr(options, name) is not None]
    if options.inline or options.assignments or given:
        flags = [f"--{name}".replace("_", "-") for name in given]
        flags += ["--inline"] * options.inline + ["--set"] * bool(options.assignments)
        raise InputError(
            ", ".join(flags),
            f"without --policy nothing is drawn, and {options.file} is taken as it is",
            "give --policy, or remove the options",
        )
    for name in ("reward", "gold"):
        model = getattr(options, name)
        if model is not None and name in rewards:
            raise InputError(
                f"--{name}",
                f"without --policy, {options.file} is a pool that already has its scores",
                f"add others by `raft score --reward {model} --output-column NAME`, then name "
                "them with --score-column NAME_scores or --gold-column NAME_scores",
            )


def _rewards(options: argparse.Namespace) -> tuple[Selection | None, dict[str, RewardSpec]]:
    """What a judge has to do, and the rewards that score while the policy draws."""
    from raft.bon.judged import Selection
    from raft.config.reward_option import read_judge, read_spec
    from rewards.build import as_judge
    from rewards.spec import PairwiseSpec

    wanted = {name: getattr(options, name) for name in ("method", "tie", "budget", "seed")}
    given = {name: value for name, value in wanted.items() if value is not None}
    settings = model_settings(options, without=_OF_POLICY)
    rewards: dict[str, RewardSpec] = {}
    found: Selection | None = None
    if options.judge is not None:
        judge, rules = read_judge(options.judge, settings)
        found = Selection(judge, replace(rules, **given))
    for name in ("reward", "gold"):
        named = getattr(options, name)
        if named is None:
            continue
        spec = read_spec(named, settings, sections=_REWARD_SECTIONS[name])
        if not isinstance(spec, PairwiseSpec):
            _check_no_judge(spec, f"--{name} {named}")
            rewards[name] = spec
            continue
        if found is not None:
            raise InputError(
                "--gold", "a second judge is not used: the win rate is by the one that selects",
                "remove --gold, or give a reward that scores",
            )  # fmt: skip
        own = replace(spec.rules(), **given) if name == "reward" else None
        found = Selection(as_judge(spec), own)
    plays = found is not None and found.tournament is not None
    if plays and rewards:
        raise InputError(
            "--gold",
            "a judge selects, and its win rate is measured",
            "for another measure, add its scores to STEM.judged.jsonl by `raft score`, then give "
            "that file to `raft bon` with --gold-column",
        )
    if not plays and (options.method or options.budget):
        raise InputError(
            "--method, --budget", "no tournament is played", "give --judge, or remove them"
        )
    return found, rewards


def _check_no_judge(spec: RewardSpec, where: str) -> None:
    if any(part.kind == "pairwise" for part in spec.parts()):
        raise InputError(
            where,
            "has a judge among its members, whose points have no mean over prompts",
            "use the judge alone, with --judge",
        )


def _config(command: str, options: argparse.Namespace, k: int | None) -> RunConfig:
    from raft.bon.draw import drawing_config

    given = {key: getattr(options, name) for name, key in _DRAWING.items()}
    given |= {
        "seed": options.seed,
        "policy.model": options.policy,
        "prompts.path": options.file,
        "prompts.on_bad_row": options.on_bad_row,
        "prompts.split": options.split,
        "prompts.columns": data_options(options)["columns"],
        "sampling.k": k,
        "cluster.address": "inline" if options.inline else None,
    }
    return drawing_config(command, given, options.assignments)
