"""The parts of the story experiments that their numbers rest on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.overoptimization.measure import best_of_n_points, scale_of
from experiments.overoptimization.study import MEMBERS, Paths
from experiments.stories.commands import Commands
from experiments.stories.gold import gold
from experiments.stories.labels import label
from experiments.tournament.study import gaps
from experiments.tournament.study import measure as tournament_rows


def gold_of(text: str) -> float:
    return gold(["Once upon a time"], [text])[0]


@pytest.mark.usefixtures("raft_data")
def test_gold_counts_a_happy_word_once_and_takes_off_for_repetition() -> None:
    assert gold_of("She was happy and kind.") == 2
    assert gold_of("She was happy but sad and sad.") == -1
    # of the pairs happy-happy twice over, one is new
    assert gold_of("happy happy happy") == pytest.approx(1 - 6 / 2)
    assert gold_of("") == 0


@pytest.mark.usefixtures("raft_data")
def test_labels_follow_gold_but_for_the_share_that_is_flipped() -> None:
    texts = ["a happy day", "a sad day", "a day", "a day"]  # the last two tie
    rows = [{"prompt": str(i), "responses": texts} for i in range(2000)]
    clean = label(rows, 0.0)
    assert len(clean) == 2000
    assert {(pair["chosen"], pair["rejected"]) for pair in clean} == {(texts[0], texts[1])}
    wrong = sum(pair["chosen"] == texts[1] for pair in label(rows, 0.25))
    assert abs(wrong / 2000 - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 2000)


def test_ensembles_are_scaled_before_they_are_reduced(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = Paths(tmp_path)
    paths.models.mkdir()
    # three members that say the same on scales of their own
    signal_PN = rng.normal(size=(6, 5))
    own = {"bt_0": (1.0, 0.0), "bt_1": (30.0, -7.0), "bt_2": (0.1, 4.0)}
    for member, (spread, mean) in own.items():
        rows = (signal_PN * spread + mean).tolist()
        text = "".join(json.dumps({"scores": row}) + "\n" for row in rows)
        (paths.models / f"{member}_000.scored.jsonl").write_text(text)
    pool = {f"{member}_000": signal_PN * s + m for member, (s, m) in own.items()}
    pool |= {
        f"scale_{member}_000": np.array(
            [(signal_PN * s + m).mean(), (signal_PN * s + m).std()]
        )
        for member, (s, m) in own.items()
    }  # fmt: skip
    pool["gold"] = signal_PN
    assert tuple(own) == MEMBERS
    for proxy in ("mean", "min"):
        mean, std = scale_of(paths, proxy, "000")
        assert (mean, std) == pytest.approx((0, 1))
        points = best_of_n_points(pool, proxy, "000", (mean, std))
        # gold is the signal itself: the best of all five by any of them is the best
        assert points[0].gold == pytest.approx(signal_PN.mean())
        assert best_of_n_points(pool, proxy, "000", (0, 1))[-1].gold <= signal_PN.max(1).mean()
        assert [point.at for point in points] == [1, 2, 3, 4]


def _knockout_by_gold(root: Path, rows: list[dict[str, Any]], size: int) -> None:
    ranked = []
    for row in rows:
        for start in range(0, 64, size):
            group = row["gold_scores"][start : start + size]
            best = int(np.argmax(group))
            ranked.append({"id": f"{row['id']}/{start}", "gold_scores": group, "best": best})
    text = "".join(json.dumps(r) + "\n" for r in ranked)
    (root / f"knockout_{size}.jsonl").write_text(text)


def test_tournament_winners_and_the_scalar_are_compared_on_the_same_pool(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    rng = np.random.default_rng(1)
    rows = [
        {"id": str(p), "gold_scores": (g := rng.normal(size=64)).tolist(),
         "bt_0_000_scores": g.tolist()}
        for p in range(10)
    ]  # fmt: skip
    for column in ("gold", "bt_0_000"):
        paths.pool(column).write_text("".join(json.dumps(row) + "\n" for row in rows))
    _knockout_by_gold(tmp_path, rows, 4)
    found = {(row.way, row.entrants): row for row in tournament_rows(paths, tmp_path)}
    judge, scalar = found["judge, knockout", 4], found["scalar, best of n", 4]
    assert judge.passes == 6 and scalar.passes == 4
    # both choose by gold itself; disjoint groups of four estimate what all subsets say
    assert judge.gold == pytest.approx(scalar.gold, abs=4 * judge.half)
    assert found["scalar, best of n", 6].gold > scalar.gold
    for size in (2, 8, 16):  # knockouts of others, which chose by gold too
        _knockout_by_gold(tmp_path, rows, size)
    by = {(gap.entrants, gap.equal): gap for gap in gaps(paths, tmp_path)}
    same, more = by[4, "responses"], by[4, "passes"]
    assert same.gold == pytest.approx(scalar.gold - judge.gold) and abs(same.gold) < 4 * same.half
    assert more.gold == pytest.approx(found["scalar, best of n", 6].gold - judge.gold)


@pytest.mark.slow
def test_a_command_runs_once_and_its_failure_is_told(tmp_path: Path) -> None:
    commands = Commands(tmp_path)
    commands.raft("version", "--version")
    kept = commands.seconds()
    commands.raft("version", "--no-such-option")  # is not run: it has ended well before
    assert commands.seconds() == kept
    with pytest.raises(SystemExit, match="broken ended with 2"):
        commands.raft("broken", "--no-such-option")
    assert set(commands.seconds()) == {"version"}
