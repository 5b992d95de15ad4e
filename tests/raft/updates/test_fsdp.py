"""A policy sharded over two processes (FSDP2 over gloo, without a GPU) trains as in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
import torch
from safetensors.torch import load_file
from sft_rank import build_sft, run_ranks, selected_rows

from raft.updates.rows import sft_rows

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
            metrics = alone.train(str(rows), str(tmp_path / f"one-{seed}"), seed)
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


def test_gradients_of_shards_are_summed_in_float32(tmp_path: Path) -> None:
    # where the arithmetic is in bfloat16, as on a GPU; by themselves the libraries sum in it too
    settings = SETTINGS | {"model": str(tiny.checkpoint(tmp_path / "start", "llama"))}
    rows = selected_rows(tmp_path / "selected.jsonl")
    ranks = run_ranks(settings | {"fsdp": True, "mixed": True}, rows, [str(tmp_path / "out")])
    assert [rank[0]["reduced_in"] for rank in ranks] == [["torch.float32"]] * 2
    with tiny.one_thread():
        build_sft(**settings).train(str(rows), str(tmp_path / "one"), 0)
    assert 0 < largest_difference(tmp_path / "out", tmp_path / "one") < 1e-3
