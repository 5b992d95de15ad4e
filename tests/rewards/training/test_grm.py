"""GRM's recipe: closed forms of its losses, the label mask, resumption, and what is saved."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_rewards as tiny
import torch
from pydantic import ValidationError

from rewards import load_reward
from rewards.checkpoints.families import recognise
from rewards.data.pair import Pair
from rewards.training.examples import Example
from rewards.training.grm import train_grm
from rewards.training.grm_objective import GRMObjective, Head, dpo, grm_loss, sft, summed_log_probs
from rewards.training.settings import (
    GRM_READING,
    PUBLISHED_FULL,
    PUBLISHED_LORA,
    GRMSettings,
    LoraSettings,
    ReadingSettings,
    TrainingSettings,
)
from rollout.types import InputError

READING = ReadingSettings(max_length=200, truncation_side="right")
HEAD = GRMSettings(head_neurons=16)
TRAINING = TrainingSettings(
    learning_rate=3e-3, epochs=2, batch_size=8, schedule="cosine", warmup_ratio=0.03,
    max_grad_norm=5.0, save_steps=3, log_steps=1,
)  # fmt: skip
LORA = replace(
    TRAINING,
    lora=LoraSettings(
        r=4, alpha=8, dropout=0.05, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]
    ),
)


def pairs_of(count: int, seed: int = 0) -> list[Pair]:
    """The response with more of the letter a is better."""
    draw = np.random.default_rng(seed)
    made = []
    for number in range(count):
        texts = ["".join(draw.choice(list("ab"), size=12, p=p)) for p in ([0.8, 0.2], [0.2, 0.8])]
        prompt = tiny.chat(f"write something, {number % 5}")
        made.append(Pair(f"{seed}-{number}", prompt, texts[0], texts[1]))
    return made


def base_folder(folder: Path, family: str = "llama", **changes) -> Path:
    from transformers import AutoConfig

    made = tiny.llama3_tokenizer()
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "vocab_size": len(made)}
    if family == "gpt_neo":
        sizes |= {"num_layers": 2, "num_heads": 2, "window_size": 8}
        sizes |= {"attention_types": [[["global", "local"], 1]]}
    else:
        sizes |= {"intermediate_size": 64, "num_hidden_layers": 2, "num_key_value_heads": 1}
        sizes |= {"head_dim": 32}
    config = AutoConfig.for_model(
        family, **sizes, max_position_embeddings=512, initializer_range=0.1,
        **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None, **changes},
    )  # fmt: skip
    config.architectures = ["LlamaForCausalLM"]
    return tiny.write_checkpoint(folder, config, tiny.transformer_tensors(config), made)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return base_folder(tmp_path_factory.mktemp("base") / "model")


def train(
    base, folder, *, training=TRAINING, settings=HEAD, count=48, held_out=16, **more
) -> dict[str, Any]:
    return train_grm(
        base, pairs_of(count), pairs_of(held_out, 1), folder, reading=READING, training=training,
        settings=settings, **more,
    )  # fmt: skip


# losses


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def test_log_probabilities_are_sums_over_a_response_s_tokens():
    logits = torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.0, 1.0], [3.0, 0.0, -1.0]])
    targets, owner = torch.tensor([2, 0, 1]), torch.tensor([1, 0, 1])
    found = summed_log_probs(logits, targets, owner, 3)
    first = 2 - math.log(1 + math.e + math.e**2)
    third = 0 - math.log(math.e**3 + 1 + math.e**-1)
    np.testing.assert_allclose(found, [-math.log(3), first + third, 0.0], rtol=1e-6)
    # a sum, not a mean: two equal tokens weigh twice as much as one
    twice = summed_log_probs(logits[[1, 1]], targets[[1, 1]], torch.zeros(2, dtype=torch.long), 1)
    np.testing.assert_allclose(twice, [-2 * math.log(3)], rtol=1e-6)
    assert summed_log_probs(logits.bfloat16(), targets, owner, 2).dtype == torch.float32


def test_regularisers_equal_their_closed_forms():
    chosen, rejected = torch.tensor([-3.0, -40.0]), torch.tensor([-5.0, -1.0])
    np.testing.assert_allclose(sft(chosen), [-log_sigmoid(-0.3), -log_sigmoid(-4)], rtol=1e-6)
    np.testing.assert_allclose(sft(chosen, log_sigmoid=False), [3.0, 40.0])
    np.testing.assert_allclose(
        dpo(chosen, rejected), [-log_sigmoid(0.2), -log_sigmoid(-3.9)], rtol=1e-6
    )
    reference = torch.tensor([-2.0, -30.0]), torch.tensor([-2.5, -2.0])
    np.testing.assert_allclose(
        dpo(chosen, rejected, 0.5, reference),
        [-log_sigmoid(0.5 * (2 - 0.5)), -log_sigmoid(0.5 * (-39 + 28))], rtol=1e-6,
    )  # fmt: skip


def test_the_total_weighs_reward_and_regulariser_with_one_minus_alpha_and_alpha():
    rewards = torch.tensor([1.0, 0.5]), torch.tensor([0.0, 2.0])
    bradley_terry = np.array([-log_sigmoid(1.0), -log_sigmoid(-1.5)])
    extra = torch.tensor([7.0, 3.0])
    np.testing.assert_allclose(
        grm_loss(rewards, extra, 0.01), 0.99 * bradley_terry + 0.01 * extra.numpy(), rtol=1e-6
    )
    np.testing.assert_allclose(grm_loss(rewards, None, 0.0), bradley_terry, rtol=1e-6)


# the objective, against transformers' own logits


def model_with_head(base: Path, settings: GRMSettings = HEAD):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    model.v_head = Head(64, settings).eval()
    return model


def examples(count=3) -> list[Example]:
    draw = np.random.default_rng(0)
    made = []
    for number in range(count):
        prompt = draw.integers(3, 250, size=18 + number)
        rows = tuple(
            np.concatenate([prompt, draw.integers(3, 250, size=4 + 3 * side + number)])
            for side in (0, 1)
        )
        made.append(Example(rows, id=str(number), loss_from=(len(prompt), len(prompt))))
    return made


@torch.no_grad()
def by_hand(model, example: Example) -> tuple[list[float], list[float]]:
    """Rewards and summed log-probabilities of both sides, a row at a time, from all logits."""
    rewards, sums = [], []
    for row, start in zip(example.rows, example.loss_from, strict=True):
        out = model(torch.from_numpy(row)[None], output_hidden_states=True)
        rewards.append(float(model.v_head.summary(out.hidden_states[-1][0, -1])))
        logits = out.logits[0].double()
        total = 0.0
        for position in range(start, len(row)):
            step = logits[position - 1]
            total += float(step[row[position]] - step.logsumexp(0))
        sums.append(total)
    return rewards, sums


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neo"])
@pytest.mark.parametrize("kind", ["sft", "sft_no_logsigmoid", "dpo_free", "dpo"])
def test_the_objective_equals_a_straight_line_computation(tmp_path, family, kind, monkeypatch):
    from rewards.training import grm_objective

    monkeypatch.setattr(grm_objective, "_LOGITS", 5)  # several pieces
    changes = {"query_pre_attn_scalar": 32, "final_logit_softcapping": 3.0}
    folder = base_folder(tmp_path, family, **(changes if family == "gemma2" else {}))
    settings = replace(HEAD, regulariser=kind, alpha=0.2)
    model = model_with_head(folder, settings)
    reference = model_with_head(folder)
    with torch.no_grad():  # not what it began as
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    some = examples()
    found = GRMObjective(settings, "padded", 0, reference).run(model, some)
    expected = 0.0
    for one in some:
        (r_c, r_r), (l_c, l_r) = by_hand(model, one)
        _, (ref_c, ref_r) = by_hand(reference, one)
        extra = {
            "sft": -log_sigmoid(0.1 * l_c),
            "sft_no_logsigmoid": -l_c,
            "dpo_free": -log_sigmoid(0.1 * (l_c - l_r)),
            "dpo": -log_sigmoid(0.1 * (l_c - l_r - ref_c + ref_r)),
        }[kind]
        expected += 0.8 * -log_sigmoid(r_c - r_r) + 0.2 * extra
    assert float(found.loss.detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["sft", "dpo_free"])
def test_packed_rows_give_the_padded_loss_and_gradients(base, kind):
    from rewards.training.layout import choose_layout

    settings, gradients, losses = replace(HEAD, regulariser=kind, alpha=0.3), [], []
    for wanted in ("packed", "padded"):
        model = model_with_head(base)
        chosen = choose_layout(model, model.model, pad_id=0, wanted=wanted, why_padded=None)
        assert chosen == wanted
        outcome = GRMObjective(settings, wanted, 0).run(model, examples())
        outcome.loss.backward()
        losses.append(float(outcome.loss.detach()))
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-4, rtol=1e-3)


def test_with_adapters_the_reference_is_the_model_without_them(base):
    from peft import LoraConfig, get_peft_model

    settings = replace(HEAD, regulariser="dpo", alpha=0.2)
    plain, model = model_with_head(base, settings), model_with_head(base, settings)
    wrapped = get_peft_model(
        model, LoraConfig(target_modules=["q_proj"], modules_to_save=["v_head"], lora_dropout=0.5)
    ).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter += 0.1 * torch.randn_like(parameter)
    expected = 0.0
    for one in examples():
        (r_c, r_r), (l_c, l_r) = by_hand(wrapped.get_base_model(), one)
        _, (ref_c, ref_r) = by_hand(plain, one)
        assert abs(l_c - ref_c) > 1e-3
        expected += 0.8 * -log_sigmoid(r_c - r_r)
        expected += 0.2 * -log_sigmoid(0.1 * (l_c - l_r - ref_c + ref_r))
    found = GRMObjective(settings, "padded", 0).run(wrapped, examples())
    assert float(found.loss.detach()) == pytest.approx(expected, rel=1e-4)


def test_dropout_before_the_head_is_for_training_alone():
    head, states = Head(64, replace(HEAD, head_dropout=0.5)), torch.randn(4, 64)
    assert not torch.equal(head(states), head(states))
    head.eval()
    assert torch.equal(head(states), head(states))


# the recipe


@pytest.mark.slow
def test_it_learns_and_the_regulariser_keeps_the_language_model(base, tmp_path):
    metrics = train(base, tmp_path / "grm", settings=replace(HEAD, alpha=0.05))
    assert metrics["eval/accuracy"] > 0.9 and metrics["pairs/held_out"] == 16
    assert 0 <= metrics["eval/log_prob_accuracy"] <= 1
    assert metrics["reading"]["bos"] == "double"
    assert metrics["reading"]["truncation_side"] == "right"
    assert metrics["train/steps"] == 12
    assert not (tmp_path / "grm/checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize("training", [TRAINING, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_what_is_saved_is_a_grm_that_scores_as_it_did_in_training(base, tmp_path, training, layers):
    settings = replace(HEAD, head_layers=layers)
    metrics = train(base, tmp_path, training=training, settings=settings, count=16, held_out=8)
    folder = tmp_path / "model"
    assert recognise(folder) == "grm"
    names = tiny.tensors_of(folder).keys()
    heads = [f"v_head.summary.{2 * n}" for n in range(layers + 1)] if layers else ["v_head.summary"]
    assert {n for n in names if "v_head" in n} == {
        f"{h}.{part}" for h in heads for part in ("weight", "bias")
    }
    assert not [n for n in names if "lora" in n or "base_model" in n]
    config = json.loads((folder / "config.json").read_text())
    assert config["vhead_layer_type"] == ("mlp" if layers else "linear")
    assert (config["vhead_num_layers"], config["vhead_num_neurons"]) == (layers, 16)
    assert config["architectures"] == ["LlamaForCausalLM"] and "auto_map" not in config
    reward = load_reward(folder)
    assert reward.describe()["bos"] == "double"
    sides = [[p.conversation(s) for p in pairs_of(8, 1)] for s in ("chosen", "rejected")]
    scores = [reward.score(side) for side in sides]
    loss = np.logaddexp(0, scores[1] - scores[0]).mean()
    assert metrics["eval/chosen_mean"] == pytest.approx(float(scores[0].mean()), abs=1e-5)
    assert metrics["eval/rejected_mean"] == pytest.approx(float(scores[1].mean()), abs=1e-5)
    assert metrics["eval/loss"] == pytest.approx(loss, abs=1e-5)


@pytest.mark.slow
def test_saved_scores_equal_those_in_memory_pair_by_pair(base, tmp_path, monkeypatch):
    from rewards.training import grm

    seen, fit = {}, grm.fit
    monkeypatch.setattr(grm, "fit", lambda *a, **s: seen.setdefault("fitted", fit(*a, **s)))
    train(base, tmp_path, count=16, held_out=8)
    reward = load_reward(tmp_path / "model")
    for side in ("chosen", "rejected"):
        scores = reward.score([pair.conversation(side) for pair in pairs_of(8, 1)])
        np.testing.assert_allclose(scores, seen["fitted"].values[side], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("training", [TRAINING, LORA], ids=["full", "lora"])
def test_recomputed_activations_change_nothing(base, tmp_path, training):
    training = replace(training, layout="padded", epochs=1)
    if training.lora is not None:
        training = replace(training, lora=replace(training.lora, dropout=0.0))
    for name in (True, False):
        train(
            base, tmp_path / str(name), training=replace(training, gradient_checkpointing=name),
            settings=replace(HEAD, head_dropout=0.0), count=16, held_out=8,
        )  # fmt: skip
    one, two = (tiny.tensors_of(tmp_path / name / "model") for name in ("True", "False"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-6, rtol=1e-5, msg=name)


def test_lora_leaves_other_weights_alone(base, tmp_path):
    train(base, tmp_path, training=LORA, count=16, held_out=8)
    before, after = tiny.tensors_of(base), tiny.tensors_of(tmp_path / "model")
    # a PAD was added: one more row, which nothing reads
    assert len(after["lm_head.weight"]) == len(before["lm_head.weight"]) + 1
    changed = {n for n, t in before.items() if not torch.equal(t, after[n][: len(t)])}
    layers = [f"model.layers.{n}.self_attn.{p}_proj.weight" for n in (0, 1) for p in "qkvo"]
    assert changed == set(layers)


@pytest.mark.slow
@pytest.mark.parametrize("training", [TRAINING, LORA], ids=["full", "lora"])
def test_a_killed_training_goes_on_to_the_same_weights(base, tmp_path, training):
    class Killed(BaseException):
        pass

    def kill(step, values):
        if step == 7:
            raise Killed

    settings = replace(HEAD, regulariser="dpo", alpha=0.1)
    with pytest.raises(Killed):
        train(base, tmp_path / "killed", training=training, settings=settings, on_metrics=kill)
    assert (tmp_path / "killed/checkpoints/checkpoint-6").is_dir()
    seen = []
    train(
        base, tmp_path / "killed", training=training, settings=settings,
        on_metrics=lambda step, values: seen.append(step),
    )  # fmt: skip
    assert min(seen) == 7
    train(base, tmp_path / "whole", training=training, settings=settings)
    one, two = (tiny.tensors_of(tmp_path / n / "model") for n in ("killed", "whole"))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-6, rtol=1e-5, msg=name)


def test_responses_begin_where_the_prompt_asks_for_an_answer(base, tmp_path, monkeypatch):
    from rewards.training import grm

    seen = []

    class Stop(Exception):
        pass

    def caught(model, make, train, test, *arguments, **settings):
        seen.extend(train)
        raise Stop

    monkeypatch.setattr(grm, "fit", caught)
    pairs = [
        Pair("turns", tiny.chat("one", "two", "three"), "four", "five"),
        Pair("cut", tiny.chat("one"), "x" * 300, "short"),
    ]
    with pytest.raises(Stop):
        train_grm(base, pairs, pairs_of(4, 1), tmp_path, reading=READING, training=TRAINING,
                  settings=HEAD)  # fmt: skip
    header = tiny.START + "assistant" + tiny.END + "\n\n"
    for example, pair in zip(seen, pairs, strict=True):
        prompt = tiny.llama3_ids(list(pair.prompt), bos=2, end=header)
        assert example.loss_from == (len(prompt), len(prompt))
        for side, row in zip(("chosen", "rejected"), example.rows, strict=True):
            whole = tiny.llama3_ids(pair.conversation(side), bos=2)
            assert row.tolist() == whole[:200] and row[: len(prompt)].tolist() == prompt


def test_published_settings():
    for settings in (PUBLISHED_FULL, PUBLISHED_LORA):
        assert (settings.schedule, settings.warmup_ratio) == ("cosine", 0.03)
        assert (settings.max_grad_norm, settings.weight_decay) == (5.0, 0.0)
    assert (PUBLISHED_FULL.learning_rate, PUBLISHED_FULL.batch_size) == (5e-6, 256)
    assert PUBLISHED_LORA.lora is not None and PUBLISHED_LORA.lora.alpha == 64
    assert (GRM_READING.max_length, GRMSettings().alpha, GRMSettings().beta) == (3000, 0.01, 0.1)


@pytest.mark.parametrize(
    ("name", "published"),
    [("grm_llama3_3b", PUBLISHED_FULL), ("grm_gemma_2b_lora", PUBLISHED_LORA)],
)
def test_the_configs_say_the_published_settings(name, published):
    from raft.config.train_reward import load_train_config

    file = Path(__file__).parents[3] / f"configs/reward/{name}.yaml"
    assert file.read_text().startswith(f"# raft train-reward configs/reward/{name}.yaml\n")
    said = load_train_config(file).train.given()
    lora = said.pop("lora", None)
    assert {key: getattr(published, key) for key in said} == said
    assert lora == published.lora


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"regulariser": "kl"}, "'sft', 'sft_no_logsigmoid', 'dpo_free' or 'dpo'"),
        ({"alpha": 1.0}, "alpha"),
        ({"beta": 0.0}, "beta"),
        ({"head_layers": -1}, "head_layers"),
        ({"head_dropout": 1.0}, "head_dropout"),
        ({"head_layer": 1}, "head_layer"),
    ],
)
def test_settings_out_of_range(change, message):
    with pytest.raises(ValidationError, match=message):
        GRMSettings(**change)


def test_readings_that_do_not_fit_are_refused(base, tmp_path):
    def refused(message, **changes):
        with pytest.raises(InputError, match=message):
            train_grm(
                base, pairs_of(4), pairs_of(4, 1), tmp_path, training=TRAINING, settings=HEAD,
                reading=replace(READING, **changes),
            )  # fmt: skip

    refused("truncation_side: must be right", truncation_side="left")
    refused('needs format="chat"', format="plain")
    base = base_folder(tmp_path / "plain")
    (base / "chat_template.jinja").unlink()
    refused("no chat template")


@pytest.mark.slow
def test_a_model_that_scales_its_logits_otherwise_is_refused_unless_alpha_is_0(tmp_path):
    folder = base_folder(tmp_path / "base", "granite", logits_scaling=2.0)
    with pytest.raises(InputError, match="does more to its logits than is known"):
        train(folder, tmp_path / "grm")
    metrics = train(folder, tmp_path / "grm", settings=replace(HEAD, alpha=0.0), count=8)
    assert "eval/log_prob_accuracy" not in metrics
