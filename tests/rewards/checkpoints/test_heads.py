"""Heads in the files of other frameworks: the right value of each, or what there is is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
import reward_layouts as layouts
import tiny_rewards as tiny
import torch
from wording import says

from raft.cli.main import main
from rewards import load_reward
from rewards.checkpoints.families import recognise
from rollout.types import InputError

TALKS, PLAIN = layouts.TALKS, [layouts.ids_of(layouts.text_of(talk)) for talk in layouts.TALKS]
# OpenRLHF adds no BOS, and its text ends with the EOS that the template writes
OPENRLHF = [layouts.ids_of(layouts.text_of(talk).rstrip("\n"), bos=0) for talk in TALKS]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The transformer that all have, and its linear head."""
    folder = layouts.base(tmp_path_factory.mktemp("reference") / "llama")
    return folder, tiny.tensors_of(folder)["score.weight"]


def linear(reference, rows):
    folder, weight = reference
    return (layouts.states(folder, rows) @ weight.T)[:, 0].numpy()


def scores(folder, **settings):
    return load_reward(folder, **settings).score(TALKS)


def refusal(folder, **settings):
    with pytest.raises(InputError) as caught:
        load_reward(folder, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrapped",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"model.{name}",
        lambda name: f"reward_model.{name}",
        lambda name: name.replace("model.", "model._orig_mod.", 1),
        lambda name: "_fsdp_wrapped_module." + name.replace(".self", "._fsdp_wrapped_module.self"),
        lambda name: name.replace("mlp.", "_checkpoint_wrapped_module.mlp._orig_mod."),
    ],
)
def test_names_that_wrappers_of_torch_put_before(tmp_path, reference, wrapped) -> None:
    folder = layouts.base(tmp_path)
    layouts.change(folder, {wrapped(name): one for name, one in tiny.tensors_of(folder).items()})
    assert recognise(folder) == "classifier"
    np.testing.assert_allclose(scores(folder), linear(reference, PLAIN), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_the_heads_of_the_other_families_under_a_prefix(tmp_path, prefix) -> None:
    made = tiny.llama3_tokenizer()
    config = tiny.config("llama", vocab_size=len(made), max_position_embeddings=512)
    folders = [tiny.armorm(tmp_path / "armorm"), tiny.grm(tmp_path / "grm", config, made)]
    for folder in folders:
        family, expected = recognise(folder), scores(folder)
        tensors = tiny.tensors_of(folder)
        tiny.change_config(folder, architectures=None, num_objectives=None)
        layouts.change(folder, {prefix + name: one for name, one in tensors.items()})
        assert recognise(folder) == family
        np.testing.assert_array_equal(scores(folder), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "config"),
    [
        ("regression_head.weight", {"architectures": ["LlamaRewardModel"]}),  # UltraRM
        ("score_head.weight", {"architectures": ["LlamaForScore"], "score_dim": 1}),  # Beaver
        ("reward_head.weight", {"architectures": None}),
        ("v_head.weight", {"architectures": ["GPTRewardModel"]}),
    ],
)
def test_linear_heads_of_other_names(tmp_path, reference, head, config) -> None:
    folder = layouts.renamed(layouts.base(tmp_path), head, **config)
    reward = load_reward(folder)
    np.testing.assert_allclose(reward.score(TALKS), linear(reference, PLAIN), atol=1e-5)
    assert reward.describe()["kind"] == "classifier"
    tensors = {**tiny.tensors_of(folder), head.replace("weight", "bias"): torch.tensor([2.5])}
    layouts.change(folder, tensors)
    np.testing.assert_allclose(scores(folder), linear(reference, PLAIN) + 2.5, atol=1e-5)
    assert says(refusal(folder, engine="vllm"), "vLLM use engine: transformers")


