"""The command doctor: print each finding as it is made, and end with an exit code."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TextIO

from raft.cli.options import (
    AddCommand,
    add_data_options,
    add_json,
    add_model_options,
    data_options,
    print_result,
)
from rollout.errors import InputError
from rollout.text.printable import printable

if TYPE_CHECKING:
    from rewards.doctor.finding import Finding

__all__ = ["add_doctor", "print_findings"]

# words for a terminal whose encoding lacks the signs
_SIGNS = {"ok": "✓", "note": "•", "wrong": "✗"}
_WORDS = {"ok": "ok", "note": "note", "wrong": "WRONG"}
_COLOURS = {"ok": "\033[32m", "note": "\033[33m", "wrong": "\033[1;31m"}
_NAME_WIDTH = 15
_WIDEST = 110
_EPILOG = """\
examples:
  raft doctor                                           the environment alone
  raft doctor --gpu                                     and what a run asks of vLLM, in a minute
  raft doctor --reward models/my-rm                     what the model reads and how it scores
  raft doctor --reward models/my-rm --data pairs.jsonl  and how often it is right

signs: ✓ fine, • a note, ✗ wrong, with what to do about it
exit codes: 0 nothing wrong, 1 something wrong, 2 your input is wrong
"""


def add_doctor(command: AddCommand) -> None:
    """Add `raft doctor`."""
    made = command("doctor", _doctor, "check the environment, and a reward model or judge", _EPILOG)
    made.add_argument("--reward", metavar="MODEL", help="folder or hub name of a model to check")
    made.add_argument(
        "--gpu", action="store_true", help="try vLLM on a small policy: draws, sleep, new weights"
    )
    made.add_argument("--data", metavar="FILE", help="preference pairs to measure the model on")
    add_data_options(made)
    add_json(made, "the findings")
    add_model_options(made, without=("engine", "set"), judges=True)


def _doctor(options: argparse.Namespace) -> int:
    """Print the findings and return the exit code: 0 when nothing is wrong, else 1.

    Raises InputError for options that do not fit, and for a model or data that cannot be read.
    """
    if options.data is not None and options.reward is None:
        raise InputError("--data", "no model is given to measure on it", "name one with --reward")
    sections = _sections(options)
    if options.json:
        findings = [finding for _, section in sections for finding in section]
        wrong = sum(finding.level == "wrong" for finding in findings)
        result = {"wrong": wrong, "findings": [one.as_json() for one in findings]}
        print_result(options, result, "")
    else:
        findings = list(print_findings(sections, sys.stdout))
    return 1 if any(finding.level == "wrong" for finding in findings) else 0


def _sections(options: argparse.Namespace) -> list[tuple[str, Iterable[Finding]]]:
    """Return (title, findings) of each part to examine.

    The options' input is checked here, so that wrong input is reported before any finding.
    """
    from raft.runs.doctor import examine_environment
    from raft.runs.doctor_engine import examine_engine

    found: list[tuple[str, Iterable[Finding]]] = [("environment", examine_environment())]
    if options.gpu:
        found.append(("engine", examine_engine()))
    return [*found, _model(options)] if options.reward is not None else found


def _model(options: argparse.Namespace) -> tuple[str, Iterable[Finding]]:
    from raft.runs.doctor import examine_reward_model

    findings = examine_reward_model(
        options.reward,
        options.data,
        **data_options(options),
        kind=options.family,
        format=options.format,
        bos=options.bos,
        eos=options.eos,
        max_length=options.max_length,
        chat_template_kwargs=options.chat_template_kwargs,
        dtype=None if options.dtype == "auto" else options.dtype,
        device=options.device,
    )
    return f"reward model {options.reward}", findings


def print_findings(
    sections: Iterable[tuple[str, Iterable[Finding]]], stream: TextIO
) -> Iterator[Finding]:
    """Print each finding as it is made and yield it; print a line of counts at the end."""
    counts: Counter[str] = Counter()
    for number, (title, findings) in enumerate(sections):
        print("\n" * bool(number) + title, file=stream, flush=True)
        for finding in findings:
            counts[finding.level] += 1
            print(_lines(finding, stream), file=stream, flush=True)
            yield finding
    notes = f"{counts['note']} note{'' if counts['note'] == 1 else 's'}"
    verdict = f"{counts['wrong']} wrong" if counts["wrong"] else "nothing wrong"
    print(f"\n{counts['ok']} fine, {notes}, {verdict}", file=stream)


def _lines(finding: Finding, stream: TextIO) -> str:
    sign = _sign(finding.level, stream)
    indent = " " * (len(sign) + 3 + _NAME_WIDTH)
    name = finding.what.ljust(_NAME_WIDTH - 1) + " "
    first = f"  {sign} {name}"
    width = min(shutil.get_terminal_size((100, 24)).columns, _WIDEST)
    text = _wrapped(printable(finding.detail), first, indent, width)
    if finding.fix:
        text += "\n" + _wrapped(printable(finding.fix), f"{indent}→ ", f"{indent}  ", width)
    if _coloured(stream):
        text = text.replace(sign, f"{_COLOURS[finding.level]}{sign}\033[0m", 1)
    return text


def _wrapped(text: str, first: str, indent: str, width: int) -> str:
    return textwrap.fill(
        text,
        width,
        initial_indent=first,
        subsequent_indent=indent,
        break_on_hyphens=False,
        replace_whitespace=False,
    )


def _sign(level: str, stream: TextIO) -> str:
    try:
        "".join(_SIGNS.values()).encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        return _WORDS[level].ljust(5)
    return _SIGNS[level]


def _coloured(stream: TextIO) -> bool:
    return stream.isatty() and "NO_COLOR" not in os.environ
