"""`raft replay`: the numbers against every subset there is, the run's own rows, broken folders."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import toy_runs
from wording import says

from experiments.bench import replay as bench
from raft.cli.main import main
from raft.config.select import SelectConfig
from raft.monitor.diversity import measure
from raft.selection.filters import Filters, mask_unselectable
from raft.selection.rows import read_selected, write_selected
from raft.selection.rules import select
from raft.stored.kept import keep
from raft.stored.pool import read_pool
from raft.stored.replay import Plan, replay
from raft.stored.rules import Rule, Scoring, parse_filters, parse_penalty, parse_rules
from raft.stored.source import find_samples
from raft.stored.subsets import random_order, selectable, subset
from raft.stored.tournament import Missing, tournament_scores
from rewards.evaluation.stats import distinct_n
from rewards.tournament import play

NO_FILTERS = parse_filters(None, {})
WORDS = ["one", "two", "three", "four", "five", "six"]


def sample_rows(prompts: int, samples: int, seed: int = 0) -> list[dict]:
    """Rows with missing scores, equal scores, equal texts, empty and cut ones."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(prompts):
        texts = [" ".join(rng.choice(WORDS, rng.integers(0, 6))) for _ in range(samples)]
        scores = [float(s) if s < 3.5 else None for s in rng.integers(0, 5, samples)]
        golds = [float(s) if s < 1.2 else None for s in rng.normal(size=samples)]
        ends = ["length" if cut else "stop" for cut in rng.random(samples) < 0.2]
        found.append(
            {
                "id": f"p{number}",
                "prompt": "say",
                "responses": texts,
                "scores": scores,
                "gold_scores": golds,
                "finish_reasons": ends,
                "token_ids": [list(range(len(text))) for text in texts],
                "prompt_token_ids": [1],
                "policy_version": 0,
            }
        )
    return found


def write(path: Path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def part_of(row: dict, samples) -> dict:
    """The row with only these of its samples."""
    beside = ("responses", "scores", "gold_scores", "finish_reasons", "token_ids")
    return {**row, **{name: [row[name][k] for k in samples] for name in beside}}


def chosen(
    tmp_path: Path, rows, strategy: str, arguments: Mapping[str, object], filters: Filters
) -> list[dict]:
    """What a run would have trained on."""
    out = tmp_path / "chosen.jsonl"
    rule = SelectConfig.model_validate({"strategy": strategy, **filters, **arguments})
    write_selected(lambda: iter(toy_runs.samples(rows)), out, rule)
    return toy_runs.rows(out)


def one(report: dict, rule: str, k: int) -> dict:
    (found,) = [row for row in report["results"] if (row["rule"], row["k"]) == (rule, k)]
    return found


FILTERS = {"min_score": 1.0, "min_chars": 5, "allow_truncated": False}


@pytest.mark.slow
@pytest.mark.parametrize("filters", [{}, FILTERS, {"reject_pattern": "two"}], ids=str)
def test_best_of_k_is_its_expectation_over_all_subsets(tmp_path, filters):
    # no ties among the best: which of them is taken makes no difference to gold or length then
    rows = sample_rows(5, 6)
    for p, row in enumerate(rows):
        spread = [None if s is None else s + 0.01 * k for k, s in enumerate(row["scores"])]
        row["scores"] = spread if p else [None] * 6
    whole = parse_filters([f"{k}={json.dumps(v)}" for k, v in filters.items()], {})
    pool = read_pool(toy_runs.samples(rows), Scoring(), whole)
    assert pool is not None
    for k in (1, 2, 4, 6):
        (kept,) = keep(pool, [(Rule("best_of_k"), k)], whole, draws=3, seed=0)
        for p, row in enumerate(rows):
            every = [
                chosen(tmp_path, [part_of(row, samples)], "best_of_k", {}, whole)
                for samples in combinations(range(6), k)
            ]
            # golds are found again by the sample's number in the subset
            golds = [
                [row["gold_scores"][samples[got["sample"]]] for got in found]
                for samples, found in zip(combinations(range(6), k), every, strict=True)
            ]
            assert kept.rows_P[p] == pytest.approx(fmean(map(len, every)))
            for name, values in {
                "reward": [[got["score"] for got in found] for found in every],
                "words": [[len(got["response"].split()) for got in found] for found in every],
                "gold": [[gold for gold in some if gold is not None] for some in golds],
            }.items():
                assert kept.total[name][p] == pytest.approx(fmean(map(sum, values)))
                assert kept.count[name][p] == pytest.approx(fmean(map(len, values)))


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "arguments"),
    [
        ("top_m", {"m": 2}),
        ("best_and_worst", {}),
        ("threshold", {"min_score": 1.5}),
        ("best_of_k", {}),
    ],
)
def test_random_subsets_are_unbiased(tmp_path, strategy, arguments):
    rows, whole = sample_rows(4, 5), parse_filters(["unique=true", "min_spread=1"], {})
    pool = read_pool(toy_runs.samples(rows), Scoring(), whole)
    assert pool is not None
    (kept,) = keep(pool, [(Rule(strategy, arguments), 3)], whole, draws=3000, seed=1)
    for p, row in enumerate(rows):
        every = [
            chosen(tmp_path, [part_of(row, samples)], strategy, arguments, whole)
            for samples in combinations(range(5), 3)
        ]
        sums = [sum(got["score"] for got in found) for found in every]
        assert kept.rows_P[p] == pytest.approx(fmean(map(len, every)), abs=0.06)
        assert kept.total["reward"][p] == pytest.approx(fmean(sums), abs=0.15)


