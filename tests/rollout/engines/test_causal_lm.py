"""Policies whose files are damaged or lack weights: refused by name, never filled at random."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_models as tiny
import torch
from safetensors.torch import load_file, save_file

from rollout.engines.causal_lm import changed_weights, checksum, load_causal_lm, same_weights
from rollout.types import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.checkpoint(tmp_path / "policy", "llama")


def test_what_is_whole_loads(folder: Path) -> None:
    found = load_causal_lm(str(folder), torch.float32)
    assert tiny.log_probs(folder, [3, 4, 5]) and found.config.model_type == "llama"


@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.0.self_attn.q_proj.weight"])
def test_a_tensor_that_is_not_there_is_named(folder: Path, name: str) -> None:
    # as a reward model's checkpoint has no language head
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=name) as caught:
        load_causal_lm(str(folder), torch.float32)
    assert "random" in str(caught.value)


def test_a_tied_head_is_there(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert load_causal_lm(str(folder), torch.float32) is not None


def test_a_cut_file_is_named_with_a_remedy(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError) as caught:
        load_causal_lm(str(folder), torch.float32)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_checksums_see_every_bit_and_place() -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.int8)
    for tensor in (torch.arange(-3, 9).view(3, 4).to(dtype) for dtype in dtypes):
        other = tensor.clone()
        other[1, 2] += 1
        swapped = tensor[[1, 0, 2]]
        found = {checksum(one) for one in (tensor, other, swapped, tensor.T)}
        assert len(found) == 4 and checksum(tensor.clone()) in found


def test_weights_that_differ_by_less_than_rounding_are_the_same(tmp_path: Path) -> None:
    first, second = (tiny.checkpoint(tmp_path / name, "llama") for name in "ab")
    tensors = load_file(second / "model.safetensors")
    tensors["model.norm.weight"] += 1e-5
    save_file(tensors, second / "model.safetensors", metadata={"format": "pt"})
    assert same_weights(str(first), str(second), "bfloat16")
    assert not same_weights(str(first), str(second), "float32")
    assert not same_weights(str(first), str(tmp_path / "none"), "float32")
    tensors["model.layers.1.self_attn.k_proj.weight"] *= 2
    save_file(tensors, second / "model.safetensors", metadata={"format": "pt"})
    names = ["model.norm.weight", *(f"model.layers.{n}.self_attn.qkv_proj.weight" for n in (0, 1))]
    folders = str(first), str(second)
    assert changed_weights(*folders, "bfloat16", [*names, "unknown"]) == {names[2]}
    assert changed_weights(*folders, "float32", names) == {names[0], names[2]}
