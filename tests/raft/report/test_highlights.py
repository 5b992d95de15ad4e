"""The lists of samples that are worth a look."""

from __future__ import annotations

from raft.report.highlights import disagreeing
from raft.report.samples import Index


def test_what_the_proxy_puts_above_gold_comes_first_and_no_gap_is_negative() -> None:
    proxy: list[list[float | None]] = [[0.0], [3.0], [9.0], [0.0], [1.0]]
    gold: list[list[float | None]] = [[1.0], [5.0], [0.0], [9.0], [2.0]]
    scores = {"reward": proxy, "gold": gold}
    index = Index(ids=[str(row) for row in range(5)], scores=scores)
    entries = disagreeing(index, stage=0)
    told = [entry["figures"][-1] for entry in entries]
    assert entries[0]["row"] == 2
    assert all(size > 0 for _, size in told)
    names = [name for name, _ in told]
    assert names == sorted(names, reverse=True) and len(set(names)) == 2
    # each names the side that is higher, in standard deviations
    mean, spread = sum(map(sum, proxy)) / 5, 3.781534080237807
    gold_mean, gold_spread = sum(map(sum, gold)) / 5, 3.646916505762094
    for entry, (name, size) in zip(entries, told, strict=True):
        row = entry["row"]
        gap = (proxy[row][0] - mean) / spread - (gold[row][0] - gold_mean) / gold_spread
        assert abs(abs(gap) - size) < 1e-9
        assert name == ("proxy above gold by" if gap > 0 else "gold above proxy by")
