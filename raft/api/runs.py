"""`raft.run`, `replay`, `draw_curves` and `write_report`: make a run and look at what it did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from raft.api.inputs import Data, File, check_at_least
from raft.api.results import CurvesResult, ReplayResult, ReportResult, RunResult
from raft.config.load import RunConfig, load_config
from raft.logs import log_for_program
from raft.resources import libraries_loading
from raft.runs.metrics import read_metrics
from rollout.errors import InputError

if TYPE_CHECKING:
    from raft.curves.axes import XScale
    from raft.stored.replay import Report

__all__ = ["draw_curves", "replay", "run", "write_report"]


def run(
    config: RunConfig | Mapping[str, object] | str | Path, overrides: Sequence[str] = ()
) -> RunResult:
    """Run the RAFT iterations of a config, or go on with an interrupted run.

    Args:
        config: a YAML file, its keys as a mapping, or what `load_config` made of them.
        overrides: `key.sub=value`: `["sampling.k=16"]`.

    Raises:
        InputError: the config, its files or the run folder are wrong; nothing is lost.
        RewardError: a reward that cannot be computed.
    """
    from raft.loop import run as run_iterations

    log_for_program()
    if not isinstance(config, RunConfig):
        config = load_config(config, list(overrides))
    elif overrides:
        raise InputError("overrides", "the config is made already", "give load_config them")
    with libraries_loading(config):
        folder = run_iterations(config)
    return RunResult(folder, read_metrics(folder))


def replay(
    source: Data,
    *,
    k: Iterable[int] | None = None,
    strategy: str | None = None,
    tournament: str | None = None,
    reward_weights: str | None = None,
    length_penalty: str | None = None,
    filters: Sequence[str] = (),
    adaptive: str | None = None,
    iteration: int | None = None,
    draws: int = 20,
    seed: int = 0,
    out_dir: str | Path | None = None,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
) -> ReplayResult:
    """Select again from stored samples with other settings, without a model.

    Args:
        source: a run folder, a file, or rows `{"prompt", "responses", "scores"}`.
        k: numbers of responses to select from.
        strategy, tournament, reward_weights, length_penalty: as the options of the command have
            them: `"best_of_k,top_m:m=2"`, `"knockout"`, `"scores=1,gold_scores=0.5"`,
            `"weight=0.01"`.
        filters: changes, `["min_chars=2"]`, to those of the run; "none" removes those first.
        adaptive: measure drawing in waves: `"first=4,wave=4,most=32,cost=0.05"`.
        iteration: the one to replay; by default all.
        draws: random subsets for each K.
        out_dir: a folder for replay.md, replay.json, replay.png and replay.svg.

    Raises InputError for rows without scores, and for settings that fit nothing.
    """
    from raft.stored import rules
    from raft.stored.replay import Plan
    from raft.stored.replay import replay as replay_source
    from raft.stored.source import find_samples
    from rollout.storage.files import make_out_folder

    log_for_program()
    check_draws(draws)
    check_at_least(seed=(0, seed))
    file = File(source, "pool")
    folder = None if out_dir is None else make_out_folder(str(out_dir))
    tried = rules.parse_rules(strategy) if strategy is not None else []
    if tournament is not None:
        tried += rules.parse_rules(tournament, tournaments=True)
    weights, penalty = rules.parse_weights(reward_weights), rules.parse_penalty(length_penalty)
    found = find_samples(file.name, iteration, split=split, columns=columns or {})
    plan = Plan(
        filters=rules.parse_filters(filters, found.own.filters if found.own else {}),
        ks=None if k is None else _numbers(k),
        rules=tuple(tried) or None,
        scoring=rules.Scoring(weights, penalty),
        adaptive=rules.parse_adaptive(adaptive),
        draws=draws,
        seed=seed,
    )
    report = replay_source(found, plan)
    return ReplayResult(report, [] if folder is None else _write_replay(report, folder))


def _write_replay(report: Report, folder: Path) -> list[Path]:
    from raft.stored.plot import draw_replay
    from raft.stored.report import as_markdown
    from rollout.storage.files import write_report_files

    files = write_report_files(folder, "replay", as_markdown(report), asdict(report))
    return files + draw_replay(report, folder / "replay")


def draw_curves(
    runs: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    panels: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    x: str = "iteration",
    x_scale: XScale = "linear",
    labels: Sequence[str] | None = None,
    style: Literal["screen", "paper"] = "screen",
    width: float | None = None,
    data: str | Path | None = None,
) -> CurvesResult:
    """Draw the metrics of one run or of several in one picture.

    Everything is as `raft.curves.draw_curves` takes it; a run alone may be named without a list.

    Raises InputError where nothing can be drawn or written.
    """
    from raft.curves import draw_curves as draw
    from raft.curves.curves import drawn_points

    log_for_program()
    runs = [runs] if isinstance(runs, str | Path) else runs
    files = draw(
        runs, out, panels=panels, metrics=metrics, x=x, x_scale=x_scale, labels=labels,
        style=style, width=width, data=data,
    )  # fmt: skip
    points = partial(drawn_points, runs, panels=panels, metrics=metrics, x=x, labels=labels)
    return CurvesResult(files, points)


def write_report(
    runs: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    max_prompts: int | None = None,
) -> ReportResult:
    """Write one HTML page about a run, or about several side by side: curves, samples, settings.

    Everything is as `raft.report.write_report` takes it.

    Raises InputError for a folder that holds nothing of a run, and an `out` that cannot be written.
    """
    from raft.report import write_report as write

    log_for_program()
    runs = [runs] if isinstance(runs, str | Path) else list(runs)
    page = write(runs, out, prompts=max_prompts)
    metrics: list[dict[str, object]] = []
    for run in runs:
        # a run whose first row is yet to come has a page too
        known = (Path(run) / "metrics.jsonl").is_file()
        rows = read_metrics(run, on_damage=lambda _: None) if known else []
        metrics += [{"run": str(run), **row} for row in rows]
    return ReportResult(page, metrics)


def check_draws(draws: int) -> None:
    """Check that `draws` is at least 2, so that an error can be estimated.

    Raises InputError for fewer.
    """
    if draws < 2:
        raise InputError(
            f"--draws {draws}", "an estimate needs 2 random subsets or more", "raise it"
        )


def _numbers(ks: Iterable[int]) -> tuple[int, ...]:
    """Return the numbers in rising order, each once.

    Raises InputError where there is none, or for one that is not a whole number of 1 or more.
    """
    found = sorted(set(ks))
    if not found or not all(isinstance(one, int) and one > 0 for one in found):
        raise InputError(
            f"--k {','.join(map(str, found))}",
            "must be whole numbers of 1 or more",
            "write them as in --k 2,4,8",
        )
    return tuple(found)
