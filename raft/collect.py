"""Draw and score one list of prompts, the scoring running beside the drawing."""

from __future__ import annotations

import time
from collections.abc import Sequence

from raft.assemble import Pools
from raft.progress import Progress
from raft.rollout_store import RolloutStore
from rollout.types import Prompt, Sampling


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
    if store.complete:
        store.drop_leftovers()
        return {}
    start = time.monotonic()
    busy = pools.reward.busy_seconds
    for group in store.unscored():
        pools.reward.submit(group, names)
    undrawn = store.undrawn()
    tokens = 0
    with Progress(title, total=len(prompts), done=len(prompts) - len(undrawn)) as progress:
        for group in pools.rollout.generate(
            undrawn, sampling, seed, seed_per_prompt=seed_per_prompt
        ):
            store.add_samples(group)
            tokens += sum(len(c.token_ids) for c in group.completions)
            progress.advance()
            pools.reward.submit(group, names)
            for scored, scores in pools.reward.ready():
                store.add_scores(scored.prompt.id, scores)
        generated = time.monotonic()
        for scored, scores in pools.reward.drain():
            store.add_scores(scored.prompt.id, scores)
    scored_at = time.monotonic()
    store.finish()
    return {
        "generate": generated - start,
        "score": scored_at - generated,
        "score_busy": pools.reward.busy_seconds - busy,
        "tokens": float(tokens),
        "reused": float(len(prompts) - len(undrawn)),
    }
