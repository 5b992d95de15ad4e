"""Element counts from a config.json, against models that are built, peft, and published counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from raft.plan.memory import Training, training_parts
from raft.plan.sizes import UnknownSizeError, model_size

SMALL: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320},
    "mistral": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
                "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320},
    "qwen2": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320,
              "tie_word_embeddings": True},
    "gemma": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32,
              "vocab_size": 320},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 320, "n_positions": 96},
    "gpt_neo": {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 320,
                "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 96},
    "gpt_neox": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
                 "num_attention_heads": 4, "vocab_size": 320},
}  # fmt: skip
# (layers, elements of keys of a token in one layer), from the lines above
CACHES = {
    "llama": (2, 32), "mistral": (2, 32), "qwen2": (2, 32), "gemma": (2, 32), "gpt2": (2, 64),
    "gpt_neo": (2, 64), "gpt_neox": (2, 64),
}  # fmt: skip
# what the hub shows of their safetensors, or their papers count
PUBLISHED = {
    "EleutherAI/gpt-neo-2.7B": 2_651_307_520,
    "huggyllama/llama-7b": 6_738_415_616,
    "meta-llama/Meta-Llama-3-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
    "mistralai/Mistral-7B-Instruct-v0.2": 7_241_732_096,
    "google/gemma-2b-it": 2_506_172_416,
    "openlm-research/open_llama_3b": 3_426_473_600,
}


def folder(root: Path, family: str) -> str:
    """A model's config.json, alone."""
    root.mkdir(exist_ok=True)
    (root / "config.json").write_text(json.dumps({"model_type": family, **SMALL[family]}))
    return str(root)


def built(path: str) -> Any:
    from transformers import AutoConfig

    return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))


@pytest.mark.parametrize("family", SMALL)
def test_elements_are_those_of_a_built_model(tmp_path: Path, family: str) -> None:
    path = folder(tmp_path / family, family)
    size, model = model_size(path, "policy.model"), built(path)
    assert size.elements == sum(one.numel() for one in model.parameters())
    # what a cache holds of one token
    drawn = model(input_ids=torch.zeros((1, 5), dtype=torch.long), use_cache=True)
    held = sum(
        tensor.numel() for layer in drawn.past_key_values.layers
        for tensor in (layer.keys, layer.values)
    )  # fmt: skip
    assert size.kv == held / 5
    assert (size.layers, size.kv_width) == CACHES[family]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neo"])
@pytest.mark.parametrize("targets", ["all-linear", None])
def test_adapters_are_those_of_peft(tmp_path: Path, family: str, targets: str | None) -> None:
    from peft import LoraConfig, get_peft_model

    path = folder(tmp_path / family, family)
    wanted = targets or (["c_attn"] if family == "gpt2" else ["q_proj", "v_proj"])
    settings = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=wanted)
    trained = get_peft_model(built(path), settings)
    expected = sum(one.numel() for one in trained.parameters() if one.requires_grad)
    assert model_size(path, "policy.model").adapters(4, wanted) == expected > 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_published_size(name: str) -> None:
    assert model_size(name, "policy.model", hub=False).elements == PUBLISHED[name]


def test_a_scalar_reward_has_no_head_over_the_vocabulary() -> None:
    name = "weqweasdas/hh_rlhf_rm_open_llama_3b"
    # its file holds 6,648,237,874 bytes in 16 bits, the score's row among them
    assert model_size(name, "reward.model", "backbone").elements * 2 == pytest.approx(
        6_648_237_874, rel=1e-4
    )


def test_a_model_that_is_not_here_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownSizeError, match=r"policy\.model: .*someone/model"):
        model_size("someone/model", "policy.model", hub=False)
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "config.json").write_text(json.dumps({"model_type": "nobody-knows"}))
    with pytest.raises(UnknownSizeError, match=r"policy\.model"):
        model_size(str(strange), "policy.model", hub=False)


@pytest.mark.parametrize(
    ("optimizer", "dtype", "lora"),
    [("adamw", "float32", False), ("adamw", "bfloat16", False), ("adamw", "float32", True)],
)
def test_a_tiny_trainer_takes_what_is_planned(
    tmp_path: Path, optimizer: str, dtype: str, lora: bool
) -> None:
    from peft import LoraConfig, get_peft_model

    path = folder(tmp_path / "llama", "llama")
    size, model = model_size(path, "policy.model"), built(path).to(getattr(torch, dtype))
    if lora:
        settings = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
        model = get_peft_model(model, settings)
    trained = [one for one in model.parameters() if one.requires_grad]
    adam = torch.optim.AdamW(trained)
    ids = torch.zeros((1, 4), dtype=torch.long)
    model(input_ids=ids, labels=ids).loss.backward()
    adam.step()
    state = [one for each in adam.state.values() for one in each.values() if torch.is_tensor(one)]
    how = Training(
        element=4 if dtype == "float32" else 2,
        autocast=False,
        trained=size.adapters(4, "all-linear") if lora else size.elements,
        lora=lora,
        checkpointing=False,
        tokens=4,
        optimizer=optimizer,
    )
    planned = training_parts(size, how)
    real = {
        "weights": sum(one.nbytes for one in model.parameters()),
        "gradients": sum(one.grad.nbytes for one in trained if one.grad is not None),
        "optimizer": sum(one.nbytes for one in state),
    }
    for name, held in real.items():
        assert planned[name].bytes == pytest.approx(held, rel=0.02), name


@pytest.mark.parametrize("lora", [False, True])
def test_activations_are_near_what_a_graph_keeps(tmp_path: Path, lora: bool) -> None:
    # 16-bit arithmetic under float32 weights, and under frozen 16-bit ones
    from peft import LoraConfig, get_peft_model

    path = folder(tmp_path / "llama", "llama")
    size, model = model_size(path, "policy.model"), built(path)
    if lora:
        settings = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
        model = get_peft_model(model.bfloat16(), settings)
    tokens = 211  # no width of the model
    weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tokens in tensor.shape:
            kept[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    base: Any = model.get_base_model() if lora else model
    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one),
    ):
        base.model(input_ids=torch.zeros((1, tokens), dtype=torch.long))
    how = Training(
        element=2 if lora else 4,
        autocast=True,
        trained=size.adapters(4, "all-linear") if lora else size.elements,
        lora=lora,
        checkpointing=False,
        tokens=tokens,
        optimizer="adamw",
        logits=0,
    )
    planned = training_parts(size, how)["activations"].bytes
    # a third of a layer more, for the way back
    assert sum(size for size, _ in kept.values()) == pytest.approx(planned, rel=0.4)
