"""ArmoRM's recipe: a planted gate is learnt, and what is saved scores as the training's formula."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tiny_rewards as tiny
import torch
from pydantic import ValidationError
from wording import says, words

from rewards import load_reward
from rewards.checkpoints.families import recognise
from rewards.combine.debias import penalty_matrix
from rewards.data.pair import Pair
from rewards.data.rated import Rated
from rewards.evaluation.stats import spearman
from rewards.models.armorm_head import ARMORM_ATTRIBUTES
from rewards.training.armorm import train_armorm
from rewards.training.armorm_features import ArmoRMSettings
from rewards.training.card import TrainedMetrics, accuracy_in_words
from rewards.training.gating import GatingMLP, fit_gating, gated_margins
from rewards.training.ridge import label_matrix, varying_labels
from rewards.training.settings import GatingSettings
from rollout.types import InputError

SETTINGS = ArmoRMSettings(attributes=("a", "b", "long"), verbosity="long", seed=1)
SMALL = GatingSettings(hidden_dim=32, steps=150, batch_size=64, dropout=0.0, learning_rate=5e-3)
KINDS = ("which has more of the first", "count the second letter, please")


def response(draw) -> tuple[str, dict[str, float]]:
    """Letters, and what they are rated: shares of a and of b, and length."""
    length = int(draw.integers(10, 40))
    share_a, share_b = draw.dirichlet([1, 1, 1])[:2]
    letters = draw.choice(list("abc"), size=length, p=[share_a, share_b, 1 - share_a - share_b])
    text = "".join(letters)
    labels = {"a": text.count("a") / length, "b": text.count("b") / length, "long": length / 40}
    return text, labels


def make(count: int, seed: int) -> tuple[list[Rated], list[Pair]]:
    """The prompt's kind decides which letter is better."""
    draw = np.random.default_rng(seed)
    rated, pairs = [], []
    for number in range(count):
        kind = int(draw.integers(2))
        prompt = tiny.chat(f"{KINDS[kind]} {number % 7}")
        key = "ab"[kind]
        (left, left_labels), (right, right_labels) = response(draw), response(draw)
        while abs(left_labels[key] - right_labels[key]) < 0.15:  # a better one that can be told
            right, right_labels = response(draw)
        if left_labels[key] < right_labels[key]:
            (left, left_labels), (right, right_labels) = (
                (right, right_labels), (left, left_labels)
            )  # fmt: skip
        pairs.append(Pair(f"{seed}-{number}", prompt, left, right))
        # each conversation lacks one attribute
        labels = {k: v for k, v in left_labels.items() if k != "abl"[number % 3]}
        rated.append(Rated(pairs[-1].conversation("chosen"), labels, id=f"r{number}"))
        rated.append(Rated(pairs[-1].conversation("rejected"), right_labels))
    return rated, pairs


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A random language model that looks at what it reads, in bfloat16, untied."""
    folder = tmp_path_factory.mktemp("base") / "model"
    made = tiny.llama3_tokenizer()
    config = tiny.config(
        "llama", vocab_size=len(made), max_position_embeddings=512, initializer_range=0.2
    )
    config.architectures = ["LlamaForCausalLM"]
    tensors = {n: t.bfloat16() for n, t in tiny.transformer_tensors(config).items()}
    return tiny.write_checkpoint(folder, config, tensors, made, dtype="bfloat16")


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    rated, pairs = make(600, 0)
    metrics = train_armorm(base, rated, pairs, make(200, 1)[1], folder, settings=SETTINGS,
                           gating=SMALL)  # fmt: skip
    return folder, metrics


# the gate


def planted_gate(pairs=2000, size=16, attributes=4, seed=0):
    """The prompt's kind decides which of the attributes matters."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(attributes, size)) * 2
    kinds = draw.integers(attributes, size=pairs)
    prompts = centres[kinds] + draw.normal(size=(pairs, size)) * 0.5
    differences = draw.normal(size=(pairs, attributes))
    flip = np.sign(differences[np.arange(pairs), kinds])
    return prompts.astype(np.float32), (differences * flip[:, None]).astype(np.float32)


@pytest.mark.slow
def test_the_gate_learns_a_planted_one_that_uniform_weights_cannot_follow():
    settings = GatingSettings(hidden_dim=64, steps=300, batch_size=256)
    losses = []
    gate = fit_gating(
        *planted_gate(), settings, seed=0, report=lambda step, loss: losses.append(loss)
    )
    prompts, differences = planted_gate(seed=1)
    with torch.no_grad():
        margins = gated_margins(gate, torch.from_numpy(prompts), torch.from_numpy(differences))
    assert float((margins > 0).float().mean()) > 0.95
    assert (differences.mean(axis=1) > 0).mean() < 0.8
    assert len(losses) == 300 and np.mean(losses[-20:]) < 0.6 * np.mean(losses[:20])


