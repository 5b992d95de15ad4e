"""GRM: scores against a straight-line computation of its value head, and refusals."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import tiny_rewards as tiny
import torch
from wording import says

from rewards import RewardError, load_reward
from rewards.checkpoints.families import recognise
from rewards.types import Bos
from rollout.types import Completion, Group, InputError, Prompt

CONVERSATIONS = [
    tiny.chat("hi", "there"),
    tiny.chat("a much longer question, so that other rows need padding" * 2, "no"),
    tiny.chat("first", "an answer", "and a second turn?", "another answer"),
    tiny.chat("an <|end_of_text|> in the text", ""),
    tiny.chat("a much longer question, so that other rows need padding" * 2, "yes and no"),
]
BACKBONES = {
    "llama": {},
    "mistral": {"sliding_window": 24},
    "gemma": {},
    "gemma2": {"sliding_window": 16, "query_pre_attn_scalar": 32},
    "qwen2": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
}


def config_of(backbone="llama", **changes):
    from transformers import AutoConfig

    sizes = {"hidden_size": 64, "num_attention_heads": 2, "vocab_size": VOCABULARY}
    if backbone == "gpt_neo":
        sizes |= {"num_layers": 2, "num_heads": 2}
    else:
        sizes |= {"intermediate_size": 64, "num_hidden_layers": 2, "num_key_value_heads": 1}
        sizes |= {"head_dim": 32}
    known = {"max_position_embeddings": 512, "initializer_range": 0.1}
    config = AutoConfig.for_model(backbone, **sizes, **known, **BACKBONES[backbone], **changes)
    config.architectures = ["SomethingForCausalLM"]
    return config


VOCABULARY = len(tiny.llama3_tokenizer())


def grm(folder, backbone="llama", *, made=None, hidden=1, prefix="", **changes):
    made = made or tiny.llama3_tokenizer()
    return tiny.grm(folder, config_of(backbone, **changes), made, hidden=hidden, prefix=prefix)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return grm(tmp_path_factory.mktemp("grm") / "model")


def model_of(folder):
    """The whole language model, as GRM's wrapper holds it, and the head's tensors."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tensors = {n.removeprefix("pretrained_model."): t for n, t in tiny.tensors_of(folder).items()}
    head = {n: tensors.pop(n).float() for n in list(tensors) if n.startswith("v_head.")}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(folder), attn_implementation="eager"
    )
    report = model.load_state_dict(tensors, strict=False)
    assert not report.unexpected_keys and set(report.missing_keys) <= {"lm_head.weight"}
    return model.float().eval(), head


def value(head, hidden):
    """Linear, ReLU, Linear, …; or one Linear."""
    if "v_head.summary.weight" in head:
        return hidden @ head["v_head.summary.weight"].T + head["v_head.summary.bias"]
    for n in range(0, len(head), 2):
        hidden = hidden @ head[f"v_head.summary.{n}.weight"].T + head[f"v_head.summary.{n}.bias"]
        hidden = torch.relu(hidden) if n + 2 < len(head) else hidden
    return hidden


@torch.no_grad()
def by_hand(folder, rows):
    """Each row by itself, no padding."""
    model, head = model_of(folder)
    states = [model(torch.tensor([ids]), output_hidden_states=True).hidden_states for ids in rows]
    return np.array([float(value(head, hidden[-1][0, -1])) for hidden in states])


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_scores_alone_and_in_mixed_batches_equal_the_hand_computation(tmp_path, backbone):
    folder = grm(tmp_path, backbone)
    expected = by_hand(folder, [tiny.llama3_ids(c, bos=2) for c in CONVERSATIONS])
    assert np.std(expected) > 0.1  # a constant score would prove nothing
    for batch_tokens in (1, 200, 100_000):
        reward = load_reward(folder, batch_tokens=batch_tokens)
        np.testing.assert_allclose(reward.score(CONVERSATIONS), expected, atol=1e-5)
    record = reward.describe()
    assert record["layout"] == ("padded" if backbone == "gpt_neo" else "packed")
    assert (record["kind"], record["pooling"]) == ("grm", "last token")


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [0, 1, 3])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("prefix", ["", "pretrained_model."])
def test_every_kind_of_head_and_wrapping(tmp_path, hidden, tied, prefix):
    folder = grm(tmp_path, hidden=hidden, prefix=prefix, tie_word_embeddings=tied)
    assert recognise(folder) == "grm"
    assert (f"{prefix}lm_head.weight" in tiny.tensors_of(folder)) is not tied
    expected = by_hand(folder, [tiny.llama3_ids(c, bos=2) for c in CONVERSATIONS])
    np.testing.assert_allclose(load_reward(folder).score(CONVERSATIONS), expected, atol=1e-5)


