"""What commands share: choices, renamed options, results as JSON."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import toy_runs

from raft.cli import options, reward_models
from raft.cli.main import log_old_names, main, parser
from raft.config.policy import PolicyConfig
from rewards.checkpoints.families import FAMILIES
from rewards.checkpoints.settings import ENGINES
from rewards.evaluation.forms import FORMS
from rewards.spec import ModelSpec
from rewards.tournament import METHODS
from rewards.types import Bos, Eos, Format


def literals(schema: type, field: str) -> set[str]:
    return set(get_args(get_type_hints(schema)[field]))


def test_choices_are_those_of_the_settings_they_set() -> None:
    # written down again, since importing them would make `raft --help` slow
    assert {*options.FAMILIES, "pairwise"} == set(FAMILIES)
    assert set(options.FORMATS) == set(get_args(Format))
    assert set(options.BOS) == set(get_args(Bos))
    assert set(options.EOS) == set(get_args(Eos))
    assert set(options.REWARD_ENGINES) == set(ENGINES)
    assert set(options.DTYPES) == literals(PolicyConfig, "dtype") == literals(ModelSpec, "dtype")
    assert set(options.TEMPLATES) == literals(PolicyConfig, "template")
    assert set(options.METHODS) == set(METHODS)
    scorings = [name for one in METHODS.values() for name in (one.choices or {}).get("score", ())]
    assert set(options.SCORINGS) == set(scorings)
    assert set(reward_models.FORMS) == set(FORMS)


def test_old_names_do_what_the_new_ones_do() -> None:
    pairs = [
        ("demo", "--out d", "--out-dir d"),
        ("report run", "--prompts 3", "--max-prompts 3"),
        ("replay run", "--out d", "--out-dir d"),
        ("eval-pool file", "--out d", "--out-dir d"),
        ("eval-pool file", "--answer a", "--answer-column a"),
        ("eval-pool file", "--scores", "--score-column scores"),
        ("eval-pool file", "--scores rm_scores", "--score-column rm_scores"),
        ("sample file --policy p", "--k 3 --limit 2", "-n 3 --max-prompts 2"),
        ("bon file", "--n 3 --by a --gold-by b", "-n 3 --score-column a --gold-column b"),
        ("score file --reward r", "--as gold", "--output-column gold"),
        ("eval-reward --data d", "--gold g", "--gold-column g"),
        ("eval-reward --data d", "--scores --scores x", "--score-column scores --score-column x"),
        ("doctor", "--kind armorm", "--family armorm"),
    ]
    for command, old, new in pairs:
        by_old = vars(parser().parse_args(f"{command} {old}".split()))
        assert by_old.pop("old_names")
        assert by_old == vars(parser().parse_args(f"{command} {new}".split()))


def test_an_old_name_is_hidden_and_says_the_new_one_once(caplog: pytest.LogCaptureFixture) -> None:
    line = argparse.ArgumentParser()
    new = line.add_argument("-n", "--new", action="append", type=int)
    options.add_old_name(line, "--old", new)
    assert "--old" not in line.format_help()
    found = line.parse_args(["--old", "1", "--new", "2", "--old", "3"])
    assert found.new == [1, 2, 3]
    with caplog.at_level(logging.WARNING, "raft"):
        log_old_names(found)
        log_old_names(line.parse_args(["--new", "1"]))
    (record,) = caplog.records
    assert "--old" in record.getMessage() and "--new" in record.getMessage()
    with pytest.raises(SystemExit):  # the type of the new option counts
        line.parse_args(["--old", "x"])


@pytest.mark.parametrize("text", ["-1", "1.5", "x", "", "²"])
def test_whole_numbers(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        options.count(text)
    with pytest.raises(argparse.ArgumentTypeError):
        options.positive("0")
    assert (options.count("0"), options.positive("7")) == (0, 7)


@pytest.mark.slow
def test_json_is_one_object_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file, run = str(toy_runs.config_file(tmp_path, iterations=1)), str(tmp_path / "run")
    rollouts = f"{run}/iterations/001/rollouts.jsonl"
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"prompt": "p", "responses": ["1", "2"], "answer": 1, "scores": [1, 0]}\n')
    draw = ["--policy", "policy", "--inline", "--max-new-tokens", "5", "-n", "2"]
    length = ["--reward", "function:length"]
    found = {}
    for command in (
        ["validate", file],
        ["validate", "--keys"],
        ["run", file],
        ["curves", run],
        ["report", run],
        ["replay", run],
        ["eval-pool", str(asked)],
        ["sample", str(asked), *draw],
        ["bon", str(asked)],
        ["score", rollouts, "--output-column", "n", *length],
        ["rank", rollouts, *length],
        ["train-reward", "--keys"],
    ):
        assert main([*command, "--json", "--quiet"]) == 0
        found[command[0]] = json.loads(capsys.readouterr().out)
        assert isinstance(found[command[0]], dict)
    assert found["run"]["run_dir"] == run and "eval/reward_mean" in found["run"]["metrics"]
    assert found["curves"] == {"files": [f"{run}/curves.png"]}
    assert found["report"] == {"report": f"{run}/report.html"}


def test_settings_are_named_as_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    prompts, pool = tmp_path / "prompts.jsonl", tmp_path / "pool.jsonl"
    toy_runs.settings(tmp_path)
    toy_runs.write_rows(pool, [{"prompt": "tree", "responses": ["good", "bad"]}])
    policy = str(tmp_path / "policy")
    for command, words in (
        (f"sample {prompts} --policy {policy} --temperature -1", "--temperature: is -1.0"),
        (f"sample {prompts} --policy {policy} --max-new-tokens 9999", "Lower --max-new-tokens"),
        ("serve-reward --reward function:length --host 0.0.0.0", "--host 0.0.0.0: "),
        ("serve-reward --reward function:length --host 0.0.0.0", "(--token-env)"),
        ("serve-reward --reward function:length --token-env NONE", "--token-env NONE: "),
        (f"score {pool} --reward word_lits --max-length 5", "function:word_list"),
        (f"score {pool} --reward word_lits --set arguments.unit=chars", "function:word_list"),
        (f"score {pool} --reward function:word_lits", "no such reward function"),
        (f"score {pool} --reward mine.py:score", "function:mine.py:score"),
    ):
        assert main(command.split()) == 2
        assert words in capsys.readouterr().err
    # which is known before the output is looked at
    assert main(f"score --quiet {pool} --reward function:length".split()) == 0
    capsys.readouterr()
    assert main(f"score --quiet {pool} --reward function:lenght".split()) == 2
    assert "no such reward function" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["report", "curves", "watch", "push --to me/model"])
@pytest.mark.parametrize("name", ["", " "])
def test_a_run_folder_without_a_name_is_not_this_one(
    command: str, name: str, capsys: pytest.CaptureFixture[str]
):
    first, *others = command.split()
    assert main([first, name, *others]) == 2
    assert capsys.readouterr().err.count("\n") == 1
