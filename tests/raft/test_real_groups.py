"""Real judgements: JudgeBench's stored reward scores, Open Assistant's humanly ranked replies."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from real_groups import SCORES, ranked_replies

from rewards import JudgeReward, ScalarJudge
from rewards.scoring.score import score_file
from rewards.spec import FunctionSpec
from rewards.tournament import Match, Report, best_and_worst, knockout, play, round_robin
from rewards.types import Comparison
from rollout.types import Completion, Group, Prompt


def judgebench(raft_data: Path) -> list[dict[str, Any]]:
    file = raft_data / "data" / "judgebench" / SCORES
    return [json.loads(line) for line in file.read_text().splitlines()]


class Stored:
    """A reward that looks its scores up."""

    def __init__(self, scores: dict[tuple[str, str], float]) -> None:
        self.scores = scores

    def score_groups(self, groups: Any) -> list[list[float | None]]:
        return [[self.scores[_text(g.prompt), c.text] for c in g.completions] for g in groups]


def _text(prompt: Prompt) -> str:
    content = prompt.content
    return content if isinstance(content, str) else content[-1]["content"]


def test_a_scalar_model_as_judge_gives_judgebench_its_published_accuracy(raft_data: Path) -> None:
    rows = judgebench(raft_data)
    scores = {
        (row["pair_id"], side): value
        for row in rows
        for side, value in zip("AB", row["judgments"][0]["scores"], strict=True)
    }
    judge = ScalarJudge(Stored(scores))
    turns = [[{"role": "user", "content": row["pair_id"]}] for row in rows]
    probability_N = judge.compare([Comparison(t, "A", "B") for t in turns])  # type: ignore
    prefers_first_N = np.array([row["label"] == "A>B" for row in rows])
    right_N = np.where(prefers_first_N, probability_N > 0.5, probability_N < 0.5)
    # 62.29 overall, ties losing
    assert 100 * right_N.mean() == pytest.approx(62.29, abs=0.005)
    swapped_N = judge.compare([Comparison(t, "B", "A") for t in turns])  # type: ignore
    np.testing.assert_allclose(probability_N + swapped_N, 1, atol=1e-6)


def test_a_tournament_of_two_is_the_pair_itself(raft_data: Path) -> None:
    rows = judgebench(raft_data)
    pairs = {row["pair_id"]: row["judgments"][0]["scores"] for row in rows}
    scores = {
        (key, side): score
        for key, both in pairs.items()
        for side, score in zip("AB", both, strict=True)
    }
    reward = JudgeReward(ScalarJudge(Stored(scores)), tournament="round_robin", score="copeland")
    groups = [
        Group(Prompt(key, key), tuple(Completion(s, (), "stop") for s in "AB"), policy_version=0)
        for key in pairs
    ]
    wins = [(a > b) + 0.5 * (a == b) for a, b in pairs.values()]
    expected = [[won, 1.0 - won] for won in wins]
    assert reward.score_groups(groups) == expected
    report = reward.take_report()
    assert report.ties == sum(a == b for a, b in pairs.values())
    assert report.comparisons == len(rows) and report.triples == 0


def test_tournaments_recover_human_rankings(raft_data: Path) -> None:
    groups = list(ranked_replies(raft_data))
    assert len(groups) > 100 and max(len(ranks) for _, _, ranks in groups) > 3

    def compare(matches: list[Match]) -> list[float]:
        ranks = [groups[match.prompt][2] for match in matches]
        return [float(r[m.first] < r[m.second]) for r, m in zip(ranks, matches, strict=True)]

    sizes = [len(ranks) for _, _, ranks in groups]
    methods = {"round_robin": round_robin, "knockout": knockout, "best_and_worst": best_and_worst}
    for method in methods:
        standings = play(method, sizes, compare, seed=1)  # type: ignore
        for (_, _, ranks), standing in zip(groups, standings, strict=True):
            assert ranks[standing.order[0]] == min(ranks)
            if method == "round_robin":
                assert [ranks[i] for i in standing.order] == sorted(ranks)
            if method == "best_and_worst":
                assert ranks[standing.order[-1]] == max(ranks)
        report = Report.of(standings)
        assert report.intransitive == 0 and report.missing == 0
    triples = sum(len(list(combinations(range(n), 3))) for n in sizes)
    assert Report.of(play("round_robin", sizes, compare)).triples == triples  # type: ignore


def test_ranked_replies_are_scored_as_lists(raft_data: Path, tmp_path: Path) -> None:
    groups = list(ranked_replies(raft_data))[:40]
    file = tmp_path / "oasst.jsonl"
    with open(file, "w", encoding="utf-8") as out:
        for messages, responses, ranks in groups:
            row = {"prompt": messages, "responses": responses, "human_ranks": ranks}
            out.write(json.dumps(row) + "\n")
    score_file(str(file), FunctionSpec(function="length"), out=str(tmp_path / "s.jsonl"))
    scored = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    for (messages, responses, ranks), row in zip(groups, scored, strict=True):
        assert row["prompt"] == messages and row["human_ranks"] == ranks
        assert row["scores"] == [len(text.split()) for text in responses]
