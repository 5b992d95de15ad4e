"""The common look of the panels in the studies' figures."""

from __future__ import annotations

from typing import Any

__all__ = ["label"]


def label(ax: Any, title: str | None, x: str, y: str | None = None) -> None:
    """Label a panel and its axes; give it a light grid, without a frame at the top and right."""
    if title is not None:
        ax.set_title(title, loc="left", fontsize=10)
    ax.set_xlabel(x)
    if y is not None:
        ax.set_ylabel(y)
    ax.grid(color="#E5E5E5", linewidth=0.6)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
