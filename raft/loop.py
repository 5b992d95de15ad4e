"""The RAFT loop (Dong et al. 2023, arXiv 2304.06767): sample, score, select, fine-tune, repeat.

    for t in 1 … T:  draw K responses to each of b prompts from the current policy, and score them
                     select the best (or what the strategy says)
                     fine-tune the current policy on the selected responses
                     give the rollout workers the new weights, verified
                     evaluate on the held-out prompts; end where a guard of the monitor says so

Every stage leaves a whole file behind and is skipped when that file is there: a run that was
killed goes on where it was. Where a stage runs, and on what, is the worker groups' business.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raft.assemble import WorkerGroups, check_models, start_workers
from raft.collect import collect
from raft.evaluation import by_judge, compare, judge_metrics, summarize, with_references
from raft.runs.environment import describe_environment
from raft.runs.folder import RunFolder
from raft.runs.metrics import Metric, Sinks, Stopwatch, report_line
from raft.runs.prompts import digest, load_prompts, prompts_of
from raft.select_rows import choose
from raft.train import check_start, sync, train
from rollout.data.samples import read_samples
from rollout.seeds import derive_seed
from rollout.storage.rollout_store import RolloutStore
from rollout.types import Prompt

if TYPE_CHECKING:
    from raft.config.run import RunConfig
    from raft.monitor.monitor import Monitor

log = logging.getLogger("raft")


@dataclass(frozen=True)
class Run:
    """A run that is under way: its settings, its folder, its workers and its prompts."""

    config: RunConfig
    folder: RunFolder
    workers: WorkerGroups
    prompts: list[Prompt]
    held_out: list[Prompt]
    monitor: Monitor
    sinks: Sinks

    def log(self, iteration: int, phase: str, metrics: Mapping[str, Metric]) -> None:
        self.sinks.write(self.folder.add_metrics(iteration, phase, metrics))


def run(config: RunConfig) -> Path:
    """Run or continue the RAFT iterations of `config`; returns the run folder.

    Raises:
        InputError: the config, its files or the run folder are wrong; nothing is lost.
    """
    from raft.curves import draw_curves
    from raft.monitor.monitor import build_monitor, load_reference

    check_models(config)
    # before the folder: a mistyped path leaves nothing behind that its correction would contradict
    prompts, held_out = load_prompts(config)
    reference = load_reference(config)
    prompts_of(1, prompts, config.prompts.per_iteration, config.seed)
    with RunFolder(config.run_dir, config.model_dump(mode="json")) as folder:
        folder.settle_prompts(digest(prompts, held_out))
        monitor = build_monitor(config, folder, reference)
        over, curves = _is_over(config, folder, monitor), folder.root / "curves.png"
        if not over:
            folder.write_environment(describe_environment())
            with (
                Sinks(config.log, folder.root, config.model_dump()) as sinks,
                start_workers(config, folder) as workers,
            ):
                log.info("policy %s, engine %s", config.policy.model, workers.rollout.describe())
                iterate(Run(config, folder, workers, prompts, held_out, monitor, sinks))
        if not (over and curves.exists()):
            draw_curves([folder.root], curves)
        return folder.root


def iterate(run: Run) -> None:
    """Evaluate the starting policy (iteration 0), then improve and evaluate in turn."""
    check_start(run.config, run.workers, run.held_out)
    for iteration in range(run.config.iterations + 1):
        watch, stopped = Stopwatch(), None
        if iteration > 0:
            improve(run, iteration)
        if iteration % run.config.eval.every == 0 or iteration == run.config.iterations:
            stopped = evaluate(run, iteration, watch)
        run.folder.drop_old_checkpoints(run.config.keep_checkpoints, run.monitor.best_iteration())
        if stopped:
            log.warning(stopped)
            break


def improve(run: Run, iteration: int) -> None:
    """One RAFT iteration: policy version `iteration` − 1 becomes version `iteration`."""
    if run.folder.has_metrics(iteration, "train"):
        return
    config, watch = run.config, Stopwatch()
    home = run.folder.iteration(iteration)
    batch = prompts_of(iteration, run.prompts, config.prompts.per_iteration, config.seed)
    store = RolloutStore(home, "rollouts", batch, version=iteration - 1)
    collected = collect(
        run.workers,
        store,
        batch,
        config.sampling,
        derive_seed(config.seed, "rollout", iteration),
        names=["reward"],
        title=f"iteration {iteration}: rollouts",
    )
    selected, rule = home / "selected.jsonl", config.select
    with watch("select"):
        kept = choose(store.rows, selected, rule.strategy, rule.arguments(), rule.filters())
    with watch("train"):
        trained = train(run.config, run.folder, run.workers, selected, iteration)
    with watch("sync"):
        sync(run.config, run.folder, run.workers, run.held_out, iteration)
    # the evaluation's row, where there is one, has the whole iteration
    times = watch.metrics()
    judged = by_judge(config.reward, config.gold, alone=False)
    row = {
        **summarize(store.rows(), "rollout", without_means=judged),
        **judge_metrics(run.workers.reward.reports, "rollout"),
        **kept,
        **trained,
        **collected.metrics(),
        **times,
        "policy/version": iteration,
    }
    run.log(iteration, "train", row)


def evaluate(run: Run, iteration: int, watch: Stopwatch) -> str | None:
    """The held-out prompts under policy version `iteration`; the same seeds every time.

    Returns why the run ends here, where a guard of the monitor says so. `watch` has run since the
    iteration began.
    """
    config, folder, monitor = run.config, run.folder, run.monitor
    if folder.has_metrics(iteration, "eval"):
        return monitor.check(iteration)  # its rules may have changed since
    at_start = folder.iteration(0) / "eval.jsonl"
    held_out = run.held_out
    with watch("eval"):
        if by_judge(config.reward, config.gold, alone=False):
            held_out = with_references(held_out, read_samples(at_start) if iteration else None)
        store = RolloutStore(folder.iteration(iteration), "eval", held_out, version=iteration)
        collect(
            run.workers,
            store,
            held_out,
            config.eval_sampling,
            derive_seed(config.seed, "eval"),
            names=run.workers.reward.names,
            title=f"iteration {iteration}: held-out",
        )
        measured = monitor.measure(iteration, run.workers.log_probs)
    times = watch.metrics()
    row = {
        **summarize(store.rows(), "eval"),
        **measured,
        # the starting policy on the same prompts
        **compare(store.rows(), read_samples(at_start), by_judge(config.reward, config.gold)),
        **judge_metrics(run.workers.reward.reports, "eval"),
        **times,
        "policy/version": iteration,
    }
    # judged before it is stored: a run that is killed between the two evaluates once more
    stopped = monitor.check(iteration, row)
    run.log(iteration, "eval", row)
    log.info(report_line(folder.metrics(), iteration))
    return stopped


def _is_over(config: RunConfig, folder: RunFolder, monitor: Monitor) -> bool:
    """Whether nothing is left to do, as the log then says."""
    last = config.iterations
    if stopped := monitor.standing_stop():
        log.warning(stopped)
        return True
    # fewer iterations asked for than there are: no older policy is redone
    finished = folder.latest_version() > last or (
        folder.has_metrics(last, "eval") and (last == 0 or folder.has_metrics(last, "train"))
    )
    if finished:
        log.info("%s is finished: %d iterations", folder.root, folder.latest_version())
    return finished
