"""Draw and score one list of prompts, the scoring running beside the drawing.

With `adaptive` sampling that is done in waves: the scores of a wave decide which prompts get
another. With `early_rejection` the beginnings of responses are scored first, and the best are drawn
to their end.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING

from raft.assemble import WorkerGroups
from raft.early_rejection import completed, go_on, unfinished
from raft.evaluation import by_judge, with_references
from raft.runs.prompts import prompts_of
from raft.train import return_to_policy
from raft.workers.reward import GroupScores, RewardWorkers
from rollout.data.samples import REWARD
from rollout.progress import Progress
from rollout.seeds import derive_seed
from rollout.storage.rollout_store import RolloutStore, part_key
from rollout.types import Group, Prompt, Sampling

if TYPE_CHECKING:
    from raft.adaptive import Adaptive
    from raft.config.run import RunConfig
    from raft.early_rejection import EarlyRejection, Whole
    from raft.runs.folder import RunFolder
    from raft.selection.filters import Filters
    from rewards.judges.reward import Report

# a request costs an engine a few kilobytes before it is begun; draining a part costs it little
_SAMPLES_AT_A_TIME = 65_536


@dataclass(frozen=True)
class Collected:
    """What one call of `collect` did.

    `reused` counts the prompts whose responses were stored before the call, scored or not. Times
    are in seconds: `generate` until the last sample, `score` what scoring took beyond that,
    `score_busy` the reward workers' own time. `reports` are those of the judges among the rewards.
    """

    reused: int
    tokens: int = 0
    generate: float = 0.0
    score: float = 0.0
    score_busy: float = 0.0
    reports: Mapping[str, Report] = field(default_factory=dict[str, "Report"])

    def metrics(self) -> dict[str, float | int]:
        speed = {"rollout/tokens_per_second": self.tokens / self.generate} if self.tokens else {}
        return {
            **speed,
            "rollout/reused": self.reused,
            "time/generate": self.generate,
            "time/score": self.score,
            "time/score_busy": self.score_busy,
        }


def draw_batch(
    config: RunConfig,
    folder: RunFolder,
    workers: WorkerGroups,
    prompts: Sequence[Prompt],
    iteration: int,
) -> tuple[RolloutStore, Collected]:
    """Draw and score the rollouts of an iteration by the policy that it draws from."""
    version, home = config.drawn_by(iteration), folder.iteration(iteration)
    batch = prompts_of(iteration, prompts, config.prompts.per_iteration, config.seed)
    store = RolloutStore(home, "rollouts", batch, version=version)
    if not store.complete:
        return_to_policy(config, folder, workers, version)
    collected = collect(
        workers, store, batch, config.sampling, derive_seed(config.seed, "rollout", iteration),
        names=["reward"], title=f"iteration {iteration}: rollouts",
        adaptive=config.sampling.adaptive, early=config.sampling.early_rejection,
        filters=config.select.filters(),
    )  # fmt: skip
    return store, collected


def draw_held_out(
    config: RunConfig,
    folder: RunFolder,
    workers: WorkerGroups,
    prompts: Sequence[Prompt],
    iteration: int,
) -> RolloutStore:
    """Draw and score the held-out responses of policy version `iteration`, by the same seeds for
    every version.

    A judge compares them with those of the starting policy.
    """
    if by_judge(config.reward, config.gold, alone=False):
        prompts = with_references(prompts, folder.at_start() if iteration else None)
    store = RolloutStore(folder.iteration(iteration), "eval", prompts, version=iteration)
    collect(
        workers, store, prompts, config.eval_sampling, derive_seed(config.seed, "eval"),
        names=workers.reward.names, title=f"iteration {iteration}: held-out",
    )  # fmt: skip
    return store


def draw_ahead(
    config: RunConfig,
    folder: RunFolder,
    workers: WorkerGroups,
    prompts: Sequence[Prompt],
    iteration: int,
    drawn: dict[int, Collected],
) -> None:
    """With `overlap`, draw the rollouts of the next iteration, if there is one.

    What that took is put into `drawn` under the iteration, whose metrics have it later.
    """
    if config.overlap and iteration < config.iterations:
        following = iteration + 1
        drawn[following] = draw_batch(config, folder, workers, prompts, following)[1]


def collect(
    workers: WorkerGroups,
    store: RolloutStore,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    seed: int,
    *,
    names: Sequence[str],
    title: str,
    adaptive: Adaptive | None = None,
    early: EarlyRejection | None = None,
    filters: Filters | None = None,
) -> Collected:
    """Fill `store`; whatever it holds already is not drawn or scored again.

    Args:
        names: the rewards that score; without any, nothing is scored.
        title: of the progress bar.
        adaptive: draw in waves, as the scores of reward "reward" ask for it; `sampling.k` is then
            the most samples of a prompt on average.
        early: reject by the score that reward "reward" gives to beginnings, which a store beside
            `store` has.
        filters: by the text of a response; one that may not be selected counts as one without score
            when a wave, or what goes on, is decided.
    """
    workers.reward.begin_stage()
    if store.complete:
        store.drop_leftovers()
        return Collected(reused=len(prompts))
    busy = workers.reward.busy_seconds
    stages: list[Collected] = []
    whole: Whole = {}
    if early is not None:
        begun, first = store.beginnings(), early.beginning(sampling)
        what = f"{title}, beginnings"
        stages.append(collect(workers, begun, prompts, first, seed, names=["reward"], title=what))
        whole = go_on(store, begun, early, _text_filters(filters), sampling.min_new_tokens)
        sampling = replace(sampling, k=early.keep)
    done = len(prompts) - len(store.undrawn())
    with Progress(title, total=len(prompts), done=done) as progress:
        for wave in _waves(store, prompts, sampling, adaptive, filters):
            stages.append(_collect_wave(workers, store, wave, seed, names, progress, whole))
            progress = None  # which counts prompts
    store.finish()
    return Collected(
        reused=done,
        tokens=sum(stage.tokens for stage in stages),
        generate=sum(stage.generate for stage in stages),
        score=sum(stage.score for stage in stages),
        score_busy=workers.reward.busy_seconds - busy,
        reports=dict(workers.reward.reports),
    )


def _waves(
    store: RolloutStore,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    adaptive: Adaptive | None,
    filters: Filters | None,
) -> Iterator[Sampling]:
    """Yield how the samples are drawn that `store` wants next: all at once, or a wave at a time.

    The caller draws and scores a wave before it asks for the next, which its scores decide.
    """
    if adaptive is None:
        yield sampling
        return
    from raft.adaptive import next_wave
    from raft.selection.rows import selectable_scores

    text_alone = _text_filters(filters)
    yield replace(sampling, k=adaptive.first)
    while True:
        scores = [
            selectable_scores(row, text_alone, row.scores[REWARD])[0] for row in store.so_far()
        ]
        wave = next_wave(scores, adaptive, sampling.k)
        if not len(wave.rows):
            return
        wanted = {row: range(len(scores[row]), len(scores[row]) + wave.size) for row in wave.rows}
        store.extend([replace(prompts[row], samples=tuple(k)) for row, k in wanted.items()])
        yield replace(sampling, k=wave.size)


def _text_filters(filters: Filters | None) -> Filters:
    """Return the filters that judge a response by its text alone.

    Those that need the score or the prompt's other responses apply once all are there.
    """
    return {**(filters or {}), "min_score": None, "min_spread": None, "unique": False}


def _collect_wave(
    workers: WorkerGroups,
    store: RolloutStore,
    sampling: Sampling,
    seed: int,
    names: Sequence[str],
    progress: Progress | None,
    whole: Whole,
) -> Collected:
    """Draw and score what `store` still lacks; `whole` responses need no drawing."""
    start = time.monotonic()
    scoring = _Scoring(workers.reward, store, names)
    asked, ready = unfinished(store.undrawn(), whole, workers.rollout.version)
    tokens = 0
    try:
        for parcel in chain([ready], _drawn(workers, asked, sampling, seed, scoring.poll)):
            tokens += sum(len(c.token_ids) for group in parcel for c in group.completions)
            groups = [completed(group, whole) for group in parcel]
            for group in groups:  # all are stored before one is scored: scoring may fail
                store.add_samples(group)
                if progress is not None:
                    progress.advance()
            for group in groups:
                scoring.add(group)
    except BaseException:
        for parcel in workers.rollout.drain():
            for group in parcel:
                store.add_samples(completed(group, whole))
        raise
    generated = time.monotonic()
    scoring.finish()
    seconds = time.monotonic() - generated
    return Collected(reused=0, tokens=tokens, generate=generated - start, score=seconds)


def _drawn(
    workers: WorkerGroups,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    seed: int,
    on_idle: Callable[[], None],
) -> Iterator[list[Group]]:
    """Yield the groups of all prompts as they complete, several at a time.

    An engine is given at most `_SAMPLES_AT_A_TIME` samples at once.
    """
    step = max(1, _SAMPLES_AT_A_TIME // sampling.k)
    for start in range(0, len(prompts), step):
        # without per-prompt seeds, two parts must not draw from the same stream
        reuse = sampling.seed_per_prompt or start == 0
        own = seed if reuse else derive_seed(seed, "part", start)
        part = prompts[start : start + step]
        yield from workers.rollout.generate(part, sampling, own, on_idle=on_idle)


class _Scoring:
    """Submits groups to the reward workers. Those for which they have no room wait, as ids.

    Without `names` every group is finished when it is drawn.
    """

    def __init__(self, workers: RewardWorkers, store: RolloutStore, names: Sequence[str]) -> None:
        self._workers = workers
        self._store = store
        self._names = names
        self._waiting = deque(store.unscored())
        if not names:
            while self._waiting:
                store.add_scores(self._waiting.popleft(), {})

    def add(self, group: Group) -> None:
        if not self._names:
            self._store.add_scores(part_key(group.prompt), {})
            return
        if self._waiting or not self._workers.has_room:
            self._waiting.append(part_key(group.prompt))
        else:
            self._workers.submit(group, self._names)
        self._advance()

    def poll(self) -> None:
        """Start scoring an incomplete batch: called while no response arrives."""
        self._advance()
        self._workers.start()

    def finish(self) -> None:
        self._feed()
        while self._waiting or not self._workers.idle:
            self._store_all(self._workers.wait())
            self._feed()

    def _advance(self) -> None:
        self._store_all(self._workers.ready())
        self._feed()

    def _feed(self) -> None:
        while self._waiting and self._workers.has_room:
            self._workers.submit(self._store.group(self._waiting.popleft()), self._names)

    def _store_all(self, scored: Iterable[tuple[Group, GroupScores]]) -> None:
        for group, found in scored:
            self._store.add_scores(part_key(group.prompt), found.scores, found.comparisons)
