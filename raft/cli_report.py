"""The subcommand `raft report`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

__all__ = ["add_report"]

_REPORT_EXAMPLES = """\
examples:
  raft report runs/mine                        writes report.html
  raft report runs/mine --out mine.html --prompts 200

The page is one file that asks for nothing from outside, and can be passed on. It holds every prompt
and response, but no token ids; scores to six digits; passwords in the config as ***. A run of
100 MB makes a page of about 20 MB that opens at once: samples are unpacked when they are looked at,
by any browser from 2023 on. Damaged and missing parts of a run are named, and the rest is shown.
"""

Command = Callable[[str, str, Any], argparse.ArgumentParser]


def add_report(command: Command) -> None:
    """Add the subcommand; `command(name, text, run)` makes its parser."""
    made = command("report", "one HTML page about a run: curves, samples, times, facts", _report)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.epilog = _REPORT_EXAMPLES
    made.add_argument("run", metavar="RUN", help="run folder, of a finished run or not")
    made.add_argument(
        "--out", default="report.html", metavar="FILE", help="the page (default: report.html)"
    )
    made.add_argument(
        "--prompts", type=int, metavar="N", help="take N prompts of each file (default: all)"
    )


def _report(options: argparse.Namespace) -> int:
    from raft.report import write_report

    print(write_report(options.run, options.out, prompts=options.prompts))
    return 0
