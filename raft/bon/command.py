"""`raft bon`: write the best response of each prompt, the best-of-n curve and its picture."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import NotRequired, TypedDict, cast

import numpy as np

from raft.bon.estimate import Curve, CurveRow, Floats, Point, Series, best_of_n_curve, cell
from raft.bon.plot import draw_curve
from raft.bon.pool import Columns, How, Pool, Rejected, Waves, check_columns, in_words, read_pool
from rollout.data.bad_rows import BadRows, OnBadRow, Reason
from rollout.data.jsonl import encode_rows
from rollout.data.rows_to_score import RowReader, ScoreRow
from rollout.errors import InputError
from rollout.storage.files import make_out_folder, whole_file, write_json
from rollout.storage.output import OutputFiles, refuse_input
from rollout.storage.settings import identity

__all__ = [
    "Judged",
    "Outputs",
    "as_table",
    "best_of_n",
    "outputs",
]

log = logging.getLogger("raft")


@dataclass(frozen=True, slots=True)
class Judged:
    """How a judge took part in the scores.

    points: the score that selects is tournament points, whose mean over prompts has no meaning.
    ranks_all: the tournament ranks every response, so the curve has every n; a bracket only finds
        the best of all.
    win_rate: the gold is P(the response beats a sample that took no part in the selection).
    """

    points: bool = False
    ranks_all: bool = True
    win_rate: bool = False


class Peak(Point):
    """The n at which a mean is highest.

    `over_optimized` tells whether that mean is above the 95 % interval at the largest n.
    """

    n: int
    kl: float
    over_optimized: bool


class CurveFile(TypedDict):
    """The content of STEM.bon.json.

    `missing` counts scores and prompts that could not take part, `best_responses` rows of
    STEM.best.jsonl; a peak is None where no mean is known, `waves` where all was drawn at once.
    With `early_rejection` all numbers are of the responses that were not rejected.
    """

    pool: str
    prompts: int
    responses: int
    n: int
    by: str
    gold_by: str | None
    points: bool
    ranks_all: bool
    win_rate: bool
    best_responses: int
    missing: dict[str, int]
    interval: str
    curve: list[CurveRow]
    peak: dict[str, Peak | None]
    waves: NotRequired[Waves | None]
    early_rejection: NotRequired[Rejected]
    skipped: int
    skipped_reasons: dict[str, Reason]


class Result(CurveFile):
    """The content of STEM.bon.json, and the paths of the three files."""

    out: dict[str, str]


class Outputs:
    """The files of a curve: STEM.bon.json, STEM.best.jsonl and STEM.bon.png.

    When the command draws or judges the pool itself, it also writes STEM.pool.jsonl and
    STEM.judged.jsonl.
    """

    def __init__(self, folder: Path, stem: str) -> None:
        self.pool = folder / f"{stem}.pool.jsonl"
        self.judged = folder / f"{stem}.judged.jsonl"
        self.curve = folder / f"{stem}.bon.json"
        self.best = folder / f"{stem}.best.jsonl"
        self.picture = folder / f"{stem}.bon.png"
        self.all = (self.curve, self.best, self.picture)


def outputs(given: str | None, pool: str, folder: str | None = None) -> Outputs:
    """Name the files after the pool (a file or dataset), beside it or in `folder`.

    `given` is a path without an ending that names them otherwise.

    Raises InputError where `given` is a folder or the pool does not exist.
    """
    if given is None:
        file, stem = Path(pool).expanduser(), RowReader(pool).stem
        beside = file.parent if file.is_file() else Path()
        place = beside if folder is None else make_out_folder(folder)
        return Outputs(place, stem.removesuffix(".pool").removesuffix(".judged"))
    path = Path(given).expanduser()
    if path.is_dir() or given.endswith("/"):
        raise InputError(f"--out {given}", "is a folder", f"name files in it, {path / 'bon'} say")
    return Outputs(path.parent, path.name.removesuffix(".jsonl"))


def best_of_n(
    file: Path,
    out: Outputs,
    *,
    by: str = "scores",
    gold: str | None = None,
    n: int | None = None,
    judged: Judged | None = None,
    seed: int = 0,
    drawn: bool = False,
    how: How | None = None,
    restart: bool = False,
    on_bad_row: OnBadRow = "stop",
    split: str = "train",
    columns: Mapping[str, str] | None = None,
) -> Result:
    """Write `out` from a stored pool, rows of `responses` and their scores, without a model.

    Args:
        by: the column that selects; judged: how a judge took part in the scores.
        gold: the column measured beside it; default: `gold_scores` where the pool has it.
        n: how many responses compete, the first n of each prompt; default: all. The curve has
            every size up to n and is estimated from the whole pool.
        seed: of the bootstrap; how: set where the pool was drawn in waves or by early rejection.
        drawn: this command made the pool, which may be made anew where its file was deleted.
        restart: replace files of unknown origin, or made under other settings.
        on_bad_row: "skip" skips rows that cannot be read or lack these scores, and counts them.
        split: of a dataset; columns: other names of columns, as `RowReader` takes them.

    Raises:
        InputError: the pool cannot be read or has no scores, or files of these names were made
            by something else or under other settings.
    """
    reader = RowReader(
        str(file), form="responses", split=split, columns=columns, on_bad_row=on_bad_row
    )
    judged = judged or Judged()
    settings = {"by": by, "gold": gold, "n": n, "seed": seed, "judged": asdict(judged)}
    how = how or How()
    settings |= how.settings() | _what_is_read(reader)
    names = {"curve": str(out.curve), "best": str(out.best), "picture": str(out.picture)}
    for path, one in product(out.all, reader.source.files):
        refuse_input(path, one)
    free = ("pool",) if drawn else ()
    with OutputFiles(out.all, settings, free=free, restart=restart, option="--out-dir") as output:
        if output.complete:
            log.info("%s: is complete already, under the same settings", out.curve)
            return cast(Result, {**output.record, "out": names})
        output.begin()
        pool, best = _read(reader, _columns(reader, by, gold), n, out.best)
        n = how.first or n or pool.largest
        scores_PN, gold_PN = pool.arrays(how.first)
        ns = range(1, n + 1) if judged.ranks_all else sorted({1, n})
        curve = best_of_n_curve(scores_PN, ns, gold_PN, seed=seed)
        found = _result(file, pool, curve, judged, best, reader.bad, how)
        found["peak"] = _peaks(scores_PN, gold_PN, curve, judged, seed)
        draw_curve(curve, _titles(pool.columns, judged), out.picture)
        write_json(out.curve, found)
        output.finish(found)
    return {**found, "out": names}


def _what_is_read(reader: RowReader) -> dict[str, object]:
    """Return the identity of the pool's files and the settings of reading; defaults are None."""
    source, policy = reader.source, reader.bad.policy
    files = [identity(file.stat()) for file in source.files] or [source.name]
    return {
        "pool": files[0] if len(files) == 1 else files,
        "columns": dict(source.columns),
        "split": None if source.split == "train" else source.split,
        "on_bad_row": None if policy == "stop" else policy,
    }