def test_the_same_seed_gives_the_same_gate_and_leaves_torch_s_own_alone():
    data, settings = planted_gate(200), GatingSettings(hidden_dim=8, steps=5, batch_size=16)
    before = torch.get_rng_state()
    first, again, other = (fit_gating(*data, settings, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.layers[0].weight, other.layers[0].weight)  # type: ignore[arg-type]


def test_every_part_of_the_gate_gets_a_gradient_where_the_released_script_gave_none():
    torch.manual_seed(0)
    gate = GatingMLP(16, 4, GatingSettings(hidden_dim=8, dropout=0.0))
    prompts, differences = map(torch.from_numpy, planted_gate(64))
    loss = -torch.nn.functional.logsigmoid(gated_margins(gate, prompts, differences)).mean()
    loss.backward()
    for name, parameter in gate.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().max()) > 1e-6, name
    # its softmax ran over the two responses, which share their prompt: always one half
    logits = torch.randn(8, 2, 4)[:, :1].expand(-1, 2, -1)
    assert torch.equal(logits.softmax(dim=1), torch.full((8, 2, 4), 0.5))


def test_the_loss_and_the_gate_equal_a_straight_line_computation():
    torch.manual_seed(1)
    gate = GatingMLP(3, 2, GatingSettings(hidden_dim=5, n_hidden=1, temperature=7.0)).eval()
    with torch.no_grad():
        gate.logit_scale[:] = 1.7
    q, d = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([0.5, -0.25])
    w = {name: tensor.numpy() for name, tensor in gate.state_dict().items()}
    x = np.maximum(w["layers.0.weight"] @ q.numpy() + w["layers.0.bias"], 0)
    z = np.exp((w["layers.1.weight"] @ x + w["layers.1.bias"]) / 7)
    margin = 1.7 * (z / z.sum()) @ d.numpy()
    with torch.no_grad():
        assert float(gated_margins(gate, q, d)) == pytest.approx(margin, rel=1e-5)


def test_pairs_with_a_side_that_is_too_long_are_not_drawn():
    prompts, differences = planted_gate(100)
    differences[::2] = np.nan
    gate = fit_gating(prompts, differences, GatingSettings(hidden_dim=8, steps=5), seed=0)
    assert all(torch.isfinite(p).all() for p in gate.parameters())
    with pytest.raises(InputError, match="none can be used"):
        fit_gating(prompts, np.full_like(differences, np.nan), GatingSettings(), seed=0)


@pytest.mark.parametrize(
    "change", [{"steps": 0}, {"temperature": 0.0}, {"dropout": 1.0}, {"n_hidden": -1}]
)
def test_gating_settings_out_of_range(change):
    with pytest.raises(ValidationError, match=next(iter(change))):
        GatingSettings(**change)


# the recipe


@pytest.mark.slow
def test_the_gate_beats_uniform_weights_on_held_out_pairs(trained):
    _, metrics = trained
    assert metrics["eval/accuracy"] > 0.9
    assert metrics["eval/uniform_accuracy"] < 0.8
    assert metrics["eval/accuracy_low"] < metrics["eval/accuracy"] < metrics["eval/accuracy_high"]
    assert (metrics["pairs/train"], metrics["pairs/held_out"]) == (600, 200)
    assert metrics["reading"] == {"format": "chat", "bos": "single"}
    assert (metrics["pairs/train_too_long"], metrics["rated/train"]) == (0, 1200)
    for name in "ab":  # the ratings can be read off the states, whatever is missing
        about = metrics["attributes"][name]
        assert about["error"] < 0.5 * about["error_of_mean"] and about["labels"] == 1000


