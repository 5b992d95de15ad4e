"""Write the report of `raft eval-reward` as Markdown and JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rewards.evaluation.accuracy import Accuracy
from rewards.evaluation.benchmark_tables import benchmark_sections
from rewards.evaluation.contamination import Contamination
from rewards.evaluation.markdown import number, percent, section, table, with_interval
from rewards.evaluation.results import EvalReport, ModelComparison, ModelResult, as_object
from rollout.errors import InputError
from rollout.storage.files import write_json, write_whole, writing

__all__ = [
    "as_markdown",
    "check_output",
    "kept_rows",
    "write_report",
]

Models = Mapping[str, ModelResult]


# further rows of a table by source or turns are in the JSON alone
_MOST_ROWS = 40


def as_markdown(report: EvalReport) -> str:
    """Return the report as Markdown, with every table for which there is data."""
    data, models = report.data, report.models
    head = (
        f"# {Path(data.file).name}\n\n{data.rows:,} rows of form {data.form}: "
        f"{data.pairs:,} pairs, {data.prompts:,} prompts. Intervals are 95 %, from "
        f"{report.bootstrap.resamples:,} resamples of prompts; a tie is lost."
    )
    parts = [
        _accuracy(models),
        *benchmark_sections(models),
        _sliced("By source", "source", models, lambda one: one.by_source),
        _sliced("By turns of the user", "turns", models, lambda one: one.by_turns),
        _lengths(models),
        _calibration(models),
        _position_bias(models),
        _comparisons(report.comparisons),
        _contamination(report.contamination),
        _failures(models),
    ]
    return "\n\n".join([head, *(part for part in parts if part)]) + "\n"


def check_output(out: str | None) -> None:
    """Check that a report can be written to `out`, before work is done, and make its folder.

    Raises InputError where it cannot.
    """
    if out is None:
        return
    path = Path(out).expanduser()
    if path.suffix not in ("", ".md", ".json") and not path.is_dir():
        raise InputError(
            f"--out {out}", "is neither a folder nor a report", "end the name in .md or .json"
        )
    folder = path if not path.suffix or path.is_dir() else path.parent
    with writing(f"--out {out}", "choose another place"):
        folder.mkdir(parents=True, exist_ok=True)


def kept_rows(out: str | None) -> Path | None:
    """Return the path for the rows with their scores: scored.jsonl in a folder `out`, else None."""
    path = None if out is None else Path(out).expanduser()
    return path / "scored.jsonl" if path is not None and path.is_dir() else None


def write_report(report: EvalReport, out: str) -> list[Path]:
    """Write `report.md` and `report.json` to a folder; a file named .md gets its .json beside it.

    A file named .json is written alone. Returns the paths. Raises InputError where that fails.
    """
    path = Path(out).expanduser()
    if path.is_dir():
        path = path / "report.md"
    beside = path.with_suffix(".json")
    with writing(f"--out {out}", "choose another place"):
        if path.suffix == ".md":
            write_whole(path, as_markdown(report))
        write_json(beside, as_object(report))
    return [path, beside] if path.suffix == ".md" else [beside]


def _share(one: Accuracy) -> str:
    low, high = one.interval.low, one.interval.high
    return with_interval(100 * one.strict, 100 * low, 100 * high, ".1f", " %")


def _accuracy(models: Models) -> str:
    rows = [
        [
            label,
            _share(model.accuracy),
            percent(model.accuracy.half),
            f"{model.accuracy.ties:,}",
            f"{model.accuracy.pairs:,}",
            f"{model.accuracy.missing:,}",
        ]
        for label, model in models.items()
    ]
    columns = ["reward", "accuracy", "ties half", "ties", "pairs", "missing"]
    return section("Accuracy", table(columns, rows))


def _sliced(
    title: str,
    column: str,
    models: Models,
    slices_of: Callable[[ModelResult], Mapping[str, Accuracy] | Mapping[int, Accuracy]],
) -> str:
    """Return a table with one row per slice; "" where there are fewer than two."""
    by_model = [{str(k): one for k, one in slices_of(model).items()} for model in models.values()]
    names = list(by_model[0])
    if len(names) < 2:
        return ""
    rows = []
    for name in names[:_MOST_ROWS]:
        slices = [one[name] for one in by_model]
        pairs = slices[0].pairs + slices[0].missing
        rows.append([name or "none", f"{pairs:,}", *map(_share, slices)])
    more = len(names) - _MOST_ROWS
    rest = f"\n\n{more} more are in the JSON report." if more > 0 else ""
    return section(title, table([column, "pairs", *models], rows) + rest)


def _lengths(models: Models) -> str:
    rows = [
        [
            label,
            *(f"{_share(s)} of {s.pairs:,}" for s in (one.better_longer, one.better_shorter)),
            percent(one.prefers_longer),
            percent(one.longer_is_better),
            number(one.spearman, "+.2f"),
            number(one.pearson, "+.2f"),
        ]
        for label, model in models.items()
        if (one := model.length) is not None
    ]
    if not rows:
        return ""
    columns = [
        "reward", "better is longer", "better is shorter", "longer wins", "longer is better",
        "Spearman", "Pearson",
    ]  # fmt: skip
    note = (
        "Lengths in characters; correlations of the margin with the better answer's extra length."
    )
    return section("Length", f"{table(columns, rows)}\n\n{note}")


def _calibration(models: Models) -> str:
    rows = [
        [
            label,
            *(number(value, ".3f") for value in (one.log_loss, one.ece, one.brier)),
            number(one.temperature, ".3g"),
        ]
        for label, model in models.items()
        if (one := model.calibration) is not None
    ]
    if not rows:
        return ""
    note = (
        "Of σ(margin) as the chance to be right. Knowing nothing is a log-loss of 0.693 and a "
        "Brier score of 0.25; dividing margins by the temperature fits best."
    )
    made = table(["reward", "log-loss", "ECE", "Brier", "temperature"], rows)
    return section("Calibration", f"{made}\n\n{note}")


def _position_bias(models: Models) -> str:
    rows = [
        [label, number(one.mean, "+.3f"), number(one.mean_size, ".3f")]
        for label, model in models.items()
        if (one := model.position_bias) is not None
    ]
    note = (
        "How much likelier an answer wins for being shown first; verdicts are means of both orders."
    )
    made = table(["judge", "mean", "mean size"], rows)
    return section("Position bias", f"{made}\n\n{note}") if rows else ""


def _comparisons(comparisons: Sequence[ModelComparison]) -> str:
    rows = [
        [
            f"{one.a} − {one.b}",
            with_interval(100 * one.difference, 100 * one.low, 100 * one.high, "+.1f"),
            percent(one.a_better),
            f"{one.pairs:,}",
        ]
        for one in comparisons
    ]
    columns = ["rewards", "points of accuracy", "resamples ahead", "pairs"]
    return section("Side by side", table(columns, rows)) if rows else ""


def _contamination(found: Contamination | None) -> str:
    if found is None:
        return ""
    rows = [
        ["prompts, exact", f"{found.exact_prompts:,}", f"{found.prompts:,}"],
        ["prompts, near", f"{found.near_prompts:,}", f"{found.prompts:,}"],
        ["pairs of these prompts", f"{found.pairs_of_these:,}", f"{found.pairs:,}"],
        ["pairs with the same responses", f"{found.same_pairs:,}", f"{found.pairs:,}"],
    ]
    head = f"Against {found.train_pairs:,} training pairs of {Path(found.train).name}."
    examples = [f"- {one.kind} ({one.share:.0%}): {one.text}" for one in found.examples]
    parts = [head, table(["evaluation", "also in training", "of"], rows), "\n".join(examples)]
    return section("Contamination", "\n\n".join(part for part in parts if part))


def _failures(models: Models) -> str:
    lines = [
        f"- {label}: {model.failed_rows:,} rows, the first: {model.failures[0]}"
        for label, model in models.items()
        if model.failed_rows
    ]
    return section("Rows without a score", "\n".join(lines)) if lines else ""
