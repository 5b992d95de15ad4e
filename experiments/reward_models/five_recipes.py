"""Five ways to train a reward model, each from one small backbone on the same HH-RLHF pairs.

    pairs -> tokenizer, fresh Llama -> language model of the chosen texts
          -> bradley_terry, hh, pairwise, armorm (on bradley_terry's states), grm
          -> accuracy on the held-out pairs; scores before export against those after reloading

Every part leaves a whole file or folder behind; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from experiments.data import data
from experiments.reward_models.attributes import write_rated
from experiments.reward_models.backbone import (
    FRESH,
    LANGUAGE_MODEL,
    Sizes,
    build_tokenizer,
    make_fresh,
    make_language_model,
)
from experiments.reward_models.command import end_well
from experiments.reward_models.pairs import (
    HELD_OUT,
    TRAIN,
    read_counts,
    read_split,
    short_enough,
    write_counts,
    write_pairs,
)
from experiments.reward_models.recipes import NAMES, RATED, base_of, settings
from experiments.reward_models.reload import listening, reloaded_scores, scores_before
from experiments.reward_models.result_table import write_tables
from rollout.errors import InputError
from rollout.storage.files import read_json, read_rows, write_json

if TYPE_CHECKING:
    from rewards.training.card import TrainedMetrics

__all__ = ["Study", "main", "prepare", "train_one"]

log = logging.getLogger("raft")

MEASURED, SECONDS = "measured.json", "seconds.json"


@dataclass(frozen=True)
class Study:
    """Paths and sizes of the experiment; `limit` is rows per data file."""

    folder: Path
    seed: int = 0
    held_out: int = 1200
    limit: int | None = None
    longest: int = 384
    sizes: Sizes = field(default_factory=Sizes)
    changes: dict[str, Any] = field(default_factory=dict)


def prepare(study: Study) -> dict[str, Any]:
    """Make pairs, ratings and both backbones once; return the counts of pairs."""
    counts = read_counts(study.folder)
    if counts is None:
        counts = _prepare_data(study)
    make_language_model(
        study.folder / FRESH,
        study.folder / LANGUAGE_MODEL,
        _pairs(study, TRAIN),
        study.sizes,
        study.seed,
    )
    return counts


def train_one(study: Study, name: str) -> dict[str, Any]:
    """Train, evaluate and reload one recipe, once; return its row of the table."""
    folder = study.folder / name
    if (folder / MEASURED).exists():
        return read_json(folder / MEASURED)
    from raft.config.train_reward import make_train_config
    from raft.reward_training.run import train_reward

    told = {**settings(name, study.folder, study.seed), **study.changes.get(name, {})}
    config = make_train_config(told, where=f"recipe {name}")
    begun, start = folder.exists(), time.monotonic()
    with listening(name, folder):
        _, metrics = train_reward(config)
    if not begun:  # the time of a resumed training is unknown
        write_json(folder / SECONDS, time.monotonic() - start)
    found = {
        "recipe": name,
        "base": base_of(name),
        "parameters": _parameters(folder / "model"),
        "pairs": metrics["pairs/train"],
        "seconds": read_json(folder / SECONDS) if (folder / SECONDS).exists() else None,
        "tokens_per_second": _speed(folder),
        **_evaluated(study, name, metrics),
        **_reloaded(study, name),
    }
    write_json(folder / MEASURED, found)
    return found


def _prepare_data(study: Study) -> dict[str, Any]:
    study.folder.mkdir(parents=True, exist_ok=True)
    annotations = data("data/open-instruct-human/annotations_tulu1.jsonl.gz")
    train, held_out, lines = read_split(
        data("data/hh-rlhf/dev"), held_out=study.held_out, limit=study.limit, seed=study.seed
    )
    tokenizer = build_tokenizer(_texts(train), study.sizes.vocabulary)
    make_fresh(study.folder / FRESH, tokenizer, study.sizes, study.seed)

    def tokens(conversations: Sequence[Any]) -> list[int]:
        shown = [tokenizer.apply_chat_template(one, tokenize=False) for one in conversations]
        return [len(ids) for ids in tokenizer(shown, add_special_tokens=False)["input_ids"]]

    counts: dict[str, Any] = {"lines": lines, "longest": study.longest}
    for name, pairs in ((TRAIN, train), (HELD_OUT, held_out)):
        kept = short_enough(pairs, tokens, study.longest)
        write_pairs(study.folder / name, kept)
        counts[name] = {"pairs": len(kept), "too_long": len(pairs) - len(kept)}
    counts["rated"] = write_rated(study.folder / RATED, _pairs(study, TRAIN), annotations)
    write_counts(study.folder, counts)
    return counts


def _texts(pairs: Sequence[Any]) -> Iterator[str]:
    for pair in pairs:
        yield from (message["content"] for message in pair.prompt)
        yield from (pair.chosen, pair.rejected)


def _pairs(study: Study, name: str) -> list[Any]:
    from rewards.data.read import read_pairs

    return read_pairs([str(study.folder / name)]).pairs


def _evaluated(study: Study, name: str, metrics: TrainedMetrics) -> dict[str, Any]:
    """Evaluate the exported model by `raft eval-reward`; add the recipe's own figures."""
    from rewards.evaluation.evaluate import Scorer, eval_reward
    from rewards.evaluation.results import as_object
    from rewards.spec import FunctionSpec, ModelSpec, PairwiseSpec

    kind = PairwiseSpec if name == "pairwise" else ModelSpec
    spec = kind(model=str(study.folder / name / "model"))
    scorer = Scorer(name, spec, judge=name == "pairwise")
    report = eval_reward(
        str(study.folder / HELD_OUT),
        [scorer, Scorer("function:length", FunctionSpec(function="length"))],
        seed=study.seed,
        keep=study.folder / name / "held_out.scored.jsonl",
    )
    (own, length), (against,) = report.models.values(), report.comparisons
    assert own.length is not None, "pairs have texts"
    return {
        "accuracy": as_object(own.accuracy),
        "accuracy_in_training": metrics["eval/accuracy"],
        "better_longer": as_object(own.length.better_longer),
        "better_shorter": as_object(own.length.better_shorter),
        "length": as_object(length.accuracy),
        "over_length": {"difference": against.difference, "low": against.low, "high": against.high},
    }


