"""Curves: what is read from metrics.jsonl, what is drawn, and every run that cannot be drawn."""

from __future__ import annotations

import csv
import json
import re
import statistics
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from wording import says

from raft.cli.main import main
from raft.curves import draw_curves
from raft.curves.figure import make_picture
from raft.curves.panels import select_panels
from raft.curves.runs import known_keys, read_settings, series_of
from raft.curves.style import STYLES
from raft.runs.metrics import read_metrics
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


def numbers(file: Path) -> list[dict[str, str]]:
    with file.open() as lines:
        return list(csv.DictReader(lines))


def figure_of(runs, look="paper", x="iteration", panels=None, width=None):
    """What `draw_curves` saves."""
    settings = read_settings(runs)
    drawn = [
        (panel, [series for one in settings for series in series_of(one, panel, x)])
        for panel in select_panels(known_keys(settings), panels, None, x)
    ]
    with matplotlib.rc_context(STYLES[look].rc):
        figure = make_picture(drawn, STYLES[look], x, width=width)
        figure.draw_without_rendering()
    return figure


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_single_run_is_drawn_with_its_details(tmp_path):
    run = write_run(
        tmp_path / "first",
        evaluated(0, **{"eval/best_of_k": 1.0, "eval/gold_mean": 0.5}),
        evaluated(1, **{"eval/best_of_k": 1.1, "rollout/reward_mean": 0.2}),
        {"iteration": 2, "eval/reward_mean": None, "rollout/reward_mean": float("nan")},
        {"iteration": 3, "eval/reward_mean": True, "eval/best_of_k": 10**400},
    )
    (picture,) = draw_curves([run], tmp_path / "c.svg")
    text = picture.read_text()
    for words in ("Held-out reward", "Held-out gold reward", "first", "best of K",
                  "training batch", "95 % interval"):  # fmt: skip
        assert f">{words}<" in text
    assert drawn(picture) == {
        "first eval/reward_mean", "first eval/best_of_k", "first rollout/reward_mean",
        "first eval/gold_mean",
    }  # fmt: skip


@pytest.mark.slow
def test_several_runs_are_drawn_without_details(tmp_path):
    rows = [evaluated(i, **{"eval/best_of_k": 1.0, "rollout/reward_mean": 1.0}) for i in range(2)]
    runs = [write_run(tmp_path / name, *rows) for name in ("first", "second")]
    gold = write_run(tmp_path / "third", evaluated(0, **{"eval/gold_mean": 0.5}))
    (picture,) = draw_curves([*runs, gold], tmp_path / "c.svg")
    assert drawn(picture) == {
        "first eval/reward_mean", "second eval/reward_mean", "third eval/reward_mean",
        "third eval/gold_mean",
    }  # fmt: skip


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("line, says", [
    ("{broken", "metrics.jsonl:2: not valid JSON"),
    ("[" * 100_000, "metrics.jsonl:2: not valid JSON"),
    ("3", "metrics.jsonl:2: no whole number as iteration"),
    ('{"phase": "eval"}', "metrics.jsonl:2: no whole number as iteration"),
    ('{"iteration": 1.5}', "metrics.jsonl:2: no whole number as iteration"),
])  # fmt: skip
def test_a_broken_line_is_named_and_the_rest_is_drawn(tmp_path, caplog, line, says):
    run = write_run(tmp_path / "run", evaluated(0), line, evaluated(1))
    with pytest.raises(InputError, match=re.escape(says)):
        read_metrics(run)
    draw_curves([run], tmp_path / "c.svg", data=tmp_path / "c.csv")
    assert says in caplog.text
    assert [row["iteration"] for row in numbers(tmp_path / "c.csv")] == ["0", "1"]
    only = write_run(tmp_path / "only", line)
    assert says.replace(":2:", ":1:") in refused([only], tmp_path / "d.svg")


