"""The report's content: what of a run gets into the page, and what never does."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import statistics
from pathlib import Path

import pytest
import toy_runs
from report_page import Page, report
from report_runs import HOSTILE, sample_row, selected_row, write_rows, write_run

from raft import run as run_raft
from raft.report import write_report


def test_every_sample_of_a_run_is_in_the_page_once(tmp_path: Path) -> None:
    gold = {"kind": "function", "function": "length"}
    run = run_raft(toy_runs.config(tmp_path, iterations=2, gold=gold)).run_dir
    page = report(run)
    assert page.data["notices"] == []
    files = [*run.glob("iterations/*/eval.jsonl"), *run.glob("iterations/*/rollouts.jsonl")]
    assert len(files) == 5
    for file in files:
        stored, shown = toy_runs.rows(file), page.rows(int(file.parent.name), file.stem)
        for row, one in zip(stored, shown, strict=True):
            assert (one["id"], one["prompt"]) == (row["id"], row["prompt"])
            assert one["responses"] == row["responses"]
            assert one["finish"] == row["finish_reasons"]
            assert one["version"] == row["policy_version"]
            assert one["seeds"] == [str(seed) for seed in row["seeds"]]
            # token ids are dropped, their number stays
            assert one["tokens"] == [len(ids) for ids in row["token_ids"]]
            assert one["scores"]["reward"] == pytest.approx(row["scores"], rel=1e-5)
            if file.stem == "eval":
                assert one["scores"]["gold"] == pytest.approx(row["gold_scores"], rel=1e-5)
    for iteration in (1, 2):
        chosen = toy_runs.rows(run / f"iterations/{iteration:03d}/selected.jsonl")
        marked = [
            (row["id"], k)
            for row in page.rows(iteration, "rollouts")
            for k in row.get("chosen", [])
        ]
        assert marked == [(row["id"], row["sample"]) for row in chosen]


def test_the_index_says_what_the_rows_say(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", prompts=4, k=3)
    file = run / "iterations/001/rollouts.jsonl"
    rows = toy_runs.rows(file)
    rows[2]["finish_reasons"] = ["length", "stop", "length"]
    rows[3]["scores"][1] = None
    write_rows(file, rows)
    page = report(run)
    index, shown = page.index(1, "rollouts"), page.rows(1, "rollouts")
    assert index["ids"] == [row["id"] for row in shown]
    assert index["counts"] == [3, 3, 3, 3]
    assert index["scores"]["reward"] == [row["scores"]["reward"] for row in shown]
    assert index["scores"]["reward"][3][1] is None
    assert index["cut"] == [[], [], [0, 2], []]
    assert index["chosen"] == [[2], [2], [2], [2]]


def test_lists_against_a_plain_search(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", iterations=1, prompts=1)
    first = {f"p{i}": [float(i), float(-i)] for i in range(30)}
    last = {f"p{i}": [((i * 17) % 30) / 10, None] for i in range(30)}
    golds = {f"p{i}": [((i * 7) % 30) / 3, 1.0] for i in range(30)}
    for iteration, scores in ((0, first), (1, last)):
        rows = [
            sample_row(key, [f"{key} a", f"{key} b"], values, gold_scores=golds[key])
            for key, values in scores.items()
        ]
        write_rows(run / f"iterations/00{iteration}/eval.jsonl", rows)
    page = report(run)
    ids = page.index(1, "eval")["ids"]

    def prompts(title: str) -> list[str]:
        return [ids[entry["row"]] for entry in page.entries(title)]

    by_score = sorted(last, key=lambda key: last[key][0] or 0.0)
    assert prompts("Best") == by_score[:-13:-1]
    assert prompts("Worst") == by_score[:12]
    assert page.entries("Best")[0]["response"] == f"{by_score[-1]} a"
    # every prompt began at a mean of 0, and its missing score is left out of the mean
    assert prompts("Risen most") == by_score[:-13:-1]
    assert not any(one["title"] == "Fallen most" for one in page.data["lists"])
    scores = [values[0] or 0.0 for values in last.values()]
    both = [score for pair in golds.values() for score in pair]
    gaps = {
        key: ((last[key][0] or 0.0) - statistics.mean(scores)) / statistics.stdev(scores)
        - (golds[key][0] - statistics.mean(both)) / statistics.stdev(both)
        for key in last
    }
    furthest = sorted(gaps, key=lambda key: -abs(gaps[key]))[:12]
    # what the proxy puts above gold stands first, as a policy that exploits it does
    above = [key for key in furthest if gaps[key] > 0]
    assert prompts("Proxy against gold") == above + [key for key in furthest if key not in above]


def test_pairs_mark_their_rejected_side(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", iterations=1, prompts=1, k=3)
    row = toy_runs.rows(run / "iterations/001/rollouts.jsonl")[0]
    pair = selected_row(row, 2, rejected={"response": row["responses"][0], "score": 1.0})
    write_rows(run / "iterations/001/selected.jsonl", [pair])
    (shown,) = report(run).rows(1, "rollouts")
    assert (shown["chosen"], shown["rejected"]) == ([2], [0])


def test_the_page_says_which_update_was_made_of_which_responses(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", iterations=1, prompts=1, k=3)
    row = toy_runs.rows(run / "iterations/001/rollouts.jsonl")[0]
    weighted = [selected_row(row, k, weight=weight) for k, weight in enumerate((0.8, 0.0, -0.8))]
    write_rows(run / "iterations/001/selected.jsonl", weighted)
    update = {"kind": "reinforce", "clip": 0.2, "clip_high": None}
    (run / "config.yaml").write_text(json.dumps({"train": {"update": update}}))
    measured = {"train/ratio_mean": 1.1, "train/clip_share": 0.1, "train/entropy": 2.0}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"iteration": 1, "phase": "train", **measured}) + "\n")
    page = report(run)
    (shown,) = page.rows(1, "rollouts")
    assert shown["chosen"] == [0, 2]  # what counts 0 is not trained on
    (training,) = [group for group in page.data["facts"] if group["title"] == "Training"]
    assert [list(row) for row in training["rows"]] == [
        ["update", '{"kind": "reinforce", "clip": 0.2}']
    ]
    titles = {panel["title"] for panel in page.data["panels"]}
    assert {"Ratio to the policy that drew", "Entropy in training"} <= titles
    assert "KL in training" not in titles


def test_no_text_gets_out_of_its_place(tmp_path: Path) -> None:
    run = write_run(tmp_path / f"run {HOSTILE[:9].replace('/', '')}\n<i>", iterations=1, prompts=1)
    hostile = sample_row(HOSTILE, [HOSTILE, "\ud800\x00\u202e]]>"], [1.0, 2.0], prompt=HOSTILE)
    write_rows(run / "iterations/001/eval.jsonl", [hostile])
    config = {"iterations": 1, "prompts": {"path": HOSTILE}}
    (run / "config.yaml").write_text(json.dumps(config))
    write_rows(run / "guards.jsonl", [{"iteration": 1, "guard": HOSTILE, "message": HOSTILE}])
    page, plain = report(run), report(write_run(tmp_path / "plain", iterations=1, prompts=1))
    # the same elements as that of a harmless run, and what was written is in it
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert page.rows(1, "eval")[0]["responses"] == hostile["responses"]
    assert page.data["guards"][0]["message"] == HOSTILE
    assert HOSTILE in page.data["config"]


def test_a_text_that_names_a_place_of_the_page_stays_text(tmp_path: Path) -> None:
    places = "%TITLE% %POLICY% %STYLE% %DATA% %SCRIPT%"
    run = write_run(tmp_path / places, iterations=1, prompts=1)
    said = sample_row("p", [places], [1.0], prompt=places)
    write_rows(run / "iterations/001/eval.jsonl", [said])
    page, plain = report(run), report(write_run(tmp_path / "plain", iterations=1, prompts=1))
    assert page.data["title"] == places
    assert page.data["lists"][0]["entries"][0]["response"] == places
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]


def test_the_page_asks_nobody_for_anything(tmp_path: Path) -> None:
    page = report(write_run(tmp_path / "run"))
    assert not any(
        name in attributes for _, attributes in page.tags for name in ("src", "srcset", "action")
    )
    assert all(link.startswith("#") for _, a in page.tags if (link := a.get("href")))
    assert not re.search(r"url\(|@import", "".join(page.styles))
    policy = next(
        attributes["content"] or ""
        for _, attributes in page.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    for rule, text in (("script-src", page.scripts["own"]), ("style-src", page.styles[0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_the_same_run_makes_the_same_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    first = write_report(run, tmp_path / "a.html").read_bytes()
    assert write_report(run, tmp_path / "b.html").read_bytes() == first


def test_times_add_up(tmp_path: Path) -> None:
    rows = report(write_run(tmp_path / "run")).data["times"]
    assert [row["iteration"] for row in rows] == [0, 1, 2]
    assert rows[1]["seconds"] == {
        "generate": 4.0, "score": 1.0, "select": 0.5, "train": 1.0, "sync": 0.5, "eval": 1.0,
        "other": 1.0,
    }  # fmt: skip
    for row in rows:
        assert sum(row["seconds"].values()) == pytest.approx(row["total"])


def test_a_judges_points_have_no_means(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", iterations=1)
    judge = {"kind": "combine", "members": [{"kind": "pairwise", "model": "j"}]}
    (run / "config.yaml").write_text(json.dumps({"iterations": 1, "reward": judge}))
    page = report(run)
    assert page.stage(1, "rollouts")["comparable"] is False
    # with other members its score is a sum, not a probability
    assert page.stage(1, "eval")["measure"] == "reward"
    (run / "config.yaml").write_text(
        json.dumps({"iterations": 1, "reward": {"kind": "pairwise", "model": "j"}})
    )
    page = report(run)
    assert page.stage(1, "eval")["measure"] == "chance to win"
    assert page.entries("Best")
    # with rollouts alone there is nothing to rank prompts by
    for iteration in (0, 1):
        (run / f"iterations/00{iteration}/eval.jsonl").unlink()
    assert report(run).data["lists"] == []


def test_what_opens_a_door_is_not_passed_on(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", iterations=0)
    remote = {
        "kind": "remote", "url": "http://me:hunter2@host:81/x", "token_env": "TOKEN",
        "arguments": {"api_key": "hunter2", "max_tokens": 5}, "max_length": None,
    }  # fmt: skip
    (run / "config.yaml").write_text(json.dumps({"iterations": 0, "reward": remote}))
    out = write_report(run, tmp_path / "report.html")
    assert "hunter2" not in out.read_text()
    config = Page(out).data["config"]
    assert "http://***@host:81/x" in config and "max_tokens: 5" in config and "TOKEN" in config


def test_fewer_prompts_on_request(tmp_path: Path) -> None:
    page = report(write_run(tmp_path / "run", prompts=5), prompts=2)
    assert len(page.rows(1, "eval")) == 2
    assert (
        "iterations/001/eval.jsonl: the first 2 prompts are here, 3 more are skipped"
        in (page.data["notices"])
    )
