"""Time `raft report` and `raft eval-pool` on inputs of growing size, and say how the time grows.

    python -m experiments.bench.growth
    python -m experiments.bench.growth --largest 16000

A report is of one evaluation of N prompts × 8 responses, a pool has N prompts × 8 numbers. The
exponent between two sizes is the slope of the logarithms. Required: below 1.2 at the largest, and a
report of 64,000 × 8 in 15 seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from experiments.bench.table import table

K, WORDS = 8, 12
SIZES = (4_000, 16_000, 64_000)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.growth", description=__doc__)
    parser.add_argument("--largest", type=int, default=SIZES[-1], metavar="N", help="prompts")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    sizes = [size for size in SIZES if size <= options.largest]
    found = {"report": measure(_report, sizes), "eval-pool": measure(_pool, sizes)}
    print(json.dumps(found) if options.json else _text(found))


def measure(command: Callable[[Path, int], None], sizes: Sequence[int]) -> list[dict[str, float]]:
    """Return a row for each size: prompts, seconds and, from the second on, the exponent."""
    rows: list[dict[str, float]] = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as scratch:
            seconds = _seconds(command, Path(scratch), size)
        row = {"prompts": float(size), "seconds": seconds}
        if rows:
            before = rows[-1]
            grown = math.log(seconds / before["seconds"])
            row["exponent"] = grown / math.log(size / before["prompts"])
        rows.append(row)
    return rows


def _seconds(command: Callable[[Path, int], None], scratch: Path, size: int) -> float:
    file = scratch / "run/iterations/000/eval.jsonl"
    file.parent.mkdir(parents=True)
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in _rows(size))
    (scratch / "run/metrics.jsonl").write_text('{"iteration": 0, "phase": "eval"}\n')
    began = time.monotonic()
    command(scratch, size)
    return time.monotonic() - began


def _rows(size: int) -> Iterator[dict[str, object]]:
    drawn = random.Random(0)
    for number in range(size):
        answers = [f"{' '.join(['word'] * WORDS)} #### {drawn.randrange(5)}" for _ in range(K)]
        yield {
            "id": str(number), "prompt": f"question {number}", "responses": answers, "answer": "3",
            "scores": [drawn.random() for _ in range(K)], "finish_reasons": ["stop"] * K,
        }  # fmt: skip


def _report(scratch: Path, size: int) -> None:
    from raft.report import write_report

    del size
    write_report(scratch / "run")


def _pool(scratch: Path, size: int) -> None:
    from raft.cli.main import main as raft

    del size
    file = str(scratch / "run/iterations/000/eval.jsonl")
    with contextlib.redirect_stdout(io.StringIO()):
        code = raft(["eval-pool", file, "--score-column", "scores", "--quiet", "--json"])
    assert code == 0, "the pool could not be evaluated"


def _text(found: dict[str, list[dict[str, float]]]) -> str:
    rows = [
        [
            name,
            f"{row['prompts']:,.0f} × {K}",
            f"{row['seconds']:.1f}",
            f"{row.get('exponent', math.nan):.2f}",
        ]
        for name, many in found.items()
        for row in many
    ]
    return table(["command", "responses", "seconds", "exponent"], rows)


if __name__ == "__main__":
    main()
