"""A reward model sharded over two processes (FSDP2 over gloo, without a GPU) trains as in one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import tiny_training as tiny
import toy_runs
from reward_ranks import train_together
from safetensors.torch import load_file

from raft.config.train_reward import make_train_config
from raft.reward_training.recipes import resolved
from raft.reward_training.run import train_reward
from rewards import load_judge, load_reward
from rewards.training import trainer
from rollout.types import InputError

PAIRS = tiny.made_pairs(40)
TRAIN = {"learning_rate": 3e-3, "epochs": 2, "batch_size": 4, "micro_tokens": 256}
SHARDED = {**TRAIN, "fsdp": True}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    tiny.language_model(folder / "base", tiny.tokenizer(tiny.texts_of(PAIRS), 400))
    toy_runs.write_rows(
        folder / "pairs.jsonl",
        [{"id": p.id, "prompt": p.prompt[0]["content"], "chosen": p.chosen, "rejected": p.rejected}
         for p in PAIRS],
    )  # fmt: skip
    return folder


def settings(root: Path, run_dir: Path, **more: Any) -> dict[str, Any]:
    # 29 pairs, 4 a step: the last step is of one pair, which leaves the second process without
    return {
        "run_dir": str(run_dir), "model": str(root / "base"), "data": [str(root / "pairs.jsonl")],
        "eval": {"count": 11}, "save_steps": 5, "log_steps": 1, **more,
    }  # fmt: skip


def apart(one: Path, other: Path) -> float:
    left, right = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    assert {name: value.dtype for name, value in left.items()} == {
        name: value.dtype for name, value in right.items()
    }
    # both sides of a pair have the biases of a GRM's head in common: their gradients are rounding
    # alone where they cancel, of which Adam makes whole steps
    names = [name for name in left if not name.endswith(".bias")]
    return max(float((left[name] - right[name]).abs().max()) for name in names)


def files(run: Path) -> dict[str, Any]:
    """What a model's folder says beside its weights and its card."""
    return {
        path.name: path.read_text()
        for path in (run / "model").iterdir()
        if path.suffix in (".json", ".jinja")
    }


@pytest.mark.thorough
@pytest.mark.slow
def test_shards_train_as_one_process_and_go_on(root: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with tiny_models.one_thread():
        train_reward(make_train_config(settings(root, one, train=TRAIN)))
    assert train_together(settings(root, two, train=SHARDED)) == ["", ""]
    alone, together = (json.loads((run / "result.json").read_text()) for run in (one, two))
    assert together["eval/loss"] == pytest.approx(alone["eval/loss"], abs=1e-4)
    assert together["train/loss"] == pytest.approx(alone["train/loss"], abs=1e-4)
    assert apart(one, two) < 1e-4 and files(one) == files(two)
    told = [
        [row for row in toy_runs.rows(run / "metrics.jsonl") if "train/grad_norm" in row]
        for run in (one, two)
    ]
    assert [row["train/grad_norm"] for row in told[1]] == pytest.approx(
        [row["train/grad_norm"] for row in told[0]], rel=1e-3
    )
    conversation = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    scores = [float(load_reward(run / "model").score([conversation])[0]) for run in (one, two)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)

    # killed, the same command goes on; from its checkpoint so does one process alone
    cut, handed = tmp_path / "cut", tmp_path / "handed over"
    assert "gone" in train_together(settings(root, cut, train=SHARDED), stop_at=7)
    assert (cut / "checkpoints/checkpoint-5/complete.json").exists()
    shutil.copytree(cut, handed)
    assert train_together(settings(root, cut, train=SHARDED)) == ["", ""]
    assert apart(two, cut) == 0
    with tiny_models.one_thread():
        # its config names shards, which are no part of what is trained
        (handed / "config.yaml").unlink()
        train_reward(make_train_config(settings(root, handed, train=TRAIN)))
    assert apart(one, handed) < 1e-4


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["bradley_terry", "grm"])
def test_shards_compute_in_16_bits_as_one_process_does(
    root: Path, tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    grm = {"regulariser": "dpo", "head_dropout": 0.0}
    more: dict[str, Any] = {"recipe": recipe, **({"grm": grm} if recipe == "grm" else {})}
    with tiny_models.one_thread():
        train_reward(make_train_config(settings(root, tmp_path / "wide", train=TRAIN, **more)))
        monkeypatch.setattr(trainer, "computes_in_bfloat16", lambda settings: True)
        train_reward(make_train_config(settings(root, tmp_path / "one", train=TRAIN, **more)))
    two = settings(root, tmp_path / "two", train=SHARDED, **more)
    assert train_together(two, in_16_bits=True) == ["", ""]
    wide, alone, together = (
        [row["train/loss"] for row in toy_runs.rows(tmp_path / name / "metrics.jsonl")
         if "train/grad_norm" in row]
        for name in ("wide", "one", "two")
    )  # fmt: skip
    # the first step's loss is of equal weights, which are float32 in all of them
    for losses in (alone, together):
        assert losses[0] != wide[0]
        assert losses[0] == pytest.approx(wide[0], rel=0.02)
    assert apart(tmp_path / "one", tmp_path / "two") < 0.05


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        {"recipe": "grm", "grm": {"regulariser": "dpo", "head_dropout": 0.0}},
        {"recipe": "pairwise"},
        {"recipe": "hh", "sft": {**TRAIN, "chunk": 32}},
        {"train": {**TRAIN, "gradient_checkpointing": True}},
    ],
    ids=["grm", "pairwise", "hh", "checkpointing"],
)
def test_every_recipe_trains_shards(root: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    plain = {"train": {**TRAIN, "epochs": 1}, **more}
    sharded = {
        key: {**value, "fsdp": True} if key in ("train", "sft") else value
        for key, value in plain.items()
    }
    with tiny_models.one_thread():
        train_reward(make_train_config(settings(root, tmp_path / "one", **plain)))
    assert train_together(settings(root, tmp_path / "two", **sharded)) == ["", ""]
    assert apart(tmp_path / "one", tmp_path / "two") < 1e-4
    assert files(tmp_path / "one") == files(tmp_path / "two")
    load = load_judge if plain.get("recipe") == "pairwise" else load_reward
    load(tmp_path / "two" / "model")


def test_shards_that_cannot_be_are_refused(root: Path, tmp_path: Path) -> None:
    def config(**train: Any) -> Any:
        return make_train_config(settings(root, tmp_path / "run", train={**SHARDED, **train}))

    with pytest.raises(InputError, match=r"train\.fsdp: .* torchrun, and here is one"):
        train_reward(config())
    with pytest.raises(InputError, match=r"train\.fsdp: .*lora"):
        resolved(config(lora={"r": 4}))
    with pytest.raises(InputError, match=r"train\.optimizer: paged_adamw_32bit .*fsdp"):
        resolved(config(optimizer="paged_adamw_32bit"))
    assert not (tmp_path / "run").exists()