MARKED = {
    "ultrarm": ("regression_head.weight", {"architectures": ["LlamaRewardModel"]}),
    "beaver": ("score_head.weight", {"architectures": ["LlamaForScore"], "score_dim": 1}),
}
TWO_TURNS = [*tiny.chat("one", "two"), *tiny.chat("three", "four")]
WRITTEN = {
    "ultrarm": "Human: one\n\nAssistant: two\n\nHuman: three\n\nAssistant: four",
    "beaver": "BEGINNING OF CONVERSATION: USER: one ASSISTANT:two</s>"
    "USER: three ASSISTANT:four</s>",
}


@pytest.mark.slow
@pytest.mark.parametrize("format", MARKED)
def test_ultrarm_and_beaver_read_the_text_they_were_trained_on(tmp_path, reference, format) -> None:
    head, config = MARKED[format]
    folder = layouts.renamed(layouts.base(tmp_path / "bare", None), head, **config)
    reward = load_reward(folder)
    expected = linear(reference, [layouts.ids_of(WRITTEN[format])])
    np.testing.assert_allclose(reward.score([TWO_TURNS]), expected, atol=1e-5)
    assert reward.describe()["format"] == format
    system = [{"role": "system", "content": "x"}, *TWO_TURNS]
    with pytest.raises(InputError, match="in turn"):
        reward.score([system])
    # what one says counts, and so does a template
    plain = load_reward(folder, format="plain", eos="none").score([TWO_TURNS])
    rows = [layouts.ids_of("onetwothreefour")]
    np.testing.assert_allclose(plain, linear(reference, rows), atol=1e-5)
    templated = layouts.renamed(layouts.base(tmp_path / "chat"), head, **config)
    assert load_reward(templated).encoder.format == "chat"


@pytest.mark.slow
def test_a_cost_model_is_told(tmp_path, caplog, capsys) -> None:
    head, config = MARKED["beaver"]
    folder = layouts.renamed(layouts.base(tmp_path, None), head, **config, score_type="cost")
    load_reward(folder)
    assert "a higher score is worse" in caplog.text
    capsys.readouterr()
    main(["doctor", "--reward", str(folder), "--quiet"])
    assert says(capsys.readouterr().out, "a cost model a higher score is worse")