def test_a_run_that_cannot_be_read_is_named_and_the_others_are_drawn(tmp_path, caplog):
    fine = write_run(tmp_path / "fine", evaluated(0))
    early = write_run(tmp_path / "early", {"iteration": 1, "rollout/reward_mean": 1.0})
    (tmp_path / "bare").mkdir()
    runs = [tmp_path / "none", fine, early, tmp_path / "bare"]
    (picture,) = draw_curves(runs, tmp_path / "c.svg")
    assert drawn(picture) == {"fine eval/reward_mean"}
    for words in ("none: no such run folder", "bare: holds no metrics.jsonl",
                  "early/metrics.jsonl: no row has eval/reward_mean"):  # fmt: skip
        assert words in caplog.text


def test_what_cannot_be_drawn(tmp_path):
    out = tmp_path / "c.png"
    (tmp_path / "bare").mkdir()
    no_eval = write_run(tmp_path / "early", {"iteration": 1, "rollout/reward_mean": 1.0})
    fine = write_run(tmp_path / "fine", evaluated(0))
    assert "no such run folder" in refused([tmp_path / "none"], out)
    assert "holds no metrics.jsonl" in refused([tmp_path / "bare"], out)
    assert says(refused([no_eval], out), "reward no run has eval/reward_mean")
    assert "no rows yet" in refused([write_run(tmp_path / "empty")], out)
    assert "no run is given" in refused([], out)
    assert says(refused([fine], tmp_path / "c.jpg"), ".png .svg .pdf")
    assert says(refused([fine], out, data="c.txt"), ".csv .json")
    assert says(refused([fine], out, metrics=["x/y"]), "x/y no run has this metric eval/")
    assert "time/eval: no run has this metric" in refused([fine], out, x="time/eval")
    assert says(refused([fine], out, panels=["x"]), "no such panel reward")
    assert says(refused([fine], out, panels=["kl"]), "kl no run has eval/kl_k1")
    assert "no run has eval/gold_mean" in refused([fine], out, panels=["proxy_gold"])
    assert says(refused([fine], out, width=0), "width inches")
    assert "2 labels for 1 runs" in refused([fine], out, labels=["a", "b"])
    assert "is the label of two settings" in refused([f"a={fine}", f"a={no_eval}"], out)
    assert says(refused([f"a={fine},{fine}"], out), f"{fine} 2 times")
    assert "cannot be written" in refused([fine], fine / "metrics.jsonl/c.png")
    assert sorted(path.name for path in tmp_path.glob("*.*")) == []


def test_pyplot_is_never_loaded(tmp_path):
    import sys

    run = write_run(tmp_path / "run", evaluated(0))
    before = "matplotlib.pyplot" in sys.modules
    draw_curves([run], tmp_path / "c.png")
    assert ("matplotlib.pyplot" in sys.modules) == before


@pytest.mark.slow
def test_data_are_the_numbers_that_were_measured(tmp_path):
    rows = [evaluated(i, **{"eval/gold_mean": i * i / 7}) for i in range(4)]
    run = write_run(tmp_path / "run", *rows)
    draw_curves([run], tmp_path / "c.png", data=tmp_path / "new/c.csv")
    found = numbers(tmp_path / "new/c.csv")
    for metric in ("eval/reward_mean", "eval/gold_mean"):
        values = [float(row["value"]) for row in found if row["metric"] == metric]
        assert values == [row[metric] for row in rows]
    # the gold has no interval here, and is not said to have one of no width
    assert {row["ci95"] for row in found if row["metric"] == "eval/gold_mean"} == {""}
    assert {row["ci95"] for row in found if row["metric"] == "eval/reward_mean"} == {"0.05"}


