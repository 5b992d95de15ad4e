"""The RAFT loop (Dong et al. 2023, arXiv 2304.06767): sample, score, select, fine-tune, repeat.

    for t in 1 … T:  draw K responses to each of b prompts from the current policy, and score them
                     select the best (or what the strategy says)
                     fine-tune the current policy on the selected responses
                     give the rollout workers the new weights, verified
                     evaluate on the held-out prompts; end where a guard of the monitor says so

A killed run goes on: what was drawn, scored, trained and evaluated is stored and not made again.
Rows are selected again, the same ones, and the engines start on the newest policy.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from raft.assemble import WorkerGroups, record_models, start_workers
from raft.collect import Collected, draw_ahead, draw_batch, draw_held_out
from raft.evaluation import summarize_held_out, summarize_rollouts
from raft.runs.folder import RunFolder
from raft.runs.metrics import Metric, Sinks, Stopwatch, read_numbers, report_line
from raft.runs.prompts import Texts, digest, encode_texts
from raft.selection.mix import write_mixed
from raft.selection.rows import write_selected
from raft.train import check_start, rehearse, save_optimizer, sync, train
from rewards.checkpoints.hub import local_path
from rollout.engines.transfer import WITHOUT_DISK
from rollout.types import Prompt

if TYPE_CHECKING:
    from raft.config.run import RunConfig
    from raft.monitor.kl import PolicyMeasures
    from raft.monitor.monitor import Monitor
    from raft.selection.mix import Example

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
    measures: PolicyMeasures
    sinks: Sinks
    start_seconds: float  # until the engines were ready
    mix: Sequence[Example] = ()
    # of batches that were drawn ahead (`overlap: 1`), by iteration
    ahead: dict[int, Collected] = field(default_factory=dict[int, Collected])

    def finish_checkpoint(self) -> None:
        """Wait until the last checkpoint has its optimizer, and delete those that it replaces."""
        if self.workers.trainer is not None:
            self.workers.trainer.wait_stored()
        self.drop_old_checkpoints()

    def drop_old_checkpoints(self) -> None:
        keep, overlap = self.config.keep_checkpoints, self.config.overlap
        self.folder.drop_old_checkpoints(keep, self.monitor.best_iteration(), overlap)

    def log(self, iteration: int, phase: str, metrics: Mapping[str, Metric]) -> None:
        if not self.folder.has_metrics(iteration, phase):  # of an update that is made again
            self.sinks.write(self.folder.add_metrics(iteration, phase, metrics))


def run(config: RunConfig) -> Path:
    """Run or continue the RAFT iterations of `config`, and return the run folder.

    Raises:
        InputError: the config, its files or the run folder are wrong; nothing is lost.
    """
    from raft.curves import draw_curves
    from raft.runs.check import check_run

    texts = check_run(config)  # what is wrong shows before anything starts
    root = _run(config, texts)
    if config.control is not None:  # a second run, on scores permuted within each prompt
        log.info("the control of %s: each prompt's scores are dealt at random", root)
        _run(config.of_control(read_numbers(root)[-1].iteration), texts)
        draw_curves([root], root / "curves.png")
    return root


def _run(config: RunConfig, texts: Texts) -> Path:
    from raft.curves import draw_curves
    from raft.monitor.monitor import Monitor, policy_measures

    with RunFolder(config.run_dir, config.model_dump(mode="json")) as folder:
        monitor = Monitor(folder, config.monitor, local_path(config.policy.model))
        over, curves = monitor.is_over(config.iterations), folder.root / "curves.png"
        if not over:
            record_models(config, folder)
            started = time.monotonic()
            with (
                Sinks(config.log, folder.root, config.model_dump()) as sinks,
                start_workers(config, folder) as workers,
            ):
                # while the workers start: encoding imports the tokenizer, which takes seconds
                prompts, held_out = encode_texts(config, texts)
                folder.record_prompts(digest(prompts, held_out, texts.mix))
                measures = policy_measures(config)
                engine, seconds = workers.rollout.describe(), time.monotonic() - started
                log.info("policy %s, engine %s, %.0f s", config.policy.model, engine, seconds)
                rehearse(config, workers, prompts)  # what a GPU has no memory for shows here
                iterate(Run(config, folder, workers, prompts, held_out, monitor, measures,
                            sinks, start_seconds=seconds, mix=texts.mix))  # fmt: skip
        if not (over and curves.exists()):
            draw_curves([folder.root], curves)
        return folder.root


def iterate(run: Run) -> None:
    """Evaluate the starting policy (iteration 0), then improve and evaluate in turn."""
    if run.folder.has_metrics(0, "eval"):  # else when the first samples are drawn
        check_start(run.folder, run.workers, run.held_out)
    for iteration in range(run.config.iterations + 1):
        watch, stopped = Stopwatch(), None
        if run.config.trains_in(iteration):
            improve(run, iteration)
        if not run.folder.learned(iteration):  # its policy is the one before
            run.workers.rollout.relabel(iteration)
        # a resumed run's engines may hold a later policy already
        there = run.workers.rollout.version <= iteration
        if there and run.config.evaluation_due(iteration, len(run.held_out)):
            stopped = evaluate(run, iteration, watch)
        run.drop_old_checkpoints()
        if stopped:
            log.warning(stopped)
            break
        run.monitor.check_idle()
    run.finish_checkpoint()


def improve(run: Run, iteration: int) -> None:
    """Make one RAFT iteration: policy version `iteration` − 1 becomes version `iteration`."""
    if run.folder.improved(iteration):
        return
    config, folder, workers, prompts = run.config, run.folder, run.workers, run.prompts
    watch, home, update = Stopwatch(), folder.iteration(iteration), config.train.update
    store, collected = draw_batch(config, folder, workers, prompts, iteration)
    collected = run.ahead.pop(iteration, collected)
    with watch("select"):
        kept = write_selected(store.rows, home / "selected.jsonl", config.select, config.seed,
                              iteration, update.weights)  # fmt: skip
        write_mixed(config, run.mix, home, int(kept["select/kept"]), iteration)
    with watch("train"):
        if folder.latest_version() < iteration:
            run.finish_checkpoint()  # the optimizer of the update before is not written yet
        ahead = partial(draw_ahead, config, folder, workers, prompts, iteration, run.ahead)
        trained = train(config, folder, workers, iteration, ahead, learns=kept["select/kept"] > 0)
    with watch("sync"):
        sync(folder, workers, run.held_out, iteration, send=config.policy.sync in WITHOUT_DISK)
    save_optimizer(folder, workers, iteration)
    row = {
        **summarize_rollouts(config, store, kept, collected.reports),
        **trained,
        **collected.metrics(),
        **watch.metrics(),  # the evaluation's row, where there is one, has the whole iteration
        "policy/version": iteration,
    }
    run.log(iteration, "train", row)


def evaluate(run: Run, iteration: int, watch: Stopwatch) -> str | None:
    """Evaluate policy version `iteration` on the held-out prompts, by the same seeds every time.

    Returns why the run ends here, where a guard says so. `watch` runs since the iteration began.
    """
    config, folder, monitor = run.config, run.folder, run.monitor
    if folder.has_metrics(iteration, "eval"):
        return monitor.check(iteration)  # its rules may have changed since
    with watch("eval"):
        store = draw_held_out(config, folder, run.workers, run.held_out, iteration)
    if iteration == 0:  # the trainer has started beside the drawing
        with watch("start", before=run.start_seconds):
            check_start(folder, run.workers, run.held_out, store)
    with watch("eval"):
        measured = monitor.measure(iteration, run.measures, run.workers.log_probs)
    row = {
        **summarize_held_out(config, store, folder.at_start(), run.workers.reward.reports),
        **measured,
        **watch.metrics(),
        "policy/version": iteration,
    }
    # judged before it is stored: a run that is killed between the two evaluates once more
    stopped = monitor.check(iteration, row)
    run.log(iteration, "eval", row)
    log.info(report_line(folder.metrics(), iteration))
    return stopped
