"""The report in a real headless Chromium: what a reader does with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy_runs
from report_reader import Reader, listed, samples
from report_runs import sample_row, write_rows, write_run

from raft import run as run_raft
from raft.report import write_report

pytest_plugins = ["report_fixtures"]


@pytest.fixture(scope="module")
def toy_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on a run that the loop really made, with a gold reward."""
    root = tmp_path_factory.mktemp("toy")
    gold = {"kind": "function", "function": "length"}
    run = run_raft(toy_runs.config(root, gold=gold, eval={"prompts": 10, "k": 3})).run_dir
    return write_report(run, root / "report.html")


@pytest.mark.slow
def test_a_run_is_read(reader: Reader, toy_report: Path) -> None:
    tab = reader.open(toy_report)
    for title in ("Curves", "Worth a look", "Samples", "Where the time went", "Facts"):
        assert tab.get_by_role("heading", name=title, exact=True).is_visible()
    assert tab.locator("#curves figure").count() >= 5
    assert tab.locator("#notices").is_hidden() and tab.locator("#guards").is_hidden()
    assert "word_list" in tab.locator("#lead").inner_text()
    samples(tab)
    assert tab.locator("#detail .sample").count() == 3
    tab.get_by_text("As a table", exact=True).click()
    assert tab.get_by_role("columnheader", name="generate").is_visible()


@pytest.mark.slow
def test_curves_are_read_by_pointer_and_keys(reader: Reader, toy_report: Path) -> None:
    rows = toy_runs.metrics(toy_report.parent / "run")
    tab = reader.open(toy_report)
    means = {r["iteration"]: r["eval/reward_mean"] for r in rows if r["phase"] == "eval"}
    first, second = (tab.locator("#curves .plot").nth(i) for i in (0, 1))

    def reads(iteration: int) -> None:
        assert first.get_attribute("aria-valuenow") == str(iteration)
        assert f"mean {means[iteration]:.3f}".replace("-", "−") in (
            first.get_attribute("aria-valuetext")
        )
        # all panels read the same iteration
        assert second.get_attribute("aria-valuenow") == str(iteration)

    reads(3)
    first.focus()
    tab.keyboard.press("ArrowLeft")
    reads(2)
    tab.keyboard.press("Home")
    reads(0)
    box = first.bounding_box()
    tab.mouse.move(box["x"] + box["width"] - 5, box["y"] + 50)
    reads(3)
    # a line is switched off and on again by its name
    lines = tab.locator("#curves figure").first.locator("polyline")
    before = lines.count()
    name = tab.get_by_role("button", name="best of K")
    name.click()
    assert (lines.count(), name.get_attribute("aria-pressed")) == (before - 1, "false")
    name.click()
    assert lines.count() == before
    assert tab.locator("#curves .band").count() > 0
    tab.get_by_label("95 % intervals").uncheck()
    assert tab.locator("#curves .band").count() == 0


@pytest.mark.slow
def test_switching_iteration_keeps_the_prompt(reader: Reader, toy_report: Path) -> None:
    stored = toy_runs.rows(toy_report.parent / "run/iterations/001/eval.jsonl")
    tab = reader.open(toy_report)
    samples(tab)
    tab.get_by_role("listbox", name="Prompts").focus()
    tab.keyboard.press("ArrowDown")
    tab.get_by_role("heading", name=stored[1]["id"]).wait_for()
    tab.get_by_role("combobox", name="Iteration", exact=True).select_option("1")
    tab.get_by_text("held-out prompts, iteration 1").wait_for()
    assert tab.get_by_role("heading", name=stored[1]["id"]).is_visible()
    shown = set(tab.locator("#detail .sample .text").all_text_contents())
    assert shown == set(stored[1]["responses"])
    # by the buttons that name the other iterations, too
    tab.get_by_role("group", name="The same prompt in other iterations").get_by_role(
        "button", name="3"
    ).click()
    tab.get_by_text("held-out prompts, iteration 3").wait_for()
    tab.get_by_role("button", name="Compare").click()
    tab.locator(".compared .sample").nth(3).wait_for()