def test_seeds_become_their_mean_and_students_interval(tmp_path, caplog):
    values = {0: (1.0, 2.0, 6.0), 1: (0.5, 0.25, 0.0)}
    runs = [
        write_run(tmp_path / f"s{seed}", *(evaluated(i, **{"eval/reward_mean": values[i][seed]})
                                           for i in values))
        for seed in range(3)
    ]  # fmt: skip
    # only some got further: a mean over these alone would jump
    with (runs[0] / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(evaluated(2)) + "\n")
    draw_curves([f"K = 4={','.join(map(str, runs))}"], tmp_path / "c.svg", data=tmp_path / "c.csv")
    found = numbers(tmp_path / "c.csv")
    assert [(row["setting"], row["runs"]) for row in found] == [("K = 4", "3")] * 2
    for row in found:
        own = values[int(row["iteration"])]
        assert float(row["value"]) == pytest.approx(statistics.mean(own))
        # the 97.5 % point of Student's t with two degrees of freedom, from its table
        half = 4.302653 * statistics.stdev(own) / 3**0.5
        assert float(row["ci95"]) == pytest.approx(half, rel=1e-6)
    assert ">95 % interval over runs<" in (tmp_path / "c.svg").read_text()
    assert "is not in every run at iteration 2" in caplog.text


def test_a_seed_that_has_nothing_to_draw_is_named_and_not_counted(tmp_path, caplog):
    runs = [write_run(tmp_path / f"s{seed}", evaluated(0), evaluated(1)) for seed in range(2)]
    early = write_run(tmp_path / "early", {"iteration": 1, "rollout/reward_mean": 1.0})
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "metrics.jsonl").touch()
    label = f"mine={','.join(map(str, [*runs, early, tmp_path / 'begun']))}"
    draw_curves([label], tmp_path / "c.svg", panels=["reward"])
    assert ">mine (2 runs)<" in (tmp_path / "c.svg").read_text()
    for path in (early, tmp_path / "begun"):
        assert f"eval/reward_mean is in no row of {path}: skipped" in caplog.text


@pytest.mark.slow
def test_proxy_and_gold_against_kl_follow_the_iterations(tmp_path):
    # the KL turns back: the line must, too
    kl = [0.0, 2.0, 1.5, 4.0]
    gold, proxy = [1.0, 2.0, 3.0, 2.5], [5.0, 6.0, 7.0, 8.0]
    rows = [
        evaluated(i, **{"eval/kl_k1": kl[i], "eval/gold_mean": gold[i], "eval/gold_ci95": 0.1,
                        "eval/reward_mean": proxy[i], "rollout/reward_mean": 9.0})
        for i in range(4)
    ]  # fmt: skip
    run = write_run(tmp_path / "run", *rows)
    lines = {
        line.get_gid(): (
            np.asarray(line.get_xdata()).tolist(),
            np.asarray(line.get_ydata()).tolist(),
        )
        for line in figure_of([run], x="eval/kl_k1").axes[0].lines
        if line.get_gid()
    }
    assert lines == {
        "run eval/gold_mean": (kl, [0.0, 1.0, 2.0, 1.5]),
        "run eval/reward_mean": (kl, [0.0, 1.0, 2.0, 3.0]),
    }
    for scale in ("sqrt", "log"):
        draw_curves([run], tmp_path / f"{scale}.png", x="eval/kl_k1", x_scale=scale)


def test_the_panels_are_what_the_runs_are_about():
    reward, kl = "eval/reward_mean", "eval/kl_k1"

    def titles(*known: str, x: str = "iteration") -> list[str]:
        return [panel.title for panel in select_panels(known, None, None, x)]

    assert titles(reward, "eval/win_rate") == ["Held-out reward"]
    assert titles("eval/win_rate") == ["Win rate against the start"]  # a judge
    assert titles(reward, "eval/win_rate", "eval/gold_win_rate") == [  # a gold judge
        "Held-out reward", "Win rate against the start"
    ]  # fmt: skip
    assert titles(reward, "eval/gold_mean", kl) == [
        "Held-out reward", "Held-out gold reward", "KL to the starting policy"
    ]  # fmt: skip
    assert titles(reward, "eval/gold_mean", kl, x=kl) == ["Proxy and gold reward"]
    assert titles(reward, kl, x=kl) == ["Held-out reward"]


