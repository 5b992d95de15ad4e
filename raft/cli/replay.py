"""The commands that work on stored samples: replay, eval-pool."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from raft.cli.options import (
    AddCommand,
    add_data_options,
    add_json,
    add_old_name,
    add_on_bad_row,
    add_out_dir,
    add_seed,
    count,
    data_options,
    print_result,
)
from rollout.errors import InputError

__all__ = ["add_eval_pool", "add_replay"]

_REPLAY = """\
examples:
  raft replay runs/mine                                    the run's own selector at every K
  raft replay runs/mine --k 4,8 --strategy best_of_k,top_m:m=2,global_top_fraction:fraction=0.125
  raft replay runs/mine --reward-weights scores=1,gold_scores=0.5 --length-penalty weight=0.01
  raft replay runs/mine --filter none                      without the run's filters
  raft replay samples.scored.jsonl --filter min_chars=2 unique=true --out-dir replay

FILE holds rows {"prompt","responses","scores"}, with "NAME_scores" of other rewards, and for
--tournament "comparisons": [[i, j, P(response i is better than j)], ...]
"""
_POOL = """\
examples:
  raft eval-pool samples.jsonl                             column "answer", pass@k and maj@k
  raft eval-pool samples.scored.jsonl --score-column scores --k 1,4,16       rm@k too
  raft eval-pool samples.scored.jsonl --score-column gold_scores --weighted sigmoid --out-dir pool

rows: {"prompt", "responses": [...], "answer": 42 | "... #### 42"}
"""


def add_replay(command: AddCommand) -> None:
    """Add `raft replay`."""
    made = command(
        "replay", _replay, "select again from stored samples with other settings, without a model",
        _REPLAY,
    )  # fmt: skip
    made.add_argument("run", metavar="RUN|FILE", help="run folder, or rows with stored scores")
    add_data_options(made)
    made.add_argument(
        "--k", metavar="K,K",
        help="numbers of responses to select from (default: powers of two, as far as the points "
        "of a tournament allow)",
    )  # fmt: skip
    made.add_argument(
        "--strategy", metavar="S,S", help="selectors, NAME:key=value (default: the run's own)"
    )
    made.add_argument(
        "--tournament", metavar="T,T", help="tournaments among stored comparisons: knockout, ..."
    )
    made.add_argument(
        "--reward-weights", metavar="COLUMN=W,...",
        help="select by a weighted sum of stored score columns",
    )  # fmt: skip
    made.add_argument(
        "--length-penalty", metavar="weight=W,...",
        help="subtract a penalty for length; further keys: above=N, per=word|char|token",
    )  # fmt: skip
    made.add_argument(
        "--filter", nargs="+", metavar="KEY=V",
        help="filters to change, added to those of the run; none removes those first",
    )  # fmt: skip
    made.add_argument(
        "--adaptive", metavar="first=N,...",
        help="measure what drawing in waves would have saved; keys: first, wave, most, cost",
    )  # fmt: skip
    made.add_argument(
        "--iteration", default="all", metavar="N", help="iteration to replay (default: all)"
    )
    made.add_argument(
        "--draws", type=count, default=20, metavar="N",
        help="number of random subsets for each K (default: 20)",
    )  # fmt: skip
    add_seed(made, "subsets, tournaments and intervals")
    add_out_dir(made, "replay.md, replay.json, replay.png and replay.svg")
    add_json(made)


def _replay(options: argparse.Namespace) -> int:
    from raft.api.runs import replay
    from raft.stored.report import as_markdown

    found = replay(
        options.run,
        k=_numbers(options.k),
        strategy=options.strategy,
        tournament=options.tournament,
        reward_weights=options.reward_weights,
        length_penalty=options.length_penalty,
        filters=options.filter or (),
        adaptive=options.adaptive,
        iteration=_iteration(options.iteration),
        draws=options.draws,
        seed=options.seed,
        out_dir=options.out_dir,
        **data_options(options),
    )
    text = as_markdown(found.report, each_part=False) + _listed(found.files)
    print_result(options, asdict(found.report), text)
    return 0


def add_eval_pool(command: AddCommand) -> None:
    """Add `raft eval-pool`."""
    made = command(
        "eval-pool",
        _eval_pool,
        "measure pass@k, maj@k and rm@k of stored answers",
        _POOL,
    )
    made.add_argument("pool", metavar="FILE", help="rows with responses")
    add_data_options(made)
    answer = made.add_argument(
        "--answer-column", default="answer", metavar="NAME",
        help="column with the right answer (default: answer)",
    )  # fmt: skip
    add_old_name(made, "--answer", answer)
    made.add_argument(
        "--questions", metavar="FILE", help="prompts with the answers, where the pool has none"
    )
    made.add_argument(
        "--k", metavar="K,K", help="numbers of responses per question (default: powers of two)"
    )
    scores = made.add_argument(
        "--score-column", metavar="NAME", help="column with scores: measure rm@k by them too"
    )
    add_old_name(made, "--scores", scores, nargs="?", const="scores")
    made.add_argument(
        "--weighted", nargs="?", const="sum", choices=("sum", "sigmoid"),
        help="weigh votes by scores (sum, default) or by their sigmoids",
    )  # fmt: skip
    made.add_argument(
        "--tolerance", type=float, default=0.0, metavar="D",
        help="largest difference of a number that still counts as right (default: 0)",
    )  # fmt: skip
    made.add_argument(
        "--draws", type=count, default=200, metavar="N",
        help="number of random subsets for --weighted (default: 200)",
    )  # fmt: skip
    add_on_bad_row(made, "is left out")
    add_seed(made, "subsets and intervals")
    add_out_dir(made, "pool.md and pool.json")
    add_json(made)


def _eval_pool(options: argparse.Namespace) -> int:
    from raft.api.runs import check_draws
    from raft.stored.pass_at_k import as_markdown, measure
    from raft.stored.questions import read_questions
    from rollout.storage.files import make_out_folder, write_report_files

    check_draws(options.draws)
    if options.weighted is not None and options.score_column is None:
        raise InputError(
            "--weighted", "there are no scores to weigh votes by", "add --score-column NAME"
        )
    folder = None if options.out_dir is None else make_out_folder(options.out_dir)
    questions = read_questions(
        options.pool,
        options.answer_column,
        answers=options.questions,
        scores=options.score_column,
        tolerance=options.tolerance,
        on_bad_row=options.on_bad_row,
        **data_options(options),
    )
    report = measure(
        questions,
        ks=_numbers(options.k),
        weighted=options.weighted,
        draws=options.draws,
        seed=options.seed,
    )
    text = as_markdown(report)
    if folder is not None:
        text += _listed(write_report_files(folder, "pool", text, report))
    print_result(options, report, text)
    return 0


def _listed(files: Sequence[Path]) -> str:
    return "".join(f"\nreport: {path}" for path in files)


def _numbers(text: str | None) -> tuple[int, ...] | None:
    """Parse whole numbers such as `2,4,8` and return them in rising order, each once.

    None gives None. Raises InputError for a word that is not a whole number of 1 or more.
    """
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise InputError(
            f"--k {text}", "must be whole numbers of 1 or more", "write them as in --k 2,4,8"
        )
    return tuple(sorted({int(word) for word in words}))


def _iteration(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal():
        raise InputError(
            f"--iteration {text}", "is not a number", "give the number of an iteration, or all"
        )
    return int(text)
