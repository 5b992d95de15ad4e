"""The subcommand `raft curves`: its arguments, and what it hands on."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

__all__ = ["add_curves"]

Command = Callable[[str, str, Any], argparse.ArgumentParser]

_CURVES_EXAMPLES = """\
examples:
  raft curves runs/k8 runs/k16 --out k8_against_k16.png
  raft curves K=8=runs/k8 K=16=runs/k16 --style paper --out curves.pdf
  raft curves baseline=runs/b0,runs/b1,runs/b2 ours=runs/o0,runs/o1,runs/o2
  raft curves runs/k8 --x eval/kl_k1 --x-scale sqrt       proxy and gold against KL
  raft curves runs/k8 --panels reward,diversity,time --data numbers.csv

panels: reward, gold, proxy_gold, win_rate, kl, length, diversity, perplexity, time
"""


def add_curves(command: Command) -> None:
    """Add the subcommand; `command(name, text, run)` makes its parser."""
    made = command("curves", "draw what runs measured, several in one picture", _curves)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.epilog = _CURVES_EXAMPLES
    made.set_defaults(interrupted="interrupted; no picture was written")
    made.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run folder; LABEL=RUN names it, LABEL=RUN,RUN,… draws seeds of one setting as "
        "their mean with its interval over runs",
    )
    made.add_argument(
        "--out",
        default="curves.png",
        metavar="FILE",
        help="PNG, SVG or PDF; without a suffix a PNG and an SVG (default: curves.png)",
    )
    made.add_argument(
        "--panels",
        type=_names,
        metavar="NAME,…",
        help="default: reward, gold and KL where runs have them, the win rate for a judge",
    )
    made.add_argument(
        "--metrics", type=_names, metavar="KEY,…", help="a panel for each key of metrics.jsonl"
    )
    made.add_argument(
        "--x", default="iteration", metavar="KEY", help="horizontal axis (default: iteration)"
    )
    made.add_argument(
        "--x-scale", choices=("linear", "sqrt", "log"), default="linear", help="default: linear"
    )
    made.add_argument("--labels", type=_names, metavar="NAME,…", help="one for each RUN")
    made.add_argument(
        "--style",
        choices=("screen", "paper"),
        default="screen",
        help="paper: 7 pt type at full size, lettered panels, fonts embedded (default: screen)",
    )
    made.add_argument(
        "--width",
        type=float,
        metavar="INCHES",
        help="of the picture; a paper's column is 3.25, its page 6.75 (default for paper)",
    )
    made.add_argument("--data", metavar="FILE", help="the drawn numbers too, as .csv or .json")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _curves(options: argparse.Namespace) -> int:
    from raft.curves import draw_curves

    files = draw_curves(
        options.runs,
        options.out,
        panels=options.panels,
        metrics=options.metrics,
        x=options.x,
        x_scale=options.x_scale,
        labels=options.labels,
        style=options.style,
        width=options.width,
        data=options.data,
    )
    for file in [*files, *([options.data] if options.data else [])]:
        print(file)
    return 0
