"""Which checkpoints are loaded, which are refused, and with which settings."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import tiny_rewards as tiny
from wording import says

from rewards import load_reward
from rewards.checkpoints.families import recognise
from rollout.types import InputError

ARMORM_CODE = "modeling_custom.LlamaForRewardModelWithGating"
CONVERSATION = [tiny.chat("hi", "there")]


@pytest.fixture
def llama(tmp_path):
    return tiny.checkpoint(tmp_path / "model", "llama")


def refusal(path, **settings):
    with pytest.raises(InputError) as caught:
        load_reward(path, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_head_is_never_drawn_at_random(llama):
    tensors = tiny.tensors_of(llama)
    del tensors["score.weight"]
    tiny.save_tensors(llama, tensors)
    assert "no score.weight" in refusal(llama)


def test_a_missing_backbone_tensor_is_refused(llama):
    tensors = tiny.tensors_of(llama)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tiny.save_tensors(llama, tensors)
    assert "model.layers.1.mlp.up_proj.weight" in refusal(llama)


def test_two_outputs_are_refused(tmp_path):
    assert "score.weight is [2, 64]" in refusal(tiny.checkpoint(tmp_path, "llama", num_labels=2))


def test_the_head_decides_where_the_config_forgot_its_labels(llama):
    expected = load_reward(llama).score(CONVERSATION)
    config = json.loads((llama / "config.json").read_text())
    for key in ("id2label", "label2id", "num_labels"):
        config.pop(key, None)
    (llama / "config.json").write_text(json.dumps(config))
    np.testing.assert_array_equal(load_reward(llama).score(CONVERSATION), expected)


def test_sharded_checkpoints(tmp_path, llama):
    expected = load_reward(llama).score(CONVERSATION)
    sharded = tmp_path / "sharded"
    tiny.model("llama").save_pretrained(sharded, max_shard_size="60KB")
    tiny.tokenizer().save_pretrained(sharded)
    shards = sorted(sharded.glob("model-*.safetensors"))
    assert len(shards) > 1
    np.testing.assert_array_equal(load_reward(sharded).score(CONVERSATION), expected)
    shards[0].unlink()
    assert shards[0].name in refusal(sharded)


def test_plain_tensor_bin_files_load_and_pickled_code_is_refused(tmp_path, llama):
    import torch

    expected = load_reward(llama).score(CONVERSATION)
    torch.save(tiny.tensors_of(llama), llama / "pytorch_model.bin")
    (llama / "model.safetensors").unlink()
    np.testing.assert_array_equal(load_reward(llama).score(CONVERSATION), expected)

    witness = tmp_path / "code was run"
    torch.save({"score.weight": Malicious(str(witness))}, llama / "pytorch_model.bin")
    assert "weights_only" in refusal(llama)
    assert not witness.exists()


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_truncated_file_is_refused(llama):
    whole = (llama / "model.safetensors").read_bytes()
    (llama / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "model.safetensors" in refusal(llama)


@pytest.mark.parametrize(
    ("tensor", "config", "family"),
    [
        ("v_head.summary.0.weight", {"architectures": ["LlamaForCausalLM"]}, "grm"),
        ("pretrained_model.v_head.summary.2.weight", {}, "grm"),
        ("base_model.model.v_head.summary.weight", {"vhead_layer_type": "linear"}, "grm"),
        ("gating.layers.0.weight", {"architectures": ["LlamaForRewardModelWithGating"]}, "armorm"),
        ("x", {"auto_map": {"AutoModel": f"{ARMORM_CODE}"}}, "armorm"),
        ("x", {"num_objectives": 19, "gating_temperature": 10}, "armorm"),
        ("x", {"auto_map": {"AutoModel": f"{ARMORM_CODE}31"}}, "classifier"),
        ("x", {"vhead_layer_type": "mlp"}, "classifier"),
    ],
)
def test_families_are_recognised_by_tensors_before_config_keys(llama, tensor, config, family):
    tensors = tiny.tensors_of(llama)
    tiny.save_tensors(llama, {**tensors, tensor: tensors["score.weight"].clone()})
    tiny.change_config(llama, **config)
    assert recognise(llama) == family


def test_recognised_families_without_their_head_are_refused_with_the_tensor(llama):
    tiny.change_config(llama, num_objectives=19, gating_temperature=10)
    assert "lacks the tensor regression_layer.weight" in refusal(llama)
    assert "no v_head tensor" in refusal(llama, kind="grm")


def test_left_over_vhead_keys_do_not_make_a_grm(llama):
    expected = load_reward(llama).score(CONVERSATION)
    tiny.change_config(llama, vhead_layer_type="mlp", vhead_num_layers=1)
    np.testing.assert_array_equal(load_reward(llama).score(CONVERSATION), expected)


def test_a_language_model_is_no_reward_model(llama):
    tiny.change_config(llama, architectures=["LlamaForCausalLM"])
    tensors = tiny.tensors_of(llama)
    tiny.save_tensors(llama, {"odd_head.weight": tensors.pop("score.weight"), **tensors})
    assert says(refusal(llama), "without a reward head odd_head.weight [1, 64]")
    assert says(refusal(llama, kind="pairwise"), "use load_judge")


def test_a_pairwise_model_is_refused_before_any_download(monkeypatch):
    import rewards.models.load

    monkeypatch.setattr(rewards.models.load, "local_folder", lambda path: pytest.fail("a download"))
    assert says(refusal("RLHFlow/pair-preference-model-LLaMA3-8B"), "use load_judge")
    assert says(refusal("rlhflow/Pair-Preference-Model-llama3-8b"), "use load_judge")
    assert says(refusal("Ray2333/GRM-llama3.2-3B-sftreg", kind="pairwise"), "use load_judge")


def test_unknown_architecture_adapter_and_broken_configs(llama):
    tiny.change_config(llama, model_type="never-heard-of")
    assert "config.json" in refusal(llama)
    (llama / "config.json").write_text("{")
    assert "not JSON" in refusal(llama)
    (llama / "config.json").unlink()
    assert "no config.json" in refusal(llama)


def test_an_adapter_folder_says_what_to_do(llama):
    (llama / "model.safetensors").unlink()
    assert "no weights" in refusal(llama)
    (llama / "adapter_config.json").write_text("{}")
    assert says(refusal(llama), "adapter merge")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bos": "triple"}, "single"),
        ({"format": "html"}, "chat, hh_hash, plain"),
        ({"dtype": "int3"}, "float32"),
        ({"device": "toaster"}, "auto"),
        ({"engine": "abacus"}, "transformers"),
        ({"kind": "oracle"}, "classifier"),
        ({"truncation_side": "top"}, "left, right"),
        ({"max_length": 1}, "leaves no room"),
        ({"non_finite": "zero"}, "raise, missing"),
    ],
)
def test_wrong_settings_name_the_right_ones(llama, settings, message):
    assert message in refusal(llama, **settings)


def test_missing_folders_are_refused(tmp_path):
    assert says(refusal(tmp_path / "nothing"), "no such folder")
    assert says(refusal("./nothing/here"), "no such folder")


def test_defaults_come_from_the_files_and_plain_is_announced_once(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="rewards"):
        chat = load_reward(tiny.checkpoint(tmp_path / "chat", "llama"))
        assert not caplog.records
        bare = tiny.checkpoint(tmp_path / "bare", "llama", tiny.tokenizer(chat_template=None))
        plain = load_reward(bare)
        assert sum("plain" in record.getMessage() for record in caplog.records) == 1
    assert (chat.encoder.format, chat.encoder.bos, chat.encoder.max_length) == (
        "chat",
        "single",
        256,
    )
    assert (plain.encoder.format, plain.encoder.bos) == ("plain", "single")
    quiet = tiny.tokenizer(chat_template=None, adds_bos=False)
    assert load_reward(tiny.checkpoint(tmp_path / "none", "llama", quiet)).encoder.bos == "none"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hh_rlhf_rm_open_llama_3b", ("hh_hash", "single")),
        ("reward-model-Mistral-7B-instruct-Unified-Feedback", ("chat", "double")),
        ("models--sfairXC--FsfairX-LLaMA3-RM-v0.1/snapshots/abc", ("chat", "single")),
        ("GRM-Llama3-8B-rewardmodel-ft", ("chat", "double")),
        ("GRM-Gemma-2B-rewardmodel-ft", ("chat", "double")),
        ("grm-llama3-8b-distill", ("chat", "double")),
    ],
)
def test_published_models_bring_their_settings_and_arguments_win(tmp_path, name, expected):
    folder = tiny.checkpoint(tmp_path / name, "llama")
    reward = load_reward(folder)
    assert (reward.encoder.format, reward.encoder.bos) == expected
    told = load_reward(folder, format="plain", bos="none")
    assert (told.encoder.format, told.encoder.bos) == ("plain", "none")


def test_published_lengths_count_where_none_is_given(tmp_path):
    folder = tiny.armorm(tmp_path / "ArmoRM-Llama3-8B-v0.1")
    assert load_reward(folder).encoder.max_length == 4096
    assert load_reward(folder, max_length=100).encoder.max_length == 100
    # but for that, the model's own
    assert load_reward(tiny.armorm(tmp_path / "other")).encoder.max_length == 512


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    from rewards import RewardError

    folder = tiny.checkpoint(tmp_path, "llama", vocab_size=100)
    with pytest.raises(RewardError, match="do not belong together"):
        load_reward(folder).score([tiny.chat("~~~~", "~~~~"), tiny.chat("é", "é")])
