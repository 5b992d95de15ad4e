"""`raft.score`, `rank`, `train_reward` and `evaluate_reward`: the functions of reward models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace as with_values
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack, cast

from raft.api.inputs import Data, File, RewardLike, check_at_least, to_spec
from raft.api.results import RankResult, RewardEvaluation, ScoreResult, TrainRewardResult
from raft.config.reward_option import JUDGE_SECTIONS, as_judge_and_rules
from raft.config.train_reward import TrainRewardConfig, load_train_config
from raft.logs import log_for_program
from raft.workers.spread import on_gpus
from rewards.build import as_judge
from rewards.scoring.rank import rank_file
from rewards.scoring.score import score_file
from rewards.tournament.types import Tournament
from rollout.data.bad_rows import OnBadRow
from rollout.data.rows_to_score import Form
from rollout.errors import InputError
from rollout.storage.files import make_out_folder

if TYPE_CHECKING:
    from rewards.evaluation.evaluate import Scorer
    from rewards.evaluation.forms import Form as EvalForm

__all__ = ["Rows", "base_name", "evaluate_reward", "rank", "score", "train_reward"]

_FEWEST_RESAMPLES = 100


class Rows(TypedDict, total=False):
    """Settings of how rows are read and written, under the names of the commands' options."""

    split: str
    columns: Mapping[str, str]
    on_bad_row: OnBadRow
    batch_rows: int | None
    replace: bool
    restart: bool


def score(
    data: Data,
    reward: RewardLike,
    *,
    out: str | Path | None = None,
    output_column: str | None = None,
    form: Form | None = None,
    gpus: int | None = None,
    **rows: Unpack[Rows],
) -> ScoreResult:
    """Score the responses in a file or in rows, or go on where an interrupted call stopped.

    Args:
        data: a file, a dataset's name, or rows `{"prompt", "responses"}`, `{"prompt", "response"}`,
            `{"messages"}` or `{"prompt", "chosen", "rejected"}`.
        reward: a model folder, a hub name, `function:NAME`, a YAML file, or settings of a reward
            as a config has them: `{"kind": "model", "model": ..., "dtype": "float32"}`.
        out: a JSONL file, "-" for standard output; by default STEM.scored.jsonl beside the data.
        output_column: NAME gives NAME_scores instead of scores.
        form: how to read rows whose columns fit several forms.
        gpus: score on so many GPUs of this machine, batch_rows rows (default: those of 512
            responses) at a time on each; by default in this process.
        rows: `replace=True` overwrites columns, and the other keys of `Rows`.

    Raises:
        InputError: anything wrong with the data, the reward or the output.
        RewardError: a score that cannot be had, with the place of its row.
    """
    log_for_program()
    check_at_least(batch_rows=(1, rows.get("batch_rows")))
    file, to = File(data, "rows"), None if out is None else str(out)
    name = None if output_column is None else base_name(output_column)
    spec = to_spec(reward)
    with on_gpus(gpus, [spec]) as place:
        summary = score_file(file.name, spec, out=to, form=form, name=name, place=place, **rows)
    return ScoreResult(_written(summary), summary, file)


def rank(
    data: Data,
    *,
    judge: RewardLike | None = None,
    reward: RewardLike | None = None,
    method: str | None = None,
    score: str | None = None,
    rounds: int | None = None,
    budget: int | None = None,
    tie: float | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    gpus: int | None = None,
    **rows: Unpack[Rows],
) -> RankResult:
    """Rank the responses to each prompt by a judge's tournament, or by the scores of a reward.

    Args:
        data: a file, a dataset's name, or rows `{"prompt", "responses"}`.
        judge, reward: one of the two, as `score` takes a reward.
        method, score, rounds, budget, tie, seed: the tournament (default: a round robin; of a
            reward none, its scores rank).
        out, gpus, rows: as `score` takes them; by default STEM.ranked.jsonl.

    Raises as `score` does.
    """
    log_for_program()
    check_at_least(batch_rows=(1, rows.get("batch_rows")), seed=(0, seed), budget=(0, budget))
    file, rules, judged = File(data, "rows"), Tournament(), None
    if judge is not None:
        named = to_spec(judge, sections=JUDGE_SECTIONS, kind="pairwise")
        judged, rules = as_judge_and_rules(named)
    wanted = {"method": method, "score": score, "rounds": rounds, "budget": budget, "tie": tie,
              "seed": seed}  # fmt: skip
    given = {name: value for name, value in wanted.items() if value is not None}
    scored = None if reward is None else to_spec(reward)
    with on_gpus(gpus, [spec for spec in (judged, scored) if spec is not None]) as place:
        summary = rank_file(
            file.name,
            judge=judged,
            reward=scored,
            tournament=with_values(rules, **given),
            out=None if out is None else str(out),
            place=place,
            **rows,
        )
    return RankResult(_written(summary), summary, file)


