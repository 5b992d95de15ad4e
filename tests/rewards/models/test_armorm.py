"""ArmoRM: scores against a straight-line computation of the card's formula, and refusals."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
import tiny_rewards as tiny
import torch
from wording import says

from rewards import RewardError, load_reward
from rewards.checkpoints.loading import load_config
from rewards.inference.backbone import Backbone
from rewards.models.armorm_head import ARMORM_ATTRIBUTES, Gate, gate_of, helpsteer_ratings
from rewards.models.transformer import dtype_as_stored
from rollout.types import Completion, Group, InputError, Message, Prompt

GATE = tiny.EOT + tiny.START + "assistant" + tiny.END + "\n\n"
GATE_IDS = [4, 2, 268, 3, 269]  # of the tiny tokenizer
SYSTEM = [Message(role="system", content="Be an assistant.")]
CONVERSATIONS = [
    tiny.chat("hi", "there"),
    tiny.chat("a much longer question, so that other rows need padding" * 2, "no"),
    tiny.chat("first", "an answer", "and a second turn?", "another answer"),
    [*SYSTEM, *tiny.chat("who?", "me", "who else?", "  \n assistant\n\n")],
    tiny.chat(f"the header {GATE} in the middle, {GATE}", "answered"),
    tiny.chat("nothing to say", ""),
    tiny.chat("a much longer question, so that other rows need padding" * 2, "yes and no"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.armorm(tmp_path_factory.mktemp("armorm") / "model")


def transformer_of(folder):
    from transformers import LlamaConfig, LlamaModel

    tensors = tiny.tensors_of(folder)
    model = LlamaModel(LlamaConfig.from_pretrained(folder)).float().eval()
    inner = {n[6:]: t.float() for n, t in tensors.items() if n.startswith("model.")}
    model.load_state_dict(inner, strict=True)
    return model, {n: t.float() for n, t in tensors.items() if not n.startswith("model.")}


@torch.no_grad()
def by_hand(folder, ids, layers=4):
    """One row, no padding."""
    model, head = transformer_of(folder)
    hidden_TH = model(torch.tensor([ids])).last_hidden_state[0]
    gate = max(j for j in range(len(ids)) if ids[j : j + 5] == GATE_IDS)
    rewards = head["regression_layer.weight"] @ hidden_TH[-1]
    x = hidden_TH[gate]
    for n in range(layers):
        x = head[f"gating.layers.{n}.weight"] @ x + head[f"gating.layers.{n}.bias"]
        x = torch.clamp(x, min=0) if n < layers - 1 else x
    x = torch.exp(x / 10)
    gating = x / x.sum() * head["gating.logit_scale"]
    transform = head["reward_transform_matrix"]
    return {
        "score": float(gating @ (rewards @ transform)),
        "rewards": rewards.numpy(),
        "gating": gating.numpy(),
        "coefficients": (transform @ gating).numpy(),
    }


def assert_equal(details, expected):
    for key in ("score", "rewards", "gating", "coefficients"):
        np.testing.assert_allclose(details[key], [one[key] for one in expected], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_all_outputs_alone_and_in_mixed_batches_equal_the_hand_computation(
    folder, layout, monkeypatch
):
    if layout == "padded":
        monkeypatch.setattr(Backbone, "_why_not_packed", lambda self: "the test says so")
    expected = [by_hand(folder, tiny.llama3_ids(c)) for c in CONVERSATIONS]
    assert np.std([one["score"] for one in expected]) > 0.1  # constants would prove nothing
    assert np.std([one["gating"] for one in expected], axis=0).max() > 0.01
    for batch_tokens in (1, 200, 100_000):
        reward = load_reward(folder, batch_tokens=batch_tokens)
        assert reward.describe()["layout"] == layout
        details = reward.score_details(CONVERSATIONS)
        assert details["rewards"].shape == (len(CONVERSATIONS), 19)
        assert_equal(details, expected)
        np.testing.assert_array_equal(details["score"], reward.score(CONVERSATIONS))


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_scores_equal_those_of_a_padded_batch_read_as_the_card_reads_it(folder, side):
    rows, pad = [tiny.llama3_ids(c) for c in CONVERSATIONS], 1
    width = max(map(len, rows))
    fill = [[pad] * (width - len(row)) for row in rows]
    pairs = zip(fill, rows, strict=True)
    ids = torch.tensor([f + r if side == "left" else r + f for f, r in pairs])
    model, head = transformer_of(folder)
    hidden = model(ids, attention_mask=(ids != pad).long()).last_hidden_state
    pooled = (torch.eq(ids, pad).int().argmax(-1) - 1) % width
    expected = [
        head["regression_layer.weight"] @ hidden[row, at] for row, at in enumerate(pooled.tolist())
    ]
    details = load_reward(folder).score_details(CONVERSATIONS)
    np.testing.assert_allclose(details["rewards"], torch.stack(expected), atol=1e-5)


def test_coefficients_explain_the_score_and_verbosity_has_no_reward_of_its_own(folder):
    details = load_reward(folder).score_details(CONVERSATIONS)
    explained = (details["coefficients"] * details["rewards"]).sum(axis=1)
    np.testing.assert_allclose(details["score"], explained, atol=1e-5)
    adjusted = details["rewards"] @ tiny.tensors_of(folder)["reward_transform_matrix"].numpy()
    np.testing.assert_array_equal(adjusted[:, 4], 0)
    np.testing.assert_allclose(details["gating"].sum(axis=1), 1.3, atol=1e-5)  # the logit scale
    assert (details["coefficients"][:, 4] < 0).all()


def test_the_gate_depends_on_the_prompt_alone(folder):
    prompt = [*SYSTEM, *tiny.chat("who?", "me", "who else?")]
    answers = [Message(role="assistant", content=text) for text in ("a", "", "a long one" * 9)]
    reward = load_reward(folder)
    gating = reward.score_details([[*prompt, answer] for answer in answers])["gating"]
    np.testing.assert_allclose(gating[1:], gating[:1].repeat(2, axis=0), atol=1e-5)
    other = [*prompt[:-1], Message(role="user", content="who knows?"), answers[0]]
    assert np.abs(reward.score_details([other])["gating"] - gating[0]).max() > 1e-3


def test_attributes_are_those_of_the_card_and_stand_in_the_record(folder):
    assert len(set(ARMORM_ATTRIBUTES)) == 19
    at = {4: "helpsteer-verbosity", 6: "ultrafeedback-instruction_following", 14: "code-complexity"}
    assert {index: ARMORM_ATTRIBUTES[index] for index in at} == at
    record = load_reward(folder).describe()
    assert record["attributes"] == list(ARMORM_ATTRIBUTES)
    assert (record["kind"], record["bos"], record["head"]) == ("armorm", "single", "gating")
    # the card's example: 2.78125 is the rating of a reward of 0.65625
    np.testing.assert_allclose(
        helpsteer_ratings(np.full((2, 19), 0.65625)), np.full((2, 5), 2.78125)
    )


def test_the_header_that_the_first_template_always_adds_is_left_out(folder, tmp_path, caplog):
    made = tiny.llama3_tokenizer(chat_template=tiny.LLAMA3_APRIL_TEMPLATE)
    with caplog.at_level(logging.WARNING, logger="rewards"):
        april = load_reward(tiny.armorm(tmp_path / "april", made))
    (record,) = caplog.records
    assert "always adds an assistant header" in record.getMessage()
    assert_equal(
        april.score_details(CONVERSATIONS),
        [by_hand(folder, tiny.llama3_ids(conversation)) for conversation in CONVERSATIONS],
    )
    again = pickle.loads(pickle.dumps(april.encoder))
    assert again.encode(CONVERSATIONS[:1], ["x"]) == [tiny.llama3_ids(CONVERSATIONS[0])]


def test_scores_repeat(folder):
    reward = load_reward(folder)
    assert reward.score([]).shape == (0,)
    np.testing.assert_array_equal(reward.score(CONVERSATIONS), reward.score(CONVERSATIONS))


def test_a_gpu_takes_the_dtype_of_the_weights_whatever_the_config_says(tmp_path):
    folder = tiny.armorm(tmp_path)
    tiny.save_tensors(folder, {n: t.bfloat16() for n, t in tiny.tensors_of(folder).items()})
    tiny.change_config(folder, dtype="float32")
    config = load_config(folder)
    assert dtype_as_stored(folder, None, config, torch.device("cuda")) == torch.bfloat16
    assert dtype_as_stored(folder, "float16", config, torch.device("cuda")) == torch.float16
    assert load_reward(folder, device="cpu").describe()["dtype"] == "float32"


def test_sharded_and_bin_files_and_silent_configs_give_the_same_scores(tmp_path):
    expected = load_reward(tiny.armorm(tmp_path / "one")).score(CONVERSATIONS)
    sharded, pickled = tiny.armorm(tmp_path / "sharded"), tiny.armorm(tmp_path / "bin")
    tiny.shard(sharded)
    tiny.as_bin(pickled)
    silent = tiny.armorm(tmp_path / "silent")
    keys = ("num_objectives", "gating_temperature", "gating_hidden_dim", "gating_n_hidden")
    tiny.change_config(silent, architectures=["LlamaModel"], auto_map=None, **dict.fromkeys(keys))
    for folder in (sharded, pickled, silent):
        np.testing.assert_allclose(load_reward(folder).score(CONVERSATIONS), expected, atol=1e-6)


def test_other_sizes_come_from_the_files(tmp_path):
    folder = tiny.armorm(tmp_path, objectives=3, width=16, hidden=1)
    reward = load_reward(folder)
    assert reward.score_details(CONVERSATIONS[:2])["gating"].shape == (2, 3)
    assert reward.describe()["attributes"] == ["0", "1", "2"]
    expected = by_hand(folder, tiny.llama3_ids(CONVERSATIONS[0]), layers=2)
    assert reward.score(CONVERSATIONS[:1])[0] == pytest.approx(expected["score"], abs=1e-5)


@pytest.mark.parametrize("count", [3, 19])
def test_exported_names_of_the_rewards_are_read(tmp_path, count):
    folder = tiny.armorm(tmp_path, objectives=count)
    names = [f"kind {index}" for index in range(count)]
    tiny.change_config(folder, attributes=names)
    reward = load_reward(folder)
    assert reward.describe()["attributes"] == names
    details = reward.score_details(CONVERSATIONS[:2])
    assert details["attributes"].tolist() == names and details["rewards"].shape == (2, count)
    for wrong in (names[1:], [*names[1:], names[1]], "kind", [1] * count):
        tiny.change_config(folder, attributes=wrong)
        with pytest.raises(InputError, match=f"attributes in config.json must be {count} diff"):
            load_reward(folder)


def test_remote_code_is_not_run_and_the_head_computes_in_float32(tmp_path):
    folder = tiny.armorm(tmp_path / "model")
    witness = tmp_path / "code was run"
    (folder / "modeling_custom.py").write_text(f"open({str(witness)!r}, 'w')")
    exact = load_reward(folder).score(CONVERSATIONS)
    rough = load_reward(folder, dtype="bfloat16")
    assert not witness.exists()
    assert rough.describe()["dtype"] == "bfloat16"
    scores = torch.from_numpy(rough.score(CONVERSATIONS))
    np.testing.assert_allclose(scores, exact, atol=0.3)
    assert (scores != scores.bfloat16()).any()  # a head in bfloat16 gives what bfloat16 can hold


def test_a_score_that_is_not_finite_raises_or_is_missing_in_all_outputs(tmp_path):
    folder = tiny.armorm(tmp_path)
    tiny.poison(folder, tiny.llama3_tokenizer())
    completions = (Completion("ok", (1,), "stop"), Completion("bad Z", (1,), "stop"))
    group = Group(Prompt("broken", "q"), completions, policy_version=0)
    with pytest.raises(RewardError, match="'broken'"):
        load_reward(folder).score_groups([group])
    lenient = load_reward(folder, non_finite="missing")
    (scores,) = lenient.score_groups([group])
    assert scores[0] is not None and scores[1] is None
    details = lenient.score_details([tiny.chat("q", "ok"), tiny.chat("q", "bad Z")])
    for name in ("score", "rewards", "gating", "coefficients"):
        values = details[name]
        assert np.isfinite(values[0]).all() and np.isnan(values[1]).all()


def test_a_long_conversation_is_cut_with_a_word_or_refused_in_one_line(folder, caplog):
    reward = load_reward(folder, max_length=100)
    with caplog.at_level(logging.WARNING, logger="rewards"):
        (score,) = reward.score([tiny.chat("word " * 16_000, "short")])
    assert "cut to max_length=100" in caplog.text
    ids = tiny.llama3_ids(tiny.chat("word " * 16_000, "short"))
    assert score == pytest.approx(by_hand(folder, [0, *ids[-99:]])["score"], abs=1e-5)
    with pytest.raises(RewardError) as caught:
        reward.score([CONVERSATIONS[0], tiny.chat("short", "word " * 16_000)])
    assert "\n" not in str(caught.value)
    for part in ("conversation 1", "max_length=100", "use a larger max_length"):
        assert part in str(caught.value)


def test_a_response_that_hides_the_header_is_refused_and_named(tmp_path):
    # without the trimming, a line break joins the header's own two: another token
    template = tiny.LLAMA3_TEMPLATE.replace(" | trim", "")
    untrimmed = tiny.llama3_tokenizer(chat_template=template)
    merged = tiny.armorm(tmp_path / "untrimmed", untrimmed)
    with pytest.raises(RewardError, match="conversation 0 has no assistant header"):
        load_reward(merged).score([tiny.chat("q", "\nanswer")])


def refusal(folder, **settings):
    with pytest.raises(InputError) as caught:
        load_reward(folder, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


HEAD = (
    "regression_layer.weight", "reward_transform_matrix", "gating.logit_scale",
    "gating.layers.0.weight", "gating.layers.1.bias", "gating.layers.3.weight",
)  # fmt: skip


@pytest.mark.parametrize("name", [*HEAD, "model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_a_missing_tensor_is_named(tmp_path, name):
    folder = tiny.armorm(tmp_path)
    tensors = tiny.tensors_of(folder)
    del tensors[name]
    tiny.save_tensors(folder, tensors)
    assert f"lacks the tensor {name}" in refusal(folder)


def test_a_last_layer_that_is_missing_is_seen_without_config_keys_too(tmp_path):
    folder = tiny.armorm(tmp_path)
    tensors = tiny.tensors_of(folder)
    for part in ("weight", "bias"):
        del tensors[f"gating.layers.3.{part}"]
    tiny.save_tensors(folder, tensors)
    tiny.change_config(folder, gating_n_hidden=None)
    assert "gating.layers.2.weight is [32, 32], expected [19, 32]" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("regression_layer.weight", (95, 64), "expected [19, 64]"),
        ("reward_transform_matrix", (19, 18), "expected [19, 19]"),
        ("gating.layers.1.weight", (32, 31), "expected [32, 32]"),
        ("gating.layers.3.bias", (20,), "expected [19]"),
        ("gating.logit_scale", (), "expected [1]"),
        ("gating.layers.7.weight", (2,), "no use for"),
        ("regression_layer.bias", (19,), "no use for"),
        ("model.layers.0.self_attn.q_proj.bias", (64,), "no place"),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", (2, 64), "merge"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path, name, shape, message):
    folder = tiny.armorm(tmp_path)
    tiny.save_tensors(folder, {**tiny.tensors_of(folder), name: torch.zeros(shape)})
    found = refusal(folder)
    assert name in found and says(found, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_objectives": 18}, "expected [18, 64]"),
        ({"gating_n_hidden": "3"}, "gating_n_hidden='3'"),
        ({"gating_n_hidden": 2}, "gating.layers.3"),
        ({"gating_n_hidden": 4}, "lacks the tensor gating.layers.4.weight"),
        ({"gating_temperature": 0}, "gating_temperature=0"),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_refused(tmp_path, changes, message):
    folder = tiny.armorm(tmp_path)
    tiny.change_config(folder, **changes)
    assert message in refusal(folder)


def test_settings_that_do_not_suit_are_refused(folder):
    assert "vLLM cannot serve a gating head" in refusal(folder, engine="vllm")
    for format in ("hh", "plain"):
        assert 'needs format="chat"' in refusal(folder, format=format)


def test_tokenizers_and_templates_that_are_not_llama_3_are_refused(tmp_path):
    assert "has no token <|eot_id|>" in refusal(tiny.armorm(tmp_path / "a", tiny.tokenizer()))
    bare = tiny.llama3_tokenizer(chat_template=None)
    assert "no chat template" in refusal(tiny.armorm(tmp_path / "b", bare))
    other = tiny.llama3_tokenizer(chat_template=tiny.CHAT_TEMPLATE)
    assert "does not suit ArmoRM" in refusal(tiny.armorm(tmp_path / "c", other))
    closed = tiny.llama3_tokenizer(chat_template=tiny.LLAMA3_TEMPLATE + "bye")
    assert "does not end with <|eot_id|>" in refusal(tiny.armorm(tmp_path / "d", closed))


def test_the_gate_of_llama_3_has_its_published_ids():
    ids = {
        "<|begin_of_text|>": 128000, tiny.EOT: 128009, tiny.START: 128006, tiny.END: 128007,
        "assistant": 78191, "ĊĊ": 271,
    }  # fmt: skip
    gate = gate_of(tiny.llama3_tokenizer(ids=ids), "it")
    assert gate.ids == (128009, 128006, 78191, 128007, 271)
    with pytest.raises(InputError, match="where Llama 3 has"):
        gate_of(tiny.llama3_tokenizer(ids=ids | {"assistant": 78192}), "it")


def test_the_last_gate_counts():
    gate = Gate((9, 6, 7))
    assert gate.find([9, 6, 7, 1, 9, 6, 7, 2, 9], "it") == 4
    for row in ([9, 6, 1, 9], [9, 6], [1, 9, 6, 7]):
        with pytest.raises(RewardError, match="it "):
            gate.find(row, "it")
