"""What `load_judge` takes for a judge, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tiny_judges as tiny
import tiny_rewards
from wording import words

from rewards import build_reward, load_judge, load_reward
from rollout.types import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.checkpoint(tmp_path_factory.mktemp("judge"))


def test_a_language_model_is_a_judge_when_somebody_says_so(folder):
    assert load_judge(folder, kind="pairwise").describe()["head"] == "labels"
    with pytest.raises(InputError, match='kind="pairwise"'):
        load_judge(folder)


def test_published_judges_are_known_by_name(tmp_path):
    folder = tiny.checkpoint(tmp_path / "pair-preference-model-LLaMA3-8B")
    judge = load_judge(folder)
    described = judge.describe()
    assert described["kind"] == "pairwise" and described["bos"] == "none"
    assert described["max_length"] == 2048  # the model's positions
    with pytest.raises(InputError, match=words("use load_judge")):
        load_reward(folder)


@pytest.mark.parametrize("kind", [None, "pairwise"])
def test_reward_models_are_sent_to_load_reward(tmp_path, kind):
    classifier = tiny_rewards.checkpoint(tmp_path / "classifier", "llama")
    with pytest.raises(InputError, match=words("Bradley–Terry use load_reward")):
        load_judge(classifier, kind=kind)
    grm = tiny.checkpoint(tmp_path / "grm")
    _add_tensor(grm, "v_head.summary.0.weight")
    with pytest.raises(InputError, match=words("is GRM: use load_reward")):
        load_judge(grm, kind=kind)
    armorm = tiny.checkpoint(tmp_path / "armorm")
    config = json.loads((armorm / "config.json").read_text())
    config["architectures"] = ["LlamaForRewardModelWithGating"]
    (armorm / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=words("is ArmoRM: use load_reward")):
        load_judge(armorm, kind=kind)


def test_kinds_that_score_are_refused(folder):
    with pytest.raises(InputError, match=words("use load_reward")):
        load_judge(folder, kind="classifier")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="kind='judge': is unknown"):
        load_judge(folder, kind="judge")  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_temperature_is_a_number_above_0(folder, temperature):
    with pytest.raises(InputError, match="temperature"):
        load_judge(folder, kind="pairwise", temperature=temperature)


def test_other_settings_that_are_wrong(folder):
    wrong: dict[str, Any] = {
        "engine": "jax",
        "dtype": "int3",
        "device": "abacus",
        "gpu_memory": 0.5,
        "non_finite": "ignore",
    }
    for name, value in wrong.items():
        with pytest.raises(InputError, match=f"{name}={value!r}") as caught:
            load_judge(folder, kind="pairwise", **{name: value})
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=words("no such folder")):
        load_judge(folder / "nowhere", kind="pairwise")


def test_missing_pieces_are_refused(tmp_path):
    untemplated = tiny.checkpoint(tmp_path / "a", tiny.tokenizer(None))
    with pytest.raises(InputError, match="has no chat template"):
        load_judge(untemplated, kind="pairwise")
    headless = tiny.checkpoint(tmp_path / "b")
    _drop_tensor(headless, "lm_head.weight")
    with pytest.raises(InputError, match=r"lacks the tensor lm_head\.weight"):
        load_judge(headless, kind="pairwise")
    (headless / "model.safetensors").unlink()
    with pytest.raises(InputError, match="has no weights"):
        load_judge(headless, kind="pairwise")


def test_logits_that_are_not_the_output_embeddings_are_refused(folder, monkeypatch):
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward

    def cubed(self, *arguments, **settings):
        output: Any = forward(self, *arguments, **settings)
        output.logits = output.logits**3
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", cubed)
    with pytest.raises(InputError, match="does something to its logits"):
        load_judge(folder, kind="pairwise")


def test_vllm_gets_folder_labels_and_length(folder, monkeypatch):
    asked = {}

    class Engine:
        max_length = 99

        def __init__(self, folder, **settings):
            asked.update(settings, folder=folder)

        def describe(self):
            return {"engine": "vllm"}

    monkeypatch.setattr("rewards.judges.load.VLLMLabelEngine", Engine)
    judge = load_judge(
        folder, kind="pairwise", engine="vllm", dtype="float32", max_length=100, gpu_memory=0.3
    )
    assert asked["folder"] == str(folder) and asked["label_ids"] == judge.prompt.label_ids
    assert asked["dtype"] == "float32" and asked["max_length"] == 100
    assert asked["gpu_memory"] == 0.3 and judge.prompt.max_length == 99
    assert judge.describe()["engine"] == "vllm"


def test_build_reward_knows_pairwise(folder):
    reward = build_reward(
        "pairwise", model=str(folder), tournament="round_robin", score="mean_logit", tie=0.01
    )
    groups = [tiny.group("a", ["yes", "no", "maybe"]), tiny.group("b", ["one", "two"])]
    scores = reward.score_groups(groups)
    assert [len(row) for row in scores] == [3, 2]
    assert reward.describe()["tournament"] == "round_robin"  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="needs model"):
        build_reward("pairwise")
    # before anything is loaded
    with pytest.raises(InputError, match=words("method 'lottery' unknown")):
        build_reward("pairwise", model="no such folder", tournament="lottery")


def _add_tensor(folder, name):
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors[name] = torch.zeros(1, 64)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _drop_tensor(folder, name):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
