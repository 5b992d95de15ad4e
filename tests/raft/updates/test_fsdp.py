"""A policy sharded over two processes (FSDP2 over gloo, without a GPU) trains as in one process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
import torch
from safetensors.torch import load_file
from sft_rank import build_sft, run_ranks, selected_rows

from raft.updates.optimizer import is_whole
from raft.updates.rows import sft_rows
from raft.updates.trainer import Update
from rollout.errors import InputError

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {"learning_rate": 1e-4, "batch_size": 4, "epochs": 2}
NO_DROPOUT: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def weights(folder: Path | str) -> dict[str, torch.Tensor]:
    """A tied head is saved once more from shards."""
    found = load_file(Path(folder) / "model.safetensors")
    tied = found.get("transformer.wte.weight")
    if tied is not None and "lm_head.weight" in found:
        assert torch.equal(found.pop("lm_head.weight"), tied)
    return found


def largest_difference(first: Path | str, second: Path | str) -> float:
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    apart = torch.cat([(a[key] - b[key]).abs().flatten() for key in b])
    # Adam turns a gradient that is all rounding (GPT-2's key biases have none) into a whole step
    return float(apart.quantile(0.999)) if "transformer.wte.weight" in a else float(apart.max())


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("family", "changes", "update"),
    [
        ("llama", {}, {}),
        ("gpt2", NO_DROPOUT, {}),
        ("llama", {}, {"update": "raft_plus_plus", "kl": 0.1}),
        ("llama", {}, {"update": {"kind": "dpo", "reference": "start"}}),
    ],
)
def test_shards_train_as_one_process_across_syncs(
    tmp_path: Path, family: str, changes: dict[str, Any], update: dict[str, Any]
) -> None:
    # every sync asks for log-probabilities between two updates
    start = tiny.checkpoint(tmp_path / "start", family, **changes)
    settings = SETTINGS | {"model": str(start), **update}
    rows = selected_rows(tmp_path / "selected.jsonl")
    probe = next(iter(sft_rows(rows, "all")))["input_ids"]
    outs = [str(tmp_path / f"two-{number}") for number in range(2)]
    # recomputed activations gather no shards of their own, and change nothing
    sharded = settings | {"fsdp": True, "gradient_checkpointing": family == "llama"}
    shared = run_ranks(sharded, rows, outs, probe=probe)
    with tiny.one_thread():
        alone = build_sft(**settings)
        for seed, out in enumerate(outs):
            before = alone.log_probs(probe)
            metrics = alone.train(Update(str(rows), seed, str(tmp_path / f"one-{seed}")))
            after = alone.log_probs(probe)
            for rank in (ranks[seed] for ranks in shared):
                assert rank["train/loss"] == pytest.approx(metrics["train/loss"], rel=1e-4)
                assert rank["log_probs"][0] == pytest.approx(before, abs=1e-3)
                assert rank["log_probs"][1] == pytest.approx(after, abs=1e-3)
            assert largest_difference(out, tmp_path / f"one-{seed}") < 1e-5
    # a resumed run is the same to the bit
    again = str(tmp_path / "again")
    run_ranks(sharded | {"checkpoint": outs[0]}, rows, [again], first_seed=1, probe=probe)
    resumed, straight = weights(again), weights(outs[1])
    assert [key for key in straight if not torch.equal(resumed[key], straight[key])] == []


def state(*files: Path) -> dict[str, torch.Tensor]:
    """Adam's moments by the order of the weights, of shards end to end."""
    parts = [torch.load(file, weights_only=True)["state"] for file in files]
    return {
        f"{name}.{key}": torch.cat([part[name][key] for part in parts])
        for name in parts[0]
        for key in ("exp_avg", "exp_avg_sq")
    }


