"""The benchmarks' own tables as Markdown, one row per reward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from raft.eval_cells import score, score_interval, section, table
from rewards.evaluation.rm_bench import STYLES

__all__ = ["benchmark_sections"]

Model = dict[str, Any]
Models = dict[str, Model]


def benchmark_sections(models: Models) -> Iterator[str]:
    found = {label: one["benchmark"] for label, one in models.items() if one["benchmark"]}
    notes = [f"{label}: {one['note']}." for label, one in found.items() if "note" in one]
    found = {label: one for label, one in found.items() if "note" not in one}
    if found:
        name = next(iter(found.values()))["benchmark"]
        yield section(name, _BENCHMARKS[name](found))
    if notes:
        yield "\n\n".join(notes)


def _rewardbench(found: Models) -> str:
    sections = list(next(iter(found.values()))["current"]["sections"])
    columns = ["reward", "weights", "overall", *sections, "without prior"]
    rows = []
    for label, one in found.items():
        for weights, name in (("current", "current"), ("2024-09", "until 2024-09")):
            part = one[weights]
            rows.append(
                [
                    label,
                    name,
                    score_interval(part, "overall"),
                    *(score(part["sections"][section]) for section in sections),
                    score(part["overall_without_prior"]),
                ]
            )
    return table(columns, rows) + _missing_subsets(
        part for one in found.values() for part in [one["current"]]
    )


def _rewardbench2(found: Models) -> str:
    subsets = list(next(iter(found.values()))["subsets"])
    rows = [
        [
            label,
            score(one["overall"]),
            *(score(one["subsets"][name]["score"]) for name in subsets),
        ]
        for label, one in found.items()
    ]
    rows.append(["by chance", score(25.0), *("" for _ in subsets)])
    return table(["reward", "overall", *subsets], rows) + _missing_subsets(found.values())


def _rm_bench(found: Models) -> str:
    levels = ("average", "hard", "normal", "easy")
    rows = [[label, *(score(one[level]) for level in levels)] for label, one in found.items()]
    tables = [table(["reward", *levels], rows)]
    for label, one in found.items():
        matrix = [
            [f"right, {style}", *map(score, row)]
            for style, row in zip(STYLES, one["matrix"], strict=True)
        ]
        tables.append(table([label, *(f"wrong, {style}" for style in STYLES)], matrix))
    return "\n\n".join(tables)


def _groups(key: str, last: str, title: str) -> Callable[[Models], str]:
    """A table of named parts and a total."""

    def parts_and_total(found: Models) -> str:
        names = list(next(iter(found.values()))[key])
        rows = []
        for label, one in found.items():
            values = [one[key][name] for name in names]
            scores = [value["score"] if isinstance(value, dict) else value for value in values]
            rows.append([label, *map(score, scores), score(one[last])])
        return table(["reward", *names, title], rows)

    return parts_and_total


def _listwise(found: Models) -> str:
    rows = [
        [
            label,
            score_interval(one["best_of_n"], "mean"),
            score_interval(one["kendall_tau"], "mean", digits=3),
            f"{one['best_of_n']['rows']:,}",
        ]
        for label, one in found.items()
    ]
    return table(["reward", "best of n is best", "Kendall's tau", "rows"], rows)


_BENCHMARKS: dict[str, Callable[[Models], str]] = {
    "RewardBench": _rewardbench,
    "RewardBench 2": _rewardbench2,
    "RM-Bench": _rm_bench,
    "JudgeBench": _groups("groups", "overall", "overall"),
    "HHH": _groups("categories", "mean_of_categories", "mean"),
    "lists": _listwise,
}


def _missing_subsets(parts: Iterable[dict[str, Any]]) -> str:
    names = sorted({name for part in parts for name in part["missing_subsets"]})
    return f"\n\nNot measured, and left out of the weights: {', '.join(names)}." if names else ""