def test_what_is_saved_is_an_armorm_of_the_published_shape(trained):
    folder, _ = trained
    model = folder / "model"
    assert recognise(model) == "armorm"
    config = json.loads((model / "config.json").read_text())
    assert config["architectures"] == ["LlamaForRewardModelWithGating"]
    keys = ("num_objectives", "gating_temperature", "gating_hidden_dim", "gating_n_hidden")
    assert [config[key] for key in keys] == [3, 10.0, 32, 3]
    assert config["attributes"] == ["a", "b", "long"]
    assert load_reward(model).describe()["attributes"] == ["a", "b", "long"]
    shapes = {n: list(t.shape) for n, t in tiny.tensors_of(model).items()}
    heads = {n: s for n, s in shapes.items() if not n.startswith("model.")}
    assert heads == {
        "regression_layer.weight": [3, 64], "reward_transform_matrix": [3, 3],
        "gating.layers.0.weight": [32, 64], "gating.layers.0.bias": [32],
        "gating.layers.1.weight": [32, 32], "gating.layers.1.bias": [32],
        "gating.layers.2.weight": [32, 32], "gating.layers.2.bias": [32],
        "gating.layers.3.weight": [3, 32], "gating.layers.3.bias": [3], "gating.logit_scale": [1],
    }  # fmt: skip


def test_the_transformer_was_frozen_and_keeps_its_dtype(base, trained):
    before, after = tiny.tensors_of(base), tiny.tensors_of(trained[0] / "model")
    kept = {name: tensor for name, tensor in before.items() if name.startswith("model.")}
    assert kept.keys() == {name for name in after if name.startswith("model.")}
    for name, tensor in kept.items():
        assert after[name].dtype == torch.bfloat16 and torch.equal(after[name], tensor)
    assert after["regression_layer.weight"].dtype == torch.float32


def test_the_saved_model_scores_as_the_formula_on_the_features(trained):
    folder, metrics = trained
    _, pairs = make(200, 1)
    reward = load_reward(folder / "model")
    details = [
        reward.score_details([pair.conversation(side) for pair in pairs])
        for side in ("chosen", "rejected")
    ]
    states = np.load(folder / "features/held_out.npy")
    head = tiny.tensors_of(folder / "model")
    regression, transform = (
        head[n].numpy() for n in ("regression_layer.weight", "reward_transform_matrix")
    )
    for side, found in enumerate(details):
        gate_state, last = states[side::2, 0], states[side::2, 1]
        for n in range(4):
            layer = (head[f"gating.layers.{n}.{part}"].numpy() for part in ("weight", "bias"))
            weight, bias = layer
            gate_state = (gate_state if n == 0 else np.maximum(gate_state, 0)) @ weight.T + bias
        gating = np.exp(gate_state / 10)
        gating *= head["gating.logit_scale"].numpy() / gating.sum(axis=1, keepdims=True)
        adjusted = last @ regression.T @ transform
        np.testing.assert_allclose(found["score"], (gating * adjusted).sum(axis=1), atol=1e-5)
        np.testing.assert_array_equal((found["rewards"] @ transform)[:, 2], 0)  # verbosity
    won = (details[0]["score"] > details[1]["score"]).mean()
    assert won == pytest.approx(metrics["eval/accuracy"])


def test_penalties_are_those_of_the_signed_rank_correlation(trained):
    folder, metrics = trained
    states = np.load(folder / "features/pairs.npy")
    head = tiny.tensors_of(folder / "model")
    rewards = states[:, 1] @ head["regression_layer.weight"].numpy().T
    transform = head["reward_transform_matrix"].numpy()
    np.testing.assert_allclose(transform, penalty_matrix(rewards, 2), atol=1e-6)
    penalties = [metrics["attributes"][name]["penalty"] for name in ("a", "b", "long")]
    np.testing.assert_allclose(penalties, -transform[2] + [0, 0, 1], atol=1e-6)
    assert penalties[2] == 1 and (transform[:, 2] == 0).all()
    for k in (0, 1):
        adjusted = rewards[:, k] - penalties[k] * rewards[:, 2]
        assert spearman(adjusted, rewards[:, 2]) <= 0.03


@pytest.mark.slow
def test_a_second_run_trains_another_gate_on_the_same_features(
    base, trained, tmp_path, monkeypatch
):
    from rewards.inference.backbone import Backbone

    rated, pairs = make(600, 0)
    folder, metrics = trained
    (tmp_path / "features").mkdir()
    for file in (folder / "features").iterdir():
        (tmp_path / "features" / file.name).write_bytes(file.read_bytes())

    def states(self, rows, positions):
        raise AssertionError("everything is there")

    monkeypatch.setattr(Backbone, "states", states)
    again = train_armorm(
        base, rated, pairs, make(200, 1)[1], tmp_path,
        settings=SETTINGS, gating=SMALL,
    )  # fmt: skip
    assert again == metrics
    one, two = (tiny.tensors_of(where / "model") for where in (folder, tmp_path))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_long_pairs_are_left_out_and_a_gate_without_penalties_has_m_the_identity(base, tmp_path):
    rated, pairs = make(40, 0)
    pairs[3] = Pair("long", tiny.chat("why? " * 60), "a", "b")
    seen = []
    metrics = train_armorm(
        base, rated, pairs, [], tmp_path,
        settings=ArmoRMSettings(verbosity=None, max_length=200, feature_dtype="float16"),
        gating=GatingSettings(hidden_dim=8, n_hidden=0, steps=20, batch_size=8),
        on_metrics=lambda step, values: seen.append((step, values["train/loss"])),
    )  # fmt: skip
    assert (metrics["pairs/train"], metrics["pairs/train_too_long"]) == (39, 1)
    assert "eval/accuracy" not in metrics and seen[-1][0] == 20
    transform = tiny.tensors_of(tmp_path / "model")["reward_transform_matrix"]
    assert torch.equal(transform, torch.eye(3))
    assert np.isfinite(load_reward(tmp_path / "model").score([rated[0].conversation])).all()