@pytest.mark.slow
def test_what_an_update_measured_can_be_drawn(tmp_path):
    measured = ("ratio_mean", "clip_share", "kl_drawn", "entropy", "grad_norm")
    rows = (
        evaluated(i, **{f"train/{name}": 0.1 * i + 1 for name in measured if i}) for i in range(4)
    )
    run = write_run(tmp_path / "r", *rows)
    panels = ["ratio", "update_kl", "entropy", "grad_norm"]
    draw_curves([run], tmp_path / "c.svg", panels=panels)
    assert drawn(tmp_path / "c.svg") == {f"r train/{name}" for name in measured}
    assert "no run has an evaluation with train/pair_accuracy" in refused([run], panels=["pairs"])


def test_guards_and_stops_are_marked(tmp_path, caplog):
    run = write_run(tmp_path / "run", *map(evaluated, range(4)))
    guard = {"iteration": 2, "guard": "ngram_jump", "message": "'#'", "stops": False}
    (run / "guards.jsonl").write_text(f"{json.dumps(guard)}\n{{torn\n")
    stopped = {"iteration": 3, "guard": "kl_budget", "message": "", "best_iteration": 1}
    (run / "stopped.json").write_text(json.dumps(stopped))
    (picture,) = draw_curves([run], tmp_path / "c.svg", data=tmp_path / "c.json")
    marks = set(re.findall(r'<g id="run ((?:guard|stopped|best) \d)">', picture.read_text()))
    assert marks == {"guard 2", "stopped 3", "best 1"}
    assert ">guard fired (ngram_jump)<" in picture.read_text()
    assert "guards.jsonl:2: is not a row of a guard" in caplog.text
    exported = json.loads((tmp_path / "c.json").read_text())
    assert [mark["kind"] for mark in exported["marks"]] == ["guard", "stopped", "best"]


@pytest.mark.slow
def test_marks_of_several_runs_at_one_iteration_can_all_be_seen(tmp_path):
    runs = [write_run(tmp_path / name, *map(evaluated, range(4))) for name in "abc"]
    mark = {"iteration": 2, "guard": "kl_budget", "message": "", "stops": True}
    for run in runs[1:]:
        (run / "guards.jsonl").write_text(json.dumps(mark) + "\n")
        (run / "stopped.json").write_text(json.dumps({**mark, "best_iteration": 1}))
    (picture,) = draw_curves(runs, tmp_path / "c.svg", panels=["reward"])
    text = picture.read_text()
    ticks, dots = [
        [
            text.partition(f'<g id="{run} {kind} 2">')[2].partition("</g>\n   </g>")[0]
            for run in "bc"
        ]
        for kind in ("guard", "stopped")
    ]
    places = [re.findall(r'<use [^>]*x="([^"]+)" y="([^"]+)"', tick)[0] for tick in ticks]
    assert places[0][0] == places[1][0] and float(places[0][1]) > float(places[1][1])
    offsets = [re.findall(r"stroke-dashoffset: ([^;]+)", dot)[0] for dot in dots]
    assert offsets[0] != offsets[1]


@pytest.mark.slow
def test_a_label_that_was_given_is_drawn(tmp_path):
    run, other = (write_run(tmp_path / name, *map(evaluated, range(3))) for name in ("r", "s"))

    def written(given, style):
        draw_curves([given], tmp_path / "c.svg", style=style, panels=["reward"])
        text = (tmp_path / "c.svg").read_text()
        return set(re.findall(r"(?:<!-- |>)([^<>]+?)(?= -->|<)", text))  # outlines are commented

    for style in ("screen", "paper"):
        assert "ours (2 runs)" in written(f"ours={run},{other}", style)
        assert "ours" in written(f"ours={run}", style)
    # the caption of a paper names the only run
    assert "r" in written(run, "screen") and "r" not in written(run, "paper")


