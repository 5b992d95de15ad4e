"""`raft.sample` draws responses from a policy, `raft.best_of_n` selects the best of n of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack, cast

from raft.api.inputs import Data, File, RewardLike, check_at_least, to_spec
from raft.api.results import BestOfNResult, SampleResult
from raft.bon.command import Judged, Outputs, outputs
from raft.bon.command import best_of_n as best_of_pool
from raft.bon.draw import draw_pool, drawing_config, pool_path
from raft.bon.judged import WINS, Selection, judge_pool
from raft.bon.pool import How
from raft.config.reward_option import JUDGE_SECTIONS, as_judge_and_rules
from raft.logs import log_for_program
from rewards.build import as_judge
from rewards.spec import PairwiseSpec, RewardSpec
from rollout.data.bad_rows import OnBadRow
from rollout.errors import InputError

if TYPE_CHECKING:
    from raft.bon.pool import Rejected
    from raft.config.run import RunConfig

__all__ = ["Drawing", "best_of_n", "sample"]

DEFAULT_N = 64


class Drawing(TypedDict, total=False):
    """Settings of how a policy draws, under the names of the commands' options.

    `inline` draws in this process, without Ray. `settings` has any other key of a run's config
    under policy, prompts, sampling or cluster: `["cluster.rollout_workers=2"]`.
    """

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    engine: Literal["auto", "vllm", "transformers", "toy"]
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    template: str
    chat_template_kwargs: Mapping[str, object]
    max_prompts: int
    inline: bool
    settings: Sequence[str]
    seed: int
    split: str
    columns: Mapping[str, str]
    on_bad_row: OnBadRow


# maps a key of `Drawing` to the key of a run's config that it sets
_KEYS = {
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
_OF_ROWS = {
    "seed": "seed",
    "split": "prompts.split",
    "columns": "prompts.columns",
    "on_bad_row": "prompts.on_bad_row",
}
# sections of a YAML file that a gold reward is read from: the first of these that the file has
_GOLD_SECTIONS = ("gold", "reward", "judge")


def sample(
    prompts: Data,
    policy: str | Path,
    n: int | None = None,
    *,
    out: str | Path | None = None,
    restart: bool = False,
    **drawing: Unpack[Drawing],
) -> SampleResult:
    """Draw `n` responses (default: 8) to each prompt, one row per prompt in their order.

    A call that was interrupted goes on where it stopped when it is made again.

    Args:
        prompts: a file or a dataset's name, or prompts: texts, or rows with a column `prompt`.
        policy: a model folder or a hub name.
        out: a JSONL file; by default STEM.sampled.jsonl beside the prompts.
        restart: discard the file and what an interrupted call left.
        drawing: temperature, top_p and the other keys of `Drawing`.

    Raises:
        InputError: unusable prompts or settings, or a file that was made with other settings.
    """
    log_for_program()
    file = File(prompts, "prompts")
    path = pool_path(None if out is None else str(out), file.name, "sampled")
    summary = draw_pool(_config("sample", file.name, policy, n, drawing), path, restart=restart)
    return SampleResult(path, summary, file)


def best_of_n(
    data: Data,
    *,
    policy: str | Path | None = None,
    reward: RewardLike | None = None,
    judge: RewardLike | None = None,
    gold: RewardLike | None = None,
    n: int | None = None,
    score_column: str | None = None,
    gold_column: str | None = None,
    method: str | None = None,
    budget: int | None = None,
    tie: float | None = None,
    out_dir: str | Path | None = None,
    stem: str | None = None,
    restart: bool = False,
    **drawing: Unpack[Drawing],
) -> BestOfNResult:
    """Select the best of n responses, and measure every n up to it.

    With a `policy`, `data` are prompts and n (default: 64) responses are drawn to each; without,
    `data` is a pool that has its responses and scores.

    Args:
        reward, judge: what selects among drawn responses; gold: measures what is selected.
        score_column, gold_column: of a stored pool; default: `scores`, and `gold_scores` if there.
        method, budget, tie: the tournament of a judge, by default a knockout.
        out_dir: the folder of the files, by default that of the data.
        stem: a path without an ending that names the files instead of the data's own name.
        drawing: the keys of `Drawing`; of a stored pool seed, split, columns and on_bad_row.

    Raises InputError for unusable data, settings or files, RewardError for a reward that fails.
    """
    log_for_program()
    check_at_least(n=(1, n), seed=(0, drawing.get("seed")), budget=(1, budget))
    file = File(data, "pool")
    out = outputs(stem, file.name, folder=None if out_dir is None else str(out_dir))
    wanted = {"method": method, "tie": tie, "budget": budget, "seed": drawing.get("seed")}
    selection, rewards = _rewards(reward, judge, gold, wanted)
    rows, drawn, judged = _Rows(split="train", columns={}), None, Judged()
    if policy is None:
        _check_stored(file.name, drawing, rewards)
        pool = Path(file.name).expanduser()
        rows = _Rows(split=drawing.get("split", "train"), columns=drawing.get("columns", {}))
    else:
        _check_drawn(score_column or gold_column, rewards, selection)
        n = n or DEFAULT_N
        pool, drawn = _drawn(file.name, policy, n, out, selection, rewards, restart, drawing)
        n = n if drawn == How() else None  # in waves or rejected early: all compete
    how = _How(n=n, restart=restart, on_bad_row=drawing.get("on_bad_row", "stop"))
    if selection is not None:
        judge_pool(pool, out.judged, selection, **how, **rows)
        rows = _Rows(split="train", columns={})
        pool, gold_column, judged = out.judged, WINS, _as_judged(selection)
    found = best_of_pool(
        pool, out, by=score_column or "scores", gold=gold_column, judged=judged,
        seed=drawing.get("seed", 0), drawn=policy is not None or selection is not None,
        how=drawn, **how, **rows,
    )  # fmt: skip
    return BestOfNResult(found, file)


class _How(TypedDict):
    n: int | None
    restart: bool
    on_bad_row: OnBadRow


class _Rows(TypedDict):
    split: str
    columns: Mapping[str, str]


def _as_judged(selection: Selection) -> Judged:
    plays = selection.tournament is not None
    ranks_all = not plays or selection.method == "round_robin"
    return Judged(points=plays, ranks_all=ranks_all, win_rate=True)


def _config(
    command: str, file: str, policy: str | Path, k: int | None, drawing: Drawing
) -> RunConfig:
    given: dict[str, object] = {
        "policy.model": str(policy),
        "prompts.path": file,
        "sampling.k": k,
        "cluster.address": "inline" if drawing.get("inline") else None,
    }
    given |= {key: drawing.get(name) for name, key in (_KEYS | _OF_ROWS).items()}
    return drawing_config(command, given, drawing.get("settings", ()))


def _drawn(
    file: str,
    policy: str | Path,
    n: int,
    out: Outputs,
    selection: Selection | None,
    rewards: Mapping[str, RewardSpec],
    restart: bool,
    drawing: Drawing,
) -> tuple[Path, How]:
    """Draw a pool of responses, and return its file and in which way the responses were drawn."""
    # a judge compares responses with one more, which takes no part in the selection
    config = _config("bon", file, policy, n + (selection is not None), drawing)
    path = pool_path(str(out.pool), file, "pool")
    drawn = draw_pool(config, path, rewards=rewards, restart=restart)
    adaptive = config.sampling.adaptive
    first = None if adaptive is None else adaptive.first
    return path, How(first, cast("Rejected | None", drawn.get("early_rejection")))


def _check_drawn(
    column: str | None, rewards: Mapping[str, RewardSpec], selection: Selection | None
) -> None:
    """Check the options of a pool that is about to be drawn.

    Raises InputError for column names, which only a stored pool has, and where neither a reward nor
    a judge selects.
    """
    if column is not None:
        raise InputError(
            "--score-column, --gold-column",
            "name columns of a stored pool, but --policy draws a new one",
            "remove --policy, or these options",
        )
    if not rewards and selection is None:
        raise InputError("bon", "nothing selects among the responses", "give --reward or --judge")


def _check_stored(file: str, drawing: Drawing, rewards: Mapping[str, RewardSpec]) -> None:
    """Refuse options on drawing and scoring with InputError: a stored pool has no use for them."""
    flags = [f"--{name}".replace("_", "-") for name in _KEYS if name in drawing]
    flags += ["--inline"] * bool(drawing.get("inline")) + ["--set"] * bool(drawing.get("settings"))
    if flags:
        raise InputError(
            ", ".join(flags),
            f"without --policy nothing is drawn, and {file} is taken as it is",
            "give --policy, or remove the options",
        )
    for name, spec in rewards.items():
        raise InputError(
            f"--{name}",
            f"without --policy, {file} is a pool that already has its scores",
            f"add others by `raft score --reward {_named(spec)} --output-column NAME`, then name "
            "them with --score-column NAME_scores or --gold-column NAME_scores",
        )


def _rewards(
    reward: RewardLike | None,
    judge: RewardLike | None,
    gold: RewardLike | None,
    wanted: Mapping[str, object],
) -> tuple[Selection | None, dict[str, RewardSpec]]:
    """Sort reward, judge and gold by role: return the judge's selection, and the scoring rewards.

    The selection is None where no judge is among them. The rewards that score while the policy
    draws are named "reward" and "gold". Raises InputError for combinations that do not fit.
    """
    given = {name: value for name, value in wanted.items() if value is not None}
    rewards: dict[str, RewardSpec] = {}
    found: Selection | None = None
    if judge is not None:
        spec, rules = as_judge_and_rules(to_spec(judge, sections=JUDGE_SECTIONS, kind="pairwise"))
        found = Selection(spec, replace(rules, **given))
    for name, one in (("reward", reward), ("gold", gold)):
        if one is None:
            continue
        spec = to_spec(one, sections=_GOLD_SECTIONS if name == "gold" else ("reward",))
        if not isinstance(spec, PairwiseSpec):
            _check_no_judge(spec, f"--{name} {_named(spec)}")
            rewards[name] = spec
            continue
        if found is not None:
            raise InputError(
                "--gold", "a second judge is not used: the win rate is by the one that selects",
                "remove --gold, or give a reward that scores",
            )  # fmt: skip
        own = replace(spec.rules(), **given) if name == "reward" else None
        found = Selection(as_judge(spec), own)
    _check_tournament(found, rewards, given)
    return found, rewards


def _check_tournament(
    found: Selection | None, rewards: Mapping[str, RewardSpec], given: Mapping[str, object]
) -> None:
    plays = found is not None and found.tournament is not None
    if plays and rewards:
        raise InputError(
            "--gold",
            "a judge selects, and its win rate is measured",
            "for another measure, add its scores to STEM.judged.jsonl by `raft score`, then give "
            "that file to `raft bon` with --gold-column",
        )
    if not plays and (given.get("method") or given.get("budget")):
        raise InputError(
            "--method, --budget", "no tournament is played", "give --judge, or remove them"
        )


def _check_no_judge(spec: RewardSpec, where: str) -> None:
    if any(part.kind == "pairwise" for part in spec.parts()):
        raise InputError(
            where,
            "has a judge among its members, whose points have no mean over prompts",
            "use the judge alone, with --judge",
        )


def _named(spec: RewardSpec) -> str:
    return f"function:{spec.label}" if spec.kind == "function" else spec.label
