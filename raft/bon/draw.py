"""Draw K responses to each prompt of a file and score them: `raft sample` and `raft bon`."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from raft.assemble import start_drawing
from raft.bon.pool import Rejected
from raft.collect import Collected, collect
from raft.config.load import make_config
from raft.config.run import RunConfig
from raft.early_rejection import EarlyRejection, measure
from raft.runs.prompts import digest, load_all_prompts
from rewards.checkpoints.hub import check_model
from rewards.spec import RewardSpec
from rollout.data.bad_rows import BadRows
from rollout.data.jsonl import json_columns
from rollout.data.overrides import apply_override
from rollout.data.samples import RANKING
from rollout.data.sources import find_source
from rollout.errors import InputError
from rollout.seeds import derive_seed
from rollout.storage.output import OutputFiles, output_path
from rollout.storage.rollout_store import RolloutStore
from rollout.storage.settings import made_of
from rollout.types import Prompt

__all__ = ["draw_pool", "drawing_config", "pool_path"]

log = logging.getLogger("raft")

# columns of the prompts' file that describe responses other than those drawn now
_NOT_KEPT = {
    "responses", "response", "messages", "chosen", "rejected", "scores", "gold_scores", "score",
    "finish_reasons", "policy_version", "seeds", "prompt_token_ids", "token_ids", "sample_numbers",
}  # fmt: skip
# columns with responses that the prompts' file already holds, and columns that describe these
_ANSWERS = {"responses", "response", "chosen", "messages"}
_OF_ANSWERS = {*RANKING, "sample", "of"}
_SCORES = ("scores", "_score")
# keys of the policy's section that change no sample
_ONLY_SPEED = {"gpu_memory", "tensor_parallel"}


def draw_pool(
    config: RunConfig,
    path: Path,
    *,
    rewards: Mapping[str, RewardSpec] | None = None,
    restart: bool = False,
) -> dict[str, object]:
    """Draw `sampling.k` responses to every prompt into `path`, one row per prompt in their order.

    Rows are those of a run's rollouts.jsonl with the other columns of the prompts. An interrupted
    command continues where it stopped; a file that is complete under these settings is not drawn
    again.

    Args:
        rewards: "reward" fills the column `scores` and "gold" `gold_scores`; default: no scores.
        restart: discard the file and what an interrupted command left.

    Returns:
        The summary: `out`, `rows`, `responses` of the file, `skipped` prompts and
        `skipped_reasons`, and what this command drew: `new_rows`, `tokens`, `seconds`,
        `tokens_per_second`. With `sampling.early_rejection` a `Rejected` under its name.

    Raises:
        InputError: unusable prompts or settings, or a file that was made with other settings.
        RewardError: a reward that cannot be computed.
    """
    rewards = rewards or {}
    sampling = config.sampling
    if sampling.way is not None:
        if "reward" not in rewards:
            raise InputError(
                f"sampling.{sampling.way}",
                "goes by the scores of a reward, and there is none here",
                "use `raft bon --reward M`, or leave it out",
            )
        sampling.check(rewards["reward"])
    bad = BadRows(config.prompts.on_bad_row)
    prompts = [_plain(prompt) for prompt in load_all_prompts(config, bad)]
    folder, name = path.parent, path.stem
    leftovers = [*_leftovers(folder, name, beginnings=sampling.early_rejection is not None)]
    settings = _settings(config, prompts, rewards)
    with OutputFiles([path], settings, leftovers=leftovers, restart=restart) as output:
        if output.complete:
            log.info("%s: is complete already, under the same settings", path)
            return {**output.record, "new_rows": 0, "tokens": 0, "seconds": 0.0}
        output.begin()
        store = RolloutStore(folder, name, prompts, version=0, fields=_kept(prompts))
        spent = None if store.complete else _collect(config, store, prompts, rewards)
        store.drop_leftovers()
        responses = len(prompts) * sampling.whole
        if sampling.adaptive is not None:
            responses = sum(len(row.responses) for row in store.rows())
        record = {"out": str(path), "rows": len(prompts), "responses": responses, **bad.summary()}
        if sampling.early_rejection is not None:
            record["early_rejection"] = _rejected(store, sampling.k, sampling.early_rejection)
        output.finish(record)
    return {**record, **_speed(spent, len(prompts))}


def _leftovers(folder: Path, name: str, *, beginnings: bool) -> Iterator[Path]:
    for kind in ("samples", "scores"):
        yield folder / f".{name}.{kind}"
    if beginnings:
        yield folder / f"{name}.beginnings.jsonl"
        yield from _leftovers(folder, f"{name}.beginnings", beginnings=False)


def _rejected(store: RolloutStore, k: int, early: EarlyRejection) -> Rejected:
    found = measure(store.beginnings().rows(), store.rows())
    told = {"tokens_saved": found.tokens_saved, "foresight": found.foresight}
    known = {name: value if math.isfinite(value) else None for name, value in told.items()}
    return {
        "begun": k,
        "keep": early.keep,
        "tokens": early.tokens,
        "tokens_saved": known["tokens_saved"],
        "foresight": known["foresight"],
    }


def pool_path(given: str | None, prompts: str, ending: str) -> Path:
    """Return `given` as a path, by default STEM.`ending`.jsonl beside the prompts.

    Raises InputError for standard output, and for a name that does not end in .jsonl.
    """
    path = output_path(given, prompts, find_source(prompts).stem, ending)
    if path is None:
        raise InputError("--out -", "what can be stopped and continued needs a file", "name one")
    if path.suffix != ".jsonl":
        raise InputError(f"--out {path}", "rows are written as JSONL", "name it .jsonl")
    return path


def _collect(
    config: RunConfig,
    store: RolloutStore,
    prompts: list[Prompt],
    rewards: Mapping[str, RewardSpec],
) -> Collected:
    with start_drawing(config, rewards) as workers:
        log.info("policy %s, engine %s", config.policy.model, workers.rollout.describe())
        return collect(
            workers,
            store,
            prompts,
            config.sampling,
            derive_seed(config.seed, "sample"),
            names=workers.reward.names,
            title="drawing",
            adaptive=config.sampling.adaptive,
            early=config.sampling.early_rejection,
        )


def _speed(spent: Collected | None, prompts: int) -> dict[str, object]:
    if spent is None:
        return {"new_rows": 0, "tokens": 0, "seconds": 0.0, "tokens_per_second": None}
    new, speed = prompts - spent.reused, round(spent.tokens / spent.generate, 1)
    log.info(
        "drew %d prompts, %d tokens, %.0f tokens/s | generate %.1f s, score %.1f s beyond it",
        new, spent.tokens, speed, spent.generate, spent.score,
    )  # fmt: skip
    seconds = round(spent.generate + spent.score, 3)
    return {"new_rows": new, "tokens": spent.tokens, "seconds": seconds, "tokens_per_second": speed}


def _settings(
    config: RunConfig, prompts: list[Prompt], rewards: Mapping[str, RewardSpec]
) -> dict[str, object]:
    """Return all settings that the rows depend on: a change of one makes the stored rows stale."""
    # settings that files of earlier versions lack are named only where they are set
    new = ("chat_template_kwargs", "vllm")
    unsaid = {key for key in new if not getattr(config.policy, key)}
    policy = config.policy.model_dump(exclude=_ONLY_SPEED | unsaid)
    said = {name: reward.given() for name, reward in rewards.items()}
    sampling = config.model_dump(mode="json")["sampling"]
    if sampling["early_rejection"] is None:
        del sampling["early_rejection"]
    return {
        "seed": config.seed,
        "policy": policy,
        "sampling": sampling,
        "prompts": digest(prompts, []),
        "rewards": said,
        "files": made_of({"policy": policy["model"], "rewards": said}),
    }


def _plain(prompt: Prompt) -> Prompt:
    return replace(prompt, fields=json_columns(prompt.fields, f"prompt {prompt.id!r}"))


def _kept(prompts: Sequence[Prompt]) -> list[str]:
    """Return the columns about prompts, without those about responses that their file holds."""
    names = dict.fromkeys(name for prompt in prompts for name in prompt.fields)
    dropped = {"prompt", *_NOT_KEPT}
    if _ANSWERS.intersection(names):
        dropped |= {name for name in names if name in _OF_ANSWERS or name.endswith(_SCORES)}
    return [name for name in names if name not in dropped]


# sections of a run's config that drawing uses
_SECTIONS = ("seed", "policy", "prompts", "sampling", "cluster")


def drawing_config(
    command: str, options: Mapping[str, object], assignments: Sequence[str] = ()
) -> RunConfig:
    """Make the config of a run of 0 iterations, of which only the drawing is used.

    Args:
        command: names the command in messages.
        options: dotted keys (`policy.model`) and their values; None counts as not given.
        assignments: `key.sub=value`; they override the options.

    Raises:
        InputError: a key that drawing does not use, a value out of range, a missing folder.
    """
    data: dict[str, object] = {}
    sections: dict[str, dict[str, object]] = {"": data}
    for key, value in options.items():
        if value is not None:
            section, _, name = key.rpartition(".")
            if section not in sections:
                data[section] = sections[section] = {}
            sections[section][name] = value
    for assignment in assignments:
        section = assignment.partition("=")[0].partition(".")[0]
        if section not in _SECTIONS:
            raise InputError(
                f"--set {assignment}",
                f"{command} has no such key",
                f"use {', '.join(_SECTIONS)}, as in `raft validate --keys`",
            )
        apply_override(data, assignment, "--set", "sampling.top_p=0.9")
    unused = {"run_dir": ".", "iterations": 0, "reward": {"kind": "function", "function": "length"}}
    config = make_config({**data, **unused}, where=f"raft {command}")
    check_model(config.policy.model, "--policy")
    return config
