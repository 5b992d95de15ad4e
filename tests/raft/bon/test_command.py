"""`raft bon`: the files of a best-of-n, from prompts and from stored pools, interrupted or not."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_runs
from toy_runs import write_rows
from wording import refusal, says

from raft.cli.main import main
from rollout.storage.rollout_store import RolloutStore

DRAW = ("--policy", "policy", "--max-new-tokens", "9", "--inline", "--quiet")
# counts what it is asked, and is missing where a response says nothing
REWARD = """
from pathlib import Path

def score(completions, **_):
    with open(Path(__file__).with_suffix(".log"), "a") as log:
        log.write("x" * len(completions))
    return [float(c.count("good")) - c.count("bad") if c.strip() else None for c in completions]

def gold(completions, **_):
    return [c.count("good") - c.count("good") ** 2 / 4 for c in completions]
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    toy_runs.settings(tmp_path)
    monkeypatch.chdir(tmp_path)
    toy_runs.write_prompts(tmp_path / "prompts.jsonl", 12)
    (tmp_path / "rm.py").write_text(REWARD)
    return tmp_path


def bon(*arguments: str | Path) -> int:
    return main(["bon", *map(str, arguments)])


def drawn(*arguments: str) -> int:
    rewards = ("--reward", "function:rm.py:score", "--gold", "function:rm.py:gold")
    return bon("prompts.jsonl", *DRAW, *rewards, "-n", "8", *arguments)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    return refusal(capsys, "bon", *arguments)


