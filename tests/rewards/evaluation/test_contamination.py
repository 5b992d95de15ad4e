"""Evaluation prompts that also stand in training data: planted ones, brute force, real shapes."""

from __future__ import annotations

import json
import random

import pytest
from toy_runs import write_rows

from raft.cli.main import main
from rewards.data.read import read_pairs, split_pairs
from rewards.evaluation.contamination import overlap
from rollout.types import Message

WORDS = [f"word{n}" for n in range(3000)]


def text(rng: random.Random, words: int = 40) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def test_planted_prompts_are_found_and_no_others():
    rng = random.Random(0)
    train = [text(rng) for _ in range(300)]
    evaluation = [text(rng) for _ in range(200)]
    train[5] = evaluation[7].upper().replace(" ", "  ") + "?!"
    near = evaluation[9].split()
    near[0] = "changed"  # 27 of 28 runs of 13 words are the same
    train[20] = " ".join(near)
    train[30] = f"{text(rng, 60)} {evaluation[11]} {text(rng, 60)}"  # asked within a longer prompt
    half = evaluation[13].split()[:30] + text(rng, 30).split()
    train[40] = " ".join(half)  # 18 of 28: no
    found = overlap(evaluation, train)
    assert [(m.train, m.evaluation, m.kind) for m in found.matches] == [
        (5, 7, "exact"),
        (20, 9, "near"),
        (30, 11, "near"),
    ]
    assert found.near[0].share == pytest.approx(27 / 28) and found.near[1].share == 1
    assert (found.evaluation_count, found.train_count) == (200, 300)


def test_shares_are_those_of_brute_force():
    rng = random.Random(1)
    few = WORDS[:6]  # so that runs are shared by chance
    train = [" ".join(rng.choices(few, k=rng.randrange(1, 12))) for _ in range(60)]
    evaluation = [" ".join(rng.choices(few, k=rng.randrange(1, 12))) for _ in range(40)]
    n, least = 3, 0.5

    def runs(prompt: str) -> set[str]:
        words = prompt.split()
        return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}

    distinct = list(dict.fromkeys(evaluation))
    holders: dict[str, int] = {}
    for prompt in distinct:
        for run in runs(prompt):
            holders[run] = holders.get(run, 0) + 1
    common = {run for run, count in holders.items() if count > 10}
    expected = {}
    for at, prompt in enumerate(evaluation):
        shares = [
            len((a := runs(prompt) - common) & (b := runs(other) - common))
            / max(1, min(len(a), len(b)))
            for other in train
        ]
        if prompt in train:
            expected[at] = 1.0
        elif max(shares) >= least:
            expected[at] = max(shares)
    found = overlap(evaluation, train, n=n, share=least)
    assert {m.evaluation: m.share for m in found.matches} == pytest.approx(expected)
    assert found.near and found.exact


def test_a_form_of_words_is_no_contamination():
    rng = random.Random(2)
    form = text(rng, 60)
    train = [f"{form} {text(rng, 12)}" for _ in range(20)]
    evaluation = [f"{form} {text(rng, 12)}" for _ in range(20)]
    assert overlap(evaluation, train).matches == ()


def test_prompts_of_every_kind_are_compared():
    asked = (Message(role="system", content="S"), Message(role="user", content="Same?"))
    items = ["same", asked, list(asked), "SAME!"]
    assert len(overlap(items, ["same"]).exact) == 4
    assert overlap(["same"], [asked, "same"]).exact[0].train == 0
    assert overlap([], []).matches == ()
    assert overlap(iter(["a"]), iter(["b"])).train_count == 1
    with pytest.raises(ValueError, match="share"):
        overlap([], [], share=0)


@pytest.mark.slow
def test_real_splits_share_no_prompt_and_no_contamination(raft_data):
    path = raft_data / "data" / "hh-rlhf" / "dev" / "helpful-base.jsonl.gz"
    pairs = read_pairs(str(path)).pairs
    split = split_pairs(pairs, 0.1)
    assert abs(len(split.held_out) - 0.1 * len(pairs)) < 5
    found = overlap((pair.prompt for pair in split.held_out), (pair.prompt for pair in split.train))
    assert not found.exact
    # what is still near has another first turn: no whole prompt of it is on the other side
    assert len(found.near) < 0.01 * len(split.train)


@pytest.mark.slow
def test_eval_reward_counts_what_the_training_file_has_too(tmp_path, capsys):
    # a training file of HH-RLHF's shape against an evaluation file of prompts and responses
    def hh(prompt: str, response: str) -> str:
        return f"\n\nHuman: {prompt}\n\nAssistant: {response}"

    rng = random.Random(3)
    asked = [text(rng, 30) for _ in range(6)]
    words = asked[1].split()
    nearly = " ".join(["changed", *words[1:]])
    train = [
        {"chosen": hh(asked[0].upper(), "good"), "rejected": hh(asked[0].upper(), "bad")},
        {"chosen": hh(nearly, "yes"), "rejected": hh(nearly, "no")},
        {"chosen": hh(text(rng, 30), "yes"), "rejected": hh(text(rng, 30), "no")},
    ]
    train[2]["rejected"] = train[2]["chosen"].replace("yes", "no")
    rows = [
        {"prompt": asked[0], "chosen": "bad", "rejected": "good"},  # the same pair, swapped
        {"prompt": asked[0], "chosen": "another", "rejected": "good"},
        *({"prompt": one, "chosen": "yes", "rejected": "no"} for one in asked[1:]),
    ]
    data, trained = (
        write_rows(tmp_path / "eval.jsonl", rows),
        write_rows(tmp_path / "train.jsonl", train),
    )
    line = ["eval-reward", "--quiet", "--data", str(data), "--reward", "function:length"]
    assert main([*line, "--bootstrap", "100", "--train", str(trained), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["contamination"]
    examples = found.pop("examples")
    assert found == {
        "train": str(trained), "train_pairs": 3, "prompts": 6, "exact_prompts": 1,
        "near_prompts": 1, "pairs": 7, "pairs_of_these": 3, "same_pairs": 1,
    }  # fmt: skip
    assert [(one["kind"], one["share"]) for one in examples] == [
        ("exact", 1),
        ("near", pytest.approx(17 / 18)),
    ]
    assert main([*line, "--bootstrap", "100", "--train", str(trained)]) == 0
    markdown = capsys.readouterr().out
    assert "## Contamination" in markdown and "Against 3 training pairs of train.jsonl" in markdown
    assert main([*line, "--bootstrap", "100", "--json"]) == 0
    assert "contamination" not in json.loads(capsys.readouterr().out)
    assert main([*line, "--train", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err