def test_files_that_peft_wrapped_were_sharded_or_pickled_give_the_same_scores(folder, tmp_path):
    expected = load_reward(folder).score(CONVERSATIONS)
    wrapped = grm(tmp_path / "wrapped", prefix="pretrained_model.base_model.model.")
    sharded, pickled = grm(tmp_path / "sharded", prefix="base_model.model."), grm(tmp_path / "bin")
    tiny.shard(sharded)
    tiny.as_bin(pickled)
    for other in (wrapped, sharded, pickled):
        np.testing.assert_allclose(load_reward(other).score(CONVERSATIONS), expected, atol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_scores_equal_those_of_a_padded_batch_read_as_the_published_code_reads_it(folder, side):
    rows, pad = [tiny.llama3_ids(c, bos=2) for c in CONVERSATIONS], 7
    width = max(map(len, rows))
    padded, mask = [], []
    for row in rows:
        fill, seen = [pad] * (width - len(row)), [1] * len(row)
        padded.append(fill + row if side == "left" else row + fill)
        mask.append([0] * len(fill) + seen if side == "left" else seen + [0] * len(fill))
    model, head = model_of(folder)
    mask = torch.tensor(mask)
    hidden = model(torch.tensor(padded), attention_mask=mask, output_hidden_states=True)
    last = torch.full((len(rows),), width - 1) if side == "left" else mask.sum(dim=-1) - 1
    values = value(head, hidden.hidden_states[-1]).squeeze(-1)[torch.arange(len(rows)), last]
    np.testing.assert_allclose(load_reward(folder).score(CONVERSATIONS), values, atol=1e-5)


@pytest.mark.slow
def test_two_bos_unless_told_otherwise_and_said_once(folder, caplog):
    with caplog.at_level(logging.INFO, logger="rewards"):
        reward = load_reward(folder)
        reward.score(CONVERSATIONS)
    assert sum('bos="double"' in record.getMessage() for record in caplog.records) == 1
    assert reward.encoder.bos == "double"
    counts: dict[Bos, int] = {"single": 1, "none": 0, "double": 2}
    for bos, count in counts.items():
        told = load_reward(folder, bos=bos)
        expected = by_hand(folder, [tiny.llama3_ids(c, bos=count) for c in CONVERSATIONS])
        np.testing.assert_allclose(told.score(CONVERSATIONS), expected, atol=1e-5)


def test_a_template_without_bos_leaves_the_tokenizers_own(tmp_path):
    template = tiny.LLAMA3_TEMPLATE.replace("bos_token + ", "")
    made = tiny.llama3_tokenizer(chat_template=template)
    assert load_reward(grm(tmp_path / "one", made=made)).encoder.bos == "single"
    made = tiny.llama3_tokenizer(chat_template=template, adds_bos=False)
    assert load_reward(grm(tmp_path / "none", made=made)).encoder.bos == "none"
    made = tiny.llama3_tokenizer(chat_template=None)
    plain = load_reward(grm(tmp_path / "plain", made=made)).encoder
    assert (plain.format, plain.bos) == ("plain", "single")


def test_the_last_token_is_what_the_checkpoints_own_template_renders_last(tmp_path):
    made = tiny.llama3_tokenizer(chat_template=tiny.LLAMA3_APRIL_TEMPLATE)
    folder = grm(tmp_path, made=made)
    header = f"{tiny.START}assistant{tiny.END}\n\n"
    expected = by_hand(folder, [tiny.llama3_ids(c, bos=2, end=header) for c in CONVERSATIONS])
    np.testing.assert_allclose(load_reward(folder).score(CONVERSATIONS), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("GRM-llama3.2-3B-sftreg", "float16"),
        ("models--Ray2333--GRM-llama3-8B-sftreg/snapshots/abc", "bfloat16"),
        ("GRM-Gemma-2B-sftreg", None),
        ("GRM-Gemma2-2B-sftreg", None),
    ],
)
def test_published_models_are_known_by_name(tmp_path, name, dtype):
    from rewards.checkpoints.published import find_published

    found = find_published(tmp_path / name)
    assert found is not None and (found[1].family, found[1].dtype) == ("grm", dtype)
    # 16 bits are for GPUs
    reward = load_reward(grm(tmp_path / name), device="cpu")
    assert (reward.encoder.bos, reward.describe()["dtype"]) == ("double", "float32")


