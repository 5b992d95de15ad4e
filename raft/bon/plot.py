"""The best-of-n curve as a picture: proxy and gold against KL, each in a panel of its own scale."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raft.bon.estimate import Curve, Series, kl_best_of_n
from raft.curves.style import GREY, STYLES, line_style, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_curve"]

_LOOK = STYLES["screen"]
_MOST_MARKED = 8


def draw_curve(curve: Curve, titles: dict[str, str], file: Path) -> None:
    """Draw one panel for each of `titles`, which maps "proxy" and "gold" to their titles.

    The band is the 95 % interval; a ring marks a mean above the interval at the largest n.

    Raises InputError where the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_LOOK.rc):
        size = (_LOOK.panel_width * len(titles), _LOOK.height + 0.5)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, len(titles), squeeze=False)[0]
        for number, (ax, (name, title)) in enumerate(zip(axes, titles.items(), strict=True)):
            series = curve.proxy if name == "proxy" else curve.gold
            assert series is not None, "gold has a title only where it was measured"
            _draw(ax, curve, series, number)
            ax.set_title(title)
            ax.set_xlabel("KL from the policy, nats: ln n − (n − 1)/n")
            _add_n(ax, curve)
        save_picture(figure, file, _LOOK.dpi)


def _draw(ax: Axes, curve: Curve, series: Series, number: int) -> None:
    color, marker = line_style(number)
    # markers are at powers of two; the line itself goes on to the largest n
    marked = [s for s, n in enumerate(curve.n_S) if int(n) & (int(n) - 1) == 0]
    ax.plot(
        curve.kl_S, series.mean_S, color=color, linewidth=_LOOK.line, marker=marker,
        markersize=_LOOK.marker, markevery=marked,
    )  # fmt: skip
    ax.fill_between(curve.kl_S, series.low_S, series.high_S, color=color, alpha=0.16, linewidth=0)
    top = int(np.argmax(np.where(np.isfinite(series.mean_S), series.mean_S, -np.inf)))
    if series.mean_S[top] > series.high_S[-1]:
        ax.plot(
            curve.kl_S[top], series.mean_S[top], "o", markersize=3 * _LOOK.marker,
            markerfacecolor="none", markeredgecolor=GREY,
        )  # fmt: skip
        ax.annotate(
            f"n = {curve.n_S[top]}", (float(curve.kl_S[top]), float(series.mean_S[top])),
            xytext=(0, -16), textcoords="offset points", ha="center", fontsize=8, color=GREY,
        )  # fmt: skip


def _add_n(ax: Axes, curve: Curve) -> None:
    """Label n along the top, above the KL that it costs along the bottom."""
    largest = int(curve.n_S.max())
    powers = [2**power for power in range(largest.bit_length())][-_MOST_MARKED:]
    top = ax.secondary_xaxis("top")
    top.set_xticks([kl_best_of_n(n) for n in powers], [str(n) for n in powers])
    top.set_xlabel("n")
    top.spines["top"].set_visible(False)