@pytest.mark.parametrize("filters", [{}, FILTERS, {"unique": True, "min_spread": 2, **FILTERS}])
def test_a_subset_is_filtered_as_its_texts_would_be(filters):
    rows = sample_rows(30, 7, seed=3)
    whole = parse_filters([f"{k}={json.dumps(v)}" for k, v in filters.items()], {})
    pool = read_pool(toy_runs.samples(rows), Scoring(), whole)
    assert pool is not None
    for k in (1, 3, 7):
        part = subset(pool, k, random_order(pool, seed=k))
        found_QK = selectable(pool, part, part.of(pool.score_PN), whole)
        texts = [
            [rows[p]["responses"][s] for s in samples]
            for p, samples in zip(part.prompts_Q, part.samples_QK, strict=True)
        ]
        cut = [
            [rows[p]["finish_reasons"][s] == "length" for s in samples]
            for p, samples in zip(part.prompts_Q, part.samples_QK, strict=True)
        ]
        wanted_QK, _ = mask_unselectable(part.of(pool.score_PN), texts, truncated_PK=cut, **whole)
        np.testing.assert_array_equal(found_QK, wanted_QK)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["best_of_k", "top_m"])
def test_a_lowest_score_of_0_is_a_filter(tmp_path, capsys, strategy):
    rows = sample_rows(12, 6)
    for row in rows:  # half of them below 0, of some prompts all
        row["scores"] = [None if s is None else s - 2.0 for s in row["scores"]]
    rows[0]["scores"] = [-1.0] * 6
    file = write(tmp_path / "r.jsonl", rows)
    arguments = {"m": 2} if strategy == "top_m" else {}
    label = f"{strategy} m=2" if arguments else strategy
    options = ["--strategy", label.replace(" ", ":"), "--filter", "min_score=0"]
    assert main(["replay", "--quiet", file, *options, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["filters"] == {"min_score": 0.0}
    for k in (2, 4, 6):
        every = [
            len(chosen(tmp_path, [part_of(row, part)], strategy, arguments, {"min_score": 0.0}))
            for row in rows
            for part in combinations(range(6), k)
        ]
        wanted = sum(every) / len(list(combinations(range(6), k)))
        # 20 subsets of 12 prompts know it to about a row; without the filter it is 5 rows more
        assert one(report, label, k)["rows"] == pytest.approx(wanted, abs=1.2)
    assert main(["replay", "--quiet", file, *options]) == 0
    assert "Filters: min_score=0.0." in capsys.readouterr().out


def test_filters_that_let_everything_pass_are_not_named(tmp_path, capsys):
    file = write(tmp_path / "r.jsonl", sample_rows(3, 4))
    bare = ["min_chars=0", "unique=false", "allow_truncated=true", "max_chars=null"]
    assert main(["replay", "--quiet", file, "--filter", *bare]) == 0
    assert "Filters" not in capsys.readouterr().out
    assert main(["replay", "--quiet", file, "--filter", "allow_truncated=false"]) == 0
    assert "Filters: allow_truncated=False." in capsys.readouterr().out


def test_subsets_are_nested_in_order_and_evenly_drawn():
    rows = [*sample_rows(400, 5), part_of(sample_rows(1, 5)[0], [0, 1])]
    pool = read_pool(toy_runs.samples(rows), Scoring(), NO_FILTERS)
    assert pool is not None
    order_PN = random_order(pool, 0)
    small, large = subset(pool, 2, order_PN), subset(pool, 4, order_PN)
    assert len(small.prompts_Q) == 401 and len(large.prompts_Q) == 400
    assert (np.diff(large.samples_QK, axis=1) > 0).all()
    assert all(
        set(a) <= set(b)
        for a, b in zip(small.samples_QK.tolist(), large.samples_QK.tolist(), strict=False)
    )
    shares = np.bincount(small.samples_QK[:400].ravel()) / 400
    assert shares == pytest.approx(np.full(5, 2 / 5), abs=0.08)


def test_diversity_is_that_of_the_texts_kept():
    rows = sample_rows(40, 6)
    rng = np.random.default_rng(1)
    picks = [rng.random((40, 6)) < share for share in (0.1, 0.5, 1.0, 0.0)]
    for pick_PN, found in zip(picks, measure(toy_runs.samples(rows), picks), strict=True):
        texts = [rows[p]["responses"][k] for p, k in np.argwhere(pick_PN)]
        assert found["distinct_1"] == pytest.approx(distinct_n(texts, 1), nan_ok=True)
        assert found["distinct_2"] == pytest.approx(distinct_n(texts, 2), nan_ok=True)
        if texts:
            copies = [n for n in Counter(texts).values() if n > 1]
            assert found["duplicate_share"] == pytest.approx(sum(copies) / len(texts))
        else:
            assert np.isnan(found["duplicate_share"])


def test_at_what_is_stored_every_rule_keeps_what_choose_keeps(tmp_path):
    rows = sample_rows(50, 8)
    file = write(tmp_path / "rows.jsonl", rows)
    rules = parse_rules(
        "best_of_k,top_m:m=3,global_top_fraction:fraction=0.2,threshold:minimum=1:per_prompt=2,"
        "best_and_worst"
    )
    whole = parse_filters(["min_chars=4", "unique=true"], {})
    report = asdict(replay(find_samples(file), Plan(whole, ks=(8,), rules=tuple(rules))))
    for rule in rules:
        kept = chosen(tmp_path, rows, rule.strategy, rule.arguments, whole)
        found = one(report, rule.label, 8)
        assert found["draws"] == 1
        assert found["rows"] == len(kept)
        assert found["prompts_kept"] == len({row["id"] for row in kept})
        assert found["kept_share"]["mean"] == pytest.approx(len(kept) / 400)
        scores = [row["score"] for row in kept]
        assert found["values"]["reward"]["mean"] == pytest.approx(fmean(scores))
        texts = [row["response"] for row in kept]
        assert found["distinct_2"] == pytest.approx(distinct_n(texts, 2))
        lengths = [len(row["token_ids"]) for row in kept]
        assert found["values"]["tokens"]["mean"] == pytest.approx(fmean(lengths))


def test_the_interval_is_that_of_a_mean_over_prompts(tmp_path):
    rng = np.random.default_rng(0)
    rows = [{"responses": list("abcd"), "scores": rng.normal(size=4).tolist()} for _ in range(300)]
    source = find_samples(write(tmp_path / "r.jsonl", rows))
    report = asdict(replay(source, Plan(NO_FILTERS, ks=(4,))))
    best_P = np.array([max(row["scores"]) for row in rows])
    found = one(report, "best_of_k", 4)["values"]["reward"]
    half = 1.96 * best_P.std(ddof=1) / np.sqrt(300)
    assert found["mean"] == pytest.approx(best_P.mean())
    assert (found["high"] - found["low"]) / 2 == pytest.approx(half, rel=0.1)


def test_a_prompt_of_every_iteration_is_one_prompt(tmp_path):
    # the same prompts four times over say no more of other prompts than once
    rng = np.random.default_rng(0)
    levels = rng.normal(size=50)
    for part in range(1, 5):
        rows = [
            {"id": f"p{p}", "responses": ["a", "b"], "scores": [level, level + 0.01 * part]}
            for p, level in enumerate(levels.tolist())
        ]
        folder = tmp_path / "run" / "iterations" / f"{part:03d}"
        folder.mkdir(parents=True)
        write(folder / "rollouts.jsonl", rows)
    report = asdict(replay(find_samples(str(tmp_path / "run")), Plan(NO_FILTERS, ks=(2,))))
    of_all = one(report, "best_of_k", 2)["values"]["reward"]
    (of_one,) = report["by_part"]["iteration 1"]
    alone = of_one["values"]["reward"]
    width = alone["high"] - alone["low"]
    assert of_all["high"] - of_all["low"] == pytest.approx(width, rel=0.05)


def test_prompts_whose_id_is_null_are_prompts_of_their_own(tmp_path, capsys):
    rows = [{**row, "id": None} for row in sample_rows(20, 4)]
    found = []
    for name, of in (("null", rows), ("none", [{**row} for row in rows])):
        if name == "none":
            for row in of:
                del row["id"]
        assert main(["replay", "--quiet", write(tmp_path / f"{name}.jsonl", of), "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["results"])
    assert found[0] == found[1]
    # resampling prompts makes an interval where there is more than one
    assert one({"results": found[0]}, "best_of_k", 4)["values"]["reward"]["low"] is not None


@pytest.mark.slow
def test_iterations_that_store_other_numbers_of_samples(run, capsys):
    file = run / "iterations" / "002" / "rollouts.jsonl"
    cut = ("responses", "scores", "finish_reasons", "token_ids", "seeds")
    rows = toy_runs.rows(file)
    write(file, [{**row, **{name: row[name][:2] for name in cut if name in row}} for row in rows])
    assert main(["replay", "--quiet", str(run), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(row["rule"], row["k"]) for row in report["results"]] == [
        ("as run", 4), ("best_of_k", 1), ("best_of_k", 2), ("best_of_k", 4),
    ]  # fmt: skip
    own, *_, four = report["results"]
    assert (own["prompts"], own["prompts_short"]) == (36, 0)
    assert own["kept_share"]["mean"] == pytest.approx(36 / (12 * 4 + 12 * 2 + 12 * 4))
    assert (four["prompts"], four["prompts_short"]) == (24, 12)


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ([1.0], "one score for each of 2 responses"),
        (["x", 1.0], "score 0 is a string"),
        (4, "one score for each of 2 responses"),
    ],
    ids=str,
)
def test_a_column_of_any_name_that_selects_is_checked(tmp_path, capsys, column, says):
    rows = [{"responses": ["a", "b"], "scores": [1, 2], "rewards": column}]
    file = write(tmp_path / "r.jsonl", rows)
    assert main(["replay", file, "--reward-weights", "rewards=1"]) == 2
    error = capsys.readouterr().err
    assert "'rewards'" in error and says in error and error.count("\n") == 1


def test_scores_are_weighed_and_lengths_paid_for(tmp_path):
    row = sample_rows(1, 4)[0] | {
        "responses": ["a", "a b", "a b c", "a b c d"],
        "scores": [1.0, 2.0, None, 4.0],
        "gold_scores": [3.0, 1.0, 1.0, -9.0],
    }
    penalty = parse_penalty("weight=0.5,above=1")
    scoring = Scoring({"scores": 2.0, "gold_scores": 1.0}, penalty)
    found = scoring.scores(toy_runs.samples([row])[0])
    assert found == pytest.approx([5.0, 4.5, np.nan, -2.5], nan_ok=True)
    source = find_samples(write(tmp_path / "r.jsonl", [row]))
    found = one(asdict(replay(source, Plan(NO_FILTERS, ks=(4,), scoring=scoring))), "best_of_k", 4)
    assert {name: value["mean"] for name, value in found["values"].items()} == {
        "score": 5.0, "reward": 1.0, "gold": 3.0, "words": 1.0, "chars": 1.0, "tokens": 1.0
    } | {"tokens": len(row["token_ids"][0])}  # fmt: skip


def judged_rows(prompts: int, samples: int, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    rows = sample_rows(prompts, samples, seed)
    for row in rows:
        row["comparisons"] = [
            [i, j, float(rng.random())] for i, j in combinations(range(samples), 2)
        ]
    return rows


@pytest.mark.parametrize("method", ["knockout", "round_robin", "swiss", "sequential"])
def test_a_tournament_from_stored_comparisons_is_the_one_that_was_played(method):
    rows = judged_rows(12, 6)
    for row in rows:  # no equal texts: those share one entrant
        row["responses"] = [f"{k} words" for k in range(6)]
    pool = read_pool(toy_runs.samples(rows), Scoring(), NO_FILTERS)
    assert pool is not None

    def judge(matches):
        found = [{(i, j): p for i, j, p in row["comparisons"]} for row in rows]
        return [found[p][i, j] if i < j else 1 - found[p][j, i] for p, i, j in matches]

    played = play(method, [6] * 12, judge, seed=5, keys=[row["id"] for row in rows])
    missing = Missing()
    all_of_them = subset(pool, 6, random_order(pool, 0))
    found_PK = tournament_scores(pool, all_of_them, method, {}, 5, missing)
    assert found_PK.tolist() == [list(standing.scores) for standing in played]
    assert (missing.prompts, missing.of_prompts, missing.comparisons) == (0, 12, 0)


def test_missing_comparisons_are_counted_and_their_prompts_left_out(tmp_path, capsys):
    rows = judged_rows(20, 4)
    for number, row in enumerate(rows):
        row["responses"] = list("abcd")
        del row["scores"]
        if number % 2:
            row["comparisons"] = row["comparisons"][:2]
    file = write(tmp_path / "r.jsonl", rows)
    arguments = ["replay", file, "--tournament", "round_robin", "--k", "2,4"]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    found = one(report, "round_robin", 4)
    assert found["rows"] == 10
    assert found["missing"] == {
        "prompts": 10, "of_prompts": 20, "comparisons": 40, "of_comparisons": 120
    }  # fmt: skip
    assert main(arguments) == 0
    assert "10 of 20 tournaments have no winner; 40 of 120" in capsys.readouterr().out


@pytest.mark.parametrize("whole", [True, False])
def test_comparisons_of_a_parquet_file_are_read(tmp_path, capsys, whole):
    # a column of lists has one type of number: its indices are 0.0 and 1.0
    datasets = pytest.importorskip("datasets")
    rows = judged_rows(6, 4)
    if not whole:
        rows[0]["comparisons"][0][2] = None
    reports = []
    packed = str(tmp_path / "r.parquet")
    datasets.Dataset.from_list(
        [{**r, "comparisons": [[float(i), float(j), p] for i, j, p in r["comparisons"]]}
         for r in rows]
    ).to_parquet(packed)  # fmt: skip
    for file in (write(tmp_path / "r.jsonl", rows), packed):
        assert main(["replay", "--quiet", file, "--tournament", "knockout", "--json"]) == 0
        reports.append(json.loads(capsys.readouterr().out)["results"])
    assert reports[0] == reports[1]


def test_equal_texts_are_one_entrant():
    rows = judged_rows(1, 3)
    rows[0]["responses"], rows[0]["comparisons"] = ["a", "a", "b"], [[1, 2, 0.9]]
    pool = read_pool(toy_runs.samples(rows), Scoring(), NO_FILTERS)
    assert pool is not None
    part = subset(pool, 3, random_order(pool, 0))
    (scores_K,) = tournament_scores(pool, part, "knockout", {}, 0, Missing()).tolist()
    assert scores_K[0] == scores_K[1] > scores_K[2]


STRATEGIES = [
    {"strategy": "best_of_k"},
    {"strategy": "top_m", "m": 2, "unique": True, "min_spread": 1.0},
    {"strategy": "global_top_fraction", "fraction": 0.125, "min_chars": 9},
    {"strategy": "threshold", "min_score": 1, "per_prompt": 2, "allow_truncated": False},
    {"strategy": "best_and_worst", "reject_pattern": "bad bad"},
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("update", "select"),
    [
        ("weighted", {}),
        ("reinforce", {"allow_truncated": False}),
        ("dpo", {"strategy": "all_pairs", "min_gap": 1, "max_pairs": 3}),
    ],
)
def test_rows_of_other_updates_are_those_of_their_selection(tmp_path, capsys, update, select):
    file = toy_runs.config_file(
        tmp_path, iterations=1, sampling={"k": 6}, select=select, train={"update": update}
    )
    assert main(["run", "--quiet", str(file)]) == 0
    capsys.readouterr()
    assert main(["replay", "--quiet", str(tmp_path / "run"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["same_as_selected"] == {"iteration 1": True}
    rows = toy_runs.rows(tmp_path / "run/iterations/001/selected.jsonl")
    assert len(rows) > 12
    stored = list(read_selected(tmp_path / "run/iterations/001/selected.jsonl"))
    assert [row.to_json() for row in stored] == rows
    if update == "dpo":
        gaps = [(row.score or 0) - (row.rejected.score or 0) for row in stored if row.rejected]
        assert len(gaps) == len(stored) and min(gaps) >= 1
        return
    for id in {row.id for row in stored}:
        weights = [row.weight for row in stored if row.id == id and row.weight is not None]
        assert sum(weights) == pytest.approx(1.0 if update == "weighted" else 0.0, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("section", STRATEGIES, ids=lambda section: section["strategy"])
def test_the_run_s_own_setting_keeps_the_rows_that_the_run_selected(tmp_path, capsys, section):
    file = toy_runs.config_file(tmp_path, iterations=2, sampling={"k": 6}, select=section)
    assert main(["run", "--quiet", str(file)]) == 0
    capsys.readouterr()
    run = tmp_path / "run"
    assert main(["replay", "--quiet", str(run), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["same_as_selected"] == {"iteration 1": True, "iteration 2": True}
    selected = [toy_runs.rows(run / "iterations" / at / "selected.jsonl") for at in ("001", "002")]
    found = one(report, "as run", 6)
    assert found["rows"] == sum(map(len, selected))
    mean = fmean(row["score"] for rows in selected for row in rows)
    assert found["values"]["reward"]["mean"] == pytest.approx(mean)
    for number, rows in enumerate(selected, start=1):
        (own, *_) = report["by_part"][f"iteration {number}"]
        (train,) = [
            row for row in toy_runs.metrics(run)
            if (row["iteration"], row["phase"]) == (number, "train")
        ]  # fmt: skip
        assert own["rows"] == len(rows) == train["select/kept"]
        assert own["values"]["reward"]["mean"] == pytest.approx(train["select/reward_mean"])
    # the same rows come out of the sweep, by the whole pool
    arguments = report["own"]["arguments"].items()
    label = " ".join([section["strategy"], *(f"{name}={value}" for name, value in arguments)])
    again = one(report, label, 6)["values"]
    assert {name: value["mean"] for name, value in again.items()} == pytest.approx(
        {name: value["mean"] for name, value in found["values"].items()}
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    assert main(["run", "--quiet", str(toy_runs.config_file(root, iterations=3))]) == 0
    return root / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def notes(capsys, *arguments: str) -> str:
    assert main(["replay", "--quiet", *arguments, "--json"]) == 0
    return "\n".join(json.loads(capsys.readouterr().out)["notes"])


def test_what_is_damaged_or_missing_is_named_and_the_rest_replayed(run, capsys):
    iterations = run / "iterations"
    (iterations / "002" / "rollouts.jsonl").unlink()
    lines = (iterations / "003" / "rollouts.jsonl").read_bytes().splitlines(keepends=True)
    lines[4] = lines[4][:50] + b"\n"
    lines[7] = b"\xff\n"
    (iterations / "003" / "rollouts.jsonl").write_bytes(b"".join(lines))
    (iterations / "001" / "selected.jsonl").write_text("{}\n")
    said = notes(capsys, str(run))
    assert "iteration 2: " in said and "002 holds no rollouts.jsonl" in said
    assert "2 damaged rows skipped: " in said and "003/rollouts.jsonl:5: not valid JSON" in said
    assert "003/rollouts.jsonl:8: not UTF-8" in said
    assert "001/selected.jsonl cannot be read" in said
    assert "iteration 3: the replay of the run's own selection keeps 10 rows" in said
    (run / "config.yaml").unlink()
    assert "how the run selected is not known" in notes(capsys, str(run), "--iteration", "1")
    (iterations / "003" / "rollouts.jsonl").write_text("")
    assert "iteration 3: " in notes(capsys, str(run))


def test_missing_iterations_are_one_note(run, capsys):
    iterations = run / "iterations"
    shutil.rmtree(iterations / "002")
    (iterations / "99999999").mkdir()
    (iterations / "²").mkdir()  # a digit, but no number
    found = notes(capsys, str(run))
    assert f"iteration 2: not in {iterations}" in found
    assert f"iterations 4 to 99999998: not in {iterations}" in found
    assert f"iteration 99999999: {iterations / '99999999'} holds no rollouts.jsonl" in found


def test_a_run_that_is_not_finished_is_replayed_as_far_as_it_came(run, capsys):
    shutil.rmtree(run / "iterations" / "003")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("iterations: 3", "iterations: 9"))
    assert "iterations 3 to 9 of the config are not drawn yet" in notes(capsys, str(run))


def test_an_altered_selection_is_told_from_the_replayed_one(run, capsys):
    file = run / "iterations" / "001" / "selected.jsonl"
    rows = toy_runs.rows(file)
    rows[0]["sample"] = (rows[0]["sample"] + 1) % 4
    write(file, rows)
    assert main(["replay", str(run)]) == 0
    text = capsys.readouterr().out
    assert "rows of selected.jsonl in 2 of 3 iterations" in text
    assert "keeps 12 rows" in text and "has 12; 11 are the same" in text


def test_a_selection_with_a_damaged_row_is_named(run, capsys):
    file = run / "iterations" / "001" / "selected.jsonl"
    rows = toy_runs.rows(file)
    write(file, [{**row, "sample": None} if row["id"] == rows[0]["id"] else row for row in rows])
    assert "iteration 1: " + str(file) + " cannot be read" in notes(capsys, str(run))
    write(
        file, [{**row, "id": rows[0]["id"], "sample": k % 2 or None} for k, row in enumerate(rows)]
    )
    assert "iteration 1: " + str(file) + " cannot be read" in notes(capsys, str(run))


@pytest.mark.slow
def test_files_are_written_and_pictures_drawn(run, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    line = ["replay", str(run), "--strategy", "best_of_k,top_m:m=2", "--out-dir", str(out)]
    assert main(line) == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == ["replay.json", "replay.md", "replay.png", "replay.svg"]
    text = (out / "replay.md").read_text()
    assert "| top_m m=2 |   4 |" in text and "## Iteration 3" in text
    assert "top_m m=2 is left out at K = 1: too few samples for it" in text
    assert ">as run<" in (out / "replay.svg").read_text()
    before = (out / "replay.json").read_bytes()
    assert main(line) == 0
    assert (out / "replay.json").read_bytes() == before
    assert "## Iteration 3" not in capsys.readouterr().out


def test_pools_of_unequal_size_leave_short_prompts_out_by_number(tmp_path, capsys):
    rows = sample_rows(3, 4) + [part_of(row, [0, 2]) for row in sample_rows(2, 4, seed=1)]
    file = write(tmp_path / "r.jsonl", [{**row, "id": str(n)} for n, row in enumerate(rows)])
    assert main(["replay", file, "--strategy", "best_of_k,top_m:m=1"]) == 0
    text = capsys.readouterr().out
    assert "Prompts left out for having fewer than K samples: K = 4: 2." in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--strategy", "nope"], "'nope' is not known"),
        (["--strategy", "top_m"], "top_m needs it"),
        (["--strategy", "top_m:m"], "'m' is no key=value"),
        (["--strategy", "top_m:m=9"], "m: 9 is more than the 4 samples"),
        (["--strategy", ""], "an empty name"),
        (["--strategy", "top_m:k=2"], "no selector has an argument 'k'"),
        (["--strategy", "top_m:m=2:strategy=x"], "no selector has an argument 'strategy'"),
        (["--tournament", "knockout:n=2"], "knockout has no setting 'n'"),
        (["--tournament", "swiss:method=x"], "swiss has no setting 'method'"),
        (["--k", "64"], "stores 4 samples of a prompt"),
        (["--k", "2,x"], "--k 2,x whole numbers"),
        (["--iteration", "9"], "iterations 1, 2, 3"),
        (["--iteration", "last"], "--iteration last number all"),
        (["--tournament", "knockout"], "has 'comparisons'"),
        (["--tournament", "boxing"], "'boxing' is unknown"),
        (["--reward-weights", "gold_scores=1"], "no column 'gold_scores'"),
        (["--reward-weights", "scores=0"], "counts for nothing"),
        (["--length-penalty", "weight=1,per=mile"], "'mile' is unknown"),
        (["--filter", "foo=1"], "is no filter"),
        (["--filter", "min_chars=x"], "--filter min_chars: "),
        (["--draws", "1"], "2 random subsets or more"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_in_one_line(finished, capsys, arguments, expected):
    assert main(["replay", str(finished), *arguments]) == 2
    error = capsys.readouterr().err
    assert says(error, expected) and error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "no row of it can be read"),
        ('{"responses": ["a"]}\n', "no column 'scores' (there: none)"),
        ('{"responses": ["a"], "scores": [1, 2]}\n', "r.jsonl:1 'scores' 1 responses"),
        ('{"responses": ["a"], "scores": ["x"]}\n', "score 0 is a string"),
        ('{"responses": [1], "scores": [1]}\n', "responses[0] is a number"),
        ('{"responses": ["a"], "scores": [1], "comparisons": [[0, 0, 1]]}\n', "'comparisons'"),
        (
            '{"responses": ["a", "b"], "scores": [1, 2], "comparisons": [[0.5, 1, 1]]}\n',
            "'comparisons'",
        ),
        (
            '{"responses": ["a", "b"], "scores": [1, 2], "comparisons": [[true, 0, 1]]}\n',
            "'comparisons'",
        ),
        ("[]\n", "r.jsonl:1: holds a list"),
        ('{"a": \n', "r.jsonl:1: not valid JSON"),
    ],
)
def test_broken_files_are_refused_in_one_line(tmp_path, capsys, text, expected):
    file = tmp_path / "r.jsonl"
    file.write_text(text)
    assert main(["replay", str(file)]) == 2
    error = capsys.readouterr().err
    assert says(error, expected) and error.count("\n") == 1
    assert main(["replay", str(tmp_path / "none")]) == 2
    assert says(capsys.readouterr().err, "none: no such file")


def test_scores_that_are_no_numbers_are_missing_and_counted(tmp_path, capsys):
    file = tmp_path / "r.jsonl"
    file.write_text('{"responses": ["a", "b", "c"], "scores": [NaN, Infinity, 1]}\n')
    assert main(["replay", str(file), "--k", "3"]) == 0
    text = capsys.readouterr().out
    assert "Not selectable: not_finite 2." in text and "1.000" in text


@pytest.mark.thorough
@pytest.mark.slow
def test_the_benchmark_replays_a_pool_of_its_own(tmp_path, capsys):
    source = find_samples(write(tmp_path / "r.jsonl", list(bench.rows(3, 4))))
    found = one(asdict(replay(source, Plan(NO_FILTERS))), "best_of_k", 4)
    assert found["rows"] == 3 and 40 <= found["values"]["words"]["mean"] <= 128
    bench.main(["--prompts", "2", "--samples", "3", "--repeats", "1", "--json"])
    measured = json.loads(capsys.readouterr().out)
    assert len(measured["seconds"]) == 1 and measured["prompts"] == 2


def test_select_and_replay_agree_on_ties():
    scores_PK = np.array([[1.0, 1.0, 0.0]])
    rows = [{"id": "a", "responses": ["x", "y", "z"], "scores": [1.0, 1.0, 0.0],
             "finish_reasons": ["stop"] * 3}]  # fmt: skip
    pool = read_pool(toy_runs.samples(rows), Scoring(), NO_FILTERS)
    assert pool is not None
    (kept,) = keep(pool, [(Rule("best_of_k"), 3)], NO_FILTERS, draws=2, seed=0)
    assert np.argwhere(kept.picks[0]).tolist() == select("best_of_k", scores_PK).tolist()