def train_reward(
    config: TrainRewardConfig | Mapping[str, object] | str | Path,
    overrides: Sequence[str] = (),
    *,
    gpus: int | None = None,
) -> TrainRewardResult:
    """Train a reward model on preference pairs, or go on with a training that was interrupted.

    Of a finished training the stored metrics are returned.

    Args:
        config: a YAML file, its keys as a mapping, or what `load_train_config` made of them.
        overrides: changes to the config, each `key.sub=value`.
        gpus: number of GPUs of this machine on which the recipe armorm extracts hidden states.

    Raises InputError for data, models and settings that cannot be used.
    """
    from raft.reward_training.run import train_reward as train

    log_for_program()
    if not isinstance(config, TrainRewardConfig):
        config = load_train_config(config, list(overrides))
    elif overrides:
        raise InputError("overrides", "the config is made already", "give load_train_config them")
    return TrainRewardResult(*train(config, gpus))


def evaluate_reward(
    data: Data,
    rewards: Mapping[str, RewardLike] | Iterable[str] | str = (),
    *,
    judges: Mapping[str, RewardLike] | Iterable[str] | str = (),
    score_columns: Iterable[str] = (),
    form: EvalForm | None = None,
    gold_column: str | None = None,
    train: str | Path | None = None,
    resamples: int = 2000,
    seed: int = 0,
    out: str | Path | None = None,
    out_dir: str | Path | None = None,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    on_bad_row: OnBadRow = "stop",
    gpus: int | None = None,
) -> RewardEvaluation:
    """Measure rewards on preference pairs and benchmarks, several side by side.

    Args:
        data: a file, a dataset's name, or rows `{"prompt", "chosen", "rejected"}`.
        rewards, judges: by name, or names of the report with what each is, as `score` takes it.
        score_columns: stored scores: NAME of NAME_chosen_score, or "scores" for the plain ones.
        form, gold_column: how to read the rows, where their columns do not tell.
        train: training pairs, whose prompts are looked for in the data.
        resamples, seed: of the bootstrap.
        out: FILE.md gets the report, and FILE.json; out_dir: a folder that gets both, and
            scored.jsonl, the rows with their scores.
        gpus: as `score` takes it.

    Raises:
        InputError: anything wrong with the data, the settings or the stored scores.
        RewardError: a reward that scores none of the rows.
    """
    from rewards.evaluation.evaluate import Scorer, eval_reward
    from rewards.evaluation.report import check_output, kept_rows, write_report

    log_for_program()
    check_at_least(seed=(0, seed))
    file = File(data, "pairs")
    scorers = [
        *_scorers(rewards, ("reward",), "model"),
        *_scorers(judges, JUDGE_SECTIONS, "pairwise"),
        *(Scorer(base_name(column)) for column in score_columns),
    ]
    _check_evaluation(scorers, resamples)
    to = None if out is None else str(out)
    to = to if out_dir is None else str(make_out_folder(str(out_dir)))
    check_output(to)
    specs = [one.spec for one in scorers if one.spec is not None]
    with on_gpus(gpus, specs) as place:
        report = eval_reward(
            file.name, scorers, form=form, gold=gold_column, split=split, columns=columns,
            train=None if train is None else str(train), resamples=resamples, seed=seed,
            keep=kept_rows(to), on_bad_row=on_bad_row, place=place,
        )  # fmt: skip
    return RewardEvaluation(report, [] if to is None else write_report(report, to))


def _check_evaluation(scorers: Sequence[Scorer], resamples: int) -> None:
    if not scorers:
        raise InputError(
            "eval-reward", "there is nothing to evaluate",
            "give --reward, --judge or --score-column",
        )  # fmt: skip
    if resamples < _FEWEST_RESAMPLES:
        raise InputError(
            f"--bootstrap {resamples}",
            f"an interval needs {_FEWEST_RESAMPLES} resamples or more",
            "raise it",
        )


def base_name(column: str) -> str | None:
    """Return NAME of a column given as `NAME_scores` or as NAME; None for the plain `scores`."""
    if column in ("score", "scores"):
        return None
    return column.removesuffix("_scores").removesuffix("_score")


def _scorers(
    given: Mapping[str, RewardLike] | Iterable[str] | str, sections: Sequence[str], kind: str
) -> list[Scorer]:
    from rewards.evaluation.evaluate import Scorer

    names = [given] if isinstance(given, str) else given
    each = given if isinstance(given, Mapping) else {name: name for name in names}
    judge = kind == "pairwise"
    specs = [(name, to_spec(one, sections=sections, kind=kind)) for name, one in each.items()]
    return [
        Scorer(name, (as_judge(spec) if judge else spec).lenient(), judge=judge)
        for name, spec in specs
    ]


def _written(summary: Mapping[str, object]) -> Path | None:
    out = cast(str, summary["out"])
    return None if out == "-" else Path(out)
