"""Draw and score one list of prompts, the scoring running beside the drawing."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from raft.assemble import Pools
from raft.workers.reward_pool import RewardPool, Scored
from rollout.progress import Progress
from rollout.seeds import derive_seed
from rollout.storage.rollout_store import RolloutStore
from rollout.types import Group, Prompt, Sampling

# a request costs an engine a few kilobytes before it is begun; draining a part costs it little
_SAMPLES_AT_A_TIME = 65_536


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

    Without `names` nothing is scored.

    Returns seconds and counts: `generate` until the last sample, `score` what scoring took beyond
    that, `score_busy` the workers' own time, `tokens` drawn now, `reused` prompts found there.
    """
    pools.reward.begin_stage()
    if store.complete:
        store.drop_leftovers()
        return {}
    start = time.monotonic()
    busy = pools.reward.busy_seconds
    scoring = _Scoring(pools.reward, store, names) if names else _NoScoring(store)
    undrawn = store.undrawn()
    tokens = 0
    with Progress(title, total=len(prompts), done=len(prompts) - len(undrawn)) as progress:
        for group in _drawn(pools, undrawn, sampling, seed, seed_per_prompt, scoring.poll):
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


def _drawn(
    pools: Pools,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    seed: int,
    seed_per_prompt: bool,
    on_idle: Callable[[], None],
) -> Iterator[Group]:
    """The groups of all prompts, as they complete; an engine holds so many samples at a time."""
    step = max(1, _SAMPLES_AT_A_TIME // sampling.k)
    for start in range(0, len(prompts), step):
        # without per-prompt seeds, two parts must not draw from the same stream
        own = seed if seed_per_prompt or start == 0 else derive_seed(seed, "part", start)
        yield from pools.rollout.generate(
            prompts[start : start + step],
            sampling,
            own,
            seed_per_prompt=seed_per_prompt,
            on_idle=on_idle,
        )


class _NoScoring:
    """Every group is finished when it is drawn."""

    def __init__(self, store: RolloutStore) -> None:
        self._store = store
        for prompt_id in store.unscored():
            store.add_scores(prompt_id, {})

    def add(self, group: Group) -> None:
        self._store.add_scores(group.prompt.id, {})

    def poll(self) -> None: ...

    def finish(self) -> None: ...


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
        self._advance()

    def poll(self) -> None:
        """While nothing is drawn: the workers take what there is, if it is less than a batch."""
        self._advance()
        self._pool.start()

    def finish(self) -> None:
        self._feed()
        while self._waiting or not self._pool.idle:
            self._store_all(self._pool.wait())
            self._feed()

    def _advance(self) -> None:
        self._store_all(self._pool.ready())
        self._feed()

    def _feed(self) -> None:
        while self._waiting and self._pool.has_room:
            self._pool.submit(self._store.group(self._waiting.popleft()), self._names)

    def _store_all(self, scored: Iterable[Scored]) -> None:
        for group, found in scored:
            self._store.add_scores(group.prompt.id, found.scores, found.comparisons)
