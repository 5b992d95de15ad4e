"""Real runs through Ray, vLLM and TRL, as small as they can be."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import signal
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny

import raft.workers.rollout
from raft.config.load import make_config
from raft.loop import run
from raft.workers.executors import Resources
from raft.workers.rollout import Policy, RolloutWorker, RolloutWorkers
from raft.workers.weight_check import Probe
from rollout.engines.base import build_engine
from rollout.types import Group, Sampling

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
]
needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (extras cpu, gpu)"
)
TEXTS = [
    f"{who} {what}"
    for who in ("The cat", "A dog", "One girl", "The old man", "My bird", "She")
    for what in ("ran to", "sat on", "went home with", "ate", "saw", "had a")
]


class KnownWorker(RolloutWorker):
    """One that says which process it is."""

    def pid(self) -> int:
        return os.getpid()


def settings(run_dir: Path, model: Path, source: Path, **sections: dict[str, Any]) -> Any:
    base: dict[str, Any] = {
        "run_dir": str(run_dir),
        "iterations": 2,
        "policy": {"model": str(model)},
        "prompts": {"path": str(source), "per_iteration": 24},
        "sampling": {"k": 4, "max_new_tokens": 16, "seed_per_prompt": True},
        "reward": {"kind": "function", "function": "length", "arguments": {}},
        "train": {"learning_rate": 1e-3, "batch_size": 8},
        "eval": {"prompts": 8, "k": 2, "every": 1},
    }
    for name, section in sections.items():
        value = {**base[name], **section} if isinstance(base.get(name), dict) else section
        base[name] = value
    return make_config(base)


@pytest.fixture(scope="module")
def own_prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in TEXTS))
    return path


def rows(folder: Path, iteration: int, name: str) -> list[dict[str, Any]]:
    path = folder / "iterations" / f"{iteration:03d}" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# a real small model


def stories(raft_data: Path, run_dir: Path, **sections: dict[str, Any]) -> Any:
    return settings(
        run_dir,
        raft_data / "models/stories260k",
        raft_data / "data/tinystories/train.txt.gz",
        **{
            "prompts": {"separator": "<|endoftext|>", "first_words": 8, "limit": 200},
            "eval": {"prompts": 16, "k": 2, "every": 1},
            "reward": {
                "function": "word_list",
                "arguments": {"lexicon": str(raft_data / "data/lexicon/story_mood.json")},
            },
            **sections,
        },
    )


@pytest.mark.thorough
@pytest.mark.pictures
@pytest.mark.vllm
@needs_vllm
def test_a_run_finishes_and_its_samples_depend_on_the_seed_alone(
    raft_data: Path, tmp_path: Path
) -> None:
    one = run(stories(raft_data, tmp_path / "one"))
    assert (one / "curves.png").stat().st_size > 1000
    found = {("eval/reward_mean" in row, row["iteration"]): row for row in metrics(one)}
    assert sorted(found) == [(False, 1), (False, 2), (True, 0), (True, 1), (True, 2)]
    for (is_eval, iteration), row in found.items():
        assert row["policy/version"] == iteration
        assert all(math.isfinite(v) for v in row.values() if isinstance(v, float))
        if not is_eval:
            assert row["select/kept"] == 24
            assert row["select/reward_mean"] >= row["rollout/reward_mean"]
            assert row["train/steps"] == 3
            assert row["rollout/tokens_per_second"] > 0
    for iteration in (1, 2):
        drawn = rows(one, iteration, "rollouts")
        assert len(drawn) == len({row["id"] for row in drawn}) == 24
        # drawn by the policy before the update
        assert {row["policy_version"] for row in drawn} == {iteration - 1}
        chosen = {row["id"]: row for row in rows(one, iteration, "selected")}
        for row in drawn:
            assert len(row["scores"]) == len(row["responses"]) == 4
            assert chosen[row["id"]]["score"] == max(row["scores"])
        assert {row["policy_version"] for row in rows(one, iteration, "eval")} == {iteration}

    # the same again, with two engines that share the prompts
    two = run(stories(raft_data, tmp_path / "two", cluster={"rollout_workers": 2}))
    for iteration in (1, 2):
        assert rows(two, iteration, "selected") == rows(one, iteration, "selected")
        assert rows(two, iteration, "eval") == rows(one, iteration, "eval")


# other architectures


@pytest.mark.thorough
def test_gpt_neo_runs_on_transformers_and_says_why(
    own_prompts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny.checkpoint(tmp_path / "gpt_neo", "gpt_neo")
    config = settings(tmp_path / "run", folder, own_prompts)
    with caplog.at_level(logging.INFO, logger="raft"):
        out = run(config.model_copy(update={"iterations": 1}))
    assert [row["policy/version"] for row in metrics(out)] == [0, 1, 1]
    said = [record.getMessage() for record in caplog.records]
    reason = "vLLM does not support GPTNeoForCausalLM"
    if importlib.util.find_spec("vllm") is None:
        reason = "vLLM is not installed"
    assert [line for line in said if "engine transformers" in line and reason in line]


@pytest.mark.thorough
@pytest.mark.vllm
@needs_vllm
def test_tied_weights_pass_verification_at_every_sync(own_prompts: Path, tmp_path: Path) -> None:
    # a large learning rate moves the tied head far: stale weights would fail the comparison
    folder = tiny.checkpoint(tmp_path / "gpt2", "gpt2")
    config = settings(tmp_path / "run", folder, own_prompts, policy={"engine": "vllm"})
    out = run(config)
    losses = [row["train/loss"] for row in metrics(out) if "train/loss" in row]
    assert len(losses) == 2
    assert [row["policy/version"] for row in metrics(out)] == [0, 1, 1, 2, 2]


# dying workers


@pytest.mark.thorough
@pytest.mark.vllm
@needs_vllm
def test_an_engine_killed_in_mid_generation_loses_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raft.workers.ray_executor import RayExecutor

    monkeypatch.setattr(raft.workers.rollout, "RolloutWorker", KnownWorker)
    old = tiny.checkpoint(tmp_path / "old", "llama", seed=0)
    new = tiny.checkpoint(tmp_path / "new", "llama", seed=1)
    prompts = tiny.prompts(tiny.tokenizer(), TEXTS)
    ids = tuple(prompts[0].token_ids)
    probe = Probe((ids,), tuple(tiny.log_probs(new, ids)))
    # few at a time, so that answers come one after the other
    engine = partial(build_engine, engine="vllm", max_num_seqs=4)
    sampling = Sampling(k=4, max_new_tokens=64)
    executor = RayExecutor()
    try:
        workers = RolloutWorkers(executor, [Resources()] * 2, engine, Policy(str(old), 0))
        workers.sync(Policy(str(new), 3, probe))
        known: Any = workers._workers
        victim = known[1].call(KnownWorker.pid).result()
        groups: list[Group] = []
        for parcel in workers.generate(prompts, sampling, 7):
            if not groups:
                os.kill(victim, signal.SIGKILL)
            groups += parcel
        assert known[1].call(KnownWorker.pid).result() != victim
        # every prompt once, by the version that was current, which the worker's first weights
        # were not
        assert Counter(g.prompt.id for g in groups) == Counter(p.id for p in prompts)
        assert {g.policy_version for g in groups} == {3}
        undisturbed = workers.generate(prompts, sampling, 7)
        expected = {g.prompt.id: g.completions for parcel in undisturbed for g in parcel}
        assert {g.prompt.id: g.completions for g in groups} == expected
    finally:
        executor.close()
