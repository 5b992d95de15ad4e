"""`import raft`: what the commands do, as functions with typed results."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_training
import toy_runs
from toy_runs import write_rows
from wording import words

import raft
from raft.api.rewards import base_name
from raft.cli.main import main

SCORED = [{"prompt": "tree", "responses": ["a", "b"], "scores": [0.0, 1.0]}]
ROWS = [
    {"prompt": "tree", "responses": ["good good", "bad"]},
    {"prompt": "sky", "responses": ["a"]},
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    toy_runs.settings(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_names_are_there_and_completed() -> None:
    wanted = {"run", "sample", "best_of_n", "score", "rank", "train_reward", "evaluate_reward",
              "replay", "draw_curves", "write_report", "load_config", "RunConfig",
              "InputError", "RewardError"}  # fmt: skip
    assert wanted <= set(raft.__all__) <= set(dir(raft))
    assert all(callable(getattr(raft, name)) for name in raft.__all__)
    assert "import_module" not in dir(raft)


def test_a_function_is_not_hidden_by_a_package_of_its_name() -> None:
    """Importing a package puts it into its parent under its name."""
    packages = {path.name for path in Path(raft.__file__).parent.iterdir()}
    assert not {*raft.__all__} & {name.removesuffix(".py") for name in packages}


@pytest.mark.slow
def test_a_run_from_a_mapping_to_its_pictures(tmp_path: Path) -> None:
    settings = toy_runs.settings(tmp_path, iterations=1)
    found = raft.run(settings, ["sampling.k=3"])
    assert found.run_dir == tmp_path / "run" and found.curves.is_file()
    assert (
        found.checkpoint == found.run_dir / "iterations/001/checkpoint" or found.checkpoint is None
    )
    frame = found.to_pandas()
    assert frame["iteration"].tolist() == [0, 1]
    curves = raft.draw_curves(found.run_dir, tmp_path / "c.png")
    points = curves.to_pandas()
    assert points["value"].iloc[0] == pytest.approx(frame["eval/reward_mean"].iloc[0])
    page = raft.write_report(found.run_dir)
    assert page.path.is_file() and len(page.to_pandas()) == 2
    replayed = raft.replay(found.run_dir, k=[1, 3], draws=4).to_pandas()
    assert sorted(set(replayed["k"])) == [1, 3]
    assert settings["sampling"]["k"] == 4  # the caller's mapping is left alone


def test_load_config_takes_a_mapping_or_a_file(tmp_path: Path) -> None:
    file = toy_runs.config_file(tmp_path, iterations=1)
    by_file = raft.load_config(file, ["seed=5"])
    by_mapping = raft.load_config(toy_runs.settings(tmp_path, iterations=1), ["seed=5"])
    assert by_file == by_mapping and isinstance(by_file, raft.RunConfig) and by_file.seed == 5
    with pytest.raises(raft.InputError, match=words("config unknown key")):
        raft.load_config({**toy_runs.settings(tmp_path), "iteratons": 2})
    with pytest.raises(raft.InputError, match=words("load_config")):
        raft.run(by_file, ["seed=1"])


def test_rows_in_memory_give_what_the_command_gives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pandas import DataFrame

    write_rows(tmp_path / "rows.jsonl", ROWS)
    assert main(["score", "rows.jsonl", "--reward", "function:length", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    for data in (ROWS, DataFrame(ROWS), "rows.jsonl"):
        found = raft.score(data, "function:length", restart=True)
        assert (found.mean, found.std, found.missing) == (summary["mean"], summary["std"], 0)
        assert [row["scores"] for row in found.rows()] == [[2.0, 1.0], [1.0]]
    frame = found.to_pandas()
    assert frame[["sample", "response", "score"]].values.tolist() == [
        [0, "good good", 2.0], [1, "bad", 1.0], [0, "a", 1.0],
    ]  # fmt: skip
    chars = raft.score(ROWS, {"kind": "function", "function": "length",
                              "arguments": {"unit": "chars"}})  # fmt: skip
    assert chars.to_pandas()["score"].tolist() == [9, 3, 1]


def test_what_is_in_memory_leaves_no_file(tmp_path: Path) -> None:
    found = raft.score(ROWS, "function:length", output_column="words")
    assert found.path is not None and found.path.is_file()
    assert found.rows()[0]["words_scores"] == [2.0, 1.0]
    path = found.path
    del found
    assert not path.parent.exists()


def test_rank_and_evaluate() -> None:
    ranked = raft.rank(ROWS, reward="function:length")
    assert [row["ranking"] for row in ranked.rows()] == [[0, 1], [0]]
    pairs = [{"prompt": f"p{n}", "chosen": "a b", "rejected": "a"} for n in range(4)]
    measured = raft.evaluate_reward(pairs, ["function:length"])
    assert measured.to_pandas()[["reward", "accuracy", "pairs"]].values.tolist() == [
        ["length", 1.0, 4]
    ]
    with pytest.raises(raft.InputError, match=words("nothing to evaluate")):
        raft.evaluate_reward(pairs)
    with pytest.raises(raft.InputError, match=words("judge or a reward")):
        raft.rank(ROWS)
    with pytest.raises(raft.InputError, match=words("reward function FILE.py:NAME")):
        raft.score(ROWS, len)  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_sample_then_the_best_of_n() -> None:
    drawn = raft.sample(["tree", "house"], "policy", 3, max_new_tokens=5, inline=True, seed=1)
    assert drawn.to_pandas()["sample"].tolist() == [0, 1, 2] * 2
    best = raft.best_of_n(["tree", "house"], policy="policy", reward="function:length", n=4,
                          max_new_tokens=5, inline=True)  # fmt: skip
    frame = best.to_pandas()
    assert frame["n"].tolist() == [1, 2, 3, 4] and frame["proxy_mean"].is_monotonic_increasing
    assert len(best.best()) == 2
    with pytest.raises(raft.InputError, match=words("--temperature nothing is drawn")):
        raft.best_of_n(ROWS, temperature=0.5)
    with pytest.raises(raft.InputError, match=words("is one row")):
        raft.sample({"prompt": "tree"}, "policy")


@pytest.mark.parametrize(
    ("call", "least"),
    [
        (lambda value: raft.score(ROWS, "function:length", batch_rows=value), 1),
        (lambda value: raft.rank(ROWS, reward="function:length", batch_rows=value), 1),
        (lambda value: raft.rank(ROWS, reward="function:length", seed=value), 0),
        (lambda value: raft.best_of_n(SCORED, n=value), 1),
        (lambda value: raft.best_of_n(SCORED, seed=value), 0),
        (lambda value: raft.replay(SCORED, seed=value), 0),
        (lambda value: raft.replay(SCORED, k=[value]), 1),
        (lambda value: raft.evaluate_reward(SCORED, score_columns=["scores"], seed=value), 0),
    ],
)
def test_numbers_that_are_no_counts_are_refused(call: Callable[[Any], object], least: int) -> None:
    for value in (least - 1, -1, 1.5):
        with pytest.raises(raft.InputError, match=words(str(value))):
            call(value)


@pytest.mark.slow
def test_train_a_reward_model(tmp_path: Path) -> None:
    tokenizer = tiny_training.tokenizer(["p1 p2 yes no"] * 20)
    model = tiny_training.language_model(tmp_path / "model", tokenizer)
    pairs = [{"prompt": f"p{n}", "chosen": "yes yes", "rejected": "no"} for n in range(20)]
    write_rows(tmp_path / "pairs.jsonl", pairs)
    found = raft.train_reward({
        "run_dir": "rm", "recipe": "bradley_terry", "model": str(model), "data": ["pairs.jsonl"],
        "format": "plain", "train": {"epochs": 1, "batch_size": 4},
    })  # fmt: skip
    assert found.model.is_dir() and len(found.to_pandas())
    assert raft.load_reward(found.model).score(["yes yes"]).shape == (1,)


@pytest.mark.slow
def test_importing_is_fast_and_a_script_sees_its_progress(tmp_path: Path) -> None:
    code = (
        "import sys, raft\n"
        "assert not {'numpy', 'pydantic', 'raft.api'} & set(sys.modules)\n"
        "raft.score([{'prompt': 'a', 'response': 'b c'}], 'function:length')\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "1 conversations" in said.stderr and said.stdout == ""
    own = "import logging\nlogging.basicConfig(level=logging.WARNING)\n"
    quiet = subprocess.run(
        [sys.executable, "-c", own + code], capture_output=True, text=True, check=True
    )
    assert quiet.stderr == ""


@pytest.mark.parametrize(
    ("column", "name"),
    [("gold", "gold"), ("gold_scores", "gold"), ("gold_score", "gold"), ("scores", None)],
)
def test_base_name(column: str, name: str | None) -> None:
    assert base_name(column) == name
