"""Compare `numeric_match` with the grades of GSM8K's authors, and evaluate four models' answers.

Grades the solutions that came with GSM8K (Cobbe et al. 2021), of four models to each question,
compares with the labels beside them, and measures the pool by `raft eval-pool`.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.bench.table import table
from experiments.data import data
from raft.cli.main import main as raft
from rewards.functions import numeric_match
from rewards.functions.numeric_match import read_number
from rollout.storage.files import write_json, write_rows

SOLUTIONS = "data/gsm8k/example_model_solutions.dev.jsonl.gz"
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
REWARDS = ("shorter", "longer")
# marks the final answer in these solutions
MARK = "A:"

Grader = Callable[[str, str], bool]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    solutions = list(read_solutions())
    found = {name: agreement(solutions, grader) for name, grader in GRADERS.items()}
    write_json(folder / "agreement.json", {"solutions": 4 * len(solutions), "graders": found})
    print(report(found, len(MODELS) * len(solutions)))
    pool = folder / "pool.jsonl"
    write_rows(pool, map(pool_row, solutions))
    for reward in REWARDS:
        out = str(folder / reward)
        raft(
            [
                "eval-pool",
                str(pool),
                "--k",
                "1,2,3,4",
                "--score-column",
                f"{reward}_scores",
                "--out-dir",
                out,
            ]
        )


def read_solutions() -> Iterator[dict[str, Any]]:
    with gzip.open(data(SOLUTIONS), "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def pool_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a pool row: a question, four models' solutions, and their scores by word count."""
    responses = [row[model]["solution"] for model in MODELS]
    words = [float(len(text.split())) for text in responses]
    return {
        "prompt": row["question"],
        "responses": responses,
        "models": list(MODELS),
        "shorter_scores": [-count for count in words],
        "longer_scores": words,
        "answer": row["ground_truth"],
    }


def agreement(solutions: Sequence[dict[str, Any]], grader: Grader) -> dict[str, Any]:
    """Return how often a grader agrees with the labels, and its disagreements by class."""
    classes: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for row in solutions:
        for model in MODELS:
            solution, label = row[model]["solution"], row[model]["is_correct"]
            if grader(solution, row["ground_truth"]) != label:
                why = disagreement(solution, row["ground_truth"], label)
                classes[why] += 1
                examples.setdefault(why, [_tail(solution), _tail(row["ground_truth"])])
    total = len(MODELS) * len(solutions)
    return {
        "agrees": total - classes.total(),
        "share": 1 - classes.total() / total,
        "classes": dict(classes.most_common()),
        "examples": examples,
    }


def disagreement(solution: str, truth: str, label: bool) -> str:
    """Return the class of a solution on which a grader and the label differ."""
    side = "labelled right" if label else "labelled wrong"
    if MARK not in solution:
        return f"{side}, no answer marked"
    given, wanted = _tail(solution), _tail(truth)
    if "," in given or "," in wanted:
        return f"{side}, commas"
    if read_number(given) is None:
        return f"{side}, no number marked"
    if read_number(given) == read_number(wanted):
        return f"{side}, the same number written otherwise"
    return f"{side}, another number"


def by_number(solution: str, truth: str) -> bool:
    return numeric_match([""], [solution], answer=[truth]) == [1.0]


def by_text(solution: str, truth: str) -> bool:
    return MARK in solution and _tail(solution) == _tail(truth)


def by_any_number(solution: str, truth: str) -> bool:
    """Return whether any line ends in the right number: a grader that is too lenient."""
    return any(by_number(line, truth) for line in solution.splitlines())


GRADERS: dict[str, Grader] = {
    "numeric_match": by_number,
    "text after A:": by_text,
    "any line": by_any_number,
}


def report(found: dict[str, dict[str, Any]], total: int) -> str:
    rows = []
    for name, one in found.items():
        classes = "; ".join(f"{count} {why}" for why, count in one["classes"].items())
        rows.append(
            [name, f"{one['agrees']:,} of {total:,}", f"{one['share']:.2%}", classes or "none"]
        )
    return table(("grader", "agrees", "share", "disagreements"), rows) + "\n"


def _tail(text: str) -> str:
    return text.rpartition(MARK)[2].strip()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.gsm8k", description=__doc__)
    parser.add_argument("--out", default="gsm8k", help="folder for results (default: gsm8k)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