def curve(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.mark.slow
def test_from_prompts_to_curve_and_best(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert drawn() == 0
    assert "8" in capsys.readouterr().out
    pool = toy_runs.rows(home / "prompts.pool.jsonl")
    assert [len(row["responses"]) for row in pool] == [8] * 12
    scores_PN = np.array([row["scores"] for row in pool], dtype=float)
    gold_PN = np.array([row["gold_scores"] for row in pool], dtype=float)
    assert np.isnan(scores_PN).any(), "this test wants missing scores"

    found = curve(home / "prompts.bon.json")
    assert [row["n"] for row in found["curve"]] == list(range(1, 9))
    assert found["missing"]["scores"] == np.isnan(scores_PN).sum()
    for n in (1, 2, 7):
        own, of_gold = [], []
        for scores_N, gold_N in zip(scores_PN, gold_PN, strict=True):
            inside = [i for i in range(8) if not math.isnan(scores_N[i])]
            subsets = list(combinations(inside, n))
            if not subsets:
                continue
            own.append(np.mean([max(scores_N[list(s)]) for s in subsets]))
            of_gold.append(np.mean([best_of(s, scores_N, gold_N) for s in subsets]))
        row = found["curve"][n - 1]
        assert row["kl"] == pytest.approx(math.log(n) - (n - 1) / n)
        assert row["proxy"]["mean"] == pytest.approx(np.mean(own))
        assert row["gold"]["mean"] == pytest.approx(np.mean(of_gold))
        assert row["proxy"]["prompts"] == len(own)
        assert row["proxy"]["low"] < row["proxy"]["mean"] < row["proxy"]["high"]

    best = toy_runs.rows(home / "prompts.best.jsonl")
    assert [row["id"] for row in best] == [row["id"] for row in pool]
    for row, whole, scores_N in zip(best, pool, scores_PN, strict=True):
        assert row["sample"] == int(np.nanargmax(scores_N)), "equal scores: the one drawn first"
        assert row["response"] == whole["responses"][row["sample"]]
        assert row["score"] == whole["scores"][row["sample"]]
        assert row["gold_score"] == whole["gold_scores"][row["sample"]]
        assert row["token_ids"] == whole["token_ids"][row["sample"]]
        assert row["of"] == 8
    assert (home / "prompts.bon.png").read_bytes().startswith(b"\x89PNG")


def best_of(subset: tuple[int, ...], scores_N: np.ndarray, gold_N: np.ndarray) -> float:
    """Gold of the best by score; equal scores share."""
    top = max(scores_N[list(subset)])
    return float(np.mean([gold_N[i] for i in subset if scores_N[i] == top]))


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 3, 11])
def test_interrupted_while_drawing_and_scoring(
    home: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    assert drawn("--out", "straight") == 0
    (home / "rm.log").unlink()
    for method in ("add_samples", "add_scores"):
        whole = getattr(RolloutStore, method)
        with monkeypatch.context() as patched:
            left = [after]

            def stop(*arguments: Any, whole: Any = whole, left: list[int] = left) -> None:
                if left[0] == 0:
                    raise KeyboardInterrupt
                left[0] -= 1
                whole(*arguments)

            patched.setattr(RolloutStore, method, stop)
            assert drawn() == 130
        assert not (home / "prompts.pool.jsonl").exists()
    assert drawn() == 0
    for ending in ("pool.jsonl", "best.jsonl"):
        straight = (home / f"straight.{ending}").read_bytes()
        assert (home / f"prompts.{ending}").read_bytes() == straight
    known = curve(home / "straight.bon.json")
    assert curve(home / "prompts.bon.json") == {**known, "pool": "prompts.pool.jsonl"}


@pytest.mark.slow
def test_the_same_command_again_does_nothing(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drawn() == 0
    before = {path: path.stat().st_mtime_ns for path in home.glob("prompts.*")}
    asked = (home / "rm.log").read_text()
    capsys.readouterr()
    assert drawn("--json") == 0
    assert json.loads(capsys.readouterr().out)["curve"] == curve(home / "prompts.bon.json")["curve"]
    assert {path: path.stat().st_mtime_ns for path in home.glob("prompts.*")} == before
    assert (home / "rm.log").read_text() == asked
    # what was deleted is made again, and nothing else
    (home / "prompts.bon.png").unlink()
    assert drawn() == 0
    assert (home / "prompts.bon.png").exists() and (home / "rm.log").read_text() == asked


@pytest.mark.slow
def test_another_n_is_a_question_to_the_pool(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drawn() == 0
    whole = curve(home / "prompts.bon.json")["curve"]
    capsys.readouterr()
    command = ("prompts.jsonl", *DRAW, "--reward", "function:rm.py:score", "-n", "4")
    assert "sampling.k 8 → 4" in refused(capsys, *command)
    best = (home / "prompts.best.jsonl").read_bytes()
    message = refused(capsys, "prompts.pool.jsonl", "-n", "4")
    assert says(message, "prompts.bon.json: is there already n 8 → 4 --restart --out-dir")
    assert (home / "prompts.best.jsonl").read_bytes() == best
    assert bon("prompts.pool.jsonl", "-n", "4", "--restart", "--quiet") == 0
    # every n is estimated from all eight
    part = curve(home / "prompts.bon.json")["curve"]
    assert [row["proxy"]["mean"] for row in part] == [row["proxy"]["mean"] for row in whole[:4]]
    best = toy_runs.rows(home / "prompts.best.jsonl")
    assert all(row["sample"] < 4 and row["of"] == 4 for row in best)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        ("--score-column", "b"),
        ("--gold-column", "b"),
        ("--seed", "1"),
        ("--columns", "scores=b"),
        ("--on-bad-row", "skip"),
    ],
)
def test_other_settings_replace_no_results_of_a_stored_pool(
    home: Path, capsys: pytest.CaptureFixture[str], changed: tuple[str, ...]
) -> None:
    rows = [{"prompt": "a", "responses": ["x", "y"], "scores": [1, 2], "b": [2, 1]}]
    write_rows(home / "p.jsonl", rows)
    assert bon("p.jsonl", "--quiet") == bon("p.jsonl", "--quiet") == 0
    before = {file: file.read_bytes() for file in home.glob("p.*")}
    assert says(refused(capsys, "p.jsonl", *changed), "other settings --restart")
    assert {file: file.read_bytes() for file in home.glob("p.*")} == before
    assert bon("p.jsonl", *changed, "--out-dir", "elsewhere", "--quiet") == 0
    # another pool under the same name is another question too
    write_rows(home / "p.jsonl", [*rows, rows[0]])
    assert says(refused(capsys, "p.jsonl"), "other settings (pool")


@pytest.mark.slow
def test_a_pool_that_was_deleted_is_drawn_and_measured_again(home: Path) -> None:
    assert drawn() == 0
    found = curve(home / "prompts.bon.json")
    (home / "prompts.pool.jsonl").unlink()
    assert drawn() == 0
    assert curve(home / "prompts.bon.json") == found


def test_a_stored_pool_needs_no_model_and_may_be_uneven(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"prompt": "a", "responses": ["x", "y", "z"], "rm_scores": [1, None, 3]},
        {"prompt": "b", "responses": ["x", "y"], "rm_scores": [5, 4]},
        {"prompt": "c", "responses": ["x", "y"], "rm_scores": [None, None]},
        {"prompt": "d", "responses": [], "rm_scores": []},
    ]
    write_rows(home / "scored.jsonl", rows)
    assert bon("scored.jsonl", "--score-column", "rm_scores", "--json", "--quiet") == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["proxy"]["mean"] for row in found["curve"]] == [pytest.approx(3.25), 4.0, None]
    assert [row["proxy"]["prompts"] for row in found["curve"]] == [2, 2, 0]
    assert found["missing"] == {
        "scores": 3, "prompts_without_score": 2, "prompts_with_fewer_than_3": 4,
    }  # fmt: skip
    best = toy_runs.rows(home / "scored.best.jsonl")
    assert [(row["id"], row["sample"], row["score"]) for row in best] == [
        ("scored-000001", 2, 3.0), ("scored-000002", 0, 5.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "arguments", "message"),
    [
        (
            {"scores": [1.0, 2.0]},
            ("-n", "3"),
            "the most responses that a prompt has are 2",
        ),
        ({}, (), "pool.jsonl:1: no column 'scores' (there: no scores)"),
        ({"gold_scores": [1, 2]}, (), "(there: gold_scores)"),
        ({"scores": [1.0]}, (), "pool.jsonl:1: 'scores': does not hold one score for each of 2"),
        ({"scores": [1.0, "2"]}, (), "score 1 is a string"),
        ({"scores": [None, None]}, (), "not a single score is a number"),
        ({"scores": [1.0, 2.0]}, ("--gold-column", "gold_scores"), "no column 'gold_scores'"),
        ({"scores": [1.0, 2.0]}, ("--reward", "function:length"), "raft score --reward function"),
        ({"scores": [1.0, 2.0]}, ("-n", "0"), "--num-responses: 0 is less than 1"),
        ({"scores": [1.0, 2.0]}, ("--method", "knockout"), "no tournament is played"),
        ({"scores": [1.0, 2.0]}, ("--out-dir", "pool.jsonl"), "File exists"),
        ({"scores": [1.0, 2.0]}, ("--seed", "-1"), "--seed: -1 is not a whole number of 0 or more"),
        (
            {"scores": [1.0, 2.0]},
            ("--max-prompts", "1", "--top-p", "0.5"),
            "--top-p, --max-prompts: without",
        ),
    ],
)
def test_wrong_pools_are_refused_in_one_line(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    row: dict[str, Any],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    write_rows(home / "pool.jsonl", [{"prompt": "q", "responses": ["a", "b"], **row}])
    before = set(home.iterdir())
    assert message in refused(capsys, "pool.jsonl", *arguments)
    assert set(home.iterdir()) == before


def test_wrong_commands_are_refused_in_one_line(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = {"id": "a", "prompt": "q", "responses": ["x"], "scores": [1.0]}
    mixed = {"kind": "combine", "members": [{"kind": "pairwise", "model": "policy"}]}
    (home / "mixed.yaml").write_text(json.dumps({"reward": mixed}))
    assert "no such file" in refused(capsys, "missing.jsonl")
    (home / "own.best.jsonl").write_text(json.dumps({**one, "id": "b"}) + "\n")
    assert main(["bon", "own.best.jsonl", "--out", "own"]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert "nothing selects" in refused(capsys, "prompts.jsonl", *DRAW)
    assert says(refused(capsys, "prompts.jsonl", *DRAW, "--score-column", "a"), "remove --policy")
    command = ("prompts.jsonl", *DRAW, "--reward")
    # --bos is the reward's, --dtype the policy's
    message = refused(capsys, *command, "function:length", "--bos", "none", "--dtype", "float32")
    assert says(message, "--bos: --reward function:length has that setting")
    assert says(refused(capsys, *command, "mixed.yaml"), "the judge alone")
    assert "--reward nowhere.yaml: no such file" in refused(capsys, *command, "nowhere.yaml")
    assert says(refused(capsys, "prompts.jsonl"), "no column 'responses' prompt give --policy")
    (home / "prompts.best.jsonl").write_text("precious\n")
    message = refused(capsys, *command, "function:length", "-n", "2")
    assert "prompts.best.jsonl: is there already, and nothing tells how it was made" in message
    assert (home / "prompts.best.jsonl").read_text() == "precious\n"


def test_one_prompt_and_one_sample_have_no_interval(home: Path) -> None:
    write_rows(home / "one.jsonl", [{"prompt": "q", "responses": ["a"], "scores": [2.0]}])
    assert bon("one.jsonl", "--quiet") == 0
    (row,) = curve(home / "one.bon.json")["curve"]
    assert row["kl"] == 0.0
    assert row["proxy"] == {"mean": 2.0, "low": None, "high": None, "prompts": 1}


@pytest.mark.slow
def test_over_optimization_is_said_where_it_is_beyond_noise(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gold rises with the proxy to its middle and falls behind it; noise alone falls nowhere."""
    rng = np.random.default_rng(8)
    scores_PN = rng.normal(size=(60, 32))
    for name, gold_PN in (
        ("hacked", -((scores_PN - 1) ** 2)),
        ("noise", rng.normal(size=scores_PN.shape)),
    ):
        rows = [
            {"prompt": "q", "responses": ["x"] * 32, "scores": own.tolist(), "gold_scores": of}
            for own, of in zip(scores_PN, gold_PN.tolist(), strict=True)
        ]
        write_rows(home / f"{name}.jsonl", rows)
        assert bon(f"{name}.jsonl") == 0
        assert ("over-optimized" in capsys.readouterr().out) == (name == "hacked")
    peak = curve(home / "hacked.bon.json")["peak"]
    assert 2 < peak["gold"]["n"] < 12 and peak["proxy"]["n"] == 32


@pytest.mark.slow
def test_no_over_optimization_of_a_pool_whose_hard_prompts_have_more_responses(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(9)
    rows = []
    for number in range(220):  # gold follows the proxy; hard prompts have less of both
        hard = number % 11 == 0
        scores_N = rng.normal(size=64 if hard else 8) - (6 if hard else 0)
        rows.append(
            {"prompt": "q", "responses": ["x"] * len(scores_N), "scores": scores_N.tolist(),
             "gold_scores": (2 * scores_N).tolist()}
        )  # fmt: skip
    write_rows(home / "uneven.jsonl", rows)
    assert bon("uneven.jsonl") == 0
    told = capsys.readouterr()
    assert "over-optimized" not in told.out
    assert "200 of 220 prompts have fewer than n = 64" in told.err
    found = curve(home / "uneven.bon.json")
    assert found["peak"]["gold"] | {"mean": 0, "low": 0, "high": 0, "kl": 0} == {
        "n": 64, "prompts": 20, "mean": 0, "low": 0, "high": 0, "kl": 0, "over_optimized": False,
    }  # fmt: skip
    gold_PN = np.array([row["gold_scores"] for row in rows if len(row["responses"]) == 64])
    assert found["peak"]["gold"]["mean"] == pytest.approx(gold_PN.max(axis=1).mean())


@pytest.mark.slow
def test_columns_of_any_name_and_any_text(home: Path) -> None:
    row = {"prompt": "q", "responses": ["a", "b"], "quality": [1, 2], "truth": [5, 4]}
    row["note"] = "half of a pair: \ud83d"
    write_rows(home / "any.jsonl", [row])
    assert bon("any.jsonl", "--score-column", "quality", "--gold-column", "truth") == 0
    [best] = toy_runs.rows(home / "any.best.jsonl")
    assert (best["response"], best["score"], best["quality"], best["truth"]) == ("b", 2, 2, 4)
    assert best["note"] == row["note"]


def test_files_are_called_after_the_pool_whatever_its_name(home: Path) -> None:
    from raft.bon.command import outputs

    assert outputs(None, "some-org/some-data").curve == Path("some-data.bon.json")
    assert outputs(None, str(home / "prompts.jsonl")).curve == home / "prompts.bon.json"
    (home / "a.pool.jsonl.gz").touch()
    assert outputs(None, str(home / "a.pool.jsonl.gz")).best == home / "a.best.jsonl"


def test_nothing_told_of_old_responses_stands_beside_new_ones(home: Path) -> None:
    own = {"source": "mine", "credit_score": 7}
    old = {"responses": ["a", "b"], "grm_scores": [9, -9], "comparisons": [[0, 1, 0.9]],
           "ranking": [0, 1], "best": 0}  # fmt: skip
    prompts = toy_runs.rows(home / "prompts.jsonl")
    write_rows(home / "scored.jsonl", [{**row, **own, **old} for row in prompts])
    write_rows(home / "asked.jsonl", [{**row, **own} for row in prompts])
    assert main(["sample", "scored.jsonl", *DRAW, "-n", "2", "--out", "s.jsonl"]) == 0
    [first, *_] = toy_runs.rows(home / "s.jsonl")
    assert first["source"] == "mine" and first["responses"] != ["a", "b"]
    assert not {*old, "scores"} - {"responses"} & first.keys()
    # of a prompt without answers, every column is its own
    assert main(["sample", "asked.jsonl", *DRAW, "-n", "2", "--out", "p.jsonl"]) == 0
    assert toy_runs.rows(home / "p.jsonl")[0]["credit_score"] == 7


@pytest.mark.slow
def test_drawn_in_waves(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    waves = ("--set", "sampling.adaptive={first: 3, wave: 2, most: 12, cost: 0.02}")
    assert drawn(*waves) == 0
    assert "in waves" in capsys.readouterr().out
    pool = toy_runs.rows(home / "prompts.pool.jsonl")
    counts = [len(row["responses"]) for row in pool]
    assert min(counts) >= 3 and max(counts) > 8 and sum(counts) <= 12 * 8

    # every prompt's best is that of all its responses; the curve is of the first wave
    best = [max((s for s in row["scores"] if s is not None), default=None) for row in pool]
    known = [one for one in best if one is not None]
    assert [row["score"] for row in toy_runs.rows(home / "prompts.best.jsonl")] == known
    found = curve(home / "prompts.bon.json")
    assert [row["n"] for row in found["curve"]] == [1, 2, 3]
    one = [np.mean([s for s in row["scores"][:3] if s is not None]) for row in pool]
    assert found["curve"][0]["proxy"]["mean"] == pytest.approx(np.mean(one))
    assert found["waves"]["responses"] == pytest.approx(np.mean(counts))
    assert found["waves"]["proxy"]["mean"] == pytest.approx(np.mean(known))

    # the same again draws nothing; samples of the same number are those of a fixed K
    before = (home / "rm.log").read_text()
    assert drawn(*waves) == 0
    assert (home / "rm.log").read_text() == before
    assert drawn("--out", "fixed") == 0
    for row, fixed in zip(pool, toy_runs.rows(home / "fixed.pool.jsonl"), strict=True):
        assert row["responses"][:8] == fixed["responses"][: len(row["responses"])]


def test_waves_need_a_reward(capsys: pytest.CaptureFixture[str]) -> None:
    judge = ("--judge", "function:rm.py:score", "--set", "sampling.adaptive={first: 3}")
    refused(capsys, "prompts.jsonl", *DRAW, *judge)
    assert main(["sample", "prompts.jsonl", *DRAW, "--set", "sampling.adaptive={first: 3}"]) == 2
    assert says(capsys.readouterr().err, "sampling.adaptive reward")
    early = ("--set", "sampling.early_rejection={tokens: 3, keep: 2}")
    assert main(["sample", "prompts.jsonl", *DRAW, *early]) == 2
    assert says(capsys.readouterr().err, "sampling.early_rejection reward")


@pytest.mark.slow
def test_rejected_early(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    early = ("--set", "sampling.early_rejection={tokens: 2, keep: 3}")
    assert drawn(*early) == 0
    assert says(capsys.readouterr().out, "best 3 of 8 first 2 tokens foresight")
    pool = toy_runs.rows(home / "prompts.pool.jsonl")
    begun = toy_runs.rows(home / "prompts.pool.beginnings.jsonl")
    assert drawn("--out", "fixed") == 0
    for row, short, fixed in zip(
        pool, begun, toy_runs.rows(home / "fixed.pool.jsonl"), strict=True
    ):
        assert len(row["responses"]) == 3 and len(short["responses"]) == 8
        numbers = row.get("sample_numbers", [0, 1, 2])
        assert row["token_ids"] == [fixed["token_ids"][k] for k in numbers]
    best = {row["id"]: row for row in toy_runs.rows(home / "prompts.best.jsonl")}
    for row in pool:
        if row["id"] in best:
            number = best[row["id"]]["sample"]
            at = row.get("sample_numbers", [0, 1, 2]).index(number)
            assert row["responses"][at] == best[row["id"]]["response"]
    found = curve(home / "prompts.bon.json")
    assert found["early_rejection"]["begun"] == 8 and found["n"] == 3

    # the same again draws nothing, other settings are refused, and --restart makes all anew
    before = (home / "rm.log").read_text()
    assert drawn(*early) == 0
    assert (home / "rm.log").read_text() == before
    other = ("--set", "sampling.early_rejection={tokens: 3, keep: 3}")
    assert drawn(*other) == 2
    assert drawn(*other, "--restart") == 0
    begun = toy_runs.rows(home / "prompts.pool.beginnings.jsonl")
    assert max(len(ids) for row in begun for ids in row["token_ids"]) == 3
