"""How a policy's weights are held and written: LoRA merged a tensor at a time, on GPUs made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
import torch
from safetensors.torch import load_file

from raft.config.train import LoraConfig, TrainConfig
from raft.updates.policy import (
    _save_merged,
    check_rows_stay_apart,
    load_policy,
    merged_tensors,
    save_policy,
    weights_dtype,
)
from rollout.types import InputError

LORA = LoraConfig(r=4, alpha=8)
GIB = 2**30


def adapted(start: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A policy whose adapters are no longer zero."""
    model = load_policy(str(start), None, dtype, LORA)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def mixture(folder: Path) -> Path:
    """Experts, which transformers holds by other names than the files do."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, num_local_experts=3, head_dim=16,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(folder)
    return folder


def all_weights(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("most_bytes", [2**40, 20_000])
def test_merged_files_are_those_of_peft_and_transformers(
    tmp_path: Path, family: str, dtype: torch.dtype, most_bytes: int
) -> None:
    from transformers import AutoModelForCausalLM

    start = tmp_path / "start"
    _ = mixture(start) if family == "mixtral" else tiny.checkpoint(start, family)
    model, merged = adapted(start, dtype), adapted(start, torch.float32)
    # the same weights, summed in float32 and rounded once
    for ours, theirs in zip(model.parameters(), merged.parameters(), strict=True):
        theirs.data.copy_(ours.data)
    frozen = {name: value.clone() for name, value in model.state_dict().items()}
    (tmp_path / "ours").mkdir()
    _save_merged(model, tmp_path / "ours", most_bytes)
    assert all(torch.equal(frozen[name], value) for name, value in model.state_dict().items())
    merged.merge_and_unload().to(dtype).save_pretrained(tmp_path / "theirs")
    ours, theirs = all_weights(tmp_path / "ours"), all_weights(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype == dtype
        # of experts, peft rounds ΔW too
        once = 0 if family != "mixtral" else 2**-6
        rtol, atol = (1e-5, 1e-7) if dtype == torch.float32 else (once, once / 8)
        assert torch.allclose(ours[name], value, rtol, atol), name
    for file in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "ours" / file).read_text()) == json.loads(
            (tmp_path / "theirs" / file).read_text()
        )
    # whoever reads the folder finds every weight, in one file or in many
    assert (len(list((tmp_path / "ours").glob("*.safetensors"))) > 2) == (most_bytes < 2**40)
    assert not list((tmp_path / "ours").glob(".*"))
    loaded: Any = AutoModelForCausalLM
    _, found = loaded.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(found[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_saving_an_adapted_policy_leaves_nothing_half_written(tmp_path: Path) -> None:
    start = tiny.checkpoint(tmp_path / "start", "llama")
    save_policy(adapted(start), tmp_path / "out", lora=True)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "adapter", "config.json", "generation_config.json", "model.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "on_gpu", "expected"),
    [
        ({"lora": LORA}, True, torch.bfloat16),
        ({"lora": LORA}, False, torch.float32),
        ({}, True, torch.float32),
        ({"dtype": "bfloat16"}, False, torch.bfloat16),
        ({"lora": LORA, "dtype": "float32"}, True, torch.float32),
    ],
)
def test_only_what_is_trained_needs_float32(
    settings: dict[str, Any], on_gpu: bool, expected: torch.dtype
) -> None:
    assert weights_dtype(TrainConfig(**settings), on_gpu) == expected


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neo", "mixtral"])
def test_packing_is_refused_where_rows_would_see_each_other(tmp_path: Path, family: str) -> None:
    start = tmp_path / "start"
    _ = mixture(start) if family == "mixtral" else tiny.checkpoint(start, family)
    for dtype in (torch.float32, torch.bfloat16):
        check_rows_stay_apart(model := load_policy(str(start), None, dtype, None), "start")
    forward = model.forward
    model.forward = lambda input_ids, use_cache: forward(input_ids, use_cache=use_cache)
    with pytest.raises(InputError, match=r"train\.packing: bfd: .* see each other"):
        check_rows_stay_apart(model, "start")


@pytest.mark.slow
def test_saving_llama_3_8b_takes_little_more_than_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # on a GPU that does not exist, and with Adam's moments beside: all ΔW at once took 82 GiB
    from peft import LoraConfig, get_peft_model
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256,
    )  # fmt: skip
    with torch.device("meta"):
        dtype = weights_dtype(TrainConfig(lora=LORA), on_gpu=True)
        base: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
        lora = LoraConfig(task_type="CAUSAL_LM", r=32, lora_alpha=64, target_modules="all-linear")
        model: Any = get_peft_model(base, lora)
    written: list[int] = []

    def write(tensors: dict[str, torch.Tensor], path: Path, metadata: object) -> None:
        written.append(sum(one.nbytes for one in tensors.values()))
        assert {one.device.type for one in tensors.values()} == {"cpu"}
        path.touch()

    monkeypatch.setattr("safetensors.torch.save_file", write)
    monkeypatch.setattr(torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True)
    with FakeTensorMode(), MemTracker() as tracker:
        tracker.track_external(model)
        model._apply(lambda one: torch.empty(one.shape, dtype=one.dtype, device="cuda"))
        adam = [torch.empty_like(p) for p in model.parameters() if p.requires_grad for _ in "mv"]
        _save_merged(model, tmp_path)
        peak = {d.type: s["Total"] for d, s in tracker.get_tracker_snapshot("peak").items()}
    assert len(adam) > 800 and sum(written) == pytest.approx(14.96 * GIB, rel=1e-3)
    assert 15 * GIB < peak["cuda"] < 20 * GIB
    assert peak["cpu"] < 6.5 * GIB  # a file's worth, and one tensor
    assert dict.fromkeys(name for name, _ in merged_tensors(model))
