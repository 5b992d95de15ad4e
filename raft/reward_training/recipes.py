"""Turn a config into the arguments of its recipe, with the recipe's values for keys not given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from raft.config.train_reward import SFTConfig, TrainRewardConfig, UpdateConfig
from raft.reward_training.data import TrainData
from rewards.training.settings import (
    GRM_READING,
    HH_READING,
    HH_SFT,
    HH_TRAINING,
    PUBLISHED_FULL,
    PUBLISHED_LORA,
    PUBLISHED_PAIRWISE,
    ReadingSettings,
    TrainingSettings,
)
from rollout.errors import InputError

if TYPE_CHECKING:
    from rewards.training.armorm_features import ArmoRMSettings

__all__ = ["OF_SHARDS", "longest_side", "resolved", "run_recipe", "stages"]

Report = Callable[[int, dict[str, float]], None]


def run_recipe(
    config: TrainRewardConfig,
    data: TrainData,
    folder: Path,
    report: Report,
    gpus: int | None = None,
) -> dict[str, object]:
    """Train the model of a config into `folder`/model, and return the recipe's metrics.

    With `gpus`, the hidden states that ArmoRM is trained on are extracted first, by a copy of the
    model on each of so many GPUs.
    """
    if gpus is not None:
        from raft.workers.spread import on_gpus
        from rewards.spec import ModelSpec
        from rewards.training.armorm import extract_states

        settings = _armorm_settings(config)
        given = (config.model, data.rated, data.train, data.held_out, folder, settings)
        with on_gpus(gpus, [ModelSpec(model=config.model, device=settings.device)]) as place:
            extract_states(*given, place)
    return _RECIPES[config.recipe](config, data, folder, report)


def resolved(config: TrainRewardConfig) -> dict[str, object]:
    """Return the keys of the config with the recipe's values filled in.

    As a config these keys give the same training. Those of armorm are returned as they are. Raises
    InputError as the training does, for settings that do not fit and an unreadable template.
    """
    found = config.model_dump(mode="json", exclude_none=True)
    if config.recipe == "armorm":
        return found
    found |= {key: value for key, value in asdict(_reading(config)).items() if value is not None}
    for key in _NOT_READ.get(config.recipe, ()):
        found.pop(key, None)
    found["train"] = _as_section(_training(config))
    first = _first_stage(config)
    if first is not None:
        section = config.sft or SFTConfig()
        own = {"chunk": section.chunk, "rest_of_test": section.rest_of_test}
        found["sft"] = own | _as_section(first)
    return found


def stages(config: TrainRewardConfig) -> dict[str, TrainingSettings]:
    """Return the stages that train a language model, by their sections, in order.

    The recipe armorm trains no language model and has none. Raises InputError for settings that do
    not fit.
    """
    if config.recipe == "armorm":
        return {}
    first = _first_stage(config)
    return ({} if first is None else {"sft": first}) | {"train": _training(config)}


def longest_side(config: TrainRewardConfig) -> int | None:
    """Return the most tokens of a conversation; None for as many as the model takes."""
    return config.max_length if config.recipe == "armorm" else _reading(config).max_length


def _bradley_terry(
    config: TrainRewardConfig, data: TrainData, folder: Path, report: Report
) -> dict[str, object]:
    from rewards.training.bradley_terry import train_bradley_terry

    return train_bradley_terry(
        config.model, data.train, data.held_out, folder,
        reading=_reading(config), training=_training(config), loss=config.loss,
        on_metrics=report,
    )  # fmt: skip


def _hh(
    config: TrainRewardConfig, data: TrainData, folder: Path, report: Report
) -> dict[str, object]:
    from rewards.training.bradley_terry import train_hh

    section = config.sft or SFTConfig()
    return train_hh(
        config.model, data.train, data.held_out, folder,
        sft_pairs=data.rest if section.rest_of_test else (), sft=_first_stage(config),
        chunk=section.chunk, reading=_reading(config), training=_training(config),
        loss=config.loss, on_metrics=report,
    )  # fmt: skip


def _pairwise(
    config: TrainRewardConfig, data: TrainData, folder: Path, report: Report
) -> dict[str, object]:
    from rewards.training.pairwise import train_pairwise

    reading = _reading(config)
    return train_pairwise(
        config.model, data.train, data.held_out, folder,
        max_length=reading.max_length, chat_template=reading.chat_template,
        orders=config.pairwise.orders if config.pairwise else "one",
        on_bad_row=config.on_bad_row,
        training=_training(config), on_metrics=report,
    )  # fmt: skip


def _grm(
    config: TrainRewardConfig, data: TrainData, folder: Path, report: Report
) -> dict[str, object]:
    from rewards.training.grm import train_grm

    return train_grm(
        config.model, data.train, data.held_out, folder,
        reading=_reading(config), training=_training(config), settings=config.grm,
        on_metrics=report,
    )  # fmt: skip


def _armorm(
    config: TrainRewardConfig, data: TrainData, folder: Path, report: Report
) -> dict[str, object]:
    from rewards.training.armorm import train_armorm

    assert config.armorm is not None
    return train_armorm(
        config.model, data.rated, data.train, data.held_out, folder,
        settings=_armorm_settings(config), gating=config.armorm.gating, on_metrics=report,
    )  # fmt: skip


def _armorm_settings(config: TrainRewardConfig) -> ArmoRMSettings:
    from rewards.training.armorm_features import ArmoRMSettings

    assert config.armorm is not None
    given = {k: v for k, v in config.armorm.given().items() if k not in ("rated", "gating")}
    return ArmoRMSettings(
        **given, max_length=config.max_length, on_bad_row=config.on_bad_row, seed=config.seed
    )


# optimizers that give the same result on shards of tensors as on whole ones
OF_SHARDS = ("adamw_torch", "adamw_torch_fused", "sgd")
_RECIPES = {
    "bradley_terry": _bradley_terry,
    "hh": _hh,
    "pairwise": _pairwise,
    "grm": _grm,
    "armorm": _armorm,
}


# settings of reading that a recipe does not use
_NOT_READ = {
    "pairwise": (
        "format",
        "bos",
        "eos",
        "truncation_side",
        "over_long",
        "separator",
        "chat_template_kwargs",
    ),
    "grm": ("separator",),
}


def _reading(config: TrainRewardConfig) -> ReadingSettings:
    """Return the settings by which the model reads conversations. Raises InputError."""
    start = {"hh": HH_READING, "grm": GRM_READING}.get(config.recipe, ReadingSettings())
    keys = (
        "format", "bos", "eos", "max_length", "truncation_side", "over_long", "separator",
        "chat_template_kwargs", "on_bad_row",
    )  # fmt: skip
    given = {key: getattr(config, key) for key in keys if getattr(config, key) is not None}
    return replace(start, **given, chat_template=_template(config.chat_template))


def _template(given: str | None) -> str | None:
    """Return a chat template: `given` itself where it has a brace, else the content of that file.

    None gives None. Raises InputError for a file that cannot be read.
    """
    if given is None or "{" in given:
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "chat_template",
            f"{given} is no template and no readable file",
            "name a file, or write the template itself",
        ) from error


def _training(config: TrainRewardConfig) -> TrainingSettings:
    """Return the settings of the last stage: the second one of recipe hh, the only one of others.

    Raises InputError for settings that do not go with train.fsdp.
    """
    start = {
        "hh": HH_TRAINING,
        "pairwise": PUBLISHED_PAIRWISE,
        "grm": PUBLISHED_LORA if config.train.lora else PUBLISHED_FULL,
    }.get(config.recipe, TrainingSettings())
    return _updated(start, config.train, config)


def _first_stage(config: TrainRewardConfig) -> TrainingSettings | None:
    if config.recipe != "hh" or config.sft is False:
        return None
    return _updated(HH_SFT, config.sft or SFTConfig(), config)


def _updated(
    start: TrainingSettings, section: UpdateConfig, config: TrainRewardConfig
) -> TrainingSettings:
    given = {key: value for key, value in section.given().items() if value is not None}
    for key in ("chunk", "rest_of_test"):
        given.pop(key, None)
    if (steps := given.pop("warmup_steps", None)) is not None:
        given["warmup_ratio"] = float(steps)  # a value of 1 or more is a number of steps
    for key in ("save_steps", "eval_steps", "log_steps"):
        given[key] = getattr(config, key)
    found = replace(start, **given, seed=config.seed)
    if found.fsdp and found.lora is not None:
        raise InputError("train.fsdp", "does not go with train.lora", "use one of them")
    if found.fsdp and found.optimizer not in OF_SHARDS:
        raise InputError(
            "train.optimizer",
            f"{found.optimizer} does not know the shards of train.fsdp",
            f"use {OF_SHARDS[0]}",
        )
    return found


def _as_section(stage: TrainingSettings) -> dict[str, object]:
    """Return a stage as a section of the config, without seed and steps, which stand elsewhere."""
    settings: dict[str, object] = asdict(stage)
    for key in ("seed", "save_steps", "eval_steps", "log_steps", "warmup_ratio"):
        del settings[key]
    ratio = stage.warmup_ratio
    settings["warmup_steps" if ratio >= 1 else "warmup_ratio"] = int(ratio) if ratio >= 1 else ratio
    return {key: value for key, value in settings.items() if value is not None}
