"""`raft train-reward`: train a reward model by a config, into a run folder with a model card.

    model/  config.yaml  env.json  metrics.jsonl  result.json  README.md

The same command goes on after a kill; of a finished training it returns the stored metrics.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from raft.config.train_reward import TrainRewardConfig
from raft.runs.environment import describe_environment
from raft.runs.folder import RunFolder
from rollout.data.jsonl import json_columns
from rollout.errors import InputError
from rollout.storage.files import read_json, write_json, write_whole

if TYPE_CHECKING:
    from raft.reward_training.data import TrainData
    from rewards.training.card import TrainedMetrics
    from rewards.training.trainer import OnMetrics

__all__ = ["train_reward"]

log = logging.getLogger("raft")

RESULT = "result.json"


def train_reward(config: TrainRewardConfig, gpus: int | None = None) -> tuple[Path, TrainedMetrics]:
    """Train a reward model, or resume; return the run folder and the metrics of its model.

    Of several processes (torchrun, accelerate launch) the first owns the folder. With `gpus` so
    many GPUs of this machine extract the hidden states of recipe armorm, under one process.

    Raises:
        InputError: for data, models or settings that cannot be used, and a run folder that is in
            use or belongs to another config.
    """
    from raft.reward_training.check import check_training
    from raft.reward_training.recipes import resolved, run_recipe, stages
    from rewards.training import distributed

    if gpus is not None and config.recipe != "armorm":
        problem = f"the recipe {config.recipe} is trained by a process on each GPU"
        raise InputError(f"gpus={gpus}", problem, "start it with torchrun --nproc-per-node N")
    check_training(config, data=False)  # the data is read, and so checked, before the model
    settings = resolved(config)
    if any(one.fsdp for one in stages(config).values()) and distributed.count() == 1:
        raise InputError(
            "train.fsdp",
            "shards over the processes of torchrun, and here is one",
            "start torchrun --nproc-per-node N -m raft.cli train-reward, or set it to false",
        )
    if not distributed.is_first():
        return _join(config)
    with RunFolder(config.run_dir, settings) as folder:
        result = folder.root / RESULT
        if result.exists():
            log.info("%s is finished", folder.root)
            return folder.root, read_json(result)
        folder.write_environment(describe_environment())
        from raft.reward_training.data import read_train_data

        data = read_train_data(config)
        found = run_recipe(config, data, folder.root, _reporter(folder), gpus)
        metrics = _as_json(found)
        _write_card(folder.root, config, settings, data, metrics)
        write_json(result, metrics)
    distributed.shutdown()
    return folder.root, metrics


def _join(config: TrainRewardConfig) -> tuple[Path, TrainedMetrics]:
    """Train as a process other than the first, which alone writes the run's files and logs.

    Returns the run folder and the metrics.
    """
    from raft.reward_training.data import read_train_data
    from raft.reward_training.recipes import run_recipe
    from rewards.training import distributed

    root = Path(os.path.realpath(config.run_dir))
    if (root / RESULT).exists():
        return root, read_json(root / RESULT)
    for name in ("raft", "rewards"):
        logging.getLogger(name).setLevel(logging.ERROR)
    metrics = run_recipe(config, read_train_data(config), root, lambda step, values: None)
    distributed.shutdown()
    return root, _as_json(metrics)


def _as_json(metrics: Mapping[str, object]) -> TrainedMetrics:
    """Return the metrics as JSON can hold them: None in place of NaN and infinity."""
    return cast("TrainedMetrics", json_columns(metrics, RESULT))


def _reporter(folder: RunFolder) -> OnMetrics:
    """Return the function that writes metrics of a step to metrics.jsonl and logs them.

    Training and evaluation at one step have a row each. After a kill some steps are repeated, and
    their rows are written again: the later row counts.
    """

    def report(step: int, values: dict[str, float]) -> None:
        phase = sorted({name.partition("/")[0] for name in values})[-1]
        if "train/steps" in values:
            phase = "end"
        folder.add_metrics(step, phase, json_columns({**values}, "metrics"))
        told = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        log.info("step %d: %s", step, told)

    return report


def _write_card(
    root: Path,
    config: TrainRewardConfig,
    settings: Mapping[str, object],
    data: TrainData,
    metrics: TrainedMetrics,
) -> None:
    from rewards.training.card import model_card

    card = model_card(
        name=root.name,
        recipe=config.recipe,
        base=config.model,
        data=data.lines,
        origins=dict(Counter(pair.source for pair in data.train).most_common()),
        shared=data.shared,
        settings=settings,
        metrics=metrics,
    )
    # also in the model's own folder, so that the card is copied with the model
    for place in (root, root / "model"):
        write_whole(place / "README.md", card)
