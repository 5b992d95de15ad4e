"""Time `raft report` on a run of a given size, and opening its page.

    python -m experiments.bench.report --megabytes 100 --repeat 5
    python -m experiments.bench.report --run runs/mine

Opening is counted from the request for the file to the end of the page's own script and its first
paint, in a fresh profile each time; then a reader goes to the samples, and searches all of them for
a text that is nowhere. Required: a run of 100 MB opens in under 3 seconds.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.bench.table import spread, table

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
ITERATIONS, K, WORDS = 5, 8, 100


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(options.run) if options.run else write_run(Path(scratch), options.megabytes)
        found = measure(run, Path(scratch) / "report.html", options.repeat)
    print(json.dumps(found) if options.json else _text(found))


def measure(run: Path, page: Path, repeat: int) -> dict[str, Any]:
    start = time.monotonic()
    command = [sys.executable, "-m", "raft.cli", "report", str(run), "--out", str(page), "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    written = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    opened = [open_page(page) for _ in range(repeat)]
    return {
        "run_mb": sum(file.stat().st_size for file in run.rglob("*") if file.is_file()) / 1e6,
        "page_mb": page.stat().st_size / 1e6,
        "write_seconds": written,
        "write_peak_mib": peak,
        **{key: [one[key] for one in opened] for key in opened[0]},
    }


def open_page(page: Path) -> dict[str, float]:
    """Return seconds until a fresh browser shows the page, the samples, and a search in them."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.goto(page.resolve().as_uri())
        paint, load = tab.evaluate(
            "() => [performance.getEntriesByType('paint').at(-1).startTime,"
            " performance.getEntriesByType('navigation')[0].loadEventEnd]"
        )
        unpacked = tab.evaluate("document.body.dataset.unpacked")
        assert unpacked == "0", f"{unpacked} blocks were unpacked while opening"
        start = time.monotonic()
        tab.locator("#samples").scroll_into_view_if_needed()
        tab.wait_for_selector("#detail .sample")
        samples = time.monotonic() - start
        tab.get_by_label("all iterations").check()
        start = time.monotonic()
        tab.get_by_role("searchbox").fill("nowhere to be found")
        tab.get_by_text("No prompt matches").wait_for()
        searched = time.monotonic() - start
        browser.close()
    return {
        "open_seconds": max(paint, load) / 1000,
        "samples_seconds": samples,
        "search_seconds": searched,
    }


def write_run(root: Path, megabytes: float, seed: int = 0) -> Path:
    """Make a run folder of this size, half held-out samples, with natural word frequencies."""
    run = root / "run"
    draw = random.Random(seed)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 9))) for _ in range(5000)]
    names = ["eval", *["rollouts", "eval"] * ITERATIONS]
    size = megabytes * 1e6 / len(names)
    for number, name in enumerate(names):
        iteration = (number + 1) // 2
        folder = run / f"iterations/{iteration:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / f"{name}.jsonl", "w") as file, open(run / "chosen", "w") as chosen:
            for row in _rows(draw, words, name, size):
                file.write(json.dumps(row) + "\n")
                best = max(range(K), key=row["scores"].__getitem__)
                chosen.write(json.dumps({"id": row["id"], "sample": best}) + "\n")
        if name == "rollouts":
            (run / "chosen").replace(folder / "selected.jsonl")
    (run / "chosen").unlink(missing_ok=True)
    rows = [
        {"iteration": i, "phase": "eval", "eval/reward_mean": i / 10, "train/loss": 1.0}
        for i in range(ITERATIONS + 1)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "config.yaml").write_text(f"iterations: {ITERATIONS}\n")
    (run / "env.json").write_text("{}")
    return run


def _rows(
    draw: random.Random, words: list[str], name: str, size: float
) -> Iterator[dict[str, Any]]:
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    number = 0
    while size > 0:
        row = {
            "id": f"{name}-{number}",
            "prompt": " ".join(draw.choices(words, weights, k=30)),
            "responses": [" ".join(draw.choices(words, weights, k=WORDS)) for _ in range(K)],
            "scores": [draw.gauss(0, 1) for _ in range(K)],
            "finish_reasons": ["stop"] * K,
            "policy_version": 0,
            "seeds": [draw.getrandbits(63) for _ in range(K)],
            "prompt_token_ids": [draw.randrange(50_000) for _ in range(40)],
            "token_ids": [[draw.randrange(50_000) for _ in range(130)] for _ in range(K)],
        }
        yield row
        number += 1
        size -= len(json.dumps(row))


def _text(found: dict[str, Any]) -> str:
    rows = [
        ["size of the run", f"{found['run_mb']:.0f} MB"],
        ["size of the page", f"{found['page_mb']:.1f} MB"],
        ["raft report", f"{found['write_seconds']:.1f} s, {found['write_peak_mib']:.0f} MiB"],
        ["opening", f"{spread(found['open_seconds'])} s"],
        ["first samples", f"{spread(found['samples_seconds'])} s"],
        ["search through all", f"{spread(found['search_seconds'])} s"],
    ]
    return table(["raft report", ""], rows)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.report",
        description=__doc__.partition("\n")[0] if __doc__ else None,
    )
    parser.add_argument("--run", help="a run folder; otherwise one is made up")
    parser.add_argument("--megabytes", type=float, default=100.0)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
