"""A dry update: it takes what the largest update takes, and changes nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models as tiny
import torch
from safetensors.torch import load_file
from sft_rank import build_sft, run_ranks, selected_rows

from raft.updates.rows import MIXED
from raft.updates.trainer import Update
from rollout.types import InputError

LORA = {"r": 4, "alpha": 8, "dropout": 0.1}
EIGHT: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 8, "micro_batch_size": 2}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with tiny.one_thread():
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny.checkpoints(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    selected = selected_rows(tmp_path_factory.mktemp("rows") / "selected.jsonl")
    (selected.parent / MIXED).write_bytes(selected.read_bytes())
    return selected


def files(folder: Path) -> dict[str, Any]:
    """Weights, adapter and optimizer."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        found |= {f"{path.name}:{key}": value for key, value in load_file(path).items()}
    stored = folder / "optimizer.pt"  # not of a fresh one
    state = torch.load(stored, weights_only=True)["state"] if stored.exists() else {}
    return found | {f"{n}:{key}": value for n, of in state.items() for key, value in of.items()}


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        bool((one[key].flatten().view(torch.uint8) == other[key].flatten().view(torch.uint8)).all())
        for key in one
    )


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in trainer._trainer.model.state_dict().items()}


def streams() -> list[Any]:
    """The states of all random numbers that an update may draw."""
    numbers: Any = np.random.get_state()
    return [random.getstate(), numbers[1].tolist(), torch.get_rng_state().tolist()]


def lose_a_token(trainer: Any) -> None:
    """Zeros that must keep their sign."""
    with torch.no_grad():
        trainer._trainer.model.get_input_embeddings().weight[0] = -0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),
        ("gpt2", {"loss_on": "all"}),  # with dropout
        ("llama", {"lora": LORA}),
        ("llama", {"packing": "bfd", "max_length": 32}),
        ("gpt2", {"packing": "wrapped", "max_length": 32}),
        ("llama", {"update": "raft_plus_plus", "kl": 0.1, "weight_decay": 0.1}),
        ("llama", {"update": {"kind": "dpo", "reference": "start"}}),
        ("llama", {"mix": {"path": "mixed.jsonl"}, "start_from": "start"}),
        ("llama", {"gradient_checkpointing": True, "dtype": "bfloat16"}),
    ],
)
def test_a_dry_update_leaves_nothing(
    folders: dict[str, Path], rows: Path, tmp_path: Path, family: str, settings: dict[str, Any]
) -> None:
    given = EIGHT | {"model": str(folders[family]), **settings}
    torch.manual_seed(0)  # of new adapters
    plain = build_sft(**given)
    torch.manual_seed(0)
    tried = build_sft(**given)
    for one in (plain, tried):
        lose_a_token(one)
    before = weights(tried)
    drawn = streams()
    assert tried.rehearse(20, 12) == 0
    assert streams() == drawn
    assert same_bits(weights(tried), before)
    assert tried._trainer.optimizer is None
    assert all(weight.grad is None for weight in tried._trainer.model.parameters())
    for number in range(2):  # and later updates are those of a trainer that made none
        metrics = [
            one.train(Update(str(rows), number, str(tmp_path / f"{name}-{number}")))
            for name, one in (("plain", plain), ("tried", tried))
        ]
        for name, one in (("plain", plain), ("tried", tried)):
            one.store(str(tmp_path / f"{name}-{number}"))
        assert metrics[0]["train/loss"] == metrics[1]["train/loss"]
        assert metrics[0]["train/grad_norm"] == metrics[1]["train/grad_norm"]
        found = [files(tmp_path / f"{name}-{number}") for name in ("plain", "tried")]
        assert same_bits(*found)
    # a resumed run makes one too, before it reads the optimizer
    resumed = build_sft(**given, checkpoint=str(tmp_path / "plain-0"))
    if "lora" in settings:  # whose frozen weights are the start's
        lose_a_token(resumed)
    resumed.rehearse(20, 12)
    resumed.train(Update(str(rows), 1, str(tmp_path / "resumed")))
    resumed.store(str(tmp_path / "resumed"))
    assert same_bits(files(tmp_path / "resumed"), files(tmp_path / "plain-1"))
    assert resumed.rehearse(20, 12) == 0  # what has trained is let be
    assert resumed._trainer.optimizer is not None


