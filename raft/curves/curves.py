"""`draw_curves`: draw pictures from run folders, and write the drawn numbers as CSV or JSON."""

from __future__ import annotations

import contextlib
import csv
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal, TypedDict

from raft.curves.axes import XScale
from raft.curves.figure import make_picture
from raft.curves.panels import Panel, select_panels
from raft.curves.runs import Series, Setting, known_keys, read_settings, series_of
from raft.curves.style import STYLES, picture_files, save_picture
from rollout.errors import InputError
from rollout.storage.files import whole_file, write_json, writing

__all__ = ["DrawnPoint", "draw_curves", "drawn_points"]


class DrawnPoint(TypedDict):
    """A drawn point; `ci95` is the half width of its 95 % interval."""

    panel: str
    setting: str
    metric: str
    iteration: int
    x: float
    value: float
    ci95: float | None
    runs: int


def _check_data_file(file: Path) -> None:
    """Check that a file's name ends in .csv or .json. Raises InputError."""
    if file.suffix.lower() not in (".csv", ".json"):
        raise InputError(
            f"--data {file}", "is neither CSV nor JSON", "end the name in .csv or .json"
        )


def _write_data(file: Path, x: str, drawn: Sequence[tuple[Panel, Sequence[Series]]]) -> None:
    """Write one row per point; JSON also names `x` and has the marks of guards and stops."""
    rows = _points(drawn)
    with writing(file, "choose another file"):
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix.lower() == ".json":
            write_json(file, {"x": x, "points": rows, "marks": _marks(drawn)})
        else:
            _write_csv(file, rows)


def _write_csv(file: Path, rows: list[DrawnPoint]) -> None:
    with whole_file(file) as lines:
        writer = csv.DictWriter(lines, list[str](DrawnPoint.__annotations__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _points(drawn: Sequence[tuple[Panel, Sequence[Series]]]) -> list[DrawnPoint]:
    return [row for panel, many in drawn for series in many for row in _rows(panel, series)]


def _rows(panel: Panel, series: Series) -> list[DrawnPoint]:
    return [
        DrawnPoint(
            panel=panel.title,
            setting=series.setting.label,
            metric=series.line.metric,
            iteration=point.iteration,
            x=point.x,
            value=point.value,
            ci95=point.half if math.isfinite(point.half) else None,
            runs=point.runs,
        )
        for point in series.points
    ]


def _marks(drawn: Sequence[tuple[Panel, Sequence[Series]]]) -> list[dict[str, object]]:
    settings = {id(one.setting): one.setting for _, many in drawn for one in many}
    return [
        {"setting": setting.label, **asdict(mark)}
        for setting in settings.values()
        for mark in setting.marks
    ]


log = logging.getLogger("raft")

_WIDEST = 40.0


def draw_curves(
    run_dirs: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    panels: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    x: str = "iteration",
    x_scale: XScale = "linear",
    labels: Sequence[str] | None = None,
    style: Literal["screen", "paper"] = "screen",
    width: float | None = None,
    data: str | Path | None = None,
) -> list[Path]:
    """Draw the runs' curves in one picture and return the files written.

    Runs that cannot be read or hold nothing to draw, and broken lines, are skipped with a warning.

    Args:
        run_dirs: run folders, each named after its folder; LABEL=RUN names it otherwise, and
            LABEL=RUN,RUN,… draws several seeds as one line, their mean, with Student's 95 %
            interval over the runs in place of the runs' own over prompts.
        out: a `.png`, `.svg` or `.pdf` file; without a suffix, a PNG and an SVG are written. By
            default `curves.png` in the folder of a single run, or in the current folder.
        panels: names in `raft.curves.panels.PANELS`; by default reward, gold and KL where a run has
            them, the win rate for a judge, and against a KL proxy and gold in one panel.
        metrics: draw a panel for each of these keys, after `panels` or instead of the default.
        x: the key on the horizontal axis; the lines follow the iterations.
        x_scale: "sqrt" is how over-optimization is drawn (Gao et al. 2022, arXiv 2210.10760).
        labels: one name for each of `run_dirs`.
        style: "paper" has 7 pt type at its width in inches, and letters panels.
        width: width of the picture in inches; panels that do not fit side by side go below.
        data: a `.csv` or `.json` file for the plotted numbers.

    Raises:
        InputError: nothing can be drawn, an unknown panel, metric or suffix, or a file that cannot
            be written.
    """
    import matplotlib

    files = [] if out is None else picture_files(out)
    if data is not None:
        _check_data_file(Path(data))
    sizes = STYLES[style]
    if width is not None and not sizes.narrowest <= width <= _WIDEST:
        raise InputError(
            f"--width {width:g}",
            f"is not from {sizes.narrowest:g} to {_WIDEST:g} inches, as style {style} needs",
            "change it",
        )
    settings = read_settings(run_dirs, labels)
    files = files or picture_files(_default_folder(run_dirs, settings) / "curves.png")
    selected = select_panels(known_keys(settings), panels, metrics, x)
    drawn = _with_points(settings, selected, x)
    with matplotlib.rc_context(sizes.rc), _glyph_warnings_once():
        figure = make_picture(drawn, sizes, x, x_scale, width)
        for file in files:
            save_picture(figure, file, sizes.dpi)
    if data is not None:
        _write_data(Path(data), x, drawn)
    return files


def drawn_points(
    run_dirs: Sequence[str | Path],
    *,
    panels: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    x: str = "iteration",
    labels: Sequence[str] | None = None,
) -> list[DrawnPoint]:
    """Return the numbers that `draw_curves` draws and writes to `data`. Raises InputError alike."""
    settings = read_settings(run_dirs, labels)
    return _points(
        _with_points(settings, select_panels(known_keys(settings), panels, metrics, x), x)
    )


def _default_folder(run_dirs: Sequence[str | Path], settings: Sequence[Setting]) -> Path:
    """Return the folder of the run where one is given, else the current one.

    The path is taken from `settings`, because in `run_dirs` it may have a label.
    """
    paths = settings[0].paths
    return paths[0] if len(run_dirs) == len(paths) == 1 else Path()


@contextlib.contextmanager
def _glyph_warnings_once() -> Iterator[None]:
    """Hold back warnings of the block and log each one once at its end.

    matplotlib repeats for every text that a font lacks a character.
    """
    with warnings.catch_warnings(record=True) as caught:
        yield
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        log.warning("matplotlib: %s", text)


def _with_points(
    settings: Sequence[Setting], panels: Sequence[Panel], x: str
) -> list[tuple[Panel, list[Series]]]:
    drawn = [(panel, [s for one in settings for s in series_of(one, panel, x)]) for panel in panels]
    seen = {id(series.setting) for _, many in drawn for series in many}
    for setting in settings:
        if id(setting) not in seen:
            complaint = _nothing_of(setting, panels, x)
            if not seen:
                raise InputError("curves", complaint)
            log.warning("%s (skipped in the picture)", complaint)
    for panel, many in drawn:
        if not many:
            raise InputError(
                panel.title, f"no row has both {_first(panel)} and {x}", "draw another panel"
            )
    return drawn


def _nothing_of(setting: Setting, panels: Sequence[Panel], x: str) -> str:
    wanted = " or ".join(map(_first, panels))
    files = ", ".join(str(path / "metrics.jsonl") for path in setting.paths)
    return (
        f"{files}: no row has {wanted} with {x}; run it until its first evaluation, or do not "
        "draw it"
    )


def _first(panel: Panel) -> str:
    return panel.lines[0].metric