def test_a_classifier_whose_template_adds_a_header_can_be_the_base(tmp_path):
    made = tiny.llama3_tokenizer(chat_template=tiny.LLAMA3_APRIL_TEMPLATE)
    base = tiny.checkpoint(
        tmp_path / "base", "llama", made, vocab_size=len(made), max_position_embeddings=512
    )
    rated, pairs = make(20, 0)
    train_armorm(
        base, rated, pairs, [], tmp_path, settings=ArmoRMSettings(verbosity="long"),
        gating=GatingSettings(hidden_dim=8, steps=3, batch_size=8),
    )  # fmt: skip
    found = load_reward(tmp_path / "model").score_details([pairs[0].conversation("chosen")])
    states = np.load(tmp_path / "features/pairs.npy")[0, 1]
    weight = tiny.tensors_of(tmp_path / "model")["regression_layer.weight"].numpy()
    np.testing.assert_allclose(found["rewards"][0], weight @ states, atol=1e-5)


def test_what_the_template_refuses_is_skipped_on_request(tmp_path):
    refuses = (
        "{% for m in messages %}{% if 'secret' in m['content'] %}{{ raise_exception('not this') }}"
        "{% endif %}{% endfor %}" + tiny.LLAMA3_APRIL_TEMPLATE
    )
    made = tiny.llama3_tokenizer(chat_template=refuses)
    base = tiny.checkpoint(
        tmp_path / "base", "llama", made, vocab_size=len(made), max_position_embeddings=512
    )
    rated, pairs = make(12, 0)
    gating = GatingSettings(hidden_dim=8, steps=3, batch_size=8)
    settings = ArmoRMSettings(verbosity="long")
    train_armorm(base, rated, pairs, pairs[:4], tmp_path / "a", settings=settings, gating=gating)
    secret = replace(pairs[5], id="secret", rejected="a secret")
    more = [*rated[:3], Rated(secret.conversation("rejected"), {"a": 0.5}), *rated[3:]]
    data = (more, [secret, *pairs], [*pairs[:4], secret])
    with pytest.raises(InputError, match="not this"):
        train_armorm(base, *data, tmp_path / "b", settings=settings, gating=gating)
    skips = replace(settings, on_bad_row="skip")
    train_armorm(base, *data, tmp_path / "c", settings=skips, gating=gating)
    # the same model as without them
    first, second = (tiny.tensors_of(tmp_path / name / "model") for name in "ac")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_config_says_the_published_settings():
    from raft.config.train_reward import load_train_config

    file = Path(__file__).parents[3] / "configs/reward/armorm_llama3_8b.yaml"
    assert file.read_text().startswith("# raft train-reward configs/reward/armorm_llama3_8b.yaml\n")
    config = load_train_config(file)
    assert config.armorm is not None
    assert config.armorm.gating == GatingSettings()
    assert config.armorm.threshold == ArmoRMSettings().threshold == 0.03


# labels


def rated_by(*labels):
    return [Rated(tiny.chat("q", "r"), one) for one in labels]


def test_labels_become_a_matrix_with_nan_where_there_is_none(caplog):
    names, matrix = label_matrix(rated_by({"x": 0.5}, {"y": 1, "x": 0}), None, False)
    assert names == ("x", "y")
    np.testing.assert_array_equal(matrix, [[0.5, np.nan], [0, 1]])
    assert label_matrix(rated_by({"x": 0.5}, {"y": 1}), ["y", "x"], False)[0] == ("y", "x")
    published = rated_by({"helpsteer-verbosity": 0.1, "code-style": 0.5})
    assert label_matrix(published, None, True)[0] == ("helpsteer-verbosity", "code-style")
    every = rated_by(dict.fromkeys(reversed(ARMORM_ATTRIBUTES), 0.5))
    assert label_matrix(every, None, False)[0] == ARMORM_ATTRIBUTES
    with caplog.at_level(logging.WARNING, logger="rewards"):
        label_matrix(rated_by({"x": 4.0}), None, False)
    assert "outside [0, 1]" in caplog.text


