"""The subcommand `raft curves`: its arguments, and what it hands on.

The subcommand `raft report`.

The subcommands over stored samples: `raft replay` and `raft eval-pool`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rollout.errors import InputError

__all__ = [
    "add_curves",
    "add_replay",
    "add_report",
    "eval_pool",
    "replay",
]

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


_REPORT_EXAMPLES = """\
examples:
  raft report runs/mine                        writes report.html
  raft report runs/mine --out mine.html --prompts 200

The page is one file that asks for nothing from outside, and can be passed on. It holds every prompt
and response, but no token ids; scores to six digits; passwords in the config as ***. A run of
100 MB makes a page of about 20 MB that opens at once: samples are unpacked when they are looked at,
by any browser from 2023 on. Damaged and missing parts of a run are named, and the rest is shown.
"""


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


_REPLAY_EXAMPLES = """\
examples:
  raft replay runs/mine                                    the run's own selector at every K
  raft replay runs/mine --k 4,8 --strategy best_of_k,top_m:m=2,global_top_fraction:fraction=0.125
  raft replay runs/mine --reward-weights scores=1,gold_scores=0.5 --length-penalty weight=0.01
  raft replay runs/mine --filter none                      without the run's filters
  raft replay samples.scored.jsonl --filter min_chars=2 unique=true --out replay

FILE holds rows {"prompt","responses","scores"}, with "NAME_scores" of other rewards, and for
--tournament "comparisons": [[i, j, P(response i is better than j)], ...]
"""
_POOL_EXAMPLES = """\
examples:
  raft eval-pool samples.jsonl                             column "answer", pass@k and maj@k
  raft eval-pool samples.scored.jsonl --scores --k 1,4,16  rm@k too, by the column "scores"
  raft eval-pool samples.scored.jsonl --scores gold_scores --weighted sigmoid --out report

