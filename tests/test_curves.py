"""Curves: what is read from metrics.jsonl, what is drawn, and every run that cannot be drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from raft.curves import draw_curves
from raft.metrics import read_metrics
from rollout.errors import InputError


def write_run(folder: Path, *lines: object) -> Path:
    folder.mkdir(parents=True)
    text = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in text))
    return folder


def evaluated(iteration: int, **more: float) -> dict[str, object]:
    keys = {"eval/reward_mean": 0.1 * iteration, "eval/reward_ci95": 0.05}
    return {"iteration": iteration, "phase": "eval", **keys, **more}


def refused(*arguments, **named) -> str:
    with pytest.raises(InputError) as caught:
        draw_curves(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def drawn(picture: Path) -> set[str]:
    """The lines of an SVG, each named by run and metric."""
    return set(re.findall(r'<g id="(\S+ \S+/\S+)">', picture.read_text()))


def test_read_metrics_merges_phases_and_sorts(tmp_path):
    run = write_run(
        tmp_path / "run",
        {"iteration": 1, "phase": "rollout", "rollout/reward_mean": 1.0},
        {"iteration": 0, "phase": "eval", "eval/reward_mean": 0.0},
        "",
        {"iteration": 1, "phase": "eval", "eval/reward_mean": 2.0},
        {"iteration": 1, "phase": "rollout", "rollout/reward_mean": 3.0},  # after a resume
    )
    assert read_metrics(run) == [
        {"iteration": 0, "eval/reward_mean": 0.0},
        {"iteration": 1, "eval/reward_mean": 2.0, "rollout/reward_mean": 3.0},
    ]


def test_png_and_svg_by_suffix_and_both_without(tmp_path):
    run = write_run(tmp_path / "run", evaluated(0), evaluated(1))
    assert draw_curves([run], tmp_path / "new/a.png") == [tmp_path / "new/a.png"]
    assert (tmp_path / "new/a.png").read_bytes().startswith(b"\x89PNG")
    both = draw_curves([run], tmp_path / "b")
    assert both == [tmp_path / "b.png", tmp_path / "b.svg"]
    # nothing half written stays behind
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == [
        "a.png", "b.png", "b.svg", "metrics.jsonl"
    ]  # fmt: skip


def test_one_picture_of_several_runs(tmp_path):
    first = write_run(
        tmp_path / "first",
        evaluated(0, **{"eval/best_of_k": 1.0}),
        evaluated(1, **{"eval/best_of_k": 1.1, "rollout/reward_mean": 0.2}),
        {"iteration": 2, "eval/reward_mean": None, "rollout/reward_mean": float("nan")},
    )
    second = write_run(tmp_path / "second", evaluated(0, **{"eval/gold_mean": 0.5}))
    (picture,) = draw_curves([first, second], tmp_path / "c.svg")
    text = picture.read_text()
    for words in ("Reward on held-out prompts", "Gold reward on held-out prompts", "first",
                  "second", "best of K", "training batch", "mean, 95 % interval"):  # fmt: skip
        assert f">{words}<" in text
    assert drawn(picture) == {
        "first eval/reward_mean", "first eval/best_of_k", "first rollout/reward_mean",
        "second eval/reward_mean", "second eval/gold_mean",
    }  # fmt: skip


def test_no_gold_panel_without_gold(tmp_path):
    run = write_run(tmp_path / "run", evaluated(0))
    (picture,) = draw_curves([run], tmp_path / "c.svg")
    assert "Gold" not in picture.read_text()
    assert "best of K" not in picture.read_text()


def test_the_same_run_draws_the_same_file(tmp_path):
    run = write_run(tmp_path / "run", evaluated(0), evaluated(1))
    (first,), (second,) = (draw_curves([run], tmp_path / name) for name in ("a.svg", "b.svg"))
    assert first.read_bytes() == second.read_bytes()


def test_runs_of_one_folder_name_are_told_apart(tmp_path):
    runs = [write_run(tmp_path / at / "run", evaluated(0)) for at in ("a", "b")]
    (picture,) = draw_curves(runs, tmp_path / "c.svg")
    assert {">a/run<", ">b/run<"} <= set(re.findall(r">[ab]/run<", picture.read_text()))


def test_other_metrics_and_another_axis(tmp_path):
    rows = [{"iteration": i, "rollout/reward_mean": i, "time/iteration": 9 * i} for i in range(3)]
    run = write_run(tmp_path / "run", *rows)
    (picture,) = draw_curves(
        [run], tmp_path / "c.svg", metrics=["rollout/reward_mean"], x="time/iteration"
    )
    assert drawn(picture) == {"run rollout/reward_mean"}
    assert ">rollout/reward_mean (training batch)<" in picture.read_text()
    assert ">time/iteration<" in picture.read_text()


@pytest.mark.parametrize("line, says", [
    ("{broken", "metrics.jsonl:2: not valid JSON"),
    ("3", "metrics.jsonl:2: no whole number as iteration"),
    ('{"phase": "eval"}', "metrics.jsonl:2: no whole number as iteration"),
    ('{"iteration": 1.5}', "metrics.jsonl:2: no whole number as iteration"),
])  # fmt: skip
def test_a_broken_line_is_named(tmp_path, line, says):
    run = write_run(tmp_path / "run", evaluated(0), line)
    assert says in refused([run], tmp_path / "c.png")


def test_runs_that_cannot_be_drawn(tmp_path):
    out = tmp_path / "c.png"
    (tmp_path / "bare").mkdir()
    no_eval = write_run(tmp_path / "early", {"iteration": 1, "rollout/reward_mean": 1.0})
    fine = write_run(tmp_path / "fine", evaluated(0))
    assert "no such run folder" in refused([tmp_path / "none"], out)
    assert "holds no metrics.jsonl" in refused([tmp_path / "bare"], out)
    assert re.search(
        r"early.*no row has eval/reward_mean against iteration", refused([no_eval], out)
    )
    assert refused([fine, no_eval], out).startswith(f"{no_eval}/metrics.jsonl: no row has")
    assert "no run given" in refused([], out)
    assert "end the name in .png or .svg" in refused([fine], tmp_path / "c.jpg")
    assert re.search(
        r"^x/y: no run has it; choose from .*eval/", refused([fine], out, metrics=["x/y"])
    )
    assert "against time/eval" in refused([fine], out, x="time/eval")
    assert not out.exists()


def test_pyplot_is_never_loaded(tmp_path):
    import sys

    run = write_run(tmp_path / "run", evaluated(0))
    before = "matplotlib.pyplot" in sys.modules
    draw_curves([run], tmp_path / "c.png")
    assert ("matplotlib.pyplot" in sys.modules) == before
