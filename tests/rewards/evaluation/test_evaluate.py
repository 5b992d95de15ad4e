"""`raft eval-reward`: every form of row, stored scores, models, whatever a user gets wrong."""

from __future__ import annotations

import gzip
import importlib
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_runs
from real_groups import SCORES, ranked_replies
from toy_runs import write_rows
from wording import refusal, says

from raft.cli.main import main
from rewards.evaluation.rewardbench import PRIOR_SETS, SUBSETS
from rollout.data.messages import parse_hh

tiny: Any = importlib.import_module("tiny_rewards")
judges: Any = importlib.import_module("tiny_judges")

LENGTH = ("--reward", "function:length", "--set", "arguments.unit=chars")
BY_SCORES = ("--score-column", "scores")
FEW = ("--bootstrap", "100")


def evaluate(capsys: pytest.CaptureFixture[str], data: Path, *arguments: Any) -> dict[str, Any]:
    """The report."""
    line = ["eval-reward", "--quiet", "--json", *FEW, "--data", data, *arguments]
    assert main([str(one) for one in line]) == 0
    return json.loads(capsys.readouterr().out)


def only(report: dict[str, Any]) -> dict[str, Any]:
    (model,) = report["models"].values()
    return model


def refused(capsys: pytest.CaptureFixture[str], data: Path | str, *arguments: Any) -> str:
    """The one line with which the command refuses, without its beginning."""
    return refusal(capsys, "eval-reward", "--quiet", "--data", data, *arguments)


def pair(chosen: str, rejected: str, prompt: str = "q", **columns: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **columns}


# by length in characters: two wins, a tie, a loss; two prompts
PAIRS = [
    pair("long", "s", "a", source="x"),
    pair("longer", "short", "a", source="x"),
    pair("same", "size", "b", source="y"),
    pair("s", "long", "b"),
]


def test_judgebenchs_published_accuracy_from_stored_scores(
    capsys: pytest.CaptureFixture[str], raft_data: Path
) -> None:
    file = raft_data / "data" / "judgebench" / SCORES
    found = only(evaluate(capsys, file, "--score-column", "scores"))
    # Tan et al. 2024, Skywork-Reward-Llama-3.1-8B on pairs of GPT-4o; ties lose
    expected = {"Knowledge": 59.09, "Reasoning": 64.29, "Mathematics": 76.79, "Coding": 50.00}
    groups = found["benchmark"]["groups"]
    assert {name: round(one["score"], 2) for name, one in groups.items()} == expected
    assert sum(one["pairs"] for one in groups.values()) == 350
    assert found["benchmark"]["overall"] == pytest.approx(62.29, abs=0.005)
    assert found["accuracy"]["ties"] == 1 and found["accuracy"]["wins"] == 218
    assert found["accuracy"]["low"] < 0.6229 < found["accuracy"]["high"]
    assert found["length"] is None  # there is no text


