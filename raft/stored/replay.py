"""`raft replay`: report what every rule would have selected from stored samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from raft.adaptive import Adaptive
from raft.monitor.diversity import measure
from raft.selection.filters import Filters
from raft.selection.rows import read_selected, selection_seed
from raft.stored.kept import DIVERSITY_DRAWS, SelectionStats, keep, keep_own
from raft.stored.pool import Pool, read_pool, value_name
from raft.stored.rules import Rule, Scoring, filters_at_work, required_methods, sweep, sweep_points
from raft.stored.source import OriginalSelection, Part, Source
from raft.stored.summary import Outcome, outcomes
from raft.stored.waves import Waves, measure_waves
from rewards.evaluation.stats import RESAMPLES
from rollout.data.samples import COMPARISONS
from rollout.errors import InputError
from rollout.progress import Progress

__all__ = ["Plan", "Report", "replay"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a replay tries: filters, rules, numbers of samples K, and how they are estimated.

    Args:
        filters: every filter, as `raft.stored.rules.parse_filters` returns them.
        ks: default: powers of two below the number of stored samples, and that number; fewer where
            tournament points select (`raft.stored.rules`).
        rules: default: the run's own selector, best of K for a file.
        adaptive: measure drawing in waves, too, with budgets of those K that it allows.
        draws: number of random subsets for rules without a closed form.
        resamples: number of resamples of prompts, for intervals.
    """

    filters: Filters
    ks: tuple[int, ...] | None = None
    rules: tuple[Rule, ...] | None = None
    scoring: Scoring = field(default_factory=Scoring)
    adaptive: Adaptive | None = None
    draws: int = 20
    seed: int = 0
    resamples: int = RESAMPLES


@dataclass(frozen=True, slots=True)
class Report:
    """The content of replay.json: its keys are the fields.

    `same_as_selected` tells for each part whether the replay of the run's own selection gives the
    rows of its selected.jsonl, None where that is unknown; `unselectable` counts samples by reason;
    `by_part` is empty where there is one part, and `waves` where `adaptive` is None.
    """

    source: str
    parts: list[str]
    notes: list[str]
    own: OriginalSelection | None
    same_as_selected: dict[str, bool | None]
    score: Scoring
    filters: dict[str, object]
    unselectable: dict[str, int]
    draws: int
    diversity_draws: int
    resamples: int
    seed: int
    results: list[Outcome]
    by_part: dict[str, list[Outcome]]
    adaptive: Adaptive | None = None
    waves: list[Waves] = field(default_factory=list[Waves])


def replay(source: Source, plan: Plan) -> Report:
    """Apply every rule at every K, and report on all parts together and on each.

    Raises:
        InputError: rows without scores, K above what is stored, rules that fit no K.
    """
    rules = plan.rules or _own_rules(source)
    parts: dict[str, list[SelectionStats]] = {}
    same: dict[str, bool | None] = {}
    unselectable: Counter[str] = Counter()
    pools: list[Pool] = []
    with Progress("replay", len(source.parts)) as bar:
        for part in source.parts:
            pool = _read(source, part, plan, rules)
            bar.advance()
            if pool is None:
                continue
            parts[part.name] = _keep(source, part, pool, plan, rules)
            if source.own is not None:
                same[part.name] = _same_as_selected(source, part, pool, parts[part.name][0])
            unselectable.update(pool.refused)
            pools += [pool] if plan.adaptive is not None else []
    if not parts:
        raise InputError(source.name, "no row of it can be read", f"{source.notes[-1]}")
    hidden = _hidden(source, plan)

    def summary(kept: Sequence[Sequence[SelectionStats]]) -> list[Outcome]:
        return outcomes(kept, hidden, resamples=plan.resamples, seed=plan.seed)

    return Report(
        source=source.name,
        parts=list(parts),
        notes=source.notes,
        own=source.own,
        same_as_selected=same,
        score=plan.scoring,
        filters=filters_at_work(plan.filters),
        unselectable=dict(unselectable),
        draws=plan.draws,
        diversity_draws=DIVERSITY_DRAWS,
        resamples=plan.resamples,
        seed=plan.seed,
        results=summary(list(parts.values())),
        by_part={name: summary([kept]) for name, kept in parts.items() if len(parts) > 1},
        adaptive=plan.adaptive,
        waves=_waves(pools, plan),
    )


def _waves(pools: Sequence[Pool], plan: Plan) -> list[Waves]:
    """Measure drawing in waves for each K that its settings allow; none without `plan.adaptive`.

    Where `most` is not given, a prompt may get all its stored samples. Raises InputError where no K
    is allowed.
    """
    if (adaptive := plan.adaptive) is None:
        return []
    stored = max(pool.samples for pool in pools)
    most = adaptive.most or stored
    ks = [k for k in plan.ks or sweep(stored) if adaptive.first <= k < most]
    if not ks:
        raise InputError(
            "--adaptive",
            f"no K is from {adaptive.first} on, its first wave, and below {most}, its most",
            f"choose first and most around --k; {stored} samples of a prompt are stored",
        )
    return [
        measure_waves(
            pools, replace(adaptive, most=most), k,
            draws=plan.draws, seed=plan.seed, resamples=plan.resamples,
        )
        for k in ks
    ]  # fmt: skip


