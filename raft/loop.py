"""The RAFT loop (Dong et al. 2023, arXiv 2304.06767): sample, score, select, fine-tune, repeat.

    for t in 1 … T:  draw K responses to each of b prompts from the current policy
                     score them; keep the best (or what the selector says)
                     fine-tune the current policy on what was kept
                     give the rollout workers the new weights, verified
                     evaluate on the held-out prompts

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
    load_prompts,
    start_pools,
    train_sampling,
)
from raft.choose import choose
from raft.collect import collect
from raft.config import RunConfig
from raft.curves import draw_curves
from raft.environment import describe_environment
from raft.evaluate import summarize
from raft.files import read_json, remove_tree
from raft.report_line import report_line
from raft.rollout_pool import Policy, Probe
from raft.rollout_store import RolloutStore
from raft.run_folder import RunFolder
from raft.schedule import prompts_of
from raft.sinks import Sinks
from raft.trainer import METRICS_FILE
from rollout.seeds import derive_seed
from rollout.types import Prompt

log = logging.getLogger("raft")

# how far an engine's log-probabilities may lie from the trainer's, nats per token on average
_TOLERANCE = 1e-3
_TOLERANCE_16_BIT = 0.05
_PROBE_TOKENS = 64


def run(config: RunConfig) -> Path:
    """Run or continue the RAFT iterations of `config`; returns the run folder.

    Raises:
        InputError: the config, its files or the run folder are wrong; nothing is lost.
    """
    check_model(config.policy.model, "policy.model")
    for key, reward in (("reward", config.reward), ("gold", config.gold)):
        if reward is not None and reward.model:
            check_model(reward.model, f"{key}.model")
    with RunFolder(config.run_dir, config.model_dump()) as folder:
        folder.write_environment(describe_environment())
        prompts, held_out = load_prompts(config)
        prompts_of(1, prompts, config.prompts.per_iteration, config.seed)
        if _finished(config, folder):
            log.info("%s is finished: %d iterations", folder.root, config.iterations)
            return folder.root
        sinks_of_run = Sinks(
            config.log.sinks, folder.root, config.log.wandb_project, config.model_dump()
        )
        with sinks_of_run as sinks, start_pools(config, folder) as pools:
            log.info("policy %s, engine %s", config.policy.model, pools.rollout.describe())
            for iteration in range(config.iterations + 1):
                start = time.monotonic()
                if iteration > 0:
                    improve(config, folder, pools, prompts, held_out, iteration, sinks)
                if iteration % config.eval.every == 0 or iteration == config.iterations:
                    evaluate(config, folder, pools, held_out, iteration, sinks, start)
                folder.drop_old_checkpoints(config.keep_checkpoints)
        draw_curves([folder.root], folder.root / "curves.png")
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
    filters = config.select.model_dump(
        include={"reject_pattern", "min_chars", "allow_truncated", "unique"}
    )
    kept = choose(store.rows, chosen, config.select.strategy, config.select.arguments(), filters)
    selected_at = time.monotonic()

    trained = train(config, folder, pools, chosen, iteration)
    trained_at = time.monotonic()

    sync(config, folder, pools, held_out, iteration)
    times = {
        "time/generate": spent.get("generate", 0.0),
        "time/score": spent.get("score", 0.0),
        "time/score_busy": spent.get("score_busy", 0.0),
        "time/select": selected_at - start,
        "time/train": trained_at - selected_at,
        "time/sync": time.monotonic() - trained_at,
    }
    drawn = spent.get("tokens", 0.0)
    speed = {"rollout/tokens_per_second": drawn / spent["generate"]} if drawn else {}
    row = folder.add_metrics(
        iteration,
        "train",
        {
            **summarize(store.rows(), "rollout"),
            **kept,
            **trained,
            **speed,
            "rollout/reused": int(spent.get("reused", len(batch))),
            **times,
            "policy/version": iteration,
        },
    )
    sinks.write(row)


def train(
    config: RunConfig, folder: RunFolder, pools: Pools, chosen: Path, iteration: int
) -> dict[str, float]:
    """The SFT update on the selected rows, or its stored result when it is done already."""
    checkpoint = folder.checkpoint(iteration)
    if checkpoint.is_dir():
        return read_json(checkpoint / METRICS_FILE)
    trainer = pools.trainer
    assert trainer is not None, "an iteration is left to do, so a trainer was started"
    if pools.take_turns:
        pools.rollout.sleep()
        pools.reward.sleep()
        trainer.wake()
    # another name for every attempt: a trainer that a killed run left behind may still be writing
    working = checkpoint.with_name(f".checkpoint-{uuid.uuid4().hex[:8]}")
    trainer.train(
        str(chosen), str(working), str(checkpoint), derive_seed(config.seed, "train", iteration)
    )
    os.replace(working, checkpoint)
    for leftover in checkpoint.parent.glob(".checkpoint-*"):
        remove_tree(leftover)
    return read_json(checkpoint / METRICS_FILE)


def sync(
    config: RunConfig, folder: RunFolder, pools: Pools, held_out: list[Prompt], iteration: int
) -> None:
    """Bring the rollout workers to policy version `iteration` and verify that they hold it."""
    if pools.rollout.version == iteration:  # a resumed run started them on it
        return
    trainer = pools.trainer
    assert trainer is not None, "an iteration is left to do, so a trainer was started"
    tokens = held_out[0].token_ids[-_PROBE_TOKENS:]
    log_probs = tuple(trainer.log_probs(tokens))
    if pools.take_turns:
        trainer.sleep()
    probe = Probe(tokens, log_probs, _tolerance(config, pools))
    pools.rollout.sync(Policy(str(folder.checkpoint(iteration)), iteration, probe))
    if pools.take_turns:
        pools.rollout.wake()
        pools.reward.wake()


def evaluate(
    config: RunConfig,
    folder: RunFolder,
    pools: Pools,
    held_out: list[Prompt],
    iteration: int,
    sinks: Sinks,
    iteration_start: float,
) -> None:
    """The held-out prompts under policy version `iteration`; the same seeds every time."""
    if folder.has_metrics(iteration, "eval"):
        return
    start = time.monotonic()
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
    now = time.monotonic()
    row = folder.add_metrics(
        iteration,
        "eval",
        {
            **summarize(store.rows(), "eval"),
            "time/eval": now - start,
            "time/iteration": now - iteration_start,
            "policy/version": iteration,
        },
    )
    sinks.write(row)
    log.info(report_line(folder.metrics(), iteration))


def _finished(config: RunConfig, folder: RunFolder) -> bool:
    last = config.iterations
    return folder.has_metrics(last, "eval") and (last == 0 or folder.has_metrics(last, "train"))


def _tolerance(config: RunConfig, pools: Pools) -> float:
    sixteen_bit = config.policy.dtype in ("bfloat16", "float16") or (
        config.policy.dtype == "auto" and pools.on_gpu
    )
    return _TOLERANCE_16_BIT if sixteen_bit else _TOLERANCE