def test_it_is_as_large_as_the_largest_update(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build_sft(**EIGHT, model=str(folders["llama"]))
    inner = trainer._trainer
    passes, steps = [], []
    step = torch.optim.AdamW.step

    def compute_loss(model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        grads = any(weight.grad is not None for weight in model.parameters())
        passes.append((tuple(inputs["input_ids"].shape), grads, len(inner.optimizer.state)))
        return type(inner).compute_loss(inner, model, inputs, *rest, **named)

    def spy(self: Any, *arguments: Any, **named: Any) -> Any:
        out = step(self, *arguments, **named)
        steps.append((len(self.state), self.param_groups[0]["lr"]))
        return out

    monkeypatch.setattr(inner, "compute_loss", compute_loss)
    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    trainer.rehearse(20, 12)
    count = len(list(inner.model.parameters()))
    # a pass on nothing, one on gradients, and both again on the optimizer's state
    assert passes == [
        ((2, 32), False, 0), ((2, 32), True, 0), ((2, 32), False, count), ((2, 32), True, count),
    ]  # fmt: skip
    assert steps == [(count, 0.0)] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "named", "unnamed"),
    [
        ({}, ["lora", "micro_batch_size: 1", "fsdp", "adamw_8bit", "max_new_tokens"], ["offload"]),
        ({"lora": LORA}, ["micro_batch_size: 1", "prompts.max_tokens"], ["train.lora", "fsdp"]),
        ({"packing": "bfd", "max_length": 32}, ["train.max_length"], ["prompts.max_tokens"]),
    ],
)
def test_memory_that_is_too_small_is_one_line(
    folders: dict[str, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any], named: list[str], unnamed: list[str],
) -> None:  # fmt: skip
    given = EIGHT | {"model": str(folders["llama"]), **settings}
    first = build_sft(**given)
    first.train(Update(str(rows), 0, str(tmp_path / "first")))
    first.store(str(tmp_path / "first"))
    resumed = build_sft(**given, checkpoint=str(tmp_path / "first"))  # as well as a new one
    before = weights(resumed)

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of "
            "79.18 GiB. If reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF"
        )

    with monkeypatch.context() as patched:
        patched.setattr(resumed._trainer, "compute_loss", full)
        with pytest.raises(InputError, match="2 rows of 32 tokens") as caught:
            resumed.rehearse(20, 12)
    said = str(caught.value)
    assert "Tried to allocate 2.00 GiB" in said and "ALLOC_CONF" not in said and "\n" not in said
    assert [name for name in named if name not in said] == []
    assert [name for name in unnamed if name in said] == []
    assert same_bits(weights(resumed), before)


@pytest.mark.thorough
@pytest.mark.slow
def test_shards_make_one_too(tmp_path: Path) -> None:
    start = str(tiny.checkpoint(tmp_path / "start", "llama"))
    settings: dict[str, Any] = {"model": start, "learning_rate": 1e-4, "batch_size": 4}
    rows = selected_rows(tmp_path / "selected.jsonl")
    for sharded in (True, False):
        given = settings | {"fsdp": sharded}
        found = []
        for lengths in ((), (20, 12)):
            outs = [str(tmp_path / f"{sharded}-{len(lengths)}-{number}") for number in range(2)]
            run_ranks(given | {"lengths": lengths}, rows, outs)
            again = str(tmp_path / f"{sharded}-{len(lengths)}-resumed")
            run_ranks(
                given | {"lengths": lengths, "checkpoint": outs[0]}, rows, [again], first_seed=1
            )
            found += [load_file(Path(one) / "model.safetensors") for one in (outs[1], again)]
        assert all(same_bits(found[0], other) for other in found[1:])