@pytest.mark.parametrize(
    ("labels", "attributes", "message"),
    [
        ([{"helpsteer-verbosity": 1.0}], None, "'helpsteer-helpfulness' no row is rated"),
        ([{"x": 1.0}], ["x", "z"], "attribute 'z' no row is rated"),
        ([{"x": 1.0}], ["z"], "rated for 'x', which is none of z"),
        ([{"x": float("nan")}], None, "rated row 0: x is nan"),
        ([{"x": 1.0}], ["x", "x"], "a name twice"),
        ([{}], None, "no row is rated"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, attributes, message):
    with pytest.raises(InputError, match=words(message)):
        label_matrix(rated_by(*labels), attributes, False)


def test_an_attribute_of_one_label_alone_teaches_nothing(caplog):
    names, matrix = label_matrix(rated_by({"x": 0.5, "y": 1}, {"x": 0.5}, {"y": 0}), None, False)
    with pytest.raises(InputError, match=r"of the attribute 'x' \(2 labels, all 0\.5\), 1 in all"):
        varying_labels(names, matrix, False)
    with caplog.at_level(logging.WARNING, logger="rewards"):
        kept, columns = varying_labels(names, matrix, True)
    assert kept == ("y",) and "'x' (2 labels, all 0.5)" in caplog.text
    np.testing.assert_array_equal(columns, [[1], [np.nan], [0]])
    with pytest.raises(InputError, match="nothing to learn from"):  # no other is left
        varying_labels(("x",), matrix[:, :1], True)


@pytest.mark.parametrize("what", ["rated responses", "training pairs", "held-out pairs"])
def test_only_over_long_rows_are_refused_before_anything_is_trained(base, tmp_path, what):
    rated, pairs = make(40, 0)
    held_out = make(3, 1)[1]
    long = tiny.chat("why? " * 60)
    if what == "rated responses":
        rated = [Rated([*long, *tiny.chat("", "a")[1:]], one.labels) for one in rated]
    elif what == "training pairs":
        pairs = [Pair(pair.id, long, "a", "b") for pair in pairs]
    else:
        held_out = [Pair(pair.id, long, "a", "b") for pair in held_out]
    with pytest.raises(InputError) as caught:
        train_armorm(
            base, rated, pairs, held_out, tmp_path,
            settings=ArmoRMSettings(verbosity=None, max_length=200), gating=SMALL,
        )  # fmt: skip
    count = {"rated responses": 80, "training pairs": 40, "held-out pairs": 3}[what]
    assert says(caught.value, f"no {what} {count}: {count} longer than 200")
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_pairs_of_one_prompt_have_no_interval_and_the_card_says_why(base, tmp_path):
    # 15 pairs of one prompt: a sample of one, whatever came out
    rated, pairs = make(40, 0)
    prompt = pairs[0].prompt
    held_out = [Pair(str(n), prompt, pairs[n].chosen, pairs[n].rejected) for n in range(15)]
    held_out = [replace(p, chosen=p.rejected, rejected=p.chosen) if n % 2 else p
                for n, p in enumerate(held_out)]  # fmt: skip
    found = train_armorm(base, rated, pairs, held_out, tmp_path, settings=SETTINGS, gating=SMALL)
    metrics = cast("dict[str, Any]", found)
    assert 0 < metrics["eval/accuracy"] < 1 and metrics["eval/prompts"] == 1
    assert np.isnan(metrics["eval/accuracy_low"])
    said = accuracy_in_words(cast("TrainedMetrics", found))
    assert "of 15 held-out pairs (no interval: these pairs all have one prompt" in said
    assert "nan" not in said


def test_bad_input_is_refused_before_the_model_is_read(tmp_path):
    rated, pairs = make(5, 0)
    with pytest.raises(InputError, match=words("verbosity='helpsteer-verbosity' attributes")):
        train_armorm(tmp_path / "no model", rated, pairs, [], tmp_path)
    with pytest.raises(InputError, match="no preference pairs"):
        train_armorm(
            tmp_path / "no model", rated, [], [], tmp_path, settings=ArmoRMSettings(verbosity=None)
        )
    assert list(tmp_path.iterdir()) == []
