"""Several runs on one page; how the scores lie; addresses, words that differ, CSV."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import report_page
from report_reader import Reader, samples
from report_runs import write_run

from raft.cli.main import main
from raft.report import write_report

pytest_plugins = ["report_fixtures"]


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    return [write_run(tmp_path / name) for name in ("first", "second")]


def _page(runs: list[Path]) -> report_page.Page:
    return report_page.Page(write_report(runs, runs[0].with_name("both.html")))


def test_curves_samples_and_settings_of_two_runs_are_on_the_page(pair: list[Path]) -> None:
    config = json.loads((pair[1] / "config.yaml").read_text())
    (pair[1] / "config.yaml").write_text(json.dumps({**config, "sampling": {"k": 16}}))
    alone, both = report_page.Page(write_report(pair[0])), _page(pair)
    title = pair[1].name
    for mine, merged in zip(alone.data["metrics"], both.data["metrics"], strict=True):
        assert mine.items() <= merged.items()
        beside = {key.removeprefix(f"{title}: "): merged[key] for key in merged if key not in mine}
        assert beside == {key: mine[key] for key in mine if key != "iteration"}  # the same numbers
    lines = both.data["panels"][0]["lines"]
    assert [line["key"].startswith(f"{title}: ") for line in lines] == (
        [False] * (len(lines) // 2) + [True] * (len(lines) // 2)
    )
    stages = [(one["iteration"], one["phase"]) for one in both.data["stages"]]
    assert len(stages) == 2 * len(alone.data["stages"]) and (1, "eval@1") in stages
    assert both.rows(1, "eval@1") == alone.rows(1, "eval")
    assert both.data["phases"]["eval@1"] == f"held-out prompts of {title}"
    differing = both.data["facts"][0]
    assert differing["title"] == "Settings that differ"
    assert [row[0] for row in differing["rows"]] == ["sampling.k"]
    assert both.data["lists"] == alone.data["lists"]
    drawn = [one for page in (alone, both) for one in page.data["facts"]
             if one["title"] == "Responses"]  # fmt: skip
    assert drawn[0] == drawn[1], "of the page's own run"


def test_a_name_that_stands_twice_is_told_apart(pair: list[Path]) -> None:
    page = _page([pair[0], pair[0]])
    assert page.data["phases"]["eval@1"] == f"held-out prompts of {pair[0].name} (2)"


def test_a_folder_that_is_no_run_is_refused(
    pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(pair[0]), str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_histograms_count_every_held_out_score_once(pair: list[Path]) -> None:
    page = report_page.Page(write_report(pair[0]))
    found = page.data["histogram"]
    for row in found["rows"]:
        scores = [
            score
            for one in page.rows(row["iteration"], "eval")
            for score in one["scores"]["reward"]
            if score is not None
        ]
        assert sum(row["counts"]) == len(scores)
        assert row["mean"] == pytest.approx(sum(scores) / len(scores))
        assert found["low"] <= min(scores) and max(scores) <= found["high"]
        wide = (found["high"] - found["low"]) / len(row["counts"])
        first = sum(score < found["low"] + wide for score in scores)
        assert row["counts"][0] == first


@pytest.mark.slow
def test_a_reader_compares_follows_links_and_saves(
    pair: list[Path],
    reader: Reader,
) -> None:
    page = write_report(pair, pair[0].with_name("both.html"))
    tab: Any = reader.open(page)
    assert tab.locator("#scores .bar").count() > 0
    samples(tab)
    links = tab.locator("#detail .sample h4 a")
    links.nth(1).click()
    tab.wait_for_function("document.querySelector('#detail .lit') !== null")
    wanted = links.nth(1).get_attribute("href")
    assert tab.evaluate("location.hash") == wanted
    tab.locator("#detail button", has_text="Compare").click()
    tab.wait_for_selector("#detail .compared ins, #detail .compared del, #detail .compared span")
    assert tab.locator("#detail .places button").count() >= 5  # both runs' evaluations, and Compare
    with tab.expect_download() as download:
        tab.locator("#controls button", has_text="CSV").click()
    text = Path(download.value.path()).read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    iteration = rows[0]["iteration"]
    stored = [
        json.loads(line)
        for line in (pair[0] / f"iterations/{int(iteration):03d}/eval.jsonl").open()
    ]
    assert [row["response"] for row in rows] == [r for one in stored for r in one["responses"]]
    scores = [score for one in stored for score in one["scores"]]
    assert [float(row["reward"]) for row in rows] == pytest.approx(scores, rel=1e-5)


@pytest.mark.slow
def test_a_cell_that_would_run_as_a_formula_does_not(pair: list[Path], reader: Reader) -> None:
    tab: Any = reader.open(write_report(pair[0]))
    assert tab.evaluate("[cell('=1+1'), cell(-2), cell('a\"b'), cell(null)]") == [
        "'=1+1", "-2", '"a""b"', "",
    ]  # fmt: skip
    parts = tab.evaluate("differing('a b c', 'a x c d')")
    assert "".join(text for kind, text in parts if kind != "new") == "a b c"
    assert "".join(text for kind, text in parts if kind != "old") == "a x c d"