def _columns(reader: RowReader, by: str, gold: str | None) -> Columns:
    first = next((row for row in reader.rows() if row.bad is None), None)
    if first is None:
        raise reader.bad.nothing_left(reader.source.name)
    own = "gold_scores" if by != "gold_scores" and "gold_scores" in first.columns else None
    return Columns(by, gold or own)


def _read(reader: RowReader, columns: Columns, n: int | None, best: Path) -> tuple[Pool, int]:
    """Return the pool and how many rows were written to `best`."""
    kept = 0

    def rows() -> Iterator[ScoreRow]:
        for row in reader.rows():
            try:
                if reader.bad.policy == "skip":
                    check_columns(row, columns)
            except InputError as error:
                reader.bad.take(row.number, row.where, error)
            if row.number not in reader.bad.reasons:
                yield row

    with whole_file(best) as file:

        def keep(row: dict[str, object]) -> None:
            nonlocal kept
            kept += 1
            file.write(encode_rows([row]).decode())

        pool = read_pool(rows(), columns, n, keep)
    reader.bad.warn(reader.source.name, log)
    return pool, kept


def _titles(columns: Columns, judged: Judged) -> dict[str, str]:
    gold = f"Gold: {columns.gold}" if columns.gold else None
    if judged.win_rate:
        gold = "Win rate against one sample"
    found = {"gold": gold} if gold else {}
    return found if judged.points else {"proxy": f"Proxy, which selects: {columns.by}", **found}


