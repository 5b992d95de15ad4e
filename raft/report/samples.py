"""The stages of a run whose samples are stored, and how their rows get into the page.

A row that cannot be read is skipped, counted, and named by its line; the rows around it are shown.
Of token ids, which nobody reads, the page has only the number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NotRequired, TypedDict, TypeVar

from raft.report.page import Blocks, RowBlocks, StageBlocks
from raft.selection.rows import read_selected
from rollout.data.jsonl import Damage, Row, is_object, read_jsonl
from rollout.data.samples import REWARD, SampleRow, Scores, read_samples
from rollout.errors import InputError
from rollout.types import Message

__all__ = [
    "Index",
    "PageRow",
    "Stage",
    "embed",
    "find_stages",
    "json_rows",
    "sample_rows",
]


_T = TypeVar("_T")


class PageRow(TypedDict):
    """One prompt as the page's script reads it; what is not known of its K responses has no key.

    `scores` are {reward name: K}; `finish`, `tokens` and `seeds` have K entries. Where responses
    were rejected early, `numbers` are the K places of the others among all that were begun.
    `chosen` and `rejected` are the places, in 0 … K−1, of the responses that were trained on and
    trained against.
    """

    id: str
    prompt: str | list[Message]
    responses: list[str]
    scores: dict[str, Scores]
    finish: NotRequired[list[str]]
    tokens: NotRequired[list[int]]
    seeds: NotRequired[list[str | None]]
    numbers: NotRequired[list[int]]
    version: NotRequired[int]
    chosen: NotRequired[list[int]]
    rejected: NotRequired[list[int]]


def json_rows(
    path: Path, name: str, on_damage: Callable[[str], None]
) -> Iterator[dict[str, object]]:
    """Yield the objects of a JSONL file; other rows are skipped, and reported once at the end."""

    def parse(row: Row) -> dict[str, object]:
        if not is_object(row.value):
            raise InputError(row.where, "no object")
        return row.value

    damage = Damage()
    yield from _readable(read_jsonl(path, parse, name=name, damage=damage), name, on_damage)
    _tell(damage, on_damage)


def sample_rows(path: Path, name: str, on_damage: Callable[[str], None]) -> Iterator[PageRow]:
    """Yield the rows of a file of samples for the page; damage is reported as by `json_rows`.

    A score is None where it is missing, no finite number, or no number at all.
    """
    damage = Damage()
    rows = read_samples(path, name=name, damage=damage, odd_scores=True)
    for row in _readable(rows, name, on_damage):
        if row.prompt is None:
            damage.add(InputError(row.where, "no prompt"))
        else:
            yield _page_row(row, row.prompt)
    _tell(damage, on_damage)


def _selected(
    path: Path, name: str, on_damage: Callable[[str], None]
) -> dict[str, tuple[list[int], set[int]]]:
    """Return for every prompt that was trained on, by id, the numbers of its selected samples, and
    the hashes of the responses that were rejected in a pair.

    Memory grows with the number of prompts, not with the texts.
    """
    found: dict[str, tuple[list[int], set[int]]] = {}
    damage = Damage()
    for row in _readable(read_selected(path, name=name, damage=damage), name, on_damage):
        if row.weight == 0:  # stored, and not trained on
            continue
        numbers, rejected = found.setdefault(row.id, ([], set()))
        if row.sample not in numbers:  # a sample may be the better one of several pairs
            numbers.append(row.sample)
        if row.rejected is not None:
            rejected.add(hash(row.rejected.response))
    _tell(damage, on_damage)
    return found


def _readable(rows: Iterator[_T], name: str, on_damage: Callable[[str], None]) -> Iterator[_T]:
    try:
        yield from rows
    except OSError as error:
        on_damage(f"{name}: cannot be read ({error.strerror or error})")


def _tell(damage: Damage, on_damage: Callable[[str], None]) -> None:
    if damage.count:
        on_damage(str(damage))


def _page_row(row: SampleRow, prompt: str | list[Message]) -> PageRow:
    scores = {_score_name(name): [*map(_rounded, scores)] for name, scores in row.scores.items()}
    found = PageRow(
        id=row.id,
        prompt=_page_prompt(prompt),
        responses=row.responses,
        scores=dict(sorted(scores.items(), key=lambda item: item[0] != "reward")),
    )
    if row.finish_reasons:
        found["finish"] = [str(reason) for reason in row.finish_reasons]
    if row.token_ids:
        found["tokens"] = [len(ids) for ids in row.token_ids]
    if row.seeds:
        # JavaScript rounds whole numbers beyond 2^53
        found["seeds"] = [None if seed is None else str(seed) for seed in row.seeds]
    if row.sample_numbers:
        found["numbers"] = row.sample_numbers
    if row.policy_version is not None:
        found["version"] = row.policy_version
    return found


def _page_prompt(prompt: str | list[Message]) -> str | list[Message]:
    if isinstance(prompt, str):
        return prompt
    return [
        Message(role=_text(message.get("role")), content=_text(message.get("content")))
        for message in prompt
    ]


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _score_name(column: str) -> str:
    return "reward" if column == REWARD else column.removesuffix("_scores")


def _rounded(score: float | None) -> float | None:
    """Return a score in six digits, to halve the page's size; None for one that is not finite."""
    return float(f"{score:.6g}") if score is not None and math.isfinite(score) else None