@pytest.mark.thorough
def test_each_rank_writes_its_rows_of_the_optimizer(tmp_path: Path) -> None:
    start = tiny.checkpoint(tmp_path / "start", "llama")
    # a rate that falls within an update begins anew with the next one
    settings = SETTINGS | {"model": str(start), "schedule": "linear", "warmup_steps": 1}
    rows = selected_rows(tmp_path / "selected.jsonl")
    first, second = (str(tmp_path / name) for name in ("first", "second"))
    run_ranks(settings | {"fsdp": True}, rows, [first, second])
    shards = [Path(first) / f"optimizer-{rank}-of-2.pt" for rank in (0, 1)]
    assert is_whole(Path(first))
    assert sorted(Path(first).glob("optimizer*.pt")) == shards
    with tiny.one_thread():
        alone = build_sft(**settings)
        alone.train(Update(str(rows), 0, str(tmp_path / "one")))
        alone.store(str(tmp_path / "one"))
    names = [name for name, _ in alone._trainer.model.named_parameters()]
    found, expected = state(*shards), state(tmp_path / "one/optimizer.pt")
    groups = alone._trainer.optimizer.param_groups
    order = [id(one) for group in groups for one in group["params"]]
    places = {id(one): name for name, one in alone._trainer.model.named_parameters()}
    named = {f"{places[one]}.{key}": expected[f"{number}.{key}"]
             for number, one in enumerate(order) for key in ("exp_avg", "exp_avg_sq")}  # fmt: skip
    assert found.keys() == named.keys() and len(names) == len(order)
    for key, value in named.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-6)
    sizes = [file.stat().st_size for file in (*shards, tmp_path / "one/optimizer.pt")]
    assert max(sizes[:2]) < 0.6 * sizes[2]

    # trainers that died before make the update again, and write them then
    other = tmp_path / "again-made"
    shutil.copytree(first, other)
    made = [other / shard.name for shard in shards]
    for file in made:
        file.unlink()
    run_ranks(settings | {"fsdp": True, "again": True}, rows, [str(other)])
    again = state(*made)
    assert all(torch.equal(again[key], value) for key, value in found.items())

    def resumed(checkpoint: Path, name: str) -> dict[str, torch.Tensor]:
        out = str(tmp_path / name)
        given = settings | {"fsdp": True, "checkpoint": str(checkpoint)}
        run_ranks(given, rows, [out], first_seed=1)
        return weights(out)

    def same(one: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(one[key], value) for key, value in weights(second).items())

    assert same(resumed(Path(first), "again"))
    # of one file, as it was once, and of three, as three trainers write them
    parts = [torch.load(file, weights_only=True)["state"] for file in shards]
    for count in (1, 3):
        other = tmp_path / f"of-{count}"
        shutil.copytree(first, other)
        for file in other.glob("optimizer*"):
            file.unlink()
        if count > 1:
            files = [f"optimizer-{rank}-of-{count}.pt" for rank in range(count)]
            (other / "optimizer.json").write_text(json.dumps(files))
        else:
            files = ["optimizer.pt"]
        for rank, file in enumerate(files):
            torch.save({"state": {name: {
                key: _third(torch.cat([part[name][key] for part in parts]), rank, count)
                if value.dim() else value for key, value in of.items()}
                for name, of in parts[0].items()}}, other / file)  # fmt: skip
        assert same(resumed(other, f"from-{count}"))
    with pytest.raises(InputError, match=r"optimizer-0-of-2\.pt: is one of 2 shards"):
        build_sft(**settings, checkpoint=first).train(Update(str(rows), 1))


def _third(whole: torch.Tensor, rank: int, count: int) -> torch.Tensor:
    each = -(-len(whole) // count)
    return whole[rank * each : (rank + 1) * each].clone()


def test_gradients_of_shards_are_summed_in_float32(tmp_path: Path) -> None:
    # where the arithmetic is in bfloat16, as on a GPU; by themselves the libraries sum in it too
    settings = SETTINGS | {"model": str(tiny.checkpoint(tmp_path / "start", "llama"))}
    rows = selected_rows(tmp_path / "selected.jsonl")
    ranks = run_ranks(settings | {"fsdp": True, "mixed": True}, rows, [str(tmp_path / "out")])
    assert [rank[0]["reduced_in"] for rank in ranks] == [["torch.float32"]] * 2
    with tiny.one_thread():
        build_sft(**settings).train(Update(str(rows), 0, str(tmp_path / "one")))
    assert 0 < largest_difference(tmp_path / "out", tmp_path / "one") < 1e-3
