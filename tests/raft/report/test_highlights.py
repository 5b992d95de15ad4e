"""The lists of samples that are worth a look."""

from __future__ import annotations

import statistics

from raft.report.highlights import disagreeing
from raft.report.samples import Index


def test_what_the_proxy_puts_above_gold_comes_first_and_no_gap_is_negative() -> None:
    proxy, gold = [0.0, 3.0, 9.0, 0.0, 1.0], [1.0, 5.0, 0.0, 9.0, 2.0]
    scores: dict[str, list[list[float | None]]] = {
        "reward": [[one] for one in proxy],
        "gold": [[one] for one in gold],
    }
    entries = disagreeing(Index(ids=list("abcde"), scores=scores), stage=0)
    told = [entry["figures"][-1] for entry in entries]
    assert entries[0]["row"] == 2 and all(size > 0 for _, size in told)
    names = [name for name, _ in told]
    assert names == sorted(names, reverse=True) and len(set(names)) == 2
    # each names the side that is higher, in standard deviations
    for entry, (name, size) in zip(entries, told, strict=True):
        at, gold_at = (
            (scores[entry["row"]] - statistics.mean(scores)) / statistics.stdev(scores)
            for scores in (proxy, gold)
        )
        assert abs(abs(at - gold_at) - size) < 1e-9
        assert name == ("proxy above gold by" if at > gold_at else "gold above proxy by")
