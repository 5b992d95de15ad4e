"""The experiments with reward models: their arithmetic, and all five recipes at a tiny size."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wording import says

from experiments.reward_models import attributes, driven_measure, five_recipes, recipes
from experiments.reward_models.backbone import Sizes, build_tokenizer
from experiments.reward_models.five_recipes import Study, prepare, train_one
from experiments.reward_models.pairs import HELD_OUT, TRAIN, read_split, short_enough
from experiments.reward_models.result_table import as_markdown
from raft.config.train_reward import make_train_config
from rewards.data.dialogue import first_turn, same_prompt_key

TINY = Sizes(vocabulary=300, hidden=64, layers=1, epochs=1)
QUICK = {
    "train": {"learning_rate": 1e-3, "epochs": 1, "batch_size": 16, "gradient_checkpointing": False}
}
CHANGES = {
    "bradley_terry": QUICK,
    "hh": {**QUICK, "sft": {"epochs": 1, "batch_size": 4, "chunk": 128}},
    "pairwise": QUICK,
    "grm": {**QUICK, "grm": {"head_neurons": 16}},
}


def study(folder: Path) -> Study:
    return Study(folder, held_out=16, limit=30, longest=400, sizes=TINY, changes=CHANGES)


@pytest.fixture(autouse=True)
def data_root(raft_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAFT_DATA", str(raft_data))


# ratings


def test_ratings_by_hand():
    found = attributes.rate(
        "Which planet is largest?", "Sorry, the planet Jupiter, the largest. Or?"
    )
    assert found["answers"] == 0 and found["states"] == 0
    # which and planet, largest have five letters; "which" is not said
    assert found["on_topic"] == pytest.approx(2 / 3)
    assert found["variety"] == pytest.approx(6 / 7)
    assert found["length"] == pytest.approx(np.log(8) / np.log(301))
    assert "on_topic" not in attributes.rate("Why is it so?", "It is.")


@pytest.mark.slow
@given(st.text(max_size=60), st.text(max_size=400))
def test_ratings_lie_between_0_and_1(question: str, response: str):
    found = attributes.rate(question, response)
    assert all(0 <= value <= 1 for value in found.values())
    assert {*found} <= {*attributes.ATTRIBUTES}


# the driven run's numbers


def test_agreement_equals_counting_pairs():
    draw = np.random.default_rng(0)
    proxy_PK = draw.integers(0, 4, (20, 5)).astype(float)
    gold_PK = draw.integers(0, 3, (20, 5)).astype(float)
    won = told = 0.0
    for proxy_K, gold_K in zip(proxy_PK, gold_PK, strict=True):
        for i, j in itertools.combinations(range(5), 2):
            if gold_K[i] != gold_K[j]:
                better, worse = (i, j) if gold_K[i] > gold_K[j] else (j, i)
                told += 1
                won += (proxy_K[better] > proxy_K[worse]) + (proxy_K[better] == proxy_K[worse]) / 2
    assert driven_measure.agreement(proxy_PK, gold_PK) == pytest.approx(won / told)
    assert driven_measure.agreement(gold_PK, gold_PK) == 1
    assert driven_measure.agreement(-gold_PK, gold_PK) == 0
    assert driven_measure.agreement(proxy_PK, np.zeros((20, 5))) is None


@pytest.mark.slow
def test_the_driven_run_is_read_from_its_folder(tmp_path: Path):
    home = tmp_path / "iterations" / "000"
    home.mkdir(parents=True)
    rows = [
        {"scores": [0.1, 0.2], "gold_scores": [1.0, 2.0]},
        {"scores": [0.3, 0.2], "gold_scores": [0.0, 1.0]},
    ]
    (home / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = {
        "iteration": 0, "phase": "eval", "eval/reward_mean": 0.2, "eval/reward_ci95": 0.1,
        "eval/gold_mean": 1.0, "eval/gold_ci95": 0.5, "eval/distinct_2": 0.75, "eval/kl_k1": 0.5,
    }  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text(json.dumps(metrics) + "\n")
    (found,) = driven_measure.measure(tmp_path)
    assert (found["gold"], found["agreement"]) == (1.0, 0.5)
    model = {
        "pairs/train": 5, "pairs/held_out": 4, "eval/accuracy": 0.75, "eval/accuracy_low": 0.5,
        "eval/accuracy_high": 1.0,
    }  # fmt: skip
    told = {"reward_model": model, "seconds": {"train": 2.0}, "iterations": [found]}
    assert "| 0 | 0.20 ± 0.10 | 1.00 ± 0.50 | 50.0% | 0.50 | 0.75 |" in driven_measure.as_markdown(
        told
    )
    driven_measure.draw([found], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


# the five recipes


def test_no_conversation_is_on_both_sides(raft_data: Path):
    train, held_out, lines = read_split(
        raft_data / "data/hh-rlhf/dev", held_out=60, limit=150, seed=1
    )
    keys = [{same_prompt_key(first_turn(p.prompt)) for p in side} for side in (train, held_out)]
    assert not keys[0] & keys[1] and len(lines) >= 2
    assert 290 <= len(train) + len(held_out) <= 300 and 50 <= len(held_out) <= 60
    turns = [[message["role"] for message in pair.prompt] for pair in (*train, *held_out)]
    assert all({*one[::2]} == {"user"} and {*one[1::2]} <= {"assistant"} for one in turns)
    assert all(len(one) % 2 for one in turns)

    def characters(conversations):
        return [sum(len(message["content"]) for message in one) for one in conversations]

    kept = short_enough(held_out, characters, 600)
    longest = [max(characters([p.conversation(s) for s in ("chosen", "rejected")])) for p in kept]
    assert 0 < len(kept) < len(held_out) and max(longest) <= 600


@pytest.mark.parametrize("name", recipes.NAMES)
def test_every_recipe_is_a_config(name: str, tmp_path: Path):
    assert make_train_config(recipes.settings(name, tmp_path, 3)).recipe == name


def test_the_tokenizer_suits_judges_and_gates():
    from rewards.judges.prompt import PairPrompt
    from rewards.models.armorm_head import gate_of

    made = build_tokenizer(["What is A or B?\n\nThe assistant says so."] * 3, 300)
    asked = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    ids = made(made.apply_chat_template(asked, tokenize=False), add_special_tokens=False).input_ids
    answer = ids[gate_of(made, "test").find(ids, "it") + len(gate_of(made, "test").ids) :]
    assert made.decode(answer) == "Hello<|eot_id|>"
    first, second = PairPrompt(made, len(made)).label_ids
    assert made.convert_ids_to_tokens([first, second]) == ["A", "B"]


@pytest.mark.slow
def test_one_recipe_trains_reloads_and_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mine = study(tmp_path)
    counts = prepare(mine)
    found = train_one(mine, "bradley_terry")
    assert found["largest_difference"] < 1e-5 < found["spread"]
    # raft eval-reward on the exported model says what the recipe said of the one in memory
    assert found["accuracy"]["accuracy"] == pytest.approx(found["accuracy_in_training"])
    assert found["accuracy"]["pairs"] == counts[HELD_OUT]["pairs"]
    assert found["pairs"] == counts[TRAIN]["pairs"]
    monkeypatch.setattr(five_recipes, "_evaluated", None)
    assert train_one(mine, "bradley_terry") == found
    table = as_markdown([found], counts)
    assert table.count("\n| ") == 3 and "the longer answer" in table


@pytest.mark.slow
def test_a_model_that_changed_on_the_way_is_seen(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    mine = study(tmp_path)
    prepare(mine)
    train_one(mine, "bradley_terry")
    file = tmp_path / "bradley_terry" / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors["score.weight"] *= 1.01
    save_file(tensors, file, metadata={"format": "pt"})
    assert five_recipes._reloaded(mine, "bradley_terry")["largest_difference"] > 1e-5


@pytest.mark.thorough
@pytest.mark.slow
def test_all_five_recipes_say_the_same_after_reloading(tmp_path: Path):
    mine = study(tmp_path)
    counts = prepare(mine)
    rows = [train_one(mine, name) for name in recipes.NAMES]
    for row in rows:
        assert row["largest_difference"] < 1e-5 < row["spread"], row["recipe"]
        assert row["accuracy"]["missing"] == 0
        assert row["accuracy"]["accuracy"] == pytest.approx(row["accuracy_in_training"])
    assert as_markdown(rows, counts).count("\n| ") == len(rows) + 2


@pytest.mark.slow
def test_wrong_input_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        five_recipes.main(["--out", str(tmp_path / "out"), "--held-out", "100000"])
    assert ended.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert says(told[-1], "held_out 100000 of")
    with pytest.raises(SystemExit) as ended:
        five_recipes.main(["--out", str(tmp_path / "out"), "--only", "armorm"])
    assert ended.value.code == 2
