"""Draw and score one list of prompts, the scoring running beside the drawing."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence

from raft.assemble import Pools
from raft.progress import Progress
from raft.reward_pool import RewardPool, Scored
from raft.rollout_store import RolloutStore
from rollout.types import Group, Prompt, Sampling


def collect(
    pools: Pools,
    store: RolloutStore,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    seed: int,
    *,
    seed_per_prompt: bool,
    names: Sequence[str],
    title: str,
) -> dict[str, float]:
    """Fill `store`; whatever it holds already is not drawn or scored again.

    Returns seconds and counts: `generate` until the last sample, `score` what scoring took beyond
    that, `score_busy` the workers' own time, `tokens` drawn now, `reused` prompts found there.
    """
    pools.reward.begin_stage()
    if store.complete:
        store.drop_leftovers()
        return {}
    start = time.monotonic()
    busy = pools.reward.busy_seconds
    scoring = _Scoring(pools.reward, store, names)
    undrawn = store.undrawn()
    tokens = 0
    with Progress(title, total=len(prompts), done=len(prompts) - len(undrawn)) as progress:
        for group in pools.rollout.generate(
            undrawn, sampling, seed, seed_per_prompt=seed_per_prompt
        ):
            store.add_samples(group)
            tokens += sum(len(c.token_ids) for c in group.completions)
            progress.advance()
            scoring.add(group)
        generated = time.monotonic()
        scoring.finish()
    scored_at = time.monotonic()
    store.finish()
    return {
        "generate": generated - start,
        "score": scored_at - generated,
        "score_busy": pools.reward.busy_seconds - busy,
        "tokens": float(tokens),
        "reused": float(len(prompts) - len(undrawn)),
    }


class _Scoring:
    """Feeds the reward pool. What it has no room for waits on disk, as ids, not in memory."""

    def __init__(self, pool: RewardPool, store: RolloutStore, names: Sequence[str]) -> None:
        self._pool = pool
        self._store = store
        self._names = names
        self._waiting = deque(store.unscored())

    def add(self, group: Group) -> None:
        if self._waiting or not self._pool.has_room:
            self._waiting.append(group.prompt.id)
        else:
            self._pool.submit(group, self._names)
        self._store_all(self._pool.ready())
        self._feed()

    def finish(self) -> None:
        self._feed()
        while self._waiting or not self._pool.idle:
            self._store_all(self._pool.wait())
            self._feed()

    def _feed(self) -> None:
        while self._waiting and self._pool.has_room:
            self._pool.submit(self._store.group(self._waiting.popleft()), self._names)

    def _store_all(self, scored: Iterable[Scored]) -> None:
        for group, scores in scored:
            self._store.add_scores(group.prompt.id, scores)