def _reloaded(study: Study, name: str) -> dict[str, Any]:
    """Return the largest change of a score by export and reload, and the scores' spread."""
    import numpy as np

    folder, pairs = study.folder / name, _pairs(study, HELD_OUT)
    before_N2 = scores_before(folder)
    after_N2 = reloaded_scores(name, folder / "model", pairs)
    if before_N2.shape != after_N2.shape:
        raise SystemExit(
            f"{folder}: {len(before_N2)} pairs were scored before export, {len(after_N2)} are held "
            "out: delete the folder and run again"
        )
    return {
        "largest_difference": float(np.abs(before_N2 - after_N2).max()),
        "spread": float(after_N2.std()),
    }


def _parameters(model: Path) -> int:
    from math import prod

    from rewards.checkpoints.checkpoint import tensor_shapes

    return sum(prod(shape) for shape in tensor_shapes(model).values())


def _speed(folder: Path) -> float | None:
    """Return tokens per second without padding, the median of the logged steps."""
    key = "train/tokens_per_second"
    rates = [row[key] for row in read_rows(folder / "metrics.jsonl") if row.get(key)]
    return median(rates) if rates else None


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    end_well(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for name in ("raft", "rewards"):
        logging.getLogger(name).setLevel(logging.INFO)
    study = Study(options.out, options.seed, options.held_out, options.limit)
    if options.only == "armorm" and not (study.folder / base_of("armorm") / MEASURED).exists():
        raise InputError("--only armorm", "it starts from bradley_terry", "run that one first")
    counts = prepare(study)
    rows = []
    for name in NAMES:
        if options.only in (None, name) or (study.folder / name / MEASURED).exists():
            rows.append(train_one(study, name))
    print(write_tables(study.folder, rows, counts))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.reward_models.five_recipes", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs/five_recipes"))
    parser.add_argument("--only", choices=NAMES, help="armorm needs bradley_terry")
    parser.add_argument("--held-out", type=int, default=1200, help="pairs (default: 1200)")
    parser.add_argument("--limit", type=int, help="pairs of each data file (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