def test_judgebench_by_a_reward_is_judgebench_by_its_stored_scores(
    capsys: pytest.CaptureFixture[str], raft_data: Path, tmp_path: Path
) -> None:
    data = raft_data / "data" / "judgebench"
    with gzip.open(data / "judgebench_gpt-4o-2024-05-13.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    stored = [json.loads(line) for line in (data / SCORES).read_text().splitlines()]
    for row, one in zip(rows, stored, strict=True):
        row["rm_scores"] = one["judgments"][0]["scores"]
    report = evaluate(capsys, write_rows(tmp_path / "jb.jsonl", rows), "--score-column", "rm")
    assert report["data"]["form"] == "judgebench"
    found = report["models"]["rm"]
    assert found["benchmark"]["overall"] == pytest.approx(62.29, abs=0.005)
    # now that there is text, its length can be looked at
    assert found["length"]["better_longer"]["pairs"] > 100


def test_pairs_by_hand(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    report = evaluate(capsys, write_rows(tmp_path / "p.jsonl", PAIRS), *LENGTH)
    assert report["data"] | {"file": ""} == {
        "file": "", "form": "pairs", "rows": 4, "pairs": 4, "responses": 8, "prompts": 2,
        "skipped": 0, "skipped_reasons": {},
    }  # fmt: skip
    found = only(report)
    whole = found["accuracy"]
    assert (whole["wins"], whole["ties"], whole["losses"], whole["clusters"]) == (2, 1, 1, 2)
    assert (whole["accuracy"], whole["accuracy_ties_half"], whole["tie_share"]) == (
        0.5,
        0.625,
        0.25,
    )
    sources = {name: one["accuracy"] for name, one in found["by_source"].items()}
    assert sources == {"": 0.0, "x": 1.0, "y": 0.0}
    length = found["length"]
    assert length["better_longer"]["accuracy"] == 1 and length["better_shorter"]["accuracy"] == 0
    assert length["prefers_longer"] == 1 and length["pearson"] == pytest.approx(1)
    margins = np.array([3.0, 1.0, 0.0, -3.0])
    assert found["calibration"]["log_loss"] == pytest.approx(np.log1p(np.exp(-margins)).mean())


def test_swapped_pairs_have_what_the_others_lack(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    swapped = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in PAIRS]
    there = only(evaluate(capsys, write_rows(tmp_path / "p.jsonl", PAIRS), *LENGTH))["accuracy"]
    back = only(evaluate(capsys, write_rows(tmp_path / "s.jsonl", swapped), *LENGTH))["accuracy"]
    assert back["accuracy"] == 1 - there["accuracy"] - there["tie_share"]


def hh_lengths(raft_data: Path) -> tuple[Path, list[tuple[int, int, int]]]:
    """(user turns, characters of the two answers) of real pairs, read by hand."""
    path = raft_data / "data" / "hh-rlhf" / "dev" / "helpful-base.jsonl.gz"
    found = []
    with gzip.open(path, "rt") as file:
        for line in file:
            row = json.loads(line)
            sides = [parse_hh(row[key], "", key) for key in ("chosen", "rejected")]
            turns = sum(message["role"] == "user" for message in sides[0][:-1])
            found.append((turns, *(len(side[-1]["content"]) for side in sides)))
    return path, found


@pytest.mark.slow
def test_real_pairs_by_turns(capsys: pytest.CaptureFixture[str], raft_data: Path) -> None:
    path, rows = hh_lengths(raft_data)
    found = only(evaluate(capsys, path, *LENGTH))
    assert found["accuracy"]["wins"] == sum(chosen > other for _, chosen, other in rows)
    assert found["accuracy"]["ties"] == sum(chosen == other for _, chosen, other in rows)
    for turns, one in found["by_turns"].items():
        wins = [chosen > other for n, chosen, other in rows if n == int(turns)]
        assert (one["pairs"], one["wins"]) == (len(wins), sum(wins))


def test_real_hhh(capsys: pytest.CaptureFixture[str], raft_data: Path, tmp_path: Path) -> None:
    path = raft_data / "data" / "hhh-alignment" / "hhh_alignment.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    report = evaluate(capsys, path, *LENGTH)
    assert report["data"]["form"] == "hhh" and report["data"]["rows"] == 221
    found = only(report)
    for name, score in found["benchmark"]["categories"].items():
        wins = [len(r["chosen"]) > len(r["rejected"]) for r in rows if r["source"] == name]
        assert score == pytest.approx(100 * np.mean(wins))
    assert found["by_turns"]["2"]["pairs"] == 40  # dialogues inside the prompt are read as such
    # BIG-bench's own spelling of the same, the better answer now first and now second
    spelled = [
        {
            "input": row["prompt"],
            "source": row["source"],
            "targets": {
                "choices": [row["chosen"], row["rejected"]][:: 1 - 2 * (at % 2)],
                "labels": [1, 0][:: 1 - 2 * (at % 2)],
            },
        }
        for at, row in enumerate(rows)
    ]
    other = only(evaluate(capsys, write_rows(tmp_path / "hhh.jsonl", spelled), *LENGTH))
    assert other["benchmark"] == found["benchmark"]


def test_real_llmbar(capsys: pytest.CaptureFixture[str], raft_data: Path) -> None:
    path = raft_data / "data" / "llmbar" / "adv_gptinst.json"
    report = evaluate(capsys, path, *LENGTH)
    rows = json.loads(path.read_text())
    better = [
        (row["output_1"], row["output_2"])[:: 1 if str(row["label"]) == "1" else -1] for row in rows
    ]
    assert only(report)["accuracy"]["wins"] == sum(len(a) > len(b) for a, b in better)
    assert list(only(report)["by_source"]) == ["adv_gptinst"]


def test_real_rm_bench(capsys: pytest.CaptureFixture[str], raft_data: Path) -> None:
    path = raft_data / "data" / "rm-bench" / "chat.json.gz"
    rows = json.loads(gzip.decompress(path.read_bytes()))
    found = only(evaluate(capsys, path, *LENGTH))
    for i, j in product(range(3), repeat=2):
        share = np.mean([len(row["chosen"][i]) > len(row["rejected"][j]) for row in rows])
        assert found["benchmark"]["matrix"][i][j] == pytest.approx(100 * share)
    assert found["benchmark"]["hard"] < found["benchmark"]["easy"]
    assert found["benchmark"]["average"] == pytest.approx(100 * found["accuracy"]["accuracy"])
    assert list(found["benchmark"]["domains"]) == ["chat"]


def test_rm_benchs_files_of_one_domain_each(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Put together they have no `domain`, only the subsets that each domain is made of."""
    rng = np.random.default_rng(0)
    subsets = {
        "chat": ["alpacaeval"] * 9,
        "code": ["bigcode/humanevalpack"] * 20,
        "safety": ["refusals-dangerous"] * 4 + ["refusals-offensive"] * 7
        + ["xstest-should-refuse"] * 12 + ["xstest-should-respond"] * 15,
    }  # fmt: skip
    rows = [
        {"id": f"{name}-{at}", "subset": name, "prompt": f"q {name} {at}",
         "chosen": ["x" * int(n) for n in rng.integers(1, 9, 3)],
         "rejected": ["y" * int(n) for n in rng.integers(1, 9, 3) + len(name) % 4]}
        for names in subsets.values() for at, name in enumerate(names)
    ]  # fmt: skip
    found = only(evaluate(capsys, write_rows(tmp_path / "four.jsonl", rows), *LENGTH))["benchmark"]
    # the benchmark's own count: every row of a domain weighs the same, every domain too
    levels = {"hard": [(0, 1), (0, 2), (1, 2)], "normal": [(0, 0), (1, 1), (2, 2)],
              "easy": [(1, 0), (2, 0), (2, 1)]}  # fmt: skip
    for level, cells in levels.items():
        shares = [
            np.mean([
                len(row["chosen"][i]) > len(row["rejected"][j])
                for row in rows if row["subset"] in names for i, j in cells
            ])
            for names in subsets.values()
        ]  # fmt: skip
        assert found[level] == pytest.approx(100 * np.mean(shares))
    assert set(found["domains"]) == set(subsets)


@pytest.mark.slow
def test_human_ranks_of_lists(
    capsys: pytest.CaptureFixture[str], raft_data: Path, tmp_path: Path
) -> None:
    rows = [
        {"prompt": messages, "responses": responses, "ranks": ranks, "scores": [-r for r in ranks]}
        for messages, responses, ranks in ranked_replies(raft_data)
    ]
    file = write_rows(tmp_path / "oasst.jsonl", rows)
    found = only(evaluate(capsys, file, "--score-column", "scores"))
    assert found["accuracy"]["accuracy"] == 1 and found["benchmark"]["best_of_n"]["mean"] == 100
    assert found["benchmark"]["kendall_tau"]["mean"] == pytest.approx(1)
    by_length = only(evaluate(capsys, file, *LENGTH))
    pairs = [
        (len(row["responses"][i]) > len(row["responses"][j]))
        for row in rows
        for i, j in product(range(len(row["ranks"])), repeat=2)
        if row["ranks"][i] < row["ranks"][j]
    ]
    assert by_length["accuracy"]["accuracy"] == pytest.approx(np.mean(pairs))
    best = [row["responses"][row["ranks"].index(min(row["ranks"]))] for row in rows]
    hits = [len(b) == max(map(len, row["responses"])) for b, row in zip(best, rows, strict=True)]
    assert by_length["benchmark"]["best_of_n"]["mean"] == pytest.approx(100 * np.mean(hits), abs=1)


# columns by which the tables of other files are made
OTHER_COLUMNS = pytest.mark.parametrize("more", [{}, {"source": "human", "domain": "math"}])


@OTHER_COLUMNS
def test_rewardbench_rows(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, more: dict[str, str]
) -> None:
    # every second prompt of a subset is right, all of the prior sets
    rows = [
        pair("long" if right else "s", "mid", f"{subset} {n}", subset=subset, **more)
        for subset in (*SUBSETS, *PRIOR_SETS)
        for n, right in enumerate([True, subset in PRIOR_SETS])
    ]
    report = evaluate(capsys, write_rows(tmp_path / "rb.jsonl", rows), *LENGTH)
    assert report["data"]["form"] == "rewardbench"
    for weights in ("current", "2024-09"):
        found = only(report)["benchmark"][weights]
        assert found["sections"] == {
            "Chat": 50, "Chat Hard": 50, "Safety": 50, "Reasoning": 50, "Prior Sets": 100,
        }  # fmt: skip
        assert found["overall"] == pytest.approx((4 * 50 + 0.5 * 100) / 4.5)
        assert found["low"] < found["overall"] < found["high"] and found["missing_subsets"] == []
    some = [row for row in rows if row["subset"] in ("hep-go", "math-prm")]
    found = only(evaluate(capsys, write_rows(tmp_path / "some.jsonl", some), *LENGTH))
    assert found["benchmark"]["current"]["sections"]["Safety"] is None
    assert "donotanswer" in found["benchmark"]["current"]["missing_subsets"]


def rewardbench2_row(subset: str, scores: list[int], right: int, id: str) -> dict[str, Any]:
    texts = ["x" * score for score in scores]
    return {
        "id": id, "prompt": f"{subset} {id}", "subset": subset, "num_correct": right,
        "chosen": texts[:right], "rejected": texts[right:], "total_completions": len(texts),
    }  # fmt: skip


@OTHER_COLUMNS
def test_rewardbench2_rows(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, more: dict[str, str]
) -> None:
    rows = [
        rewardbench2_row("Math", [4, 1, 2, 3], 1, "1"),
        rewardbench2_row("Math", [4, 4, 2, 3], 1, "2"),
        rewardbench2_row("Focus", [3, 4, 2, 3], 1, "3"),
        rewardbench2_row("Ties", [5, 1], 1, "ref:1"),
        rewardbench2_row("Ties", [6, 5, 1], 2, "tied:1"),
    ]
    rows = [row | more for row in rows]
    found = only(evaluate(capsys, write_rows(tmp_path / "rb2.jsonl", rows), *LENGTH))["benchmark"]
    parts = {name: one["score"] for name, one in found["subsets"].items()}
    assert parts["Math"] == 75 and parts["Focus"] == 0
    assert parts["Ties"] == pytest.approx(100 + np.tanh(3))
    assert found["overall"] == pytest.approx(np.mean(list(parts.values())))
    assert found["missing_subsets"] == ["Factuality", "Precise IF", "Safety"]


def test_a_model_is_scored_as_raft_score_does(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = tiny.checkpoint(tmp_path / "rm", "llama")
    rows = [pair(f"yes {n}", f"no {n * 7}", f"q{n % 5}") for n in range(20)]
    file = write_rows(tmp_path / "p.jsonl", rows)
    direct = evaluate(capsys, file, "--reward", model, "--device", "cpu")
    assert (
        main(["score", "--quiet", "--reward", str(model), "--output-column", "rm", str(file)]) == 0
    )
    capsys.readouterr()
    stored = evaluate(capsys, tmp_path / "p.scored.jsonl", "--score-column", "rm")
    keys = ("accuracy", "by_turns", "length")
    assert [only(direct)[key] for key in keys] == [only(stored)[key] for key in keys]
    assert only(direct)["calibration"]["ece"] == pytest.approx(only(stored)["calibration"]["ece"])
    scored = toy_runs.rows(tmp_path / "p.scored.jsonl")
    wins = sum(row["rm_chosen_score"] > row["rm_rejected_score"] for row in scored)
    assert only(direct)["accuracy"]["wins"] == wins


@pytest.mark.slow
def test_a_judge_is_asked_in_both_orders(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from rewards import load_judge
    from rewards.types import Comparison

    folder = judges.checkpoint(tmp_path / "judge")
    rows = [pair(f"yes {n}", f"no {n * 7}", f"q{n}") for n in range(8)]
    report = evaluate(capsys, write_rows(tmp_path / "p.jsonl", rows), "--judge", folder)
    judge = load_judge(folder, kind="pairwise")
    turns: Any = [[{"role": "user", "content": row["prompt"]}] for row in rows]
    comparisons = [
        Comparison(t, row["chosen"], row["rejected"]) for t, row in zip(turns, rows, strict=True)
    ]
    probability_N = judge.compare(comparisons)
    found = only(report)
    assert found["accuracy"]["wins"] == int((probability_N > 0.5).sum())
    assert found["calibration"]["log_loss"] == pytest.approx(-np.log(probability_N).mean())
    assert found["position_bias"]["mean"] == pytest.approx(judge.verdicts(comparisons).gap_N.mean())
    # what needs scores is said, not made up
    rb2 = write_rows(tmp_path / "rb2.jsonl", [rewardbench2_row("Math", [4, 1, 2, 3], 1, "1")] * 2)
    assert "needs scores" in only(evaluate(capsys, rb2, "--judge", folder))["benchmark"]["note"]


@pytest.mark.slow
def test_several_rewards_side_by_side(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shortest = "{kind: function, function: length, arguments: {scale: -1, unit: chars}}"
    rows = [pair("longer", "short", f"q{n}", rm_chosen_score=0, rm_rejected_score=n % 2)
            for n in range(30)]  # fmt: skip
    report = evaluate(
        capsys,
        write_rows(tmp_path / "p.jsonl", rows),
        *LENGTH,
        "--score-column",
        "rm",
        "--reward",
        shortest,
    )
    assert list(report["models"]) == ["length #1", "length #2", "rm"]
    found = {(one["a"], one["b"]): one for one in report["comparisons"]}
    assert len(found) == 3
    assert found["length #1", "length #2"]["low"] == 1
    ahead = found["length #1", "rm"]
    assert ahead["difference"] == 1 and ahead["a_better"] == 1 and ahead["pairs"] == 30


FAILS_ON_BAD = (
    "if any('bad' in c for c in completions):\n    raise ValueError('cannot read this')\n"
    "return [None if 'unknown' in c else float(len(c)) for c in completions]"
)


def test_a_row_that_fails_is_missing_and_reported(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = [*PAIRS, pair("bad", "worse"), pair("unknown", "x"), pair("fine one", "x")]
    file = write_rows(tmp_path / "p.jsonl", rows)
    function = f"function:{toy_runs.reward_file(tmp_path, FAILS_ON_BAD)['function']}"
    found = only(evaluate(capsys, file, "--reward", function))
    assert (found["accuracy"]["pairs"], found["accuracy"]["missing"]) == (5, 2)
    assert found["accuracy"]["accuracy"] == 0.6 and found["failed_rows"] == 1
    assert found["accuracy"]["accuracy_missing_lost"] == pytest.approx(3 / 7)
    assert "p.jsonl:5" in found["failures"][0] and "cannot read this" in found["failures"][0]


def test_a_reward_that_scores_nothing_is_an_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = write_rows(tmp_path / "p.jsonl", PAIRS * 20)
    function = f"function:{toy_runs.reward_file(tmp_path, 'raise ValueError(1)')['function']}"
    line = refused(capsys, file, "--reward", function)
    assert "none of the first 8 rows can be scored" in line and "p.jsonl:1" in line


def test_a_report_in_a_folder_keeps_the_scores(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, raft_data: Path
) -> None:
    out, path = tmp_path / "report", raft_data / "data" / "rm-bench" / "chat.json.gz"
    report = evaluate(capsys, path, *LENGTH, "--out-dir", out)
    assert json.loads((out / "report.json").read_text()) == report
    again = evaluate(capsys, out / "scored.jsonl", "--score-column", "length")
    assert only(again)["benchmark"] == only(report)["benchmark"]
    assert only(again)["calibration"] == only(report)["calibration"]


def test_markdown_has_aligned_tables(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file, out = write_rows(tmp_path / "p.jsonl", PAIRS), tmp_path / "deep" / "r.md"
    assert main(["eval-reward", "--quiet", "--data", str(file), *LENGTH, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"report: {out}\nreport: {out.with_suffix('.json')}\n"
    text = out.read_text()
    assert "4 rows of form pairs: 4 pairs, 2 prompts" in text
    for title in ("Accuracy", "By source", "Length", "Calibration"):
        assert f"## {title}\n" in text
    assert "NaN" not in text and "nan" not in text and "None" not in text
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({len(line) for line in lines}) <= 1
    assert main(["eval-reward", "--quiet", "--data", str(file), *LENGTH]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.slow
def test_the_same_seed_gives_the_same_report(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = write_rows(
        tmp_path / "p.jsonl", [pair("longer", "x" * (n % 9), f"q{n}") for n in range(40)]
    )
    first, second, other = (
        only(evaluate(capsys, file, *LENGTH, "--seed", seed)) for seed in (0, 0, 1)
    )
    times = {"seconds": None}
    assert first | times == second | times
    assert first["accuracy"]["wins"] == other["accuracy"]["wins"]


LISTED = {"prompt": "q", "responses": ["a", "b"]}
STORED = pair("a", "b", chosen_score=1, rejected_score=0)
BAD: list[tuple[list[Any], tuple[str, ...], str]] = [
    ([], LENGTH, "holds no rows"),
    ([{"text": "q"}], LENGTH, "rows.jsonl:1: nothing to evaluate on in text"),
    (["q"], LENGTH, "rows.jsonl:1: holds a string where an object"),
    ([PAIRS[0], {"prompt": "q"}], LENGTH, "rows.jsonl:2: no column 'chosen'"),
    ([{**LISTED, "ranks": [1, 1]}], LENGTH, "no pair of responses of which one is better"),
    ([LISTED], LENGTH, "rows.jsonl:1: no column ranks, gold_scores or scores"),
    ([{**LISTED, "ranks": [1]}], LENGTH, "'ranks': does not hold one score for each of 2"),
    ([{**LISTED, "mine": [0, 1]}], (*LENGTH, "--gold-column", "yours"), "no column 'yours'"),
    ([{**LISTED, "scores": [0, 1]}], BY_SCORES, "'scores' would be compared with itself"),
    (
        [pair("a", "b", subset="hep-go"), pair("a", "b", subset="hep-gp")],
        LENGTH,
        "rows.jsonl:2: subset 'hep-gp' RewardBench did you mean hep-go",
    ),
    ([rewardbench2_row("Maths", [1, 2], 1, "1")], LENGTH, "RewardBench 2 did you mean Math"),
    ([rewardbench2_row("Ties", [1, 2], 1, "1")], LENGTH, "rows.jsonl:1: id '1' is none of Ties"),
    ([rewardbench2_row("Math", [1, 2, 3], 2, "1")], LENGTH, "outside Ties one is right"),
    ([{**STORED, "label": 3, "input": "", "output_1": "", "output_2": ""}], LENGTH, "label is 3"),
    ([{"judgments": [], "label": "A"}], BY_SCORES, "rows.jsonl:1: label is 'A'"),
    ([{"judgments": [], "label": "A>B"}], LENGTH, "holds judgements and no responses"),
    ([{"judgments": [], "label": "A>B"}], BY_SCORES, "no 'judgments' to read decisions from"),
    (PAIRS, BY_SCORES, "rows.jsonl:1: no stored scores under chosen_score and rejected_score"),
    ([STORED], ("--score-column", "gold"), "gold_rejected_score, gold_scores or gold"),
    ([{**STORED, "chosen_score": "1"}], BY_SCORES, "'chosen_score': score 0 is a string"),
    (PAIRS, (), "nothing to evaluate --reward --judge --score-column"),
    (PAIRS, (*LENGTH, "--bootstrap", "5"), "interval needs 100 resamples"),
    (PAIRS, (*LENGTH, "--out", "report.pdf"), "report.pdf .md .json"),
    (PAIRS, ("--reward", "function:nothing"), "nothing"),
    (PAIRS, ("--reward", "no/such/model"), "no/such/model"),
    (PAIRS, (*LENGTH, "--form", "llmbar"), "no column 'input', which rows of form llmbar need"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "arguments", "expected"), BAD, ids=[one[2] for one in BAD])
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    rows: list[Any],
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    assert says(refused(capsys, write_rows(tmp_path / "rows.jsonl", rows), *arguments), expected)


def test_a_missing_file_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no such file" in refused(capsys, tmp_path / "no.jsonl", *LENGTH)


def test_labels_that_are_all_the_same_are_pointed_at(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    row = {"input": "q", "output_1": "long", "output_2": "s", "label": 1}
    file = write_rows(tmp_path / "llmbar.jsonl", [row] * 12)
    assert main(["eval-reward", *FEW, "--data", str(file), *LENGTH]) == 0
    assert "every label says that the first response is better" in capsys.readouterr().err
