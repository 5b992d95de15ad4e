"""What would give a number, only a wrong one: each is refused, or computed another way."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tiny_judges
import tiny_rewards as tiny
import torch
from safetensors.torch import load_file, save_file
from wording import says

from rewards import load_judge, load_reward
from rewards.encoding.formats import Rendered
from rewards.inference.backbone import Backbone
from rewards.remote.messages import Rewards
from rewards.remote.service import Service
from rewards.training.model import load_trainable
from rewards.training.settings import TrainingSettings
from rollout.types import InputError


def edit(folder, **changes):
    """Change a checkpoint's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def add_tensor(folder, name, *shape):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[name] = torch.ones(shape)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classifier", "judge", "training", "causal training"])
def test_layers_and_weights_that_would_be_left_out_are_refused(tmp_path, kind):
    def fresh(name):
        if kind in ("judge", "causal training"):
            return tiny_judges.checkpoint(tmp_path / name)
        return tiny.checkpoint(tmp_path / name, "llama")

    def load(folder):
        if kind == "judge":
            return load_judge(folder, kind="pairwise")
        if kind == "classifier":
            return load_reward(folder)
        return load_trainable(
            folder, "classifier" if kind == "training" else "causal", TrainingSettings()
        )

    def refusal(folder):
        with pytest.raises(InputError) as caught:
            load(folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    load(fresh("whole"))

    fewer = fresh("fewer")
    edit(fewer, num_hidden_layers=1)
    assert "has no place" in refusal(fewer)
    lora = fresh("lora")
    add_tensor(lora, "model.layers.0.self_attn.q_proj.lora_A.default.weight", 4, 64)
    assert says(refusal(lora), "merge them")
    bias = fresh("bias")
    add_tensor(bias, "model.layers.0.self_attn.q_proj.bias", 64)
    assert "q_proj.bias" in refusal(bias)


def test_a_bias_that_the_head_has_no_room_for_is_refused(tmp_path):
    folder = tiny.checkpoint(tmp_path, "llama")
    add_tensor(folder, "score.bias", 1)
    with pytest.raises(InputError, match=r"score\.bias"):
        load_reward(folder)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_rotations_that_depend_on_the_batch_are_computed_row_by_row(tmp_path, kind):
    settings = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0}
    if kind == "longrope":
        settings |= {"short_factor": [1.0] * 16, "long_factor": [4.0] * 16}
        settings["original_max_position_embeddings"] = 64
    folder = tiny.checkpoint(tmp_path, "llama", rope_parameters=settings)
    reward = load_reward(folder, max_length=1000)
    short, long = tiny.chat("q", "a"), tiny.chat("q", "a long answer " * 40)
    (alone,) = reward.score([short])
    assert reward.score([short, long])[0] == alone
    assert reward.describe()["layout"] == "padded"


def test_a_window_that_is_told_by_a_mask_alone_is_not_packed():
    from transformers import AutoModel, MistralConfig, PhimoeConfig

    sizes: dict[str, Any] = {
        "vocab_size": 259, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 16,
    }  # fmt: skip
    torch.manual_seed(0)
    told = Backbone(AutoModel.from_config(MistralConfig(**sizes, head_dim=32)))
    assert told.layout == "packed"
    masked = Backbone(AutoModel.from_config(PhimoeConfig(**sizes, num_local_experts=2)))
    assert masked.layout == "padded"


@pytest.mark.parametrize("family", ["llama", "gpt_neo"])
def test_equal_conversations_get_equal_scores(folders, family):
    reward = load_reward(folders[family], batch_tokens=100)
    talks = [tiny.chat(f"name a colour, please {n // 4}", "ok") for n in range(80)]
    scores = reward.score(talks).reshape(20, 4)
    assert (scores == scores[:, :1]).all() and len(np.unique(scores)) == 20


@pytest.mark.parametrize(
    "template",
    ["{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}",
     "hello"],
)  # fmt: skip
def test_a_template_that_leaves_the_response_out_is_refused(tmp_path, template):
    folder = tiny.checkpoint(tmp_path, "llama", tiny.tokenizer(chat_template=template))
    with pytest.raises(InputError, match="does not write the assistant's response"):
        load_reward(folder)


def test_nothing_is_left_of_an_empty_response_cut_on_the_right(folders):
    from rewards import RewardError

    reward = load_reward(folders["llama"], max_length=20, truncation_side="right")
    with pytest.raises(RewardError, match="nothing of its response is left"):
        reward.score([tiny.chat("a question that is longer than that", "")])


def test_openrlhfs_route_takes_texts_that_the_template_was_applied_to(folders):
    reward = load_reward(folders["llama"])
    talk = tiny.chat("a", "b")
    text = "<s>[user]a</s>[assistant]b</s>"
    assert reward.score([Rendered(text)]) == pytest.approx(reward.score([talk]))
    answer = Service(reward, "m", 10).get_reward(json.dumps({"query": [text]}).encode())()
    assert isinstance(answer, Rewards)
    assert answer.rewards == pytest.approx(reward.score([talk]).tolist())


@pytest.mark.parametrize("weight_map", [None, ["a"]])
def test_a_damaged_index_is_one_line(tmp_path, weight_map):
    folder = tiny.checkpoint(tmp_path, "llama")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(InputError, match="weight_map"):
        load_reward(folder)


def test_a_config_of_wrong_types_is_one_line(tmp_path):
    folder = tiny.checkpoint(tmp_path, "llama")
    edit(folder, hidden_size="64")
    with pytest.raises(InputError, match=r"config\.json is not usable"):
        load_reward(folder)
