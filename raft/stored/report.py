"""Format the report of `raft replay` as Markdown with aligned tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raft.bon.estimate import Estimate
from raft.stored.replay import Report
from raft.stored.summary import Outcome, Value
from rewards.evaluation.markdown import number, percent, section, table

__all__ = ["as_markdown"]

# values that are in replay.json and not in these tables
_HIDDEN = ("chars", "tokens")


def as_markdown(report: Report, *, each_part: bool = True) -> str:
    """Format the settings, a table of results, notes on what is missing, and a table of each part.

    With `each_part` False the last are omitted.
    """
    parts = [
        f"# Replay of {Path(report.source).name}",
        _introduction(report),
        _table(report.results),
        _footnotes(report),
        _waves(report),
    ]
    if report.notes:
        parts.append(section("Notes", "\n".join(f"- {note}" for note in report.notes)))
    if each_part:
        parts += [
            section(name[:1].upper() + name[1:], _table(rows))
            for name, rows in report.by_part.items()
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _waves(report: Report) -> str:
    if report.adaptive is None:
        return ""
    gold = any(row["gold_gain"] is not None for row in report.waves)
    columns = ["K on average", "samples", "best", "gain", *["gold gain"] * gold, "saved"]
    rows = [
        [
            str(row["k"]),
            *(_estimate(row[name], ".3f") for name in ("samples", "score", "gain")),
            *([_estimate(row["gold_gain"], ".3f")] * gold),
            _estimate(row["saved"], ".1%"),
        ]
        for row in report.waves
    ]
    one, rule = report.waves[0], report.adaptive
    said = (
        f"{one['prompts']:,} prompts ({one['prompts_short']:,} have too few scores), in "
        f"{report.draws} random orders of their samples, 95 % intervals over prompts. The gain is "
        "over the best of a fixed K of as many samples; saved is 1 less the samples over those of "
        "a fixed K with the same best score."
    )
    title = (
        f"In waves: first {rule.first}, wave {rule.wave}, most {one['most']}, cost {rule.cost:g}"
    )
    return section(title, f"{table(columns, rows)}\n\n{said}")


def _estimate(one: Estimate | None, form: str) -> str:
    if one is None or one["mean"] is None:
        return "–"
    low, high = one["low"], one["high"]
    ends = "" if low is None or high is None else f" [{low:{form}}, {high:{form}}]"
    return f"{one['mean']:{form}}{ends}"


def _introduction(report: Report) -> str:
    said = [_what(report), _own(report), _scored(report), _filtered(report)]
    return " ".join(one for one in said if one)


def _what(report: Report) -> str:
    prompts = max(row["prompts"] + row["prompts_short"] for row in report.results)
    names = report.parts
    which = names[0] if len(names) == 1 else f"{len(names)} parts, {names[0]} to {names[-1]}"
    return f"{prompts:,} prompts ({which})."


def _own(report: Report) -> str:
    own, same = report.own, report.same_as_selected
    if own is None:
        return ""
    arguments = "".join(f" {name}={value}" for name, value in own.arguments.items())
    agreed = [name for name, one in same.items() if one]
    said = (
        "its replay keeps exactly the rows of selected.jsonl."
        if len(agreed) == len(same)
        else f"its replay keeps exactly the rows of selected.jsonl in {len(agreed)} of {len(same)} "
        "iterations."
    )
    return f"The run selected by {own.strategy}{arguments}; {said}"


def _scored(report: Report) -> str:
    weights, penalty = report.score.weights, report.score.length_penalty
    if weights == {"scores": 1.0} and penalty is None:
        return ""
    terms = " + ".join(f"{weight:g} {name}" for name, weight in weights.items())
    price = f" − {penalty.weight:g} a {penalty.per}" if penalty else ""
    above = f" above {penalty.above:g}" if penalty and penalty.above else ""
    return f"Samples are selected by score = {terms}{price}{above}."


def _filtered(report: Report) -> str:
    named = ", ".join(f"{name}={value}" for name, value in report.filters.items())
    took = ", ".join(f"{name} {count:,}" for name, count in report.unselectable.items())
    said = [f"Filters: {named}."] if named else []
    return " ".join([*said, f"Not selectable: {took}."] if took else said)


def _table(rows: Sequence[Outcome]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row["values"]))
    shown = [name for name in names if name not in _HIDDEN]
    columns = ["rule", "K", "rows", "prompts", "kept", *shown]
    columns += ["distinct-1", "distinct-2", "duplicates"]
    return table(columns, [_cells(row, shown) for row in rows])


def _cells(row: Outcome, shown: Sequence[str]) -> list[str]:
    return [
        row["rule"],
        str(row["k"]),
        f"{row['rows']:,.0f}",
        f"{row['prompts_kept']:,.0f}",
        percent(row["kept_share"]["mean"]),
        *(_value(row["values"].get(name)) for name in shown),
        number(row["distinct_1"], ".3f"),
        number(row["distinct_2"], ".3f"),
        percent(row["duplicate_share"]),
    ]


def _value(one: Value | None) -> str:
    if one is None or one["mean"] is None:
        return "–"
    low, high = one["low"], one["high"]
    if low is None or high is None:
        return f"{one['mean']:.3f}"
    return f"{one['mean']:.3f} ± {(high - low) / 2:.3f}"


def _footnotes(report: Report) -> str:
    rows = report.results
    lines = [
        f"Means over the rows kept ± half of the 95 % interval over prompts, from "
        f"{report.resamples:,} resamples; words per row."
    ]
    if any(row["draws"] == 0 for row in rows):
        lines.append("Best of K below what is stored is the exact expectation over all subsets.")
    spreads = [spread for row in rows for spread in _spreads(row)]
    if spreads:
        lines.append(
            f"Other rules are means over {report.draws} random subsets (seed {report.seed}), "
            f"known to ± {max(spreads):.2g} or better."
        )
    lines.append(
        f"Diversity is that of the set kept; below what is stored, the mean of "
        f"{min(report.draws, report.diversity_draws)} random subsets."
    )
    lines += _short(rows) + _missing(rows)
    return "\n".join(lines)


def _spreads(row: Outcome) -> list[float]:
    names = ("score", "reward") if row["draws"] > 1 else ()
    found = [row["values"][name]["draws_ci95"] for name in names if name in row["values"]]
    return [spread for spread in found if spread is not None]


def _short(rows: Sequence[Outcome]) -> list[str]:
    counts = {row["k"]: row["prompts_short"] for row in rows if row["prompts_short"]}
    named = ", ".join(f"K = {k}: {count:,}" for k, count in counts.items())
    return [f"Prompts left out for having fewer than K samples: {named}."] if counts else []


def _missing(rows: Sequence[Outcome]) -> list[str]:
    found = []
    for row in rows:
        one = row.get("missing")
        if one is not None and one.prompts:
            found.append(
                f"{row['rule']} at K = {row['k']}: {one.prompts:,} of {one.of_prompts:,} "
                f"tournaments have no winner; {one.comparisons:,} of {one.of_comparisons:,} "
                "comparisons that they ask for are not stored."
            )
    return found
