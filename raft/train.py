"""Fine-tune the policy on the selected rows, and give the rollout workers the new weights.

Nothing is taken on trust: after every sync each engine's log-probabilities of one fixed text must
be the trainer's.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raft.assemble import WorkerGroups
from raft.runs.folder import UNFINISHED, RunFolder
from raft.updates.trainer import METRICS_FILE
from raft.workers.rollout import Policy, Probe
from raft.workers.trainer import TrainerWorkers
from rollout.seeds import derive_seed
from rollout.storage.files import read_json
from rollout.storage.rollout_store import RolloutStore
from rollout.types import Prompt, StaleWeightsError

if TYPE_CHECKING:
    from raft.config.run import RunConfig

# how far an engine's log-probabilities may lie from the trainer's, nats per token on average
_TOLERANCE = 1e-3
_TOLERANCE_16_BIT = 0.05
_PROBE_TOKENS = 64


def train(
    config: RunConfig, folder: RunFolder, workers: WorkerGroups, selected: Path, iteration: int
) -> dict[str, float | int]:
    """The update on the selected rows, or its stored result when it is done already."""
    checkpoint = folder.checkpoint(iteration)
    if not checkpoint.is_dir():
        trainer = _trainer(workers)
        if workers.take_turns:
            workers.rollout.sleep()
            workers.reward.sleep()
            trainer.wake()
        # another name for every attempt: a trainer that a killed run left may still be writing
        working = checkpoint.with_name(f"{UNFINISHED}{uuid.uuid4().hex[:8]}")
        seed = derive_seed(config.seed, "train", iteration)
        trainer.train(str(selected), str(working), str(checkpoint), seed)
        os.replace(working, checkpoint)
    folder.drop_unfinished_checkpoints(iteration)
    return read_json(checkpoint / METRICS_FILE)


def sync(
    config: RunConfig,
    folder: RunFolder,
    workers: WorkerGroups,
    held_out: Sequence[Prompt],
    iteration: int,
) -> None:
    """Bring the rollout workers to policy version `iteration` and verify that they hold it.

    Raises:
        StaleWeightsError: an engine computes another policy than the trainer.
    """
    if workers.rollout.version == iteration:  # a resumed run started them on it
        return
    probe = _probe(config, workers, held_out)
    if workers.take_turns:
        _trainer(workers).sleep()
    workers.rollout.sync(Policy(str(folder.checkpoint(iteration)), iteration, probe))
    if workers.take_turns:
        workers.rollout.wake()
        workers.reward.wake()


def check_start(
    config: RunConfig,
    workers: WorkerGroups,
    held_out: Sequence[Prompt],
    drawn: RolloutStore | None = None,
) -> None:
    """Engine and trainer must compute the same policy before hours are spent on it.

    Where they share GPUs the check waits for the first sync: they are not awake together. What
    engines that fail it have `drawn` is discarded.

    Raises:
        StaleWeightsError: they do not.
    """
    if workers.trainer is None or workers.take_turns:
        return
    try:
        workers.rollout.verify(_probe(config, workers, held_out))
    except StaleWeightsError:
        if drawn is not None:
            drawn.discard()
        raise


def _trainer(workers: WorkerGroups) -> TrainerWorkers:
    assert workers.trainer is not None, "an iteration is left to do, so a trainer was started"
    return workers.trainer


def _probe(config: RunConfig, workers: WorkerGroups, held_out: Sequence[Prompt]) -> Probe:
    """Held-out prompts end to end, so that short ones make a probe too; no longer than one sample.

    A text of one token has no log-probabilities, and would verify nothing.
    """
    longest = max(len(prompt.token_ids) for prompt in held_out) + config.sampling.max_new_tokens
    ids = tuple(token for prompt in held_out[:_PROBE_TOKENS] for token in prompt.token_ids)
    ids = (ids if len(ids) > 1 else ids * 2)[: min(_PROBE_TOKENS, longest)]
    trainer = _trainer(workers)
    dtypes = {*workers.rollout.dtypes(), trainer.dtype()}
    tolerance = _TOLERANCE_16_BIT if dtypes & {"bfloat16", "float16"} else _TOLERANCE
    return Probe(ids, tuple(trainer.log_probs(ids)), tolerance)
