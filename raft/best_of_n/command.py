"""`raft bon`: from a pool of scored responses to the best of each, the curve and its picture.

A best-of-n curve as a table for a terminal.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raft.best_of_n.estimate import Curve, Series, best_of_n_curve
from raft.best_of_n.plot import draw_curve
from raft.best_of_n.pool import Columns, Pool, read_pool
from rollout.data.jsonl import encode_rows
from rollout.data.rows import RowIds
from rollout.data.scored_rows import RowReader, ScoreRow
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
    """What a judge had to do with the scores.

    points: the selecting score is points of a tournament, which says nothing on average.
    ranks_all: it ranks all, so that every n is known; a bracket tells the best of all only.
    win_rate: the gold is P(the response beats a sample that took no part in the selection).
    """

    points: bool = False
    ranks_all: bool = True
    win_rate: bool = False


class Outputs:
    """The three files of a curve: STEM.bon.json, STEM.best.jsonl and STEM.bon.png; and the rows
    that they are made from, where this command makes these: STEM.pool.jsonl, STEM.judged.jsonl."""

    def __init__(self, folder: Path, stem: str) -> None:
        self.pool = folder / f"{stem}.pool.jsonl"
        self.judged = folder / f"{stem}.judged.jsonl"
        self.curve = folder / f"{stem}.bon.json"
        self.best = folder / f"{stem}.best.jsonl"
        self.picture = folder / f"{stem}.bon.png"
        self.all = (self.curve, self.best, self.picture)


def outputs(given: str | None, pool: str, folder: str | None = None) -> Outputs:
    """Where the files go: named after the pool (a file or dataset) and beside it, or in `folder`.

    `given` is a path without an ending, for other names.

    Raises InputError for a name that is a folder, and a pool that is not there.
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
    restart: bool = False,
) -> dict[str, Any]:
    """Write `out` from a stored pool: rows of `responses` and their scores. No model is needed.

    Args:
        by: the column that selects.
        gold: the column measured beside it; by default `gold_scores`, where there are any.
        n: how many responses compete, the first n of each prompt; by default all. The curve is for
            every size up to n, and estimated from the whole pool.
        judged: how a judge chose and measured, where one did.
        seed: of the resamples.
        restart: overwrite files that nothing tells how they were made.

    Returns:
        What STEM.bon.json holds, with `out`, the paths.

    Raises:
        InputError: the file, a row of it, its scores, or files of these names from elsewhere.
    """
    reader = RowReader(str(file), form="responses")
    judged = judged or Judged()
    settings = {"pool": identity(file.stat()), "by": by, "gold": gold, "n": n, "seed": seed}
    settings |= {"judged": asdict(judged)}
    names = {"curve": str(out.curve), "best": str(out.best), "picture": str(out.picture)}
    for path in out.all:
        refuse_input(path, file)
    with OutputFiles(out.all, settings, restart=restart, redo=True) as output:
        if output.complete:
            log.info("%s: is complete already, under the same settings", out.curve)
            return {**output.record, "out": names}
        output.begin()
        pool, best = _read(reader, _columns(reader, by, gold), n, out.best)
        n = n or pool.largest
        values = {} if (gold_PN := pool.gold_PN) is None else {"gold": gold_PN}
        ns = range(1, n + 1) if judged.ranks_all else sorted({1, n})
        curve = best_of_n_curve(pool.scores_PN, ns, values, seed=seed)
        found = _result(file, pool, curve, judged, best)
        found["peak"] = _peaks(pool, curve, judged, values, seed)
        draw_curve(curve, _titles(pool.columns, judged), out.picture)
        write_json(out.curve, found)
        output.finish(found)
    return {**found, "out": names}


def _columns(reader: RowReader, by: str, gold: str | None) -> Columns:
    first = next(reader.rows(), None)
    if first is None:
        raise InputError(reader.source.name, "holds no rows", "name a file with at least one")
    own = "gold_scores" if by != "gold_scores" and "gold_scores" in first.columns else None
    return Columns(by, gold or own)


def _read(reader: RowReader, columns: Columns, n: int | None, best: Path) -> tuple[Pool, int]:
    """The pool, and how many best rows were written to `best`."""
    ids, kept = RowIds(), 0

    def rows() -> Iterator[ScoreRow]:
        for row in reader.rows():
            ids.add(row.id)
            yield row

    with whole_file(best) as file:

        def keep(row: dict[str, object]) -> None:
            nonlocal kept
            kept += 1
            file.write(encode_rows([row]).decode())

        pool = read_pool(rows(), columns, n, keep)
        ids.check((row.id, row.where) for row in reader.rows())
    return pool, kept


