"""Reports on runs that are damaged or not over, and what a report refuses."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from report_page import report
from report_runs import sample_row, write_rows, write_run

from raft.cli.main import main
from raft.report import write_report

DAMAGE = {
    "cut short": (
        "iterations/001/rollouts.jsonl",
        "1 damaged row skipped: iterations/001/rollouts.jsonl:3: cut",
    ),
    "no metrics": ("metrics.jsonl", "metrics.jsonl is missing"),
    "no config": ("config.yaml", "config.yaml is missing"),
    "no env": ("env.json", "env.json is missing"),
    "no eval": ("iterations/001/eval.jsonl", "iteration 1: no eval.jsonl"),
    "no rollouts": ("iterations/002/rollouts.jsonl", "iteration 2: no rollouts.jsonl"),
    "no chosen": ("iterations/002/selected.jsonl", "iteration 2: no selected.jsonl"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_and_the_rest_is_shown(
    tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run(tmp_path / "run")
    file, said = DAMAGE[case]
    whole = (run / file).read_bytes()
    if case == "cut short":
        (run / file).write_bytes(whole[:-20])
    else:
        (run / file).unlink()
    with caplog.at_level(logging.WARNING):
        page = report(run)
    assert [text for text in page.data["notices"] if text.startswith(said)]
    # and as a warning, each once
    assert caplog.messages == page.data["notices"]
    untouched = [stage for stage in page.data["stages"] if stage["iteration"] == 0]
    assert untouched[0]["prompts"] == 3
    if case == "cut short":
        assert len(page.rows(1, "rollouts")) == 2


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "7", '{"id": 1}', '{"id": "x", "prompt": "y", "responses": "z"}',
     '{"id": "x", "prompt": "y", "responses": ["a"], "scores": [1, 2]}',
     '{"id": "x", "prompt": 5, "responses": ["a"]}', "9" * 5000, "[" * 100_000],
)  # fmt: skip
def test_a_damaged_row_costs_itself_alone(tmp_path: Path, line: str) -> None:
    run = write_run(tmp_path / "run")
    file = run / "iterations/000/eval.jsonl"
    rows = file.read_text().splitlines()
    file.write_text("\n".join([rows[0], line, *rows[1:]]) + "\n")
    with open(file, "ab") as stream:
        stream.write(b'{"id": "\xff"}\n')
    page = report(run)
    assert len(page.rows(0, "eval")) == 3
    (said,) = page.data["notices"]
    assert said.startswith("2 damaged rows skipped: iterations/000/eval.jsonl:2: ")
    assert "iterations/000/eval.jsonl:5: not UTF-8" in said


def test_damaged_metrics_and_guards(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 2, "phase": "eval", "eval/reward_mean": NaN, "eval/gold_mean"\n')
    (run / "guards.jsonl").write_text('{"iteration": 1, "guard": "kl", "message": NaN}\n{"iter')
    (run / "stopped.json").write_text("{")
    (run / "env.json").write_text("[]]")
    page = report(run)
    texts = "\n".join(page.data["notices"])
    for name in ("metrics.jsonl:6", "guards.jsonl:2", "stopped.json", "env.json"):
        assert name in texts
    assert [guard["guard"] for guard in page.data["guards"]] == ["kl"]
    assert len(page.data["metrics"]) == 3


def test_a_run_in_progress(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", iterations=2)
    config = json.loads((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(json.dumps({**config, "iterations": 9}))
    folder = run / "iterations/003"
    folder.mkdir()
    (folder / ".rollouts.samples").write_text('{"id": "x"')
    texts = report(run).data["notices"]
    assert any(text.startswith("iteration 3: rollouts not finished") for text in texts)
    assert any(text.startswith("the run is not over: 2 of 9") for text in texts)
    # a run that a guard ended is over
    stopped = {"iteration": 2, "guard": "kl", "message": "KL 9 > 5", "best_iteration": 1}
    (run / "stopped.json").write_text(json.dumps(stopped))
    page = report(run)
    assert not any("not over" in text for text in page.data["notices"])
    assert page.data["stopped"]["best_iteration"] == 1


def test_missing_iterations_in_the_middle(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", iterations=7)
    for iteration in (2, 4, 5):
        shutil.rmtree(run / f"iterations/00{iteration}")
    page = report(run)
    # what is alike is said once
    (said,) = page.data["notices"]
    assert said == "iterations 2, 4–5: no folder, so no samples"
    assert {stage["iteration"] for stage in page.data["stages"]} == {0, 1, 3, 6, 7}
    assert [row["iteration"] for row in page.data["metrics"]] == list(range(8))


def test_before_training_only(tmp_path: Path) -> None:
    page = report(write_run(tmp_path / "run", iterations=0))
    assert page.data["notices"] == []
    assert [stage["phase"] for stage in page.data["stages"]] == ["eval"]
    assert [one["title"] for one in page.data["lists"]] == ["Best", "Worst"]


def test_a_run_with_nothing_yet(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("iterations: 3\n")
    page = report(run)
    assert page.data["stages"] == [] and page.data["lists"] == []
    assert "there are no samples yet" in page.data["notices"]


@pytest.mark.parametrize("score", [None, float("nan"), float("inf"), 1e300, 10**400, "7"])
def test_scores_that_are_none(tmp_path: Path, score: Any) -> None:
    run = write_run(tmp_path / "run", iterations=0, prompts=1)
    row = sample_row("a", ["x", "y"], [score, 1.0], gold_scores=[score, score])
    write_rows(run / "iterations/000/eval.jsonl", [row, sample_row("b", ["x"], [score])])
    page = report(run)
    assert page.rows(0, "eval")[0]["scores"]["reward"] == [None, 1.0]


def refused(*arguments: str | Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["report", *map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_wrong_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    assert "no such run folder" in refused(tmp_path / "none", capsys=capsys)
    (tmp_path / "empty").mkdir()
    assert "nothing of a run" in refused(tmp_path / "empty", capsys=capsys)
    assert ".html" in refused(run, "--out", tmp_path / "report.pdf", capsys=capsys)
    assert "--max-prompts" in refused(run, "--max-prompts", "0", capsys=capsys)
    (tmp_path / "page.html").mkdir()
    assert "is a folder" in refused(run, "--out", tmp_path / "page.html", capsys=capsys)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(run, "--out", tmp_path / "file/a.html", capsys=capsys)


def test_the_command_says_where_the_page_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new/page.html"
    assert main(["report", str(write_run(tmp_path / "run")), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]


def test_an_interrupted_report_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = write_run(tmp_path / "run"), tmp_path / "report.html"
    write_report(run, out)
    before = out.read_bytes()

    def interrupted(*_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("raft.report.page.end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_report(run, out)
    assert out.read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_is_the_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".report.html.partial").symlink_to("/dev/full")
    run, out = write_run(tmp_path / "run"), tmp_path / "report.html"
    assert "report.html: no space left on the disk" in refused(run, "--out", out, capsys=capsys)
