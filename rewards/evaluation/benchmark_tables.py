"""Write the benchmarks' own tables as Markdown, one row per reward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from rewards.evaluation.benchmarks import (
    Benchmark,
    HHHTable,
    JudgeBenchTable,
    ListsTable,
    NoTable,
    RewardBench2Table,
    RewardBenchTable,
    RMBenchTable,
    WeightedSections,
)
from rewards.evaluation.markdown import score, section, table, with_interval
from rewards.evaluation.results import ModelResult
from rewards.evaluation.small_benchmarks import STYLES

__all__ = ["benchmark_sections"]

_Table = TypeVar("_Table", bound=Benchmark)


def benchmark_sections(models: Mapping[str, ModelResult]) -> Iterator[str]:
    """Yield the benchmark's own tables, then the reasons why rewards are in none of them."""
    tables = {label: one.benchmark for label, one in models.items() if one.benchmark is not None}
    notes = [f"{k}: {one.note}." for k, one in tables.items() if isinstance(one, NoTable)]
    bodies = (
        _rewardbench(_only(RewardBenchTable, tables)),
        _rewardbench2(_only(RewardBench2Table, tables)),
        _rm_bench(_only(RMBenchTable, tables)),
        _judgebench(_only(JudgeBenchTable, tables)),
        _hhh(_only(HHHTable, tables)),
        _lists(_only(ListsTable, tables)),
    )
    for body in bodies:
        if body:
            name = next(one.benchmark for one in tables.values() if not isinstance(one, NoTable))
            yield section(name, body)
    if notes:
        yield "\n\n".join(notes)


def _only(kind: type[_Table], tables: Mapping[str, Benchmark]) -> dict[str, _Table]:
    return {label: one for label, one in tables.items() if isinstance(one, kind)}


def _rewardbench(found: Mapping[str, RewardBenchTable]) -> str:
    if not found:
        return ""
    sections = list(next(iter(found.values())).current.sections)
    rows = [
        [
            label,
            name,
            with_interval(part.overall, part.low, part.high, ".2f"),
            *(score(part.sections[section]) for section in sections),
            score(part.overall_without_prior),
        ]
        for label, one in found.items()
        for name, part in (("current", one.current), ("until 2024-09", one.until_2024_09))
    ]
    columns = ["reward", "weights", "overall", *sections, "without prior"]
    return table(columns, rows) + _not_measured(one.current for one in found.values())


def _rewardbench2(found: Mapping[str, RewardBench2Table]) -> str:
    if not found:
        return ""
    subsets = list(next(iter(found.values())).subsets)
    rows = [
        [label, score(one.overall), *(score(one.subsets[name].score) for name in subsets)]
        for label, one in found.items()
    ]
    rows.append(["by chance", score(25.0), *("" for _ in subsets)])
    return table(["reward", "overall", *subsets], rows) + _not_measured(found.values())


def _rm_bench(found: Mapping[str, RMBenchTable]) -> str:
    if not found:
        return ""
    rows = [
        [label, *map(score, (one.average, one.hard, one.normal, one.easy))]
        for label, one in found.items()
    ]
    tables = [table(["reward", "average", "hard", "normal", "easy"], rows)]
    for label, one in found.items():
        matrix = [
            [f"right, {style}", *map(score, row)]
            for style, row in zip(STYLES, one.matrix, strict=True)
        ]
        tables.append(table([label, *(f"wrong, {style}" for style in STYLES)], matrix))
    return "\n\n".join(tables)


def _judgebench(found: Mapping[str, JudgeBenchTable]) -> str:
    parts = {k: {name: g.score for name, g in one.groups.items()} for k, one in found.items()}
    return _parts_and_total(parts, {k: one.overall for k, one in found.items()}, "overall")


def _hhh(found: Mapping[str, HHHTable]) -> str:
    parts = {label: one.categories for label, one in found.items()}
    return _parts_and_total(parts, {k: one.mean_of_categories for k, one in found.items()}, "mean")


def _parts_and_total(
    parts: Mapping[str, Mapping[str, float]], totals: Mapping[str, float], title: str
) -> str:
    if not parts:
        return ""
    names = list(next(iter(parts.values())))
    rows = [
        [label, *(score(one[name]) for name in names), score(totals[label])]
        for label, one in parts.items()
    ]
    return table(["reward", *names, title], rows)


def _lists(found: Mapping[str, ListsTable]) -> str:
    if not found:
        return ""
    rows = [
        [
            label,
            with_interval(one.best_of_n.mean, one.best_of_n.low, one.best_of_n.high, ".2f"),
            with_interval(one.kendall_tau.mean, one.kendall_tau.low, one.kendall_tau.high, ".3f"),
            f"{one.best_of_n.rows:,}",
        ]
        for label, one in found.items()
    ]
    return table(["reward", "best of n is best", "Kendall's tau", "rows"], rows)


def _not_measured(parts: Iterable[WeightedSections | RewardBench2Table]) -> str:
    names = sorted({name for part in parts for name in part.missing_subsets})
    return f"\n\nNot measured, and left out of the weights: {', '.join(names)}." if names else ""
