"""Scores of sequence classifiers against a computation by hand: one row, no padding."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import tiny_rewards as tiny

from rewards import RewardError, load_reward
from rewards.inference.transformers import TransformersEngine
from rollout.types import Completion, Group, Prompt

FAMILIES = ("llama", "gpt2", "gpt_neo")
CONVERSATIONS = [
    tiny.chat("hi", "there"),
    tiny.chat("a much longer question, so that the other rows need padding" * 2, "no"),
    tiny.chat("x", "", "and", "a second turn"),
    tiny.chat("the padding token <pad> in the middle", "and <pad> once more, then text"),
    tiny.chat("q", "a"),
]


def ids_by_hand(conversation, made=None):
    """The ids of the tiny chat template, one per byte, written without our code."""
    made = made or tiny.tokenizer()
    text = "".join(f"[{m['role']}]{m['content'].strip()}</s>" for m in conversation)
    return [tiny.BOS_ID, *made(text, add_special_tokens=False)["input_ids"]]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_alone_and_in_mixed_batches_equal_the_hand_computation(folders, family):
    expected = [tiny.reference_score(folders[family], ids_by_hand(c)) for c in CONVERSATIONS]
    assert np.std(expected) > 0.1  # a constant score would prove nothing
    for batch_tokens in (1, 200, 100_000):
        reward = load_reward(folders[family], batch_tokens=batch_tokens)
        scores = reward.score(CONVERSATIONS)
        assert scores.dtype == np.float32 and scores.shape == (len(CONVERSATIONS),)
        np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_pad_equal_to_eos_scores_the_closing_token(tmp_path, family):
    made = tiny.tokenizer(pad=tiny.EOS)
    folder = tiny.checkpoint(tmp_path, family, made, pad_token_id=tiny.EOS_ID)
    conversations = [*CONVERSATIONS, tiny.chat("closed</s> in the middle", "a</s>b</s>")]
    expected = [tiny.reference_score(folder, ids_by_hand(c, made)) for c in conversations]
    reward = load_reward(folder)
    assert backbone_of(reward).pad_id == tiny.EOS_ID
    np.testing.assert_allclose(reward.score(conversations), expected, atol=1e-5)


@pytest.mark.parametrize("pad_token_id", [None, 100_000, -1])
def test_no_usable_pad_token_is_no_obstacle(tmp_path, folders, pad_token_id):
    folder = tiny.checkpoint(tmp_path, "llama", tiny.tokenizer(pad=None))
    config = json.loads((folder / "config.json").read_text())
    config["pad_token_id"] = pad_token_id
    (folder / "config.json").write_text(json.dumps(config))
    expected = load_reward(folders["llama"]).score(CONVERSATIONS)
    np.testing.assert_allclose(load_reward(folder).score(CONVERSATIONS), expected, atol=1e-5)


def test_left_padding_tokenizers_are_padded_on_the_right_all_the_same(tmp_path, folders):
    made = tiny.tokenizer()
    made.padding_side = "left"
    folder = tiny.checkpoint(tmp_path, "gpt2", made)
    expected = load_reward(folders["gpt2"]).score(CONVERSATIONS)
    np.testing.assert_allclose(load_reward(folder).score(CONVERSATIONS), expected, atol=1e-5)


def test_dropout_is_off_and_scores_repeat(tmp_path):
    folder = tiny.checkpoint(tmp_path, "gpt2", resid_pdrop=0.5, embd_pdrop=0.5)
    reward = load_reward(folder)
    np.testing.assert_array_equal(reward.score(CONVERSATIONS), reward.score(CONVERSATIONS))


def test_dtype_is_what_was_asked_for_and_the_head_works_in_float32(folders):
    import torch

    reward = load_reward(folders["llama"], dtype="bfloat16")
    assert reward.describe()["dtype"] == "bfloat16"
    assert load_reward(folders["llama"]).describe()["dtype"] == "float32"
    (score,) = reward.score(CONVERSATIONS[:1])
    # a head in bfloat16 would give a number that bfloat16 can hold
    assert float(torch.tensor(float(score)).bfloat16()) != float(score)
    np.testing.assert_allclose(
        score, load_reward(folders["llama"]).score(CONVERSATIONS[:1]), rtol=0.1
    )


def test_groups_are_scored_in_order_and_uneven(folders):
    reward = load_reward(folders["llama"])
    groups = [group("a", "what?", ["yes", "a long answer" * 5]), group("b", "why?", ["no"])]
    scores = reward.score_groups([groups[0], groups[1], group("c", "none", [])])
    flat = reward.score(
        [
            tiny.chat("what?", "yes"),
            tiny.chat("what?", "a long answer" * 5),
            tiny.chat("why?", "no"),
        ]
    )
    assert [len(row) for row in scores] == [2, 1, 0]
    assert [*scores[0], *scores[1]] == pytest.approx(flat.tolist(), abs=1e-6)
    assert reward.score([]).shape == (0,) and reward.score_groups([]) == []


def test_a_score_that_is_not_finite_raises_or_is_missing(tmp_path):
    folder = tiny.checkpoint(tmp_path, "llama")
    tiny.poison(folder, tiny.tokenizer())
    groups = [group("fine", "q", ["ok"]), group("broken", "q", ["ok", "bad Z"])]
    with pytest.raises(RewardError, match="'broken'") as caught:
        load_reward(folder).score_groups(groups)
    assert "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    lenient = load_reward(folder, non_finite="missing")
    scores = lenient.score_groups(groups)
    assert scores[1][1] is None and None not in (scores[0][0], scores[1][0])
    assert np.isnan(lenient.score([tiny.chat("q", "bad Z")])).all()


def test_out_of_memory_halves_the_batch_and_names_the_row_that_never_fits(folders, monkeypatch):
    import torch

    expected = load_reward(folders["llama"]).score(CONVERSATIONS)
    reward = load_reward(folders["llama"], batch_tokens=10_000)
    states, sizes = backbone_of(reward).states, []

    def short_of_memory(rows, positions, limit=160):
        sizes.append(len(rows))
        if sum(map(len, rows)) > limit:
            raise torch.OutOfMemoryError("no room")
        return states(rows, positions)

    monkeypatch.setattr(backbone_of(reward), "states", short_of_memory)
    np.testing.assert_allclose(reward.score(CONVERSATIONS), expected, atol=1e-5)
    assert sizes[0] == len(CONVERSATIONS) and 1 in sizes
    monkeypatch.setattr(
        backbone_of(reward), "states", lambda rows, at: short_of_memory(rows, at, limit=0)
    )
    with pytest.raises(RewardError, match=r"out of memory on conversation \d alone"):
        reward.score(CONVERSATIONS)


def test_another_failure_of_the_model_is_not_mistaken_for_memory(folders, monkeypatch):
    reward = load_reward(folders["llama"])

    def broken(rows, positions):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(backbone_of(reward), "states", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        reward.score(CONVERSATIONS)


def group(id, prompt, responses):
    completions = tuple(Completion(text, (1,), "stop") for text in responses)
    return Group(Prompt(id, prompt), completions, policy_version=0)


def backbone_of(reward):
    engine = reward.engine
    assert isinstance(engine, TransformersEngine)
    return engine.backbone
