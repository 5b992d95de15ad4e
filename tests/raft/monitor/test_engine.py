"""The monitor in real runs: vLLM draws, TRL trains, Ray hosts, a real story teller tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
import toy_runs

from raft.config.load import make_config
from raft.loop import run

pytestmark = [pytest.mark.vllm, pytest.mark.ray, pytest.mark.slow]


def settings(root: Path, raft_data: Path, reward: dict[str, Any], **sections: Any) -> Any:
    return make_config(
        {
            "run_dir": str(root / "run"),
            "iterations": 6,
            "policy": {"model": str(raft_data / "models/stories260k")},
            "prompts": {
                "path": str(raft_data / "data/tinystories/train.txt.gz"),
                "separator": "<|endoftext|>",
                "first_words": 8,
                "limit": 2000,
                "per_iteration": 96,
            },
            "sampling": {"k": 8, "max_new_tokens": 48},
            "reward": reward,
            "train": {"learning_rate": 1e-3, "epochs": 2, "batch_size": 16},
            "eval": {"prompts": 48, "k": 4, "every": 1},
            **sections,
        }
    )


@pytest.mark.thorough
def test_one_word_for_all_stories_is_named_and_stops_the_run(
    tmp_path: Path, raft_data: Path
) -> None:
    lexicon = {"positive": ["happy"], "negative": []}
    reward = {"kind": "function", "function": "word_list", "arguments": {"lexicon": lexicon}}
    monitor = {"stop_on": ["ngram_jump"]}
    folder = run(settings(tmp_path, raft_data, reward, monitor=monitor))
    stop = json.loads((folder / "stopped.json").read_text())
    assert 0 < stop["iteration"] < 6
    assert "'happy' now in" in stop["message"]
    rows = [row for row in toy_runs.metrics(folder) if row["phase"] == "eval"]
    assert rows[-1]["eval/kl_k1"] > rows[-1]["eval/kl_k1_ci95"] > 0
    # a sample's log-probabilities under both policies, computed by hand
    home = folder / f"iterations/{stop['iteration']:03d}"
    [sample, *_], [measured, *_] = (
        toy_runs.rows(home / name) for name in ("eval.jsonl", "kl.jsonl")
    )
    ids = (*sample["prompt_token_ids"], *sample["token_ids"][0])
    first = len(sample["prompt_token_ids"]) - 1
    policies = {
        "log_probs": home / "checkpoint",
        "start_log_probs": raft_data / "models/stories260k",
    }
    for key, model in policies.items():
        assert measured[key][0] == pytest.approx(sum(tiny.log_probs(model, ids)[first:]), abs=1e-3)


@pytest.mark.thorough
def test_richer_stories_are_no_alarm(tmp_path: Path, raft_data: Path) -> None:
    # distinct words, whatever they are about: the policy moves away, and repeats nothing
    reward = toy_runs.reward_file(
        tmp_path, "return [float(len(set(c.lower().split()))) for c in completions]"
    )
    folder = run(settings(tmp_path, raft_data, reward, iterations=3))
    rows = [row for row in toy_runs.metrics(folder) if row["phase"] == "eval"]
    assert rows[-1]["eval/reward_mean"] > rows[0]["eval/reward_mean"] + 1
    assert rows[-1]["eval/kl_k1"] > 1
    assert not (folder / "guards.jsonl").exists()