_START = 140  # characters of a prompt that its line in a list shows


@dataclass(frozen=True, slots=True)
class Stage:
    """The file of one iteration's rollouts or held-out samples. `name` is its path in the run;
    `run` is "", or a mark that distinguishes another run on the same page."""

    iteration: int
    phase: str  # "eval" or "rollouts"
    path: Path
    name: str
    run: str = ""

    @property
    def chosen(self) -> Path | None:
        path = self.path.with_name("selected.jsonl")
        return path if self.phase == "rollouts" and path.exists() else None


@dataclass(slots=True)
class Index:
    """The entries of a stage's P prompts in lists of the page, without the responses.

    All lists have P entries in the order of the file; those of `scores` have K numbers or None
    each, those of `chosen` and `cut` are places among the K responses.
    """

    ids: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)  # K
    starts: list[str] = field(default_factory=list)
    scores: dict[str, list[list[float | None]]] = field(default_factory=dict)
    chosen: list[list[int]] = field(default_factory=list)
    cut: list[list[int]] = field(default_factory=list)
    samples: int = 0
    tokens: int = 0

    def add(self, row: PageRow) -> None:
        for name in row["scores"]:
            if name not in self.scores:  # it was missing before
                self.scores[name] = [[] for _ in self.ids]
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
    """Return the stages whose files exist, in the order in which their samples were drawn."""
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
) -> tuple[StageBlocks, Index]:
    """Write the rows and the index of a stage as blocks. Return where they are, and the index.

    At most `limit` rows are written. Memory holds one block of rows and the stage's index.
    """
    chosen_path = stage.chosen
    chosen: dict[str, tuple[list[int], set[int]]] = {}
    if chosen_path is not None:
        name = str(Path(stage.name).with_name(chosen_path.name))
        chosen = _selected(chosen_path, name, on_damage)
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
        on_damage(f"{stage.name}: the first {limit} prompts are here, {left} more are skipped")
    known = StageBlocks(
        iteration=stage.iteration,
        phase=stage.phase + stage.run,
        prompts=len(index.ids),
        samples=index.samples,
        tokens=index.tokens,
        chosen=sum(map(len, index.chosen)),
        index=blocks.add(index.as_json()),
        blocks=rows.numbers,
        firstRows=rows.first_rows,
        ranges={name: spread(column) for name, column in index.scores.items()},
    )
    return known, index


def start_of(prompt: str | list[Message]) -> str:
    """Return the beginning of a prompt, or of a conversation's last message, in one line.

    It has at most 140 characters.
    """
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"] if prompt else ""
    return " ".join(text[: 4 * _START].split())[:_START]


def spread(column_PK: list[list[float | None]]) -> list[float] | None:
    """Return [lowest, highest] of the scores that are not None; None where all are."""
    low, high = math.inf, -math.inf
    for scores_K in column_PK:
        for score in scores_K:
            if score is not None:
                low, high = min(low, score), max(high, score)
    return [low, high] if low <= high else None


def _mark(row: PageRow, chosen: list[int], rejected: set[int]) -> None:
    if "numbers" in row:
        chosen = [row["numbers"].index(one) for one in chosen if one in row["numbers"]]
    row["chosen"] = chosen
    if rejected:
        row["rejected"] = [
            k
            for k, text in enumerate(row["responses"])
            if k not in chosen and hash(text) in rejected
        ]