@pytest.mark.slow
def test_chosen_ones_are_marked_and_filtered(reader: Reader, toy_report: Path) -> None:
    run = toy_report.parent / "run"
    chosen = {row["id"]: row for row in toy_runs.rows(run / "iterations/002/selected.jsonl")}
    tab = reader.open(toy_report)
    samples(tab)
    tab.get_by_role("combobox", name="Show").select_option("rollouts")
    tab.get_by_role("combobox", name="Iteration", exact=True).select_option("2")
    tab.get_by_text("training rollouts, iteration 2").wait_for()
    identity = tab.locator("#detail h3").inner_text()
    assert tab.locator("#detail .sample").count() == 4
    (text,) = tab.locator("#detail .sample.chosen .text").all_text_contents()
    assert text == chosen[identity]["response"]
    tab.get_by_label("chosen only").check()
    tab.wait_for_function("document.querySelectorAll('#detail .sample.dim').length === 3")
    # a score that none of the chosen has leaves nothing, and can be undone in one click
    tab.get_by_label("Lowest score").fill("1e6")
    tab.get_by_text("No prompt matches").wait_for()
    tab.get_by_role("button", name="Clear search and filters").click()
    listed(tab, "12 prompts")


@pytest.mark.slow
def test_filters_against_the_files(reader: Reader, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", iterations=0)
    rows = [
        sample_row(
            f"p{i}", ["x", "y"], [i / 10, None],
            finish_reasons=["length" if i % 3 == 0 else "stop", "stop"],
        )
        for i in range(20)
    ]  # fmt: skip
    write_rows(run / "iterations/000/eval.jsonl", rows)
    tab = reader.open(write_report(run, tmp_path / "report.html"))
    samples(tab)
    tab.get_by_label("cut at the limit").check()
    listed(tab, "7 of 20 prompts")
    tab.get_by_label("Lowest score").fill("0.35")
    tab.get_by_label("Highest score").fill("1.2")
    listed(tab, "3 of 20 prompts")  # 6, 9 and 12
    tab.get_by_label("cut at the limit").uncheck()
    listed(tab, "9 of 20 prompts")
    tab.get_by_label("Order").first.select_option("high")
    tab.get_by_role("heading", name="p12").wait_for()


@pytest.mark.slow
def test_search_finds_text_wherever_it_is(reader: Reader, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", iterations=2, prompts=50)
    file = run / "iterations/001/eval.jsonl"
    rows = toy_runs.rows(file)
    rows[40]["responses"][1] = "a Zebra (“quoted”) \\ back"
    write_rows(file, rows)
    tab = reader.open(write_report(run, tmp_path / "report.html"))
    samples(tab)
    field = tab.get_by_role("searchbox")
    field.fill("zebra")
    listed(tab, "0 of 50 prompts")
    tab.get_by_label("all iterations").check()
    listed(tab, "1 of 150 prompts")
    tab.get_by_text("held-out prompts, iteration 1").wait_for()
    assert tab.locator("#detail mark").all_text_contents() == ["Zebra"]
    # the response that has it stands out
    assert tab.locator("#detail .sample:not(.dim)").count() == 1
    # signs mean themselves, and JSON's escapes are none of the text
    for query, found in (("(“quoted”) \\", 1), (".*", 0), ("held-40", 3), ("ANSWER 2.7.", 1)):
        field.fill(query)
        listed(tab, f"{found} of 150 prompts")


@pytest.mark.slow
def test_keys_alone_are_enough(reader: Reader, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", iterations=1, prompts=500)
    tab = reader.open(write_report(run, tmp_path / "report.html"))
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "To the samples"
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#detail .sample")
    prompts = tab.get_by_role("listbox", name="Prompts")
    prompts.focus()
    for key, expected in (
        ("ArrowDown", "held-1"), ("End", "held-499"), ("ArrowUp", "held-498"), ("Home", "held-0"),
    ):  # fmt: skip
        tab.keyboard.press(key)
        tab.locator("#detail h3", has_text=expected).wait_for()
        active = prompts.get_attribute("aria-activedescendant")
        assert tab.locator(f"#{active}").get_attribute("aria-selected") == "true"
    # of the 500 only those in sight exist
    assert tab.get_by_role("option").count() < 40
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "detail"
    tabs = tab.get_by_role("tablist")
    tabs.get_by_role("tab").first.focus()
    tab.keyboard.press("ArrowRight")
    assert tabs.get_by_role("tab", selected=True).inner_text() == "Worst"
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.locator("#detail .sample.lit").wait_for()


@pytest.mark.slow
def test_focus_is_seen(reader: Reader, toy_report: Path) -> None:
    tab = reader.open(toy_report)
    samples(tab)
    seen = set()
    for _ in range(60):
        tab.keyboard.press("Tab")
        width, label = tab.evaluate(
            "() => { const e = document.activeElement, s = getComputedStyle(e);"
            " return [s.outlineStyle === 'none' ? 0 : parseFloat(s.outlineWidth), e.outerHTML]; }"
        )
        seen.add(label)
        assert width >= 1, f"no outline on {label[:200]}"
    assert len(seen) > 30
