"""Styles of pictures, and writing of picture files.

Each run has a colour and a marker, so that runs can be told apart in greyscale print and with any
colour vision; the line style tells the metrics of a panel apart. Files appear whole or not at all.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from rollout.errors import InputError, naming
from rollout.storage.files import writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

__all__ = [
    "GREY",
    "STYLES",
    "Style",
    "line_style",
    "marker_edge",
    "picture_files",
    "save_picture",
    "shades",
]

GREY = "#444444"
# Okabe & Ito 2008, the dark ones first: yellow lines vanish on white paper
_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
_COMMON: dict[RcKeyType, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.6,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    # the font that comes with matplotlib: a picture is the same on every machine
    "font.family": "DejaVu Sans",
    "pdf.fonttype": 42,
    "svg.hashsalt": "raft",  # the same run draws the same file
}


@dataclass(frozen=True, slots=True)
class Style:
    """Sizes and fonts of a picture. Lengths are in inches, `line` and `marker` in points.

    Attributes:
        panel_width: width of a panel, where no width of the picture is given.
        narrowest: least width of a panel; panels that do not fit side by side go below.
        full_width: width of the picture, where none is given; None grows with the panels.
        lettered: panels have letters, as in papers.
        rc: parameters of matplotlib.
    """

    panel_width: float
    narrowest: float
    height: float
    full_width: float | None
    line: float
    marker: float
    dpi: int
    lettered: bool
    rc: dict[RcKeyType, Any]


STYLES = {
    # SVG text stays text: it can be searched, and a browser has fonts
    "screen": Style(
        4.6, 3.0, 3.3, None, 1.8, 4.0, 200, False,
        {**_COMMON, "font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold",
         "legend.fontsize": 8, "svg.fonttype": "none"},
    ),
    # journals take type of 7 pt or more; in SVG glyphs are outlines, in PDF fonts are embedded
    "paper": Style(
        2.25, 2.0, 1.75, 6.75, 1.3, 3.2, 400, True,
        {**_COMMON, "font.size": 7, "axes.titlesize": 7.5, "axes.titleweight": "normal",
         "axes.labelsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7,
         "axes.labelpad": 2.5, "axes.titlepad": 4, "svg.fonttype": "path"},
    ),
}  # fmt: skip


class MarkerEdge(TypedDict, total=False):
    """How a marker is drawn, as keyword arguments of matplotlib."""

    markerfacecolor: str
    markeredgecolor: str
    markeredgewidth: float


def line_style(index: int) -> tuple[str, str]:
    """Return (colour, marker) of the index-th line; the first 56 are all different."""
    return _PALETTE[index % len(_PALETTE)], _MARKERS[index % len(_MARKERS)]


def marker_edge(color: str, solid: bool, style: Style) -> MarkerEdge:
    """Return how markers of a line are drawn: filled for a solid line, hollow for a broken one."""
    if solid:
        return {"markeredgecolor": "white", "markeredgewidth": 0.4}
    return {
        "markerfacecolor": "white",
        "markeredgecolor": color,
        "markeredgewidth": style.line * 0.6,
    }


def shades(count: int) -> list[tuple[float, float, float, float]]:
    """Return `count` RGBA colours of a stack, dark to light, in greyscale print too."""
    from matplotlib import colormaps

    return [colormaps["cividis"](0.05 + 0.9 * i / max(count - 1, 1)) for i in range(count)]


_SUFFIXES = (".png", ".svg", ".pdf")
# metadata without dates, so that the same run always draws the same file
_UNDATED = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": None}


def picture_files(out: str | Path) -> list[Path]:
    """Return the files to write for `out`: `out` itself, or without a suffix a PNG and an SVG.

    Raises:
        InputError: for a suffix that cannot be drawn.
    """
    path = Path(out)
    if path.suffix.lower() in _SUFFIXES:
        return [path]
    if not path.suffix:
        return [path.with_suffix(".png"), path.with_suffix(".svg")]
    raise InputError(
        path,
        f"cannot draw {path.suffix}",
        f"end the name in {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}",
    )


def save_picture(figure: Figure, file: Path, dpi: int = 200) -> None:
    """Write the figure; call it under the rc parameters that it was made with.

    Raises:
        InputError: where the file cannot be written.
    """
    partial = file.with_name(f".{file.name}.partial{file.suffix}")
    with writing(file, "choose another file"), naming(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            figure.savefig(partial, dpi=dpi, metadata=_UNDATED[file.suffix.lower()])
            os.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)
