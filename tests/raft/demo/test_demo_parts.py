"""The demo's ingredients: each does what the story needs, from a seed, in seconds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from raft.demo.corpus import PROBLEMS, THINGS, heldout_prompts, texts, train_prompts
from raft.demo.gold import gold, points
from raft.demo.preferences import label_pairs

PROMPT = "Customer: Hello, this is Mia. My kettle is leaking.\nAgent:"


def _about(prompt: str) -> tuple[str, str]:
    """The (thing, problem) pair of a prompt."""
    thing = next(thing for thing in THINGS if f" {thing} " in prompt)
    return thing, next(problem for problem in PROBLEMS if problem in prompt)


def test_corpus_follows_from_the_seed():
    assert texts(50, seed=1) == texts(50, seed=1)
    assert texts(50, seed=1) != texts(50, seed=2)
    assert train_prompts(50, seed=1) == train_prompts(50, seed=1)
    # more prompts begin with the same ones
    assert train_prompts(80, seed=1)[:50] == train_prompts(50, seed=1)


def test_heldout_subjects_are_in_no_training_text():
    heldout = {_about(prompt) for prompt in heldout_prompts(500, seed=3)}
    assert heldout.isdisjoint(_about(prompt) for prompt in train_prompts(3000, seed=3))
    assert heldout.isdisjoint(_about(prompt) for prompt, _ in texts(3000, seed=3))
    assert len(set(train_prompts(3000, seed=3))) == 3000


def test_asking_for_more_prompts_than_there_are_says_so():
    with pytest.raises(ValueError, match="grammar has only"):
        heldout_prompts(10**6, seed=0)


def test_gold_orders_answers_as_a_customer_would():
    answers = [
        " You are annoying. Fix it yourself.",
        " We will gladly exchange the lamp this week.",
        " Yes.",
        " We will gladly repair the kettle for free.",
        " Hello Mia! I am so sorry about the kettle. We will gladly repair it for free.",
    ]
    scores = gold([PROMPT] * len(answers), answers)
    assert scores == sorted(scores, key=lambda score: score or 0.0)
    assert len(set(scores)) == len(scores)


@pytest.mark.parametrize(
    ("answer", "part", "expected"),
    [
        (" I am sorry. We will repair the kettle.", "remedy", 1.5),
        (" We will not repair the kettle.", "remedy", 0.0),
        (" We will refund the kettle.", "remedy", -0.75),
        (" Sorry about the lamp.", "thing", -0.5),
        (" Sorry sorry sorry sorry sorry.", "kindness", 0.75),
        (" Go away. You are annoying.", "rudeness", -2.0),
        (" We will gladly", "ending", -1.0),
    ],
)
def test_gold_points(answer, part, expected):
    assert points(PROMPT, answer)[part] == pytest.approx(expected)


def test_saying_it_twice_gains_nothing():
    once = " Dear Mia, thank you. We will gladly repair the kettle. Have a lovely day!"
    assert sum(points(PROMPT, once).values()) > sum(points(PROMPT, once + once).values())


def test_gold_has_no_opinion_on_other_prompts():
    assert gold(["What is the capital of France?"], ["Paris."], id=["x"]) == [None]


def test_gold_reads_messages():
    prompt = [{"role": "user", "content": PROMPT}]
    answer = [{"role": "assistant", "content": " Sorry."}]
    assert gold([prompt], [answer]) == gold([PROMPT], [" Sorry."])


def test_labels_follow_gold_but_err():
    prompts = train_prompts(2000, seed=0)
    responses = [("good", "bad")] * len(prompts)

    def far_apart(_prompts, completions):
        return [10.0 if text == "good" else -10.0 for text in completions]

    rows = label_pairs(prompts, responses, far_apart, seed=0, flipped=0.1)
    assert 0.08 < sum(row["chosen"] == "bad" for row in rows) / len(rows) < 0.12
    assert rows == label_pairs(prompts, responses, far_apart, seed=0, flipped=0.1)
    assert label_pairs(["p"], [("same", "same")], far_apart, seed=0) == []


@pytest.fixture(scope="module")
def policy_dir(tmp_path_factory):
    from raft.demo.policy import train_policy

    folder = tmp_path_factory.mktemp("policy")
    report = train_policy(
        folder, texts(600, seed=0), seed=0, layers=1, hidden_size=64, head_dim=32, batch_size=4
    )
    # the exact loss depends on the machine; that most of it goes does not
    assert report.losses[-1] < 0.5 * report.losses[0]
    return folder


@pytest.mark.slow
def test_tokenizer_keeps_text_and_tells_its_special_tokens_apart(policy_dir):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(policy_dir)
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    for prompt, response in texts(20, seed=5):
        # a prompt's tokens do not depend on what follows, so prompt and response can be joined
        alone = tokenizer(prompt).input_ids
        rest = tokenizer(response, add_special_tokens=False).input_ids
        assert tokenizer(prompt + response).input_ids == alone + rest
        assert alone[0] == tokenizer.bos_token_id
        assert tokenizer.decode(rest) == response


def test_texts_packed_in_one_row_do_not_see_each_other(policy_dir):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from raft.demo.policy import _pack

    tokenizer = AutoTokenizer.from_pretrained(policy_dir)
    model = AutoModelForCausalLM.from_pretrained(policy_dir, dtype=torch.float32).eval()
    both = (tokenizer(p + r).input_ids for p, r in texts(2, seed=5))
    first, second = sorted(both, key=len, reverse=True)  # as they come in a row
    row = _pack([first, second], 128)
    with torch.inference_mode():
        packed = model(input_ids=row.input_ids, position_ids=row.position_ids, use_cache=False)
        alone = model(input_ids=torch.tensor([second]))
    start = len(first)
    torch.testing.assert_close(
        packed.logits[0, start : start + len(second)], alone.logits[0], atol=1e-4, rtol=1e-4
    )


def test_sampling_follows_from_the_seed(policy_dir):
    from raft.demo.preferences import sample_responses

    prompts = heldout_prompts(4, seed=0)
    drawn = sample_responses(policy_dir, prompts, 3, seed=7, max_new_tokens=8)
    assert [len(group) for group in drawn] == [3] * 4
    assert drawn == sample_responses(policy_dir, prompts, 3, seed=7, max_new_tokens=8)


@pytest.mark.slow
def test_rows_that_are_finished_change_nothing(policy_dir, monkeypatch):
    """The likeliest tokens, as transformers' own generation finds them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from raft.demo.preferences import sample_responses

    monkeypatch.setattr(torch, "multinomial", lambda shares, count: shares.argmax(-1, keepdim=True))
    prompts = heldout_prompts(24, seed=0)
    found = sample_responses(policy_dir, prompts, 1, seed=0, batch_size=12)
    tokenizer = AutoTokenizer.from_pretrained(policy_dir, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(policy_dir, dtype=torch.float32).eval()
    batch = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
    drawn = model.generate(**batch, do_sample=False, max_new_tokens=40)
    new = drawn[:, batch["input_ids"].shape[1] :]
    assert [one for [one] in found] == tokenizer.batch_decode(new, skip_special_tokens=True)
    assert len({len(tokenizer(one).input_ids) for [one] in found}) > 2  # they end in turn


@pytest.fixture(scope="module")
def reward_model(policy_dir, tmp_path_factory):
    """The folder that the demo leaves, and the metrics."""
    from raft.config.train_reward import make_train_config
    from raft.demo.demo import reward_config
    from raft.reward_training.run import train_reward

    root = tmp_path_factory.mktemp("demo")
    (root / "policy").symlink_to(policy_dir)
    pairs = _corpus_pairs(train_prompts(600, seed=0), seed=0)
    (root / "preferences.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    config: Any = reward_config(root, seed=0)
    config["train"] |= {"learning_rate": 3e-3, "epochs": 2, "batch_size": 32}  # few pairs
    folder, metrics = train_reward(make_train_config(config))
    return folder / "model", metrics


def _corpus_pairs(prompts, seed, **noise):
    """Preferences between answers of the grammar itself, so that no sampling is needed."""
    answers = [response for _, response in texts(2 * len(prompts), seed + 100)]
    responses = list(zip(answers[::2], answers[1::2], strict=True))
    return label_pairs(prompts, responses, gold, seed, **noise)


def _scores(folder, rows, side):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    scores = []
    for row in rows:
        turns = [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row[side]},
        ]
        ids = tokenizer.apply_chat_template(turns, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            scores.append(model(input_ids=ids).logits.item())
    return scores


@pytest.mark.slow
def test_reward_model_ranks_heldout_pairs_as_gold_does(reward_model):
    folder, metrics = reward_model
    assert (metrics["pairs/train"], metrics["pairs/held_out"], metrics["pairs/cut"]) == (540, 60, 0)
    # judged without label noise, and on subjects never seen
    rows = _corpus_pairs(heldout_prompts(150, seed=0), seed=9, sharpness=1e9, flipped=0.0)
    wins = zip(_scores(folder, rows, "chosen"), _scores(folder, rows, "rejected"), strict=True)
    assert sum(chosen > rejected for chosen, rejected in wins) / len(rows) > 0.7


def test_reward_model_reads_the_very_tokens_that_the_policy_writes(reward_model, policy_dir):
    """BOS, prompt, response, EOS: nothing between them, as the policy was trained."""
    from transformers import AutoTokenizer

    from rewards import load_reward

    reward, tokenizer = load_reward(reward_model[0]), AutoTokenizer.from_pretrained(policy_dir)
    rows = _corpus_pairs(train_prompts(20, seed=1), seed=1)
    talks = [[{"role": "user", "content": row["prompt"]},
              {"role": "assistant", "content": row["chosen"]}] for row in rows]  # fmt: skip
    ids = reward.encoder.encode(talks, ["row"] * len(rows))
    for row, found in zip(rows, ids, strict=True):
        text = row["prompt"] + row["chosen"]
        assert found == [*tokenizer(text).input_ids, tokenizer.eos_token_id]
    alone = _scores(reward_model[0], rows, "chosen")
    assert reward.score(talks).tolist() == pytest.approx(alone, abs=1e-5)


@pytest.mark.slow
def test_reward_model_says_which_token_it_is_scored_at(reward_model):
    from transformers import AutoConfig, AutoTokenizer

    folder = reward_model[0]
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert config.architectures == ["LlamaForSequenceClassification"]
    assert config.num_labels == 1
    assert config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