def _result(
    file: Path, pool: Pool, curve: Curve, judged: Judged, best: int, bad: BadRows, how: How
) -> CurveFile:
    n = int(curve.n_S[-1])
    rows = curve.rows()
    for row in rows if judged.points else ():
        del row["proxy"]  # points of a tournament have no mean
    missing = pool.missing(n)
    found: CurveFile = {
        "pool": file.name,
        "prompts": len(pool.responses_P),
        "responses": sum(pool.responses_P),
        "n": n,
        "by": pool.columns.by,
        "gold_by": pool.columns.gold,
        "points": judged.points,
        "ranks_all": judged.ranks_all,
        "win_rate": judged.win_rate,
        "best_responses": best,
        "missing": missing,
        "interval": "95 %, bootstrap over prompts",
        "curve": rows,
        "peak": {},
        "waves": pool.in_waves() if how.first else None,
        **bad.summary(),
    }
    if how.rejected is not None:
        found["early_rejection"] = how.rejected
    if missing["scores"]:
        log.warning(
            "%d of %d scores are missing and cannot be selected; %d prompts have none",
            missing["scores"], found["responses"], missing["prompts_without_score"],
        )  # fmt: skip
    if fewer := missing[f"prompts_with_fewer_than_{n}"]:
        log.warning(
            "%d of %d prompts have fewer than n = %d responses with a score, and are left out of "
            "the curve there: its points are over different prompts, its peak is of the others",
            fewer, found["prompts"], n,
        )  # fmt: skip
    return found


def _peaks(
    scores_PN: Floats, gold_PN: Floats | None, curve: Curve, judged: Judged, seed: int
) -> dict[str, Peak | None]:
    """Return the peak of the means of proxy and gold; beyond a peak the score is over-optimized.

    Only prompts with enough scores for the largest n count, if there are any, so that every n has
    the same prompts.
    """
    known_PN = np.isfinite(scores_PN)
    if gold_PN is not None:
        known_PN &= np.isfinite(gold_PN)
    whole_P = known_PN.sum(axis=1) >= int(curve.n_S[-1])
    if not whole_P.all() and whole_P.any():
        whole_gold_PN = None if gold_PN is None else gold_PN[whole_P]
        curve = best_of_n_curve(scores_PN[whole_P], curve.n_S.tolist(), whole_gold_PN, seed=seed)
    # points of a tournament have no mean
    found = {} if judged.points else {"proxy": _peak(curve, curve.proxy)}
    return found if curve.gold is None else {**found, "gold": _peak(curve, curve.gold)}


def _peak(curve: Curve, series: Series) -> Peak | None:
    if not np.isfinite(series.mean_S).any():
        return None
    top, high = int(np.nanargmax(series.mean_S)), series.high_S[-1]
    return {
        **series.point(top),
        "n": int(curve.n_S[top]),
        "kl": float(curve.kl_S[top]),
        "over_optimized": bool(np.isfinite(high) and series.mean_S[top] > high),
    }


def as_table(found: CurveFile) -> str:
    """Format the rows of n = 1, 2, 4, … and the last one for a terminal."""
    curve = found["curve"]
    gold = "win rate" if found["win_rate"] else found["gold_by"]
    shown = [row for row in curve if row["n"] & (row["n"] - 1) == 0 or row is curve[-1]]
    head = ["n", "KL"]
    head += [found["by"]] * ("proxy" in curve[0]) + [f"{gold}"] * ("gold" in curve[0])
    body = [
        [str(row["n"]), f"{row['kl']:.3f}"]
        + [cell(point) for point in (row.get("proxy"), row.get("gold")) if point is not None]
        for row in shown
    ]
    widths = [max(len(line[at]) for line in (head, *body)) for at in range(len(head))]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in (head, *body)
    ]
    if waves := found.get("waves"):
        means = {"proxy": waves.get("proxy"), "gold": waves.get("gold")}
        best = ", ".join(f"{name} {cell(mean)}" for name, mean in means.items() if mean)
        lines.append(f"in waves, {waves['responses']:.4g} to a prompt on average: best {best}")
    if early := found.get("early_rejection"):
        lines.append(in_words(early))
    peak = found["peak"].get("gold")
    if peak is not None and peak["over_optimized"]:
        among = "" if peak["prompts"] == found["prompts"] else f" of {peak['prompts']} prompts"
        lines.append(
            f"{gold}{among} is highest at n = {peak['n']} ({peak['mean']:.4g}), above "
            f"the interval at n = {found['n']}: over-optimized"
        )
    return "\n".join(lines)