def test_dropout_is_off_the_head_is_in_float32_and_remote_code_is_not_run(tmp_path):
    folder = grm(tmp_path / "model", attention_dropout=0.5)
    tiny.change_config(folder, summary_dropout_prob=0.5)
    witness = tmp_path / "code was run"
    (folder / "model.py").write_text(f"open({str(witness)!r}, 'w')")
    exact = load_reward(folder)
    np.testing.assert_array_equal(exact.score(CONVERSATIONS), exact.score(CONVERSATIONS))
    rough = load_reward(folder, dtype="bfloat16")
    np.testing.assert_allclose(rough.score(CONVERSATIONS), exact.score(CONVERSATIONS), atol=0.2)
    scores = torch.from_numpy(rough.score(CONVERSATIONS))
    assert (scores != scores.bfloat16()).any()  # a head in bfloat16 gives what bfloat16 can hold
    assert not witness.exists()


def test_a_score_that_is_not_finite_raises_or_is_missing(tmp_path):
    folder = grm(tmp_path)
    tiny.poison(folder, tiny.llama3_tokenizer())
    completions = (Completion("ok", (1,), "stop"), Completion("bad Z", (1,), "stop"))
    group = Group(Prompt("broken", "q"), completions, policy_version=0)
    with pytest.raises(RewardError, match="'broken'"):
        load_reward(folder).score_groups([group])
    (scores,) = load_reward(folder, non_finite="missing").score_groups([group])
    assert scores[0] is not None and scores[1] is None


def test_a_long_conversation_is_cut_with_a_word(folder, caplog):
    with caplog.at_level(logging.WARNING, logger="rewards"):
        (score,) = load_reward(folder).score([tiny.chat("word " * 16_000, "short")])
    assert "cut to max_length=512" in caplog.text
    ids = tiny.llama3_ids(tiny.chat("word " * 16_000, "short"), bos=2)
    assert score == pytest.approx(by_hand(folder, [[0, 0, *ids[-510:]]])[0], abs=1e-5)