def _own_rules(source: Source) -> tuple[Rule, ...]:
    own = source.own
    return (Rule(own.strategy, own.arguments) if own else Rule("best_of_k"),)


def _hidden(source: Source, plan: Plan) -> set[str]:
    """Return the values not to report: tournament points, and a score that is the reward itself."""
    judged = source.own.judged if source.own else ()
    return {value_name(column) for column in judged} | ({"score"} if plan.scoring.plain else set())


def _read(source: Source, part: Part, plan: Plan, rules: Sequence[Rule]) -> Pool | None:
    """Return the pool of a part; None, with a note, where it has no valid row.

    Raises InputError where a rule plays a tournament and no row stores comparisons.
    """
    pool = read_pool(
        source.read(part),
        plan.scoring,
        plan.filters,
        source.own.filters if source.own else None,
        scored=any(rule.tournament is None for rule in rules),
    )
    if pool is None:
        source.note(f"{part.name}: {part.path} holds no row that can be read")
        return None
    wanted = next((rule for rule in rules if rule.tournament is not None), None)
    if wanted is not None and pool.wins_PNN is None:
        raise InputError(
            f"--tournament {wanted.label}",
            f"no row of {part.path} has {COMPARISONS!r}, a list of [i, j, P(response i is "
            "better than j)]",
            "store them, or select by scores",
        )
    return pool


def _keep(
    source: Source, part: Part, pool: Pool, plan: Plan, rules: Sequence[Rule]
) -> list[SelectionStats]:
    """Select by the run's own selection first, if there is one, then by every rule at every K."""
    pairs = _pairs(source, part, pool.samples, plan, rules)
    kept = keep(pool, pairs, plan.filters, draws=plan.draws, seed=plan.seed)
    if source.own is not None:
        seed = selection_seed(source.own.seed, part.iteration or 0)
        how = (source.own.strategy, source.own.arguments, seed, source.own.shuffle)
        kept.insert(0, keep_own(pool, *how))
    picks = [pick_PN for one in kept for pick_PN in one.picks]
    found = iter(measure(source.read(part), picks))
    for one in kept:
        of_picks = [next(found) for _ in one.picks]
        one.diversity = {name: float(np.mean([f[name] for f in of_picks])) for name in of_picks[0]}
        one.picks = one.picks[:1]
    return kept


def _pairs(
    source: Source, part: Part, stored: int, plan: Plan, rules: Sequence[Rule]
) -> list[tuple[Rule, int]]:
    """Return the (rule, K) pairs that can be tried; a note is added about the others.

    Raises InputError for a K above what is stored, and for a rule that no K fits.
    """
    if plan.ks is not None and max(plan.ks) > stored:
        raise InputError(
            f"--k {max(plan.ks)}",
            f"{part.path} stores {stored} samples of a prompt",
            "choose K up to that",
        )
    judged = source.own.judged if source.own else {}
    pairs: list[tuple[Rule, int]] = []
    for rule in rules:
        methods = required_methods(rule, plan.scoring.weights, judged)
        ks, said = sweep_points(rule, methods, plan.ks, stored)
        if said is not None:
            source.note(said)
        unfit = _unfit(rule, ks)
        if len(unfit) == len(ks):
            raise InputError("replay", f"{unfit[ks[-1]]}")
        if unfit:
            at = ", ".join(map(str, unfit))
            source.note(f"{rule.label} is left out at K = {at}: too few samples for it")
        pairs += [(rule, k) for k in ks if k not in unfit]
    return pairs


def _unfit(rule: Rule, ks: Sequence[int]) -> dict[int, str]:
    """Return the K that the rule refuses, each with the reason: too few samples for it."""
    found: dict[int, str] = {}
    for k in ks:
        try:
            rule.check(k)
        except InputError as error:
            found[k] = str(error)
    return found


def _same_as_selected(source: Source, part: Part, pool: Pool, own: SelectionStats) -> bool | None:
    """Return whether the replay of the run's own selection gives the rows of selected.jsonl.

    A note says how they differ; None, with a note, where the file cannot be read.
    """
    file = part.path.with_name("selected.jsonl")
    try:
        stored = list({(row.id, row.sample): None for row in read_selected(file)})
    except FileNotFoundError:
        source.note(f"{part.name}: {file} is not there; the replay is compared with nothing")
        return None
    except (InputError, OSError) as error:
        source.note(f"{part.name}: {file} cannot be read ({error})")
        return None
    at_P, at_N = own.picks[0].nonzero()
    picked = zip(at_P.tolist(), at_N.tolist(), strict=True)
    replayed = [(pool.ids[p], pool.numbers[p][k]) for p, k in picked]
    if sorted(stored) == sorted(replayed):
        return True
    source.note(
        f"{part.name}: the replay of the run's own selection keeps {len(replayed)} rows, {file} "
        f"has {len(stored)}; {len(set(stored) & set(replayed))} are the same"
    )
    return False