def test_deepspeed_chat(tmp_path, reference) -> None:
    folder = layouts.base(tmp_path)
    tensors = tiny.tensors_of(folder)
    head = {"v_head.weight": tensors.pop("score.weight")}
    inside = {n.replace("model.", "rwtransformer.", 1): one for n, one in tensors.items()}
    layouts.change(folder, inside | head, architectures=["LlamaModel"])
    tiny.as_bin(folder)
    np.testing.assert_allclose(scores(folder), linear(reference, PLAIN), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("told", [True, False])
def test_openrlhf(tmp_path, reference, told) -> None:
    config = {"architectures": ["RewardModel"], "id2label": None, "label2id": None}
    config |= {"value_head_prefix": "value_head"} if told else {}
    folder = layouts.renamed(layouts.base(tmp_path / "own"), "value_head.weight", **config)
    reward = load_reward(folder)
    assert (reward.encoder.bos, reward.encoder.eos) == ("none", "single")
    np.testing.assert_allclose(reward.score(TALKS), linear(reference, OPENRLHF), atol=1e-5)
    # without a template it adds the end itself, and still no BOS
    bare = layouts.renamed(layouts.base(tmp_path / "bare", None), "value_head.weight", **config)
    rows = [
        [*layouts.ids_of("".join(m["content"] for m in talk), bos=0), tiny.EOS_ID] for talk in TALKS
    ]
    np.testing.assert_allclose(scores(bare), linear(reference, rows), atol=1e-5)
    # what one says counts
    given = load_reward(folder, bos="single", eos="none")
    np.testing.assert_allclose(given.score(TALKS), linear(reference, PLAIN), atol=1e-5)


@pytest.mark.parametrize(
    ("used", "mean", "std"), [({"normalize_reward": True}, 2, 4), ({}, 2.0, 4.0), (None, 0, 1)]
)
def test_openrlhfs_mean_and_std(tmp_path, reference, used, mean, std) -> None:
    config = {"value_head_prefix": "score", "mean": 2.0, "std": 4.0}
    folder = layouts.base(tmp_path)
    tiny.change_config(folder, **config, **({"normalize_reward": False} if used is None else used))
    expected = (linear(reference, OPENRLHF) - mean) / std
    np.testing.assert_allclose(scores(folder), expected, atol=1e-5)
    if used is not None:
        assert says(refusal(folder, engine="vllm"), "vLLM use engine: transformers")
        tiny.change_config(folder, std=0.0)
        assert says(refusal(folder), "std 0.0")


@pytest.mark.parametrize("architecture", ["INFORMForSequenceClassification", "Qwen2ForRewardModel"])
def test_heads_of_two_layers(tmp_path, reference, architecture) -> None:
    folder = layouts.base(tmp_path)
    tensors, head = tiny.tensors_of(folder), layouts.two_layers("score")
    del tensors["score.weight"]
    layouts.change(folder, tensors | head, architectures=[architecture])
    inner = layouts.states(reference[0], PLAIN) @ head["score.0.weight"].T + head["score.0.bias"]
    expected = inner.relu() @ head["score.2.weight"].T + head["score.2.bias"]
    np.testing.assert_allclose(scores(folder), expected[:, 0], atol=1e-5)
    assert says(refusal(folder, engine="vllm"), "vLLM use engine: transformers")


@pytest.mark.slow
@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize(
    ("template", "adds_bos", "count"),
    [
        (layouts.CHATML, True, 1),
        (layouts.BOS_CHATML, True, 1),
        (layouts.BOS_CHATML, False, 1),
        (layouts.CHATML, False, 0),
    ],
)
def test_value_heads_of_trl_and_llama_factory(
    tmp_path, reference, beside, template, adds_bos, count
) -> None:
    folder = layouts.language_model(tmp_path, template, adds_bos=adds_bos)
    tensors, head = tiny.tensors_of(folder), layouts.summary()
    layouts.change(folder, tensors if beside else tensors | head, head if beside else None)
    rows = [layouts.ids_of(layouts.text_of(talk), bos=count) for talk in TALKS]
    weight, bias = head.values()
    expected = (layouts.states(reference[0], rows) @ weight.T + bias)[:, 0]
    np.testing.assert_allclose(scores(folder), expected, atol=1e-5)
    assert recognise(folder) == "classifier"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "adds_bos", "count"),
    [
        (layouts.BOS_CHATML, True, 2),
        (layouts.BOS_CHATML, False, 1),
        (layouts.CHATML, True, 1),
        (layouts.CHATML, False, 0),
    ],
)
@pytest.mark.parametrize("hidden", [0, 1])
def test_a_grm_reads_the_bos_that_its_tokenizer_yields(
    tmp_path, reference, template, adds_bos, count, hidden
) -> None:
    folder = layouts.language_model(tmp_path, template, adds_bos=adds_bos)
    head = layouts.two_layers("v_head.summary") if hidden else layouts.summary()
    layouts.change(folder, tiny.tensors_of(folder) | head)
    tiny.change_config(folder, vhead_layer_type="mlp" if hidden else "linear")
    assert recognise(folder) == "grm"
    made = tiny.tokenizer(chat_template=template, adds_bos=adds_bos)
    rows = [made(made.apply_chat_template(t, tokenize=False))["input_ids"] for t in TALKS]
    assert [row.count(tiny.BOS_ID) for row in rows] == [count] * 3
    value = layouts.states(reference[0], rows)
    layers = list(head.values())
    for at in range(0, len(layers), 2):
        value = (value.relu() if at else value) @ layers[at].T + layers[at + 1]
    np.testing.assert_allclose(scores(folder), value[:, 0], atol=1e-5)