def _titles(columns: Columns, judged: Judged) -> dict[str, str]:
    gold = f"Gold: {columns.gold}" if columns.gold else None
    if judged.win_rate:
        gold = "Win rate against one sample"
    found = {"gold": gold} if gold else {}
    return found if judged.points else {"proxy": f"Proxy, which selects: {columns.by}", **found}


def _result(file: Path, pool: Pool, curve: Curve, judged: Judged, best: int) -> dict[str, Any]:
    n = int(curve.n_S[-1])
    rows = curve.rows()
    for row in rows if judged.points else ():
        del row["proxy"]  # points of a tournament have no mean
    found: dict[str, Any] = {
        "pool": file.name,
        "prompts": len(pool.responses_P),
        "responses": sum(pool.responses_P),
        "n": n,
        "by": pool.columns.by,
        "gold_by": pool.columns.gold,
        **asdict(judged),
        "best_responses": best,
        "missing": pool.missing(n),
        "interval": "95 %, bootstrap over prompts",
        "curve": rows,
    }
    lost = found["missing"]
    if lost["scores"]:
        log.warning(
            "%d of %d scores are missing and cannot be selected; %d prompts have none",
            lost["scores"], found["responses"], lost["prompts_without_score"],
        )  # fmt: skip
    if fewer := lost[f"prompts_with_fewer_than_{n}"]:
        log.warning(
            "%d of %d prompts have fewer than n = %d responses with a score, and are left out of "
            "the curve there: its points are over different prompts, its peak is of the others",
            fewer, found["prompts"], n,
        )  # fmt: skip
    return found


def _peaks(
    pool: Pool, curve: Curve, judged: Judged, values: dict[str, Any], seed: int
) -> dict[str, dict[str, Any] | None]:
    """Where each mean is highest: a gold that peaks before the end is over-optimized from there.

    Over the prompts that have the largest n: were there others at a smaller n, prompts would be
    compared, not sizes.
    """
    scores_PN, n = pool.scores_PN, int(curve.n_S[-1])
    known_PN = np.isfinite(np.stack([scores_PN, *values.values()])).all(axis=0)
    whole_P = known_PN.sum(axis=1) >= n
    if not whole_P.all() and whole_P.any():
        those = {name: value_PN[whole_P] for name, value_PN in values.items()}
        curve = best_of_n_curve(scores_PN[whole_P], curve.n_S.tolist(), those, seed=seed)
    named = {} if judged.points else {"proxy": curve.proxy}  # points of a tournament have no mean
    return {name: _peak(curve, series) for name, series in {**named, **curve.values}.items()}


def _peak(curve: Curve, series: Series) -> dict[str, Any] | None:
    if not np.isfinite(series.mean_S).any():
        return None
    top = int(np.nanargmax(series.mean_S))
    point = series.point(top)
    point |= {"n": int(curve.n_S[top]), "kl": float(curve.kl_S[top])}
    high = series.high_S[-1]
    return {**point, "over_optimized": bool(np.isfinite(high) and point["mean"] > high)}


def as_table(found: dict[str, Any]) -> str:
    """Rows of n = 1, 2, 4 … and the last, out of what `best_of_n` returns."""
    curve = found["curve"]
    names = [name for name in curve[0] if name not in ("n", "kl")]
    called = {"proxy": found["by"], "gold": found["gold_by"]}
    if found["win_rate"]:
        called["gold"] = "win rate"
    shown = [row for row in curve if row["n"] & (row["n"] - 1) == 0 or row is curve[-1]]
    head = ["n", "KL", *(called[name] for name in names)]
    body = [
        [str(row["n"]), f"{row['kl']:.3f}", *(_cell(row[name]) for name in names)] for row in shown
    ]
    widths = [max(len(line[at]) for line in (head, *body)) for at in range(len(head))]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in (head, *body)
    ]
    peak = found["peak"].get("gold")
    if peak is not None and peak["over_optimized"]:
        among = "" if peak["prompts"] == found["prompts"] else f" of {peak['prompts']} prompts"
        lines.append(
            f"{called['gold']}{among} is highest at n = {peak['n']} ({peak['mean']:.4g}), above "
            f"the interval at n = {found['n']}: over-optimized"
        )
    return "\n".join(lines)


def _cell(point: dict[str, Any]) -> str:
    """The mean and its interval; nothing where nothing is known."""
    if point["mean"] is None:
        return "-"
    if point["low"] is None:
        return f"{point['mean']:.4g}"
    return f"{point['mean']:.4g} [{point['low']:.4g}, {point['high']:.4g}]"
