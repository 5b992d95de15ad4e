"""The stages of a run whose samples are stored, and how each gets into the page.

Stored rollouts as the page wants them, out of files that may be damaged.

A row that cannot be read is left out, counted, and named by its line; the rows around it are kept.
Token ids, which nobody reads, are dropped and leave their number behind.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from raft.report.page import Blocks, RowBlocks

__all__ = [
    "Index",
    "Stage",
    "chosen_samples",
    "embed",
    "find_stages",
    "json_rows",
    "sample_rows",
]

Row = dict[str, Any]


class DamagedRow(ValueError):
    """A row that is not what `raft run` writes; the text says in which way."""


def json_rows(path: Path, name: str, on_damage: Callable[[str], None]) -> Iterator[Row]:
    """The objects of a JSONL file; what is wrong with others is said once, at the end."""
    yield from _sound(path, name, on_damage, lambda row: row)


def sample_rows(path: Path, name: str, on_damage: Callable[[str], None]) -> Iterator[Row]:
    """Rows of one prompt each: `id`, `prompt`, `responses` (K texts), and where they are known
    `scores` ({name: K numbers or null}), `finish`, `tokens` and `seeds` (K each), `version`.

    `scores` is the reward's name; `gold_scores` is that of gold, and so on. NaN and infinity are
    missing scores.
    """
    yield from _sound(path, name, on_damage, _sample_row)


def chosen_samples(
    path: Path, name: str, on_damage: Callable[[str], None]
) -> dict[str, tuple[list[int], set[int]]]:
    """Of every prompt that was trained on: the chosen samples' numbers, and the hashes of the
    responses that were the rejected side of a pair. Memory grows with the prompts, not the texts.
    """
    found: dict[str, tuple[list[int], set[int]]] = {}
    for row in _sound(path, name, on_damage, _chosen):
        numbers, rejected = found.setdefault(row["id"], ([], set()))
        numbers.append(row["sample"])
        if row["rejected"] is not None:
            rejected.add(hash(row["rejected"]))
    return found


def _sound(
    path: Path, name: str, on_damage: Callable[[str], None], form: Callable[[Row], Row]
) -> Iterator[Row]:
    first, damaged = "", 0
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    yield form(_parsed(line))
                except DamagedRow as error:
                    damaged += 1
                    first = first or f"{name}:{number}: damaged row ({error})"
    except OSError as error:
        on_damage(f"{name}: cannot be read ({error.strerror or error})")
    if damaged:
        more = f", and {damaged - 1} more in this file" if damaged > 1 else ""
        on_damage(f"{first}{more}; left out of the report")


def _parsed(line: bytes) -> Row:
    try:
        row = json.loads(line)
    except UnicodeDecodeError:
        raise DamagedRow("not UTF-8") from None
    except json.JSONDecodeError as error:
        reason = "cut short" if not line.endswith(b"\n") else f"not JSON: {error.msg}"
        raise DamagedRow(reason) from None
    except (ValueError, RecursionError) as error:  # a number of too many digits, too many brackets
        raise DamagedRow(f"not readable JSON: {error}") from None
    if not isinstance(row, dict):
        raise DamagedRow("no object")
    return row


def _sample_row(row: Row) -> Row:
    responses = row.get("responses")
    if not isinstance(responses, list) or not all(isinstance(text, str) for text in responses):
        raise DamagedRow("no list of responses")
    k = len(responses)
    found: Row = {"id": _id(row), "prompt": _prompt(row.get("prompt")), "responses": responses}
    scores = {
        _score_name(key): [_number(value) for value in column]
        for key in row
        if (key == "scores" or key.endswith("_scores"))
        and (column := _column(row, key, k)) is not None
    }
    found["scores"] = dict(sorted(scores.items(), key=lambda item: item[0] != "reward"))
    if (reasons := _column(row, "finish_reasons", k)) is not None:
        found["finish"] = [str(reason) for reason in reasons]
    if (token_ids := _column(row, "token_ids", k)) is not None:
        found["tokens"] = [len(ids) if isinstance(ids, list) else None for ids in token_ids]
    if (seeds := _column(row, "seeds", k)) is not None:
        # JavaScript rounds whole numbers beyond 2^53
        found["seeds"] = [None if seed is None else str(seed) for seed in seeds]
    if isinstance(row.get("policy_version"), int):
        found["version"] = row["policy_version"]
    return found


def _chosen(row: Row) -> Row:
    sample, rejected = row.get("sample"), row.get("rejected")
    if not isinstance(sample, int) or isinstance(sample, bool):
        raise DamagedRow("no number of a sample")
    text = rejected.get("response") if isinstance(rejected, dict) else None
    return {
        "id": _id(row),
        "sample": sample,
        "rejected": text if isinstance(text, str) else None,
    }


def _id(row: Row) -> str:
    if not isinstance(row.get("id"), str):
        raise DamagedRow("no id")
    return row["id"]


def _prompt(value: Any) -> str | list[dict[str, str]]:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise DamagedRow("no prompt")
    return [
        {"role": _text(turn.get("role")), "content": _text(turn.get("content"))} for turn in value
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _score_name(key: str) -> str:
    return "reward" if key == "scores" else key.removesuffix("_scores")


def _column(row: Row, key: str, k: int) -> list[Any] | None:
    """The column where it says something of each of the K responses."""
    column = row.get(key)
    if column is None:
        return None
    if not isinstance(column, list) or len(column) != k:
        raise DamagedRow(f"{key} does not fit its {k} responses")
    return column


def _number(value: Any) -> float | None:
    """Six digits: more than anyone reads, at half the size."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(f"{value:.6g}") if math.isfinite(value) else None
    except OverflowError:  # an int that no float holds
        return None


