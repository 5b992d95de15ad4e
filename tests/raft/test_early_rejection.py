"""Rejecting early: what goes on is what a fixed K draws, at every kill, and what is counted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_runs
from crashes import check_every_kill
from wording import words

from raft.cli.main import main
from raft.config.load import make_config
from raft.config.run import RunConfig
from raft.early_rejection import foresight
from raft.loop import run
from rollout.engines.toy import ToyEngine
from rollout.types import Group, InputError, Prompt, Sampling

EARLY = {"tokens": 4, "keep": 2}


def small(root: Path, name: str = "run", **sections: Any) -> RunConfig:
    own: dict[str, Any] = {
        "run_dir": str(root / name), "iterations": 2, "keep_checkpoints": 1,
        "sampling": {"k": 5, "early_rejection": EARLY},
        "prompts": {"per_iteration": 6}, "eval": {"prompts": 4, "k": 1},
    }  # fmt: skip
    return toy_runs.config(root, **{**own, **sections})


def fixed(root: Path, **sections: Any) -> RunConfig:
    return small(root, "fixed", **{"sampling": {"k": 5}, **sections})


def rows(folder: Path, name: str, iteration: int = 1) -> list[dict[str, Any]]:
    return toy_runs.rows(folder / f"iterations/{iteration:03d}/{name}.jsonl")


def both(folder: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    whole, begun = rows(folder, "rollouts"), rows(folder, "rollouts.beginnings")
    return list(zip(whole, begun, strict=True))


def test_what_goes_on_is_what_a_fixed_k_draws_there(tmp_path: Path) -> None:
    own = {"prompts": {"per_iteration": 24}, "iterations": 1}
    early_2 = {"k": 5, "early_rejection": {"tokens": 2, "keep": 2}}
    whole, early = run(fixed(tmp_path, **own)), run(small(tmp_path, sampling=early_2, **own))
    found = zip(*(rows(*one) for one in (
        (whole, "rollouts"), (early, "rollouts"), (early, "rollouts.beginnings"),
        (early, "selected"),
    )), strict=True)  # fmt: skip
    dropped_best = 0
    for all_K, row, begun, selected in found:
        assert [ids[:2] for ids in all_K["token_ids"]] == begun["token_ids"]
        best = sorted(np.argsort(-np.array(begun["scores"]), kind="stable")[:2].tolist())
        assert row.get("sample_numbers", [0, 1]) == best
        for key in ("responses", "token_ids", "seeds", "scores", "finish_reasons"):
            assert row[key] == [all_K[key][k] for k in best], key
        assert all_K["responses"][selected["sample"]] == selected["response"]
        dropped_best += selected["score"] < max(all_K["scores"])
    assert dropped_best, "this test wants a prompt whose best response begins badly"
    assert toy_runs.rows(early / "iterations/000/eval.jsonl") == toy_runs.rows(
        whole / "iterations/000/eval.jsonl"
    )


def test_where_all_go_on_a_run_is_that_of_fixed_k(tmp_path: Path) -> None:
    every = {"k": 5, "early_rejection": {"tokens": 3, "keep": 5}}
    whole, early = run(fixed(tmp_path)), run(small(tmp_path, sampling=every))
    found = toy_runs.results(early)
    kept = {name: data for name, data in found.items() if "beginnings" not in name}
    assert kept == toy_runs.results(whole)
    assert len(found) > len(kept)


def test_what_ended_in_its_beginning_is_not_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, Prompt]] = []
    generate = ToyEngine.generate

    def noted(
        self: ToyEngine, prompts: list[Prompt], sampling: Sampling, seed: int
    ) -> Iterator[Group]:
        asked.extend((sampling.max_new_tokens, prompt) for prompt in prompts)
        return generate(self, prompts, sampling, seed)

    monkeypatch.setattr(ToyEngine, "generate", noted)
    folder = run(small(tmp_path, iterations=1))
    redrawn = {(prompt.id, k) for most, prompt in asked if prompt.samples for k in prompt.samples}
    expected, ended = set[tuple[str, int]](), 0
    for row, begun in both(folder):
        for k in row.get("sample_numbers", [0, 1]):
            if begun["finish_reasons"][k] == "length":
                expected.add((row["id"], k))
            else:
                ended += 1
    assert redrawn == expected and ended


def test_tokens_and_foresight_are_those_of_the_files(tmp_path: Path) -> None:
    folder = run(
        small(tmp_path, iterations=1, sampling={"k": 5, "early_rejection": {**EARLY, "keep": 3}})
    )
    (row,) = (one for one in toy_runs.metrics(folder) if one["phase"] == "train")
    drawn, known, longer, cut, apart = 0, 0, [], 0, []
    for whole, begun in zip(
        rows(folder, "rollouts"), rows(folder, "rollouts.beginnings"), strict=True
    ):
        numbers = whole.get("sample_numbers", [0, 1, 2])
        drawn += sum(map(len, begun["token_ids"]))
        for k, ids in enumerate(begun["token_ids"]):
            ended = begun["finish_reasons"][k] == "stop"
            if ended:
                known += len(ids)
            elif k in numbers:
                longer.append(len(whole["token_ids"][numbers.index(k)]))
            else:
                cut += 1
        scores = np.array([whole["scores"], [begun["scores"][k] for k in numbers]])
        apart.append(scores - scores.mean(axis=1, keepdims=True))
    drawn += sum(longer)
    needed = known + sum(longer) + cut * np.mean(longer)
    assert row["rollout/tokens"] == drawn
    assert row["rollout/tokens_saved"] == pytest.approx(1 - drawn / needed)
    assert row["rollout/foresight"] == pytest.approx(np.corrcoef(np.hstack(apart))[0, 1])
    assert (row["rollout/begun"], row["rollout/begun_missing"]) == (30, 0)
    assert row["select/tokens"] + row["select/tokens_thrown_away"] == drawn


def test_foresight_passes_over_what_has_no_score() -> None:
    nan = math.nan
    whole = np.array([[1.0, 2, 3, nan], [5.0, 4, nan, 9]])
    begun = np.array([[0.0, 1, 2, 7], [9.0, 8, 3, nan]])
    assert foresight(whole, begun) == pytest.approx(1)
    assert foresight(whole, -begun) == pytest.approx(-1)
    assert math.isnan(foresight(whole, np.zeros((2, 4)) + nan))


def test_beginnings_without_a_score_go_on_last_and_ties_by_number(tmp_path: Path) -> None:
    body = "return [None if c.count('bad') else float(c.count('good') > 0) for c in completions]"
    reward = toy_runs.reward_file(tmp_path, body)
    early = {"k": 5, "early_rejection": {"tokens": 3, "keep": 3}}
    own = {"prompts": {"per_iteration": 24}, "iterations": 1, "reward": reward}
    folder = run(small(tmp_path, sampling=early, **own))
    filled = 0
    for row, begun in zip(
        rows(folder, "rollouts"), rows(folder, "rollouts.beginnings"), strict=True
    ):
        keys = [(score is None, -(score or 0), k) for k, score in enumerate(begun["scores"])]
        best = sorted(k for _, _, k in sorted(keys)[:3])
        assert row.get("sample_numbers", [0, 1, 2]) == best
        filled += any(begun["scores"][k] is None for k in best)
    assert filled
    (metrics,) = (one for one in toy_runs.metrics(folder) if one["phase"] == "train")
    missing = [
        score is None for row in rows(folder, "rollouts.beginnings") for score in row["scores"]
    ]
    assert metrics["rollout/begun_missing"] == sum(missing) > 0


def test_what_ended_and_may_not_be_selected_gives_way(tmp_path: Path) -> None:
    # a response of one word has the best score of all, and may not be selected
    body = "return [9.0 if len(c.split()) < 2 else float(len(c.split())) for c in completions]"
    own = {
        "reward": toy_runs.reward_file(tmp_path, body), "iterations": 1,
        "prompts": {"per_iteration": 24},
    }  # fmt: skip
    free = run(small(tmp_path, "free", **own))
    held = run(small(tmp_path, "held", select={"min_chars": 8}, **own))
    short = [
        sum(len(text.split()) < 2 for row in rows(folder, "rollouts") for text in row["responses"])
        for folder in (free, held)
    ]
    assert short[0] > short[1]


@pytest.mark.parametrize("update", ["reinforce", "raft_plus_plus", "dpo", "weighted"])
def test_every_update_learns_from_what_went_on(tmp_path: Path, update: str) -> None:
    folder = run(small(tmp_path, iterations=1, train={"update": update}))
    assert toy_runs.metrics(folder)[1]["select/kept"] > 0
    begun = {row["id"]: row for row in rows(folder, "rollouts")}
    for row in rows(folder, "selected"):
        whole = begun[row["id"]]
        at = whole.get("sample_numbers", [0, 1]).index(row["sample"])
        assert whole["responses"][at] == row["response"]


@pytest.mark.slow
def test_commands_know_such_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(small(tmp_path, control="random"))
    assert not [*folder.glob("control/iterations/*/rollouts.beginnings.jsonl")]
    assert main(["replay", str(folder), "--json", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "rejected responses early" in said and '"iteration 1": true' in said
    assert main(["report", str(folder), "--quiet"]) == 0
    page = (folder / "report.html").read_text()
    assert "early_rejection" in page


@pytest.mark.slow
def test_a_kill_at_every_change_gives_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small(tmp_path, iterations=1, eval={"prompts": 2, "k": 1})
    check_every_kill(monkeypatch, tmp_path, settings, more_than=30)


def test_two_workers_and_overlap_change_no_row(tmp_path: Path) -> None:
    one = run(small(tmp_path, "one"))
    two = run(small(tmp_path, "two", cluster={"rollout_workers": 2, "reward_workers": 2}))
    assert toy_runs.results(two) == toy_runs.results(one)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        (
            {"sampling": {"early_rejection": {}, "max_new_tokens": 16}},
            "tokens 16 max_new_tokens=16",
        ),
        ({"sampling": {"early_rejection": {"tokens": 4, "keep": 6}}}, "keep 6 is more than k=4"),
        (
            {"sampling": {"early_rejection": {"cut": 3}}},
            "sampling.early_rejection.cut: unknown key",
        ),
        ({"sampling": {"early_rejection": EARLY, "seed_per_prompt": False}}, "seed_per_prompt"),
        ({"sampling": {"early_rejection": EARLY, "adaptive": {}}}, "leave one of them out"),
        (
            {"sampling": {"early_rejection": EARLY}, "select": {"strategy": "top_m", "m": 3}},
            "set sampling.early_rejection.keep to 3",
        ),
        (
            {
                "sampling": {"early_rejection": {**EARLY, "keep": 1}},
                "train": {"update": "reinforce"},
            },
            "sampling.early_rejection.keep: 1 is too small",
        ),
        (
            {"sampling": {"early_rejection": EARLY}, "reward": {"kind": "pairwise", "model": "m"}},
            "sampling.early_rejection judge",
        ),
    ],
)
def test_what_cannot_be_rejected_early_is_refused(
    tmp_path: Path, sections: dict[str, Any], expected: str
) -> None:
    given = toy_runs.settings(tmp_path, **{k: v for k, v in sections.items() if k != "reward"})
    given |= {name: value for name, value in sections.items() if name == "reward"}
    with pytest.raises(InputError, match=words(expected)):
        make_config(given)
