"""Fine-tune the policy on the selected rows, and give the rollout workers the new weights.

After every sync the engines' log-probabilities of selected responses are compared with the
trainer's, under the new policy and under the previous one (`raft.workers.weight_check`).
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from raft.assemble import WorkerGroups, update_of
from raft.runs.folder import UNFINISHED, RunFolder, stored_policies
from raft.selection.rows import read_selected
from raft.updates.trainer import METRICS_FILE
from raft.workers.group import side_by_side
from raft.workers.rollout import Policy
from raft.workers.trainer import TrainerWorkers
from raft.workers.weight_check import CheckResult, Noise, Probe
from rewards.checkpoints.hub import local_path
from rollout.storage.files import read_json, write_whole
from rollout.storage.rollout_store import RolloutStore
from rollout.types import Prompt, StaleWeightsError

if TYPE_CHECKING:
    from raft.config.run import RunConfig

log = logging.getLogger("raft")

# tokens of the texts by which engines are compared with the trainer: in 16 bits an update is
# smaller than the noise of one token
_PROBE_TOKENS, _PROBE_TOKENS_16_BIT = 256, 2048
_LONGEST = 512  # tokens of one of them
_START_TOKENS = 64
_PROBE_FILE = "probe.json"  # in a checkpoint: how the update moved what is compared


def rehearse(config: RunConfig, workers: WorkerGroups, prompts: Sequence[Prompt]) -> None:
    """Make an update that changes nothing, on rows as long as they may be, before any is drawn.

    It is made on GPUs alone: on a CPU memory is overcommitted, and a process is killed only when it
    uses it; and there the trainer starts while the first responses are drawn, which would wait.

    Raises:
        InputError: the memory is too small for it.
    """
    if workers.trainer is None or not workers.trainer.on_gpu:
        return
    settings, prompt = config.train, max(len(one.token_ids) for one in prompts)
    row, most = prompt + config.sampling.max_new_tokens, settings.max_length
    if most is not None:  # what is packed or mixed in is as long as that
        row = most if settings.packing != "none" or settings.mix else min(row, most)
    prompt = min(prompt, row - 1)
    _give_trainer_turn(workers)
    taken = workers.trainer.rehearse(prompt, row - prompt)
    if workers.take_turns:
        workers.trainer.sleep()
    _wake_drawing(workers)
    if taken:
        log.info("an update on rows of %d tokens fits: a trainer took %.1f GiB", row, taken)


def train(
    config: RunConfig,
    folder: RunFolder,
    workers: WorkerGroups,
    iteration: int,
    meanwhile: Callable[[], object] = lambda: None,
    *,
    learns: bool = True,
) -> dict[str, float | int]:
    """Train on the selected rows, and return the update's metrics; the stored ones if it is done.

    `meanwhile` is called beside it, for other workers. Where no row was selected the iteration
    `learns` nothing: the policy stays.
    """
    if not learns:
        meanwhile()
        return {}
    if (checkpoint := stored_policies(folder.root).get(iteration)) is None:
        whole = config.checkpoint_due(iteration)
        checkpoint = folder.checkpoint(iteration, whole=whole)
        made_of = update_of(config, folder, iteration)
        trainer = _trainer(workers)
        _give_trainer_turn(workers, forget=True)
        exact = _is_exact(workers)
        rows = rows_of(Path(made_of.rows), _PROBE_TOKENS if exact else _PROBE_TOKENS_16_BIT)
        old = trainer.read(rows)
        # another name for every attempt: a trainer that a killed run left may still be writing
        working = checkpoint.with_name(f"{UNFINISHED}{uuid.uuid4().hex[:8]}")
        made_of = replace(made_of, out_dir=str(working), whole=whole)
        update = partial(trainer.train, made_of)
        if config.cluster.address == "inline":  # one process does one thing at a time
            update()
            meanwhile()
        else:
            side_by_side(update, meanwhile)
        if rows:
            probe = Probe(rows, trainer.read(rows), old, workers.rollout.noise, exact)
            write_whole(working / _PROBE_FILE, json.dumps(asdict(probe)))
        os.replace(working, checkpoint)
    else:
        meanwhile()
    folder.drop_unfinished_checkpoints(iteration)
    return read_json(checkpoint / METRICS_FILE)


def sync(
    folder: RunFolder,
    workers: WorkerGroups,
    held_out: Sequence[Prompt],
    iteration: int,
    *,
    send: bool = False,
) -> None:
    """Bring the rollout workers to policy version `iteration` and verify that they hold it.

    They read it from the disk, or, with `send`, get it from the trainers that have just made it,
    where GPUs are shared in their memory.

    Raises:
        StaleWeightsError: an engine computes another policy than the trainer.
    """
    path = stored_policies(folder.root).get(iteration)
    # a resumed run started them on it, or the iteration learned nothing
    if workers.rollout.version == iteration or path is None:
        return
    probe = _stored_probe(path) or _start_probe(workers, held_out)
    if workers.take_turns and send:  # trainers stay awake, and free what the update has left
        _give_trainer_turn(workers, forget=True)
    elif workers.take_turns:
        _trainer(workers).sleep()
    sender = workers.trainer if send else None
    policy = Policy(str(path), iteration, probe)
    verdicts = workers.rollout.sync(policy, sender, shares=workers.take_turns)
    if not probe.exact:
        log.info(
            "policy version %d: trainer and engines are %s", iteration, max(verdicts, key=_far)
        )
    _wake_drawing(workers)


def save_optimizer(folder: RunFolder, workers: WorkerGroups, iteration: int) -> None:
    """Have the trainers write the optimizer, if one is kept, to a new checkpoint, beside what comes
    next. Once it is written, trainers that die are restarted from this checkpoint."""
    checkpoint = folder.checkpoint(iteration)
    if workers.trainer is not None and checkpoint.exists():
        workers.trainer.store(str(checkpoint))


def return_to_policy(
    config: RunConfig, folder: RunFolder, workers: WorkerGroups, version: int
) -> None:
    """Bring the rollout workers back to the policy by which an interrupted batch was drawn."""
    if workers.rollout.version != version:
        path = folder.policy(version)
        probe = _stored_probe(path) if path else None
        policy = str(path or local_path(config.policy.model))
        workers.rollout.return_to(Policy(policy, version, probe))


def check_start(
    folder: RunFolder,
    workers: WorkerGroups,
    held_out: Sequence[Prompt],
    drawn: RolloutStore | None = None,
) -> None:
    """Check that engines and trainer compute the same policy, before hours are spent on it.

    What engines that fail it have `drawn` is discarded. How far they are apart is the noise that
    later checks allow. A resumed trainer is compared with its stored log-probabilities, too.

    Raises:
        StaleWeightsError: they do not.
    """
    if workers.trainer is None:
        return
    version = workers.rollout.version
    path = folder.policy(version)
    stored = _stored_probe(path) if path else None
    if stored is not None and stored.exact != _is_exact(workers):
        stored = None  # of another machine
    _give_trainer_turn(workers)
    probe = stored or _start_probe(workers, held_out)
    said = probe.compare(workers.trainer.read(probe.rows))
    if workers.take_turns:
        workers.trainer.sleep()
    _wake_drawing(workers)
    if said.fault is not None:
        raise StaleWeightsError(f"the trainer does not hold policy version {version}: {said.fault}")
    try:
        verdicts = workers.rollout.verify(probe)
    except StaleWeightsError:
        if drawn is not None:
            drawn.discard()
        raise
    workers.rollout.noise = probe.noise or max((one.noise for one in verdicts), key=_rms)


def _give_trainer_turn(workers: WorkerGroups, forget: bool = False) -> None:
    """Where GPUs are shared, let rollout and reward workers sleep and wake the trainer.

    `forget`: the engines may drop their weights, since a sync comes before they draw again.
    """
    if workers.take_turns:
        workers.rollout.sleep(forget)
        workers.reward.sleep()
        _trainer(workers).wake()


def _wake_drawing(workers: WorkerGroups) -> None:
    if workers.take_turns:
        workers.rollout.wake()
        workers.reward.wake()


def _trainer(workers: WorkerGroups) -> TrainerWorkers:
    assert workers.trainer is not None, "an iteration is left to do, so a trainer was started"
    return workers.trainer


def _far(verdict: CheckResult) -> float:
    return verdict.noise.mean


def _rms(noise: Noise) -> float:
    return noise.rms


def _is_exact(workers: WorkerGroups) -> bool:
    dtypes = {*workers.rollout.dtypes(), _trainer(workers).dtype()}
    return not dtypes & {"bfloat16", "float16"}


def _start_probe(workers: WorkerGroups, held_out: Sequence[Prompt]) -> Probe:
    """Return a probe of held-out prompts, end to end, with the trainer's log-probabilities.

    Short prompts make a probe in this way too: a text of one token has no log-probabilities.
    """
    ids = [token for prompt in held_out[:_START_TOKENS] for token in prompt.token_ids]
    ids = ids if len(ids) > 1 else ids * 2
    rows = (tuple(ids[:_START_TOKENS]),)
    return Probe(rows, _trainer(workers).read(rows), exact=_is_exact(workers))


def rows_of(selected: Path, tokens: int) -> tuple[tuple[int, ...], ...]:
    """Return the token ids of the first selected responses with their prompts, `tokens` in all.

    Empty where all are too short.
    """
    rows: list[tuple[int, ...]] = []
    for row in read_selected(selected):
        # vLLM generates one token beside prompt_logprobs: the context must have room for it
        ids = [*row.prompt_token_ids, *row.token_ids][:_LONGEST][:-1]
        if len(ids) > 1:
            rows.append(tuple(ids))
            tokens -= len(ids)
        if tokens <= 0:
            break
    return tuple(rows)


def _stored_probe(checkpoint: Path) -> Probe | None:
    """Read the probe of a checkpoint; None of one that was made before they had one."""
    path = checkpoint / _PROBE_FILE
    return TypeAdapter(Probe).validate_python(read_json(path)) if path.exists() else None
