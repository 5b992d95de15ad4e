"""The RAFT loop (Dong et al. 2023, arXiv 2304.06767): sample, score, select, fine-tune, repeat.

    for t in 1 … T:  draw K responses to each of b prompts from the current policy
                     score them; keep the best (or what the selector says)
                     fine-tune the current policy on what was kept
                     give the rollout workers the new weights, verified
                     evaluate on the held-out prompts; end where a guard of the monitor says so

Every stage leaves a whole file behind and is skipped when that file is there: a run that was
killed goes on where it was. Where a stage runs, and on what, is the pools' business.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from pathlib import Path

from raft.assemble import (
    Pools,
    check_model,
    eval_sampling,
    start_pools,
    train_sampling,
)
from raft.collect import collect
from raft.config.run import RunConfig
from raft.curves import draw_curves
from raft.evaluation import by_judge, compare, judge_metrics, summarize, with_references
from raft.monitor.monitor import Monitor, build_monitor, load_reference
from raft.runs.environment import describe_environment
from raft.runs.folder import UNFINISHED, RunFolder
from raft.runs.metrics import report_line
from raft.runs.prompts import digest, load_prompts, prompts_of
from raft.runs.sinks import Sinks
from raft.select_rows import choose
from raft.updates.protocol import METRICS_FILE
from raft.workers.rollout_pool import Policy, Probe
from raft.workers.trainer_pool import TrainerPool
from rollout.data.samples import read_samples
from rollout.seeds import derive_seed
from rollout.storage.files import disk_full_as_input_error, read_json
from rollout.storage.rollout_store import RolloutStore
from rollout.types import Prompt

log = logging.getLogger("raft")

# how far an engine's log-probabilities may lie from the trainer's, nats per token on average
_TOLERANCE = 1e-3
_TOLERANCE_16_BIT = 0.05
_PROBE_TOKENS = 64

CURVES = "curves.png"


def run(config: RunConfig) -> Path:
    """Run or continue the RAFT iterations of `config`; returns the run folder.

    Raises:
        InputError: the config, its files or the run folder are wrong; nothing is lost.
    """
    check_model(config.policy.model, "policy.model")
    for key, reward in (("reward", config.reward), ("gold", config.gold)):
        for part in [] if reward is None else reward.everything():
            if part.model and part.kind != "remote":
                check_model(part.model, f"{key}.model")
    # before the folder: a mistyped path leaves nothing behind that its correction would contradict
    prompts, held_out = load_prompts(config)
    reference = load_reference(config)
    prompts_of(1, prompts, config.prompts.per_iteration, config.seed)
    with RunFolder(config.run_dir, config.model_dump(mode="json")) as folder:
        folder.settle_prompts(digest(prompts, held_out))
        monitor = build_monitor(config, folder, reference)
        stopped = monitor.standing_stop()
        if stopped or _finished(config, folder):
            if stopped:
                log.warning(stopped)
            else:
                log.info("%s is finished: %d iterations", folder.root, folder.latest_version())
            if not (folder.root / CURVES).exists():
                draw_curves([folder.root], folder.root / CURVES)
            return folder.root
        folder.write_environment(describe_environment())
        sinks_of_run = Sinks(
            config.log.sinks, folder.root, config.log.wandb_project, config.model_dump()
        )
        with sinks_of_run as sinks, start_pools(config, folder) as pools:
            log.info("policy %s, engine %s", config.policy.model, pools.rollout.describe())
            check_start(config, pools, held_out)
            for iteration in range(config.iterations + 1):
                start = time.monotonic()
                if iteration > 0:
                    improve(config, folder, pools, prompts, held_out, iteration, sinks)
                stopped = None
                if iteration % config.eval.every == 0 or iteration == config.iterations:
                    stopped = evaluate(
                        config, folder, pools, held_out, iteration, sinks, start, monitor
                    )
                folder.drop_old_checkpoints(config.keep_checkpoints, monitor.best_iteration())
                if stopped:
                    log.warning(stopped)
                    break
        draw_curves([folder.root], folder.root / CURVES)
        return folder.root


def improve(
    config: RunConfig,
    folder: RunFolder,
    pools: Pools,
    prompts: list[Prompt],
    held_out: list[Prompt],
    iteration: int,
    sinks: Sinks,
) -> None:
    """One RAFT iteration: policy version `iteration` − 1 becomes version `iteration`."""
    if folder.has_metrics(iteration, "train"):
        return
    began = time.monotonic()
    home = folder.iteration(iteration)
    batch = prompts_of(iteration, prompts, config.prompts.per_iteration, config.seed)
    store = RolloutStore(home, "rollouts", batch, version=iteration - 1)
    spent = collect(
        pools,
        store,
        batch,
        train_sampling(config),
        derive_seed(config.seed, "rollout", iteration),
        seed_per_prompt=config.sampling.seed_per_prompt,
        names=["reward"],
        title=f"iteration {iteration}: rollouts",
    )

    start = time.monotonic()
    chosen = home / "selected.jsonl"
    rule = config.select
    kept = choose(store.rows, chosen, rule.strategy, rule.arguments(), rule.filters())
    selected_at = time.monotonic()

    trained = train(config, folder, pools, chosen, iteration)
    trained_at = time.monotonic()

    sync(config, folder, pools, held_out, iteration)
    synced_at = time.monotonic()
    judged = by_judge(config.reward, config.gold, alone=False)
    row = {
        **summarize(store.rows(), "rollout", without_means=judged),
        **judge_metrics(pools.reward.reports, "rollout"),
        **kept,
        **trained,
        **_of_drawing(spent, len(batch)),
        "time/select": selected_at - start,
        "time/train": trained_at - selected_at,
        "time/sync": synced_at - trained_at,
        # the evaluation's row, where there is one, has the whole
        "time/iteration": synced_at - began,
        "policy/version": iteration,
    }
    sinks.write(folder.add_metrics(iteration, "train", row))


def train(
    config: RunConfig, folder: RunFolder, pools: Pools, chosen: Path, iteration: int
) -> dict[str, float]:
    """The SFT update on the selected rows, or its stored result when it is done already."""
    checkpoint = folder.checkpoint(iteration)
    if checkpoint.is_dir():
        folder.drop_unfinished_checkpoints(iteration)
        return read_json(checkpoint / METRICS_FILE)
    trainer = pools.trainer
    assert trainer is not None, "an iteration is left to do, so a trainer was started"
    if pools.take_turns:
        pools.rollout.sleep()
        pools.reward.sleep()
        trainer.wake()
    # another name for every attempt: a trainer that a killed run left behind may still be writing
    working = checkpoint.with_name(f"{UNFINISHED}{uuid.uuid4().hex[:8]}")
    seed = derive_seed(config.seed, "train", iteration)
    with disk_full_as_input_error(checkpoint):
        trainer.train(str(chosen), str(working), str(checkpoint), seed)
        os.replace(working, checkpoint)
    folder.drop_unfinished_checkpoints(iteration)
    return read_json(checkpoint / METRICS_FILE)


def sync(
    config: RunConfig, folder: RunFolder, pools: Pools, held_out: list[Prompt], iteration: int
) -> None:
    """Bring the rollout workers to policy version `iteration` and verify that they hold it."""
    if pools.rollout.version == iteration:  # a resumed run started them on it
        return
    trainer = pools.trainer
    assert trainer is not None, "an iteration is left to do, so a trainer was started"
    probe = _probe(config, pools, trainer, held_out)
    if pools.take_turns:
        trainer.sleep()
    pools.rollout.sync(Policy(str(folder.checkpoint(iteration)), iteration, probe))
    if pools.take_turns:
        pools.rollout.wake()
        pools.reward.wake()


def check_start(config: RunConfig, pools: Pools, held_out: list[Prompt]) -> None:
    """Engine and trainer must compute the same policy before hours are spent on it.

    Where they share GPUs the check waits for the first sync: they are not awake together.
    """
    if pools.trainer is not None and not pools.take_turns:
        pools.rollout.verify(_probe(config, pools, pools.trainer, held_out))


def evaluate(
    config: RunConfig,
    folder: RunFolder,
    pools: Pools,
    held_out: list[Prompt],
    iteration: int,
    sinks: Sinks,
    iteration_start: float,
    monitor: Monitor,
) -> str | None:
    """The held-out prompts under policy version `iteration`; the same seeds every time.

    Returns why the run ends here, where a guard of the monitor says so.
    """
    if folder.has_metrics(iteration, "eval"):
        return monitor.check(iteration)  # its rules may have changed since
    start = time.monotonic()
    at_start = folder.iteration(0) / "eval.jsonl"
    judged = by_judge(config.reward, config.gold)
    if by_judge(config.reward, config.gold, alone=False):
        held_out = with_references(held_out, read_samples(at_start) if iteration else None)
    store = RolloutStore(folder.iteration(iteration), "eval", held_out, version=iteration)
    collect(
        pools,
        store,
        held_out,
        eval_sampling(config),
        derive_seed(config.seed, "eval"),
        seed_per_prompt=config.sampling.seed_per_prompt,
        names=pools.reward_names,
        title=f"iteration {iteration}: held-out",
    )
    measured = monitor.measure(iteration, pools.log_probs)
    now = time.monotonic()
    row = {
        **summarize(store.rows(), "eval"),
        **measured,
        # the starting policy on the same prompts
        **compare(store.rows(), read_samples(at_start), judged),
        **judge_metrics(pools.reward.reports, "eval"),
        "time/eval": now - start,
        "time/iteration": now - iteration_start,
        "policy/version": iteration,
    }
    # judged before it is stored: a run that is killed between the two evaluates once more
    stopped = monitor.check(iteration, row)
    sinks.write(folder.add_metrics(iteration, "eval", row))
    log.info(report_line(folder.metrics(), iteration))
    return stopped


def _of_drawing(spent: dict[str, float], prompts: int) -> dict[str, float]:
    """What `collect` did in this process; nothing where an earlier one had finished it."""
    drawn = spent.get("tokens", 0.0)
    speed = {"rollout/tokens_per_second": drawn / spent["generate"]} if drawn else {}
    return {
        **speed,
        "rollout/reused": int(spent.get("reused", prompts)),
        "time/generate": spent.get("generate", 0.0),
        "time/score": spent.get("score", 0.0),
        "time/score_busy": spent.get("score_busy", 0.0),
    }


def _finished(config: RunConfig, folder: RunFolder) -> bool:
    last = config.iterations
    if folder.latest_version() > last:  # fewer asked for than there are: no older policy is redone
        return True
    return folder.has_metrics(last, "eval") and (last == 0 or folder.has_metrics(last, "train"))


def _probe(config: RunConfig, pools: Pools, trainer: TrainerPool, held_out: list[Prompt]) -> Probe:
    """Held-out prompts end to end, so that short ones make a probe too; no longer than one sample.

    A text of one token has no log-probabilities, and would verify nothing.
    """
    longest = max(len(prompt.token_ids) for prompt in held_out) + config.sampling.max_new_tokens
    ids = tuple(token for prompt in held_out[:_PROBE_TOKENS] for token in prompt.token_ids)
    ids = (ids if len(ids) > 1 else ids * 2)[: min(_PROBE_TOKENS, longest)]
    return Probe(ids, tuple(trainer.log_probs(ids)), _tolerance(config, pools))


def _tolerance(config: RunConfig, pools: Pools) -> float:
    sixteen_bit = config.policy.dtype in ("bfloat16", "float16") or (
        config.policy.dtype == "auto" and pools.on_gpu
    )
    return _TOLERANCE_16_BIT if sixteen_bit else _TOLERANCE