_START = 140  # characters of a prompt that its line in a list shows


@dataclass(frozen=True, slots=True)
class Stage:
    """The file of one iteration's rollouts or held-out samples. `name` is its path in the run."""

    iteration: int
    phase: str  # "eval" or "rollouts"
    path: Path
    name: str

    @property
    def chosen(self) -> Path | None:
        path = self.path.with_name("selected.jsonl")
        return path if self.phase == "rollouts" and path.exists() else None


@dataclass(slots=True)
class Index:
    """One line per prompt: what lists are made of, without the responses.

    The P entries of `columns` are in the order of the file; `scores` holds K numbers or None each.
    """

    ids: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)  # K
    starts: list[str] = field(default_factory=list)
    scores: dict[str, list[list[float | None]]] = field(default_factory=dict)
    chosen: list[list[int]] = field(default_factory=list)
    cut: list[list[int]] = field(default_factory=list)
    samples: int = 0
    tokens: int = 0

    def add(self, row: dict[str, Any]) -> None:
        for name in row["scores"]:
            # a column that comes up late was missing before
            self.scores.setdefault(name, [[] for _ in self.ids])
        for name, column in self.scores.items():
            column.append(row["scores"].get(name, []))
        self.ids.append(row["id"])
        self.counts.append(len(row["responses"]))
        self.starts.append(start_of(row["prompt"]))
        self.chosen.append(row.get("chosen", []))
        reasons = row.get("finish", [])
        self.cut.append([k for k, reason in enumerate(reasons) if reason == "length"])
        self.samples += len(row["responses"])
        self.tokens += sum(count or 0 for count in row.get("tokens", []))

    def as_json(self) -> bytes:
        columns = {
            "ids": self.ids,
            "counts": self.counts,
            "starts": self.starts,
            "scores": self.scores,
            "chosen": self.chosen,
            "cut": self.cut,
        }
        return json.dumps(columns, separators=(",", ":")).encode("ascii")


def find_stages(run: Path, iterations: list[int]) -> list[Stage]:
    """What is there, in the order in which it was drawn."""
    found = []
    for iteration in iterations:
        for phase in ("rollouts", "eval"):
            name = f"iterations/{iteration:03d}/{phase}.jsonl"
            if (run / name).is_file():
                found.append(Stage(iteration, phase, run / name, name))
    return found


def embed(
    stage: Stage,
    blocks: Blocks,
    on_damage: Callable[[str], None],
    *,
    limit: int | None,
    advance: Callable[[], None],
) -> tuple[dict[str, Any], Index]:
    """Write the stage's rows and its index as blocks; what the page must know to find them.

    Memory holds one block of rows and the stage's index.
    """
    chosen_path = stage.chosen
    chosen = {}
    if chosen_path is not None:
        name = str(Path(stage.name).with_name(chosen_path.name))
        chosen = chosen_samples(chosen_path, name, on_damage)
    rows, index = RowBlocks(blocks), Index()
    every_row = sample_rows(stage.path, stage.name, on_damage)
    for row in islice(every_row, limit):
        if row["id"] in chosen:
            _mark(row, *chosen[row["id"]])
        rows.add(row)
        index.add(row)
        advance()
    rows.finish()
    if left := sum(1 for _ in every_row):
        on_damage(f"{stage.name}: the first {limit} prompts are here, {left} more are left out")
    known = {
        "iteration": stage.iteration,
        "phase": stage.phase,
        "prompts": len(index.ids),
        "samples": index.samples,
        "tokens": index.tokens,
        "chosen": sum(map(len, index.chosen)),
        "index": blocks.add(index.as_json()),
        "blocks": rows.numbers,
        "firstRows": rows.first_rows,
        "ranges": {name: spread(column) for name, column in index.scores.items()},
    }
    return known, index


def start_of(prompt: str | list[dict[str, str]]) -> str:
    """The beginning of a prompt on one line; of a dialogue that of the last turn."""
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"] if prompt else ""
    return " ".join(text[: 4 * _START].split())[:_START]


def spread(column_PK: list[list[float | None]]) -> list[float] | None:
    """[lowest, highest] of the scores that are there."""
    low, high = math.inf, -math.inf
    for scores_K in column_PK:
        for score in scores_K:
            if score is not None:
                low, high = min(low, score), max(high, score)
    return [low, high] if low <= high else None


def _mark(row: dict[str, Any], chosen: list[int], rejected: set[int]) -> None:
    row["chosen"] = chosen
    if rejected:
        row["rejected"] = [
            k
            for k, text in enumerate(row["responses"])
            if k not in chosen and hash(text) in rejected
        ]
