"""Check the training of a reward model in seconds, before its model is loaded.

`raft validate` and `raft train-reward --check` do so, and the training itself before anything else.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from raft.config.paths import shared_data
from raft.plan.training import check_training_fits
from raft.reward_training.data import read_train_data
from raft.reward_training.recipes import resolved
from raft.runs.check import check_length, check_model_files, check_writable
from rewards.checkpoints.checkpoint import has_chat_template
from rewards.data.read import read_pairs, read_rated
from rewards.data.source import PairSource, parse_sources
from rollout.data.sources import find_source
from rollout.errors import InputError

if TYPE_CHECKING:
    from raft.config.train_reward import TrainRewardConfig, UpdateConfig

__all__ = ["check_training"]

# bytes of data that are read in about a second; how many times larger compressed files are unpacked
_SMALL, _COMPRESSED = 8 << 20, 6
_TEMPLATED = ("pairwise", "grm", "armorm")  # recipes that read conversations by a chat template


@shared_data()
def check_training(config: TrainRewardConfig, *, hub: bool = True, data: bool = True) -> None:
    """Check the folders and files that a training names, its recipe's settings and its lengths.

    Args:
        hub: look models up on the hub; otherwise they are assumed to be there.
        data: check sources too: small ones are read as a whole, others up to their first pair.

    Raises:
        InputError: the first thing that would end the training later.
    """
    check_writable(Path(config.run_dir))
    check_model_files("model", config.model, hub=hub)
    folder = Path(config.model).expanduser()
    if (folder / "toy_policy.json").exists():
        raise InputError("model", f"{config.model} is a toy policy", "give a language model")
    check_length("max_length", config.max_length, config.model)
    resolved(config)  # reads the chat template's file
    needs = config.recipe in _TEMPLATED or config.format == "chat"
    if needs and config.chat_template is None and folder.is_dir() and not has_chat_template(folder):
        fix = "give chat_template, or another model"
        raise InputError("model", f"the tokenizer of {config.model} has no chat template", fix)
    _check_optimizer("train", config.train)
    if config.sft:
        _check_optimizer("sft", config.sft)
    check_training_fits(config, hub=hub)
    if data:
        _check_data(config)


def _check_optimizer(key: str, section: UpdateConfig) -> None:
    """Check that transformers knows the optimizer of a section. Raises InputError.

    The names are read from the source of transformers, because importing it takes seconds. Without
    that source nothing is checked.
    """
    spec = find_spec("transformers")
    source = Path(spec.origin).with_name("training_args.py") if spec and spec.origin else None
    if section.optimizer is None or source is None or not source.is_file():
        return
    named = source.read_text(encoding="utf-8").partition("class OptimizerNames")[2]
    known = re.findall(r'^    [A-Z0-9_]+ = "(\w+)"', named.partition("\nclass ")[0], re.MULTILINE)
    if known and section.optimizer not in known:
        raise InputError(
            f"{key}.optimizer",
            f"{section.optimizer!r} is not known",
            "use adamw_torch, or another of transformers' names for `optim`",
        )


def _check_data(config: TrainRewardConfig) -> None:
    rated = config.armorm.rated if config.armorm is not None else []
    named = {"data": config.data, "eval.data": config.eval.data or [], "armorm.rated": rated}
    small = 0
    parsed: dict[str, list[PairSource]] = {}
    for key, sources in named.items():
        try:
            parsed[key] = parse_sources(sources) if sources else []
            for source in parsed[key]:
                small += _weight(source)
        except InputError as error:
            raise InputError(key, error) from error
    with _without_logs():
        if small <= _SMALL:
            read_train_data(config)
            return
        for key, sources in parsed.items():
            read = read_rated if key == "armorm.rated" else read_pairs
            for source in sources:
                if find_source(source.path, split=source.split).files:
                    read([replace(source, limit=1)], seed=config.seed, on_bad_row=config.on_bad_row)


def _weight(source: PairSource) -> int:
    """Return an estimate of the bytes to read; more than `_SMALL` for the name of a dataset."""
    found = find_source(source.path, split=source.split, columns=source.columns)
    if not found.files:
        return _SMALL + 1
    packed = found.kind in ("parquet", "saved") or any(one.suffix == ".gz" for one in found.files)
    return sum(one.stat().st_size for one in found.files) * (_COMPRESSED if packed else 1)


@contextmanager
def _without_logs() -> Iterator[None]:
    """Hold back warnings of `raft` while the block runs: the training itself logs them again."""
    logger = logging.getLogger("raft")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
