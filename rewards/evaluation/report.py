"""The report of `raft eval-reward` as Markdown: aligned tables that are read as they are, too.

The benchmarks' own tables as Markdown, one row per reward.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rewards.evaluation.markdown import (
    number,
    percent,
    points,
    score,
    score_interval,
    section,
    table,
    with_interval,
)
from rewards.evaluation.small_benchmarks import STYLES
from rollout.errors import InputError
from rollout.storage.files import disk_full_as_input_error, write_json, write_whole

__all__ = [
    "as_json",
    "as_markdown",
    "benchmark_sections",
    "check_output",
    "kept_rows",
    "write_report",
]

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


# longer tables by source or turns are in the JSON alone
_MOST_ROWS = 40


def as_json(report: dict[str, Any]) -> str:
    return json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)


def as_markdown(report: dict[str, Any]) -> str:
    """Every table that the set and the scorers have something for."""
    data, models = report["data"], report["models"]
    head = (
        f"# {Path(data['file']).name}\n\n{data['rows']:,} rows of form {data['form']}: "
        f"{data['pairs']:,} pairs, {data['prompts']:,} prompts. Intervals are 95 %, from "
        f"{report['bootstrap']['resamples']:,} resamples of prompts; a tie is lost."
    )
    parts = [
        _accuracy(models),
        *benchmark_sections(models),
        _sliced("By source", "source", "by_source", models),
        _sliced("By turns of the user", "turns", "by_turns", models),
        _lengths(models),
        _calibration(models),
        _position_bias(models),
        _comparisons(report["comparisons"]),
        _failures(models),
    ]
    return "\n\n".join([head, *(part for part in parts if part)]) + "\n"


def check_output(out: str | None) -> None:
    """Raises InputError for an --out that no report can be written to, before work is done."""
    if out is None:
        return
    path = Path(out).expanduser()
    if path.suffix not in ("", ".md", ".json") and not path.is_dir():
        raise InputError(
            f"--out {out}", "is neither a folder nor a report", "end the name in .md or .json"
        )
    folder = path if not path.suffix or path.is_dir() else path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}", error.strerror, "choose another place") from error


def kept_rows(out: str | None) -> Path | None:
    """Where the rows go with their scores: beside a report in a folder."""
    path = None if out is None else Path(out).expanduser()
    return path / "scored.jsonl" if path is not None and path.is_dir() else None


def write_report(report: dict[str, Any], out: str) -> list[Path]:
    """`report.md` and `report.json` in a folder; a file named .md gets its .json beside it.

    Raises InputError where they cannot be written.
    """
    path = Path(out).expanduser()
    if path.is_dir():
        path = path / "report.md"
    beside = path.with_suffix(".json")
    try:
        with disk_full_as_input_error(path):
            if path.suffix == ".md":
                write_whole(path, as_markdown(report))
            write_json(beside, report)
    except OSError as error:
        raise InputError(f"--out {out}", error.strerror, "choose another place") from error
    return [path, beside] if path.suffix == ".md" else [beside]


def _accuracy(models: Models) -> str:
    rows = []
    for label, model in models.items():
        one = model["accuracy"]
        rows.append(
            [
                label,
                with_interval(one),
                percent(one["accuracy_ties_half"]),
                f"{one['ties']:,}",
                f"{one['pairs']:,}",
                f"{one['missing']:,}",
            ]
        )
    columns = ["reward", "accuracy", "ties half", "ties", "pairs", "missing"]
    return section("Accuracy", table(columns, rows))


def _sliced(title: str, column: str, key: str, models: Models) -> str:
    """One row per slice; nothing where there is but one."""
    names = list(next(iter(models.values()))[key])
    if len(names) < 2:
        return ""
    rows = []
    for name in names[:_MOST_ROWS]:
        slices = [model[key][name] for model in models.values()]
        pairs = slices[0]["pairs"] + slices[0]["missing"]
        rows.append([name or "none", f"{pairs:,}", *map(with_interval, slices)])
    more = len(names) - _MOST_ROWS
    rest = f"\n\n{more} more are in the JSON report." if more > 0 else ""
    return section(title, table([column, "pairs", *models], rows) + rest)


def _lengths(models: Models) -> str:
    rows = []
    for label, model in models.items():
        one = model["length"]
        if one is None:
            continue
        slices = [one[f"better_{name}"] for name in ("longer", "shorter")]
        rows.append(
            [
                label,
                *(f"{with_interval(s)} of {s['pairs']:,}" for s in slices),
                percent(one["prefers_longer"]),
                percent(one["longer_is_better"]),
                number(one["spearman"], "+.2f"),
                number(one["pearson"], "+.2f"),
            ]
        )
    if not rows:
        return ""
    columns = [
        "reward",
        "better is longer",
        "better is shorter",
        "longer wins",
        "longer is better",
        "Spearman",
        "Pearson",
    ]
    note = (
        "Lengths in characters; correlations of the margin with the better answer's extra length."
    )
    return section("Length", f"{table(columns, rows)}\n\n{note}")


def _calibration(models: Models) -> str:
    rows = []
    for label, model in models.items():
        one = model["calibration"]
        if one is not None:
            values = [one[key] for key in ("log_loss", "ece", "brier")]
            numbers = [number(value, ".3f") for value in values]
            rows.append([label, *numbers, number(one["temperature"], ".3g")])
    if not rows:
        return ""
    note = (
        "Of σ(margin) as the chance to be right. Knowing nothing is a log-loss of 0.693 and a "
        "Brier score of 0.25; dividing margins by the temperature fits best."
    )
    made = table(["reward", "log-loss", "ECE", "Brier", "temperature"], rows)
    return section("Calibration", f"{made}\n\n{note}")


def _position_bias(models: Models) -> str:
    found = {k: one["position_bias"] for k, one in models.items() if one["position_bias"]}
    rows = [
        [k, number(one["mean"], "+.3f"), number(one["mean_size"], ".3f")]
        for k, one in found.items()
    ]
    note = (
        "How much likelier an answer wins for being shown first; verdicts are means of both orders."
    )
    made = table(["judge", "mean", "mean size"], rows)
    return section("Position bias", f"{made}\n\n{note}") if rows else ""


def _comparisons(comparisons: Sequence[dict[str, Any]]) -> str:
    rows = [
        [
            f"{one['a']} − {one['b']}",
            points(one),
            percent(one["a_better"]),
            f"{one['pairs']:,}",
        ]
        for one in comparisons
    ]
    columns = ["rewards", "points of accuracy", "resamples ahead", "pairs"]
    return section("Side by side", table(columns, rows)) if rows else ""


def _failures(models: Models) -> str:
    lines = [
        f"- {label}: {model['failed_rows']:,} rows, the first: {model['failures'][0]}"
        for label, model in models.items()
        if model["failed_rows"]
    ]
    return section("Rows without a score", "\n".join(lines)) if lines else ""