rows: {"prompt", "responses": [...], "answer": 42 | "... #### 42"}
"""


def add_replay(command: Command) -> None:
    """Add the subcommands; `command(name, text, run)` makes a parser."""
    _add_replay_command(command)
    _add_eval_pool_command(command)


def _add_replay_command(command: Command) -> None:
    made = command("replay", "what another selection would have kept, without a model", replay)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.epilog = _REPLAY_EXAMPLES
    made.add_argument("run", metavar="RUN|FILE", help="run folder, or rows with stored scores")
    made.add_argument(
        "--k",
        metavar="K,K",
        help="samples per prompt (default: powers of two; those that a tournament's points tell)",
    )
    made.add_argument(
        "--strategy", metavar="S,S", help="selectors, NAME:key=value (default: the run's own)"
    )
    made.add_argument(
        "--tournament", metavar="T,T", help="tournaments among stored comparisons: knockout, ..."
    )
    made.add_argument(
        "--reward-weights", metavar="COLUMN=W,...", help="select by a weighted sum of stored scores"
    )
    made.add_argument(
        "--length-penalty", metavar="weight=W,...", help="and above=N, per=word|char|token"
    )
    made.add_argument(
        "--filter", nargs="+", metavar="KEY=V", help="change the run's filters, or none of them"
    )
    made.add_argument("--iteration", default="all", metavar="N", help="one of them (default: all)")
    made.add_argument("--draws", type=int, default=20, help="random subsets (default: 20)")
    made.add_argument("--seed", type=int, default=0, help="of subsets, tournaments and intervals")
    _add_output(made, "replay.md, replay.json, replay.png and replay.svg")


def _add_eval_pool_command(command: Command) -> None:
    made = command("eval-pool", "pass@k, maj@k and rm@k of stored responses", eval_pool)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.epilog = _POOL_EXAMPLES
    made.add_argument("pool", metavar="FILE", help="rows with responses")
    made.add_argument(
        "--answer", default="answer", metavar="COLUMN", help="the right answer (default: answer)"
    )
    made.add_argument(
        "--questions", metavar="FILE", help="prompts with the answers, where the pool has none"
    )
    made.add_argument("--k", metavar="K,K", help="samples per question (default: powers of two)")
    made.add_argument(
        "--scores", nargs="?", const="scores", metavar="COLUMN", help="rm@k by these stored scores"
    )
    made.add_argument(
        "--weighted",
        nargs="?",
        const="sum",
        choices=("sum", "sigmoid"),
        help="a majority by the sum of scores (default), or of their sigmoids",
    )
    made.add_argument("--tolerance", type=float, default=0.0, help="of a right number (default: 0)")
    made.add_argument(
        "--draws", type=int, default=200, help="subsets for --weighted (default: 200)"
    )
    made.add_argument("--seed", type=int, default=0, help="of subsets and intervals (default: 0)")
    _add_output(made, "pool.md and pool.json")


def _add_output(made: argparse.ArgumentParser, files: str) -> None:
    made.add_argument("--out", metavar="DIR", help=f"writes {files}")
    made.add_argument("--json", action="store_true", help="JSON on stdout")


def replay(options: argparse.Namespace) -> int:
    """0 when done. Raises InputError."""
    from raft.replay.plot import draw_replay
    from raft.replay.replay import Plan
    from raft.replay.replay import replay as run
    from raft.replay.report import as_markdown
    from raft.replay.rules import Scoring, parse_filters, parse_penalty, parse_rules, parse_weights
    from raft.replay.source import find_samples
    from rollout.storage.files import make_out_folder, write_report_files

    _check_counts(options)
    folder = make_out_folder(options.out) if options.out is not None else None
    rules = parse_rules(options.strategy) if options.strategy is not None else []
    if options.tournament is not None:
        rules += parse_rules(options.tournament, tournaments=True)
    scoring = Scoring(parse_weights(options.reward_weights), parse_penalty(options.length_penalty))
    source = find_samples(options.run, _iteration(options.iteration))
    plan = Plan(
        filters=parse_filters(options.filter, source.own.filters if source.own else {}),
        ks=_counts(options.k),
        rules=tuple(rules) or None,
        scoring=scoring,
        draws=options.draws,
        seed=options.seed,
    )
    report = run(source, plan)
    _tell(options, report, as_markdown(report, each_part=False))
    if folder is not None:
        files = write_report_files(folder, "replay", as_markdown(report), report)
        files += draw_replay(report, folder / "replay")
        _name(options, files)
    return 0


def eval_pool(options: argparse.Namespace) -> int:
    """0 when done. Raises InputError."""
    from raft.replay.pass_at_k import as_markdown, measure
    from raft.replay.questions import read_questions
    from rollout.storage.files import make_out_folder, write_report_files

    _check_counts(options)
    if options.weighted is not None and options.scores is None:
        raise InputError("--weighted", "needs scores to weigh votes by", "add --scores COLUMN")
    folder = make_out_folder(options.out) if options.out is not None else None
    questions = read_questions(
        options.pool,
        options.answer,
        answers=options.questions,
        scores=options.scores,
        tolerance=options.tolerance,
    )
    report = measure(
        questions,
        ks=_counts(options.k),
        weighted=options.weighted,
        draws=options.draws,
        seed=options.seed,
    )
    text = as_markdown(report)
    _tell(options, report, text)
    if folder is not None:
        _name(options, write_report_files(folder, "pool", text, report))
    return 0


def _tell(options: argparse.Namespace, report: dict[str, Any], text: str) -> None:
    from rewards.evaluation.report import as_json

    print(as_json(report) if options.json else text.rstrip("\n"))


def _name(options: argparse.Namespace, files: Sequence[Path]) -> None:
    if not options.json:
        print(*("", *(f"report: {path}" for path in files)), sep="\n")


def _check_counts(options: argparse.Namespace) -> None:
    if options.draws < 2:
        raise InputError(f"--draws {options.draws}", "an estimate needs 2 random subsets or more")
    if options.seed < 0:
        raise InputError(f"--seed {options.seed}", "must be 0 or more")


def _counts(text: str | None) -> tuple[int, ...] | None:
    """`2,4,8` in rising order, each once."""
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise InputError(
            f"--k {text}", "must be whole numbers of 1 or more", "write --k 2,4,8, say"
        )
    return tuple(sorted({int(word) for word in words}))


def _iteration(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal():
        raise InputError(
            f"--iteration {text}", "is no number", "write that of an iteration, or all"
        )
    return int(text)