def everything(folder: Path, name: str, iterations: int = 6) -> Path:
    """A run that has every panel."""
    keys = ("best_of_k", "gold_mean", "gold_ci95", "kl_k1", "kl_k1_ci95", "kl_k3", "perplexity",
            "msttr", "duplicate_share", "distinct_1", "distinct_2", "length_mean", "win_rate",
            "win_rate_ci95", "gold_win_rate")  # fmt: skip
    stages = ("generate", "score", "select", "train", "sync", "eval", "iteration")
    rows = (
        evaluated(
            i,
            **{f"eval/{key}": 0.3 + i * 0.1 for key in keys},
            **{f"time/{stage}": 1.0 + i for stage in stages},
            **{"rollout/reward_mean": 0.1 * i},
        )
        for i in range(iterations)
    )
    return write_run(folder / name, *rows)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "look, width", [("screen", 3.25), ("screen", None), ("paper", 2.0), ("paper", 3.25),
                    ("paper", 6.75)]
)  # fmt: skip
@pytest.mark.parametrize("names", [["one"], ["long " * 40, "$x$", "_y", "z\n"]])
def test_nothing_covers_anything(tmp_path, look, width, names):
    runs = [everything(tmp_path, name) for name in names]
    panels = ["reward", "kl", "diversity", "time"]
    figure = figure_of(runs, look, panels=panels, width=width)
    assert figure.get_figwidth() == width or width is None
    keys = [key for ax in figure.axes if (key := ax.get_legend())] + figure.legends
    boxes = {
        **{f"axes {i}": ax.get_window_extent() for i, ax in enumerate(figure.axes)},
        **{f"key {i}": key.get_window_extent() for i, key in enumerate(keys)},
        **{f"title {i}": ax.title.get_window_extent() for i, ax in enumerate(figure.axes)},
        **{f"x {i}": ax.xaxis.label.get_window_extent() for i, ax in enumerate(figure.axes)},
        **{f"y {i}": ax.yaxis.label.get_window_extent() for i, ax in enumerate(figure.axes)},
    }
    boxes = {name: box for name, box in boxes.items() if box.width > 0}
    for (one, box), (other, another) in combinations(boxes.items(), 2):
        assert not box.padded(-1).overlaps(another.padded(-1)), f"{one} covers {other}"
    whole = figure.bbox.padded(2)
    for name, box in boxes.items():
        assert whole.contains(box.x0, box.y0) and whole.contains(box.x1, box.y1), name


def test_runs_differ_in_more_than_colour(tmp_path):
    runs = [everything(tmp_path, f"r{i}") for i in range(7)]
    (ax,) = figure_of(runs, panels=["reward"]).axes
    lines = [line for line in ax.lines if line.get_gid()]
    assert len({str(line.get_color()) for line in lines}) == 7
    assert len({str(line.get_marker()) for line in lines}) == 7


@pytest.mark.slow
def test_paper_style_embeds_its_fonts(tmp_path):
    run = everything(tmp_path, "run")
    draw_curves([run], tmp_path / "c.pdf", style="paper")
    fonts = (tmp_path / "c.pdf").read_bytes()
    assert b"/FontFile2" in fonts and b"/Type3" not in fonts
    draw_curves([run], tmp_path / "c.svg", style="paper")
    assert "<text" not in (tmp_path / "c.svg").read_text()
    assert f'width="{6.75 * 72:g}pt"' in (tmp_path / "c.svg").read_text()


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    runs = [str(everything(tmp_path, name)) for name in ("lr=1", "b")]
    out, data = tmp_path / "c.pdf", tmp_path / "c.json"
    options = ["--panels", "reward,time", "--metrics", "train/loss,eval/kl_k3", "--out", str(out)]
    assert main(["curves", *runs, *options]) == 2
    assert "train/loss: no run has this metric" in capsys.readouterr().err
    options[3] = "eval/kl_k3"
    assert main(["curves", *runs, *options, "--labels", "x,y", "--data", str(data)]) == 0
    assert capsys.readouterr().out == f"{out}\n{data}\n"
    points = json.loads(data.read_text())["points"]
    assert {point["setting"] for point in points} == {"x", "y"}
    assert {point["panel"] for point in points} == {
        "Held-out reward", "Time per iteration", "eval/kl_k3"
    }  # fmt: skip