@pytest.mark.slow
def test_an_adapter_is_merged_with_its_base(tmp_path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    start = layouts.base(tmp_path / "base")
    folder = layouts.adapter(tmp_path / "adapter", start)
    assert recognise(folder) == "classifier"
    whole = AutoModelForSequenceClassification.from_pretrained(start)
    merged = PeftModel.from_pretrained(whole, str(folder)).eval()
    with torch.no_grad():
        expected = [float(merged(torch.tensor([ids])).logits[0, 0]) for ids in PLAIN]
    np.testing.assert_allclose(scores(folder), expected, atol=1e-5)
    assert np.abs(np.array(expected) - scores(start)).max() > 0.1
    assert says(refusal(folder, engine="vllm"), "adapter vLLM merge")
    # the command line takes its folder too
    assert main(["doctor", "--reward", str(folder), "--json"]) == 0
    (tmp_path / "rows.jsonl").write_text('{"prompt": "why?", "response": "because"}\n')
    assert main(["score", str(tmp_path / "rows.jsonl"), "--reward", str(folder)]) == 0
    (row,) = map(json.loads, (tmp_path / "rows.scored.jsonl").read_text().splitlines())
    assert row["score"] == pytest.approx(expected[0], abs=1e-5)


def test_llama_factorys_adapter_with_a_value_head(tmp_path) -> None:
    from peft import PeftModel
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    start = layouts.language_model(tmp_path / "base")
    folder = layouts.adapter(tmp_path / "adapter", start, "CAUSAL_LM")
    assert says(refusal(folder), "without a reward head")
    head = layouts.summary()
    save_file(head, folder / "value_head.safetensors")
    whole = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(start), str(folder))
    weight, bias = head.values()
    with torch.no_grad():
        last = [
            whole(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0, -1]
            for ids in PLAIN
        ]
    expected = (torch.stack(last) @ weight.T + bias)[:, 0]
    np.testing.assert_allclose(scores(folder), expected, atol=1e-5)


def test_adapters_that_cannot_be_merged_are_refused(tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    start = layouts.base(tmp_path / "base")
    folder = layouts.adapter(tmp_path / "adapter", start)
    stored = load_file(folder / "adapter_model.safetensors")
    more = {"base_model.model.model.layers.99.mlp.up_proj.lora_A.weight": torch.zeros(4, 4)}
    save_file(stored | more, folder / "adapter_model.safetensors")
    said = refusal(folder)
    assert says(said, "layers.99 no place") and "merge" not in said
    save_file(stored, folder / "adapter_model.safetensors")
    config = (folder / "adapter_config.json").read_text()
    (folder / "adapter_config.json").write_text(config.replace(str(start), "/nowhere"))
    assert says(refusal(folder), "is an adapter /nowhere no such folder merge")
    (folder / "adapter_config.json").write_text("{}")
    assert says(refusal(folder), "is an adapter names no base model")
    (start / "adapter_config.json").write_text(config)
    assert says(refusal(start), "a whole model and an adapter")


def test_quantised_weights_are_one_line(tmp_path, capsys) -> None:
    folder = layouts.base(tmp_path / "model")
    tiny.change_config(
        folder, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}
    )
    assert says(refusal(folder), "is quantised (bitsandbytes)")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    assert main(["score", str(tmp_path / "rows.jsonl"), "--reward", str(folder)]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert says(line, "raft: is quantised")


@pytest.mark.parametrize(
    ("head", "config", "message"),
    [
        ("odd_head.weight", {"architectures": ["OddModel"]}, "OddModel odd_head.weight [1, 64]"),
        ("odd_head.weight", {}, "no score.weight odd_head.weight [1, 64] rename"),
        ("score.norm.weight", {}, "beside its transformer are no other tensors"),
        ("score.1.weight", {}, "lacks the tensor score.0.weight"),
        ("value_head.0.weight", {}, "several layers, value_head"),
        ("v_head.weight", {"reward_token_id": 7}, "reward_token_id"),
        ("score_head.weight", {"do_normalize": True}, "do_normalize"),
    ],
)
def test_a_refusal_names_what_is_there(tmp_path, head, config, message) -> None:
    assert says(refusal(layouts.renamed(layouts.base(tmp_path), head, **config)), message)


def test_two_heads_are_refused(tmp_path) -> None:
    folder = layouts.base(tmp_path)
    layouts.change(folder, tiny.tensors_of(folder) | layouts.summary())
    assert says(refusal(folder), "two reward heads score.weight and v_head.summary.")
