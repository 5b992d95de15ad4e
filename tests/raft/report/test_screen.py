"""The report in a real headless Chromium: what must not happen, whatever a run holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_reader import LAPTOP, PHONE, Reader, samples
from report_runs import HOSTILE, sample_row, selected_row, write_rows, write_run

from experiments.bench.report import write_run as write_large_run
from raft.report import write_report

pytest_plugins = ["report_fixtures"]


@pytest.mark.slow
def test_what_models_write_is_shown_and_does_nothing(reader: Reader, tmp_path: Path) -> None:
    run = write_run(tmp_path / "<img src=x onerror=alert(1)>", iterations=1, prompts=1)
    texts = [
        HOSTILE,
        "javascript:alert(1) <svg onload=alert(2)> {{7*7}} ${7*7}",
        "safe \u202egnp.exe\u202c \u200b\x00\x00\x00\x1b[31m \ud800 end",
        "z" + "\u0301" * 500 + "!",
        "m" * 3_000_000,
        "line\n" * 5000,
    ]
    row = sample_row(HOSTILE, texts, [6.0, 5.0, 4.0, 3.0, 2.0, 1.0], prompt=HOSTILE)
    row["prompt"] = [{"role": HOSTILE, "content": HOSTILE}]
    write_rows(run / "iterations/001/eval.jsonl", [row])
    guard = {"iteration": 1, "guard": HOSTILE, "message": HOSTILE, "stops": True}
    write_rows(run / "guards.jsonl", [guard])
    (run / "iterations/001/rollouts.jsonl").unlink()
    tab = reader.open(write_report(run, tmp_path / "report.html"))
    assert tab.locator("#guards").get_by_text(HOSTILE).count() == 2
    samples(tab)
    shown = tab.locator("#detail .sample .text")
    assert shown.nth(0).inner_text() == HOSTILE
    assert shown.nth(1).inner_text() == texts[1]
    # what would not be seen has a name
    assert "RLO" in shown.nth(2).inner_text() and "NUL×3 ESC" in shown.nth(2).inner_text()
    assert "U+D800" in shown.nth(2).inner_text()
    assert not any(mark in shown.nth(2).inner_text() for mark in "\u202e\u200b\x00\x1b")
    assert shown.nth(3).inner_text() == "z" + "\u0301" * 4 + "+496 marks!"
    # megabytes wait until they are asked for
    assert len(shown.nth(4).inner_text()) < 3000
    tab.get_by_role("button", name="of 3,000,000 characters").click()
    assert 50_000 < len(shown.nth(4).inner_text()) < 100_000
    tab.get_by_role("button", name="Show all 25,000 characters").click()
    assert shown.nth(5).inner_text().count("line") == 5000
    tab.get_by_role("searchbox").fill("<script>")
    tab.locator("#detail mark").first.wait_for()
    assert tab.evaluate("window.hacked === undefined && !document.querySelector('img')")
    # and if markup got in after all, the page's policy would not run it
    ran = tab.evaluate(
        "() => { const s = document.createElement('script'); try { s.text = 'window.hacked = 3' }"
        " catch (e) { return 'refused'; } document.body.append(s); return window.hacked; }"
    )
    assert ran in ("refused", None)
    reader.complaints = [text for text in reader.complaints if "requires 'Trusted" not in text]


@pytest.mark.slow
@pytest.mark.parametrize("viewport", [LAPTOP, PHONE], ids=["laptop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen(
    reader: Reader, tmp_path: Path, viewport: dict[str, int], scheme: str
) -> None:
    run = write_run(tmp_path / ("run-" + "x" * 120), iterations=3, prompts=30, k=5)
    wide = sample_row("i" * 200, ["w" * 900] * 5, [1.0, 2.0, None, 4.0, 5.0], prompt="p" * 900)
    write_rows(run / "iterations/003/eval.jsonl", [wide])
    write_rows(run / "guards.jsonl", [{"iteration": 2, "guard": "g" * 90, "message": "m" * 900}])
    (run / "iterations/002/eval.jsonl").unlink()
    tab = reader.open(write_report(run, tmp_path / "report.html"), viewport, color_scheme=scheme)
    samples(tab)
    for summary in tab.locator("summary").all():
        summary.click()
    assert tab.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    back, text = tab.evaluate(
        "() => { const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]; }"
    )
    assert (lightness(back) > lightness(text)) == (scheme == "light")


def lightness(color: str) -> int:
    return sum(int(part) for part in color.removeprefix("rgb(").removesuffix(")").split(","))


@pytest.mark.slow
def test_opening_unpacks_nothing(reader: Reader, tmp_path: Path) -> None:
    # what a page of 100 MB is opened for is what the reader looks at
    run = write_large_run(tmp_path, megabytes=6)
    page = write_report(run, tmp_path / "report.html")
    tab = reader.open(page)
    assert tab.locator("script[id^=block-]").count() > 20
    assert tab.evaluate("document.body.dataset.unpacked") == "0"
    samples(tab)
    tab.wait_for_selector(".places")
    # one block of rows, and the indexes of the phase
    assert int(tab.evaluate("document.body.dataset.unpacked")) <= 7


@pytest.mark.slow
def test_a_damaged_run_says_so_and_works(reader: Reader, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", iterations=2)
    (run / "metrics.jsonl").unlink()
    (run / "iterations/001/eval.jsonl").write_text('{"id": "x"')
    tab = reader.open(write_report(run, tmp_path / "report.html"))
    notice = tab.locator("#notices").inner_text()
    assert (
        "metrics.jsonl is missing" in notice and "iterations/001/eval.jsonl:1: cut short" in notice
    )
    assert tab.locator("#curves").is_hidden()
    samples(tab)
    tab.get_by_role("combobox", name="Iteration", exact=True).select_option("1")
    tab.get_by_text("This file holds no prompts").wait_for()
    tab.get_by_role("button", name="Next iteration").click()
    tab.wait_for_selector("#detail .sample")


@pytest.mark.slow
def test_scores_that_are_missing(reader: Reader, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", iterations=1, prompts=1)
    row = sample_row("a", ["x", "y"], [None, None])
    del row["finish_reasons"], row["seeds"], row["token_ids"], row["policy_version"]
    write_rows(run / "iterations/001/eval.jsonl", [row])
    write_rows(run / "iterations/001/selected.jsonl", [selected_row({**row, "id": "train-0"}, 1)])
    tab = reader.open(write_report(run, tmp_path / "report.html"))
    samples(tab)
    assert tab.locator("#detail .sample header").first.inner_text().count("missing") == 1