def refusal(folder, **settings):
    with pytest.raises(InputError) as caught:
        load_reward(folder, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_vllm_is_refused_with_the_reason(folder):
    assert "vLLM cannot serve a value head" in refusal(folder, engine="vllm")


@pytest.mark.parametrize("marker", ["auto_map", "vhead_layer_type"])
def test_a_checkpoint_that_lost_its_head_is_refused_with_the_reason(tmp_path, marker):
    folder = grm(tmp_path)
    tensors = tiny.tensors_of(folder)
    tiny.save_tensors(folder, {n: t for n, t in tensors.items() if not n.startswith("v_head")})
    keys = {"auto_map", "vhead_layer_type", "vhead_num_layers", "vhead_num_neurons"} - {marker}
    tiny.change_config(folder, **dict.fromkeys(keys))
    found = refusal(folder)
    assert f"({marker})" in found and "no v_head tensor" in found
    assert "no v_head tensor" in refusal(folder, kind="grm")


@pytest.mark.parametrize(
    "name",
    ["v_head.summary.0.weight", "v_head.summary.2.bias", "model.layers.0.mlp.up_proj.weight"],
)
def test_a_missing_tensor_is_named(tmp_path, name):
    folder = grm(tmp_path)
    tensors = tiny.tensors_of(folder)
    del tensors[name]
    tiny.save_tensors(folder, tensors)
    assert f"lacks the tensor {name}" in refusal(folder)


def test_a_missing_last_layer_is_refused(tmp_path):
    folder = grm(tmp_path, hidden=2)
    tensors = tiny.tensors_of(folder)
    del tensors["v_head.summary.4.weight"], tensors["v_head.summary.4.bias"]
    tiny.save_tensors(folder, tensors)
    assert "has 48 outputs where a reward model has one" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("v_head.summary.1.weight", (48, 48), "lacks the tensor v_head.summary.4.weight"),
        ("v_head.summary.weight", (1, 64), "no use for"),
        ("v_head.norm.weight", (64,), "no use for"),
        ("pretrained_model.v_head.summary.0.bias", (48,), "has both"),
        ("v_head.summary.0.weight", (48, 63), "takes 63 numbers and gets 64"),
        ("v_head.summary.2.weight", (1, 47), "takes 47 numbers and gets 48"),
        ("v_head.summary.2.bias", (2,), "is no linear layer"),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", (2, 64), "merge"),
        ("model.layers.0.self_attn.q_norm.weight", (32,), "no place"),
        ("model.layers.2.input_layernorm.weight", (64,), "no place"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path, name, shape, message):
    folder = grm(tmp_path)
    tiny.save_tensors(folder, {**tiny.tensors_of(folder), name: torch.zeros(shape)})
    assert says(refusal(folder), message)


def test_two_outputs_are_refused(tmp_path):
    folder = grm(tmp_path)
    tensors = tiny.tensors_of(folder)
    tensors["v_head.summary.2.weight"] = torch.zeros(2, 48)
    tensors["v_head.summary.2.bias"] = torch.zeros(2)
    tiny.save_tensors(folder, tensors)
    assert "has 2 outputs" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vhead_layer_type": "linear"}, "v_head tensors are mlp"),
        ({"vhead_num_output": 5}, "gives 5 rewards"),
        ({"hidden_size": 128}, "takes 64 numbers and gets 128"),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_refused(tmp_path, changes, message):
    folder = grm(tmp_path)
    tiny.change_config(folder, **changes)
    assert says(refusal(folder), message)


def test_sizes_of_the_head_in_the_config_may_be_stale(folder, tmp_path):
    # GRM's training code saves 1024 neurons whatever the head has
    stale = grm(tmp_path)
    tiny.change_config(stale, vhead_num_neurons=7, vhead_num_layers=5, architectures=None)
    expected = load_reward(folder).score(CONVERSATIONS)
    np.testing.assert_allclose(load_reward(stale).score(CONVERSATIONS), expected, atol=1e-6)


def test_what_is_not_of_the_transformer_is_left_out_with_a_word(folder, tmp_path, caplog):
    other = grm(tmp_path)
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(16),
        "reward_stats.mean": torch.zeros(1),
    }
    tiny.save_tensors(other, {**tiny.tensors_of(other), **extra})
    with caplog.at_level(logging.WARNING, logger="rewards"):
        scores = load_reward(other).score(CONVERSATIONS)
    assert "reward_stats.mean is not used" in caplog.text and "inv_freq" not in caplog.text
    np.testing.assert_allclose(scores, load_reward(folder).score(CONVERSATIONS), atol=1e-6)
