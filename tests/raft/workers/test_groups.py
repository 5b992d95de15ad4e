"""Worker groups over workers that answer in any order, die and hang: no process is started."""

from __future__ import annotations

import errno
import gc
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import Any, ClassVar

import pytest
import toy_runs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.distributed import DistBackendError

import raft.workers.reward
import raft.workers.rollout_worker
import raft.workers.silence
from raft.assemble import WorkerGroups
from raft.collect import collect
from raft.config.train import TrainConfig
from raft.updates.trainer import Update, build_trainer
from raft.workers.executors import Resources
from raft.workers.group import side_by_side
from raft.workers.inline_executor import InlineExecutor
from raft.workers.reward import GroupScores, RewardWorkers
from raft.workers.rollout import Policy, RolloutWorkers
from raft.workers.trainer import TrainerWorkers
from raft.workers.weight_check import Probe
from rewards.build import build_reward
from rewards.types import RewardError
from rollout.engines.base import EngineChoice, build_engine
from rollout.engines.environment import exempt_from_collection
from rollout.engines.toy import ToyEngine, write_toy
from rollout.engines.transfer import SentTensors, SharedChunk, Transfer
from rollout.storage.files import write_json
from rollout.storage.rollout_store import RolloutStore
from rollout.types import (
    Completion,
    EngineError,
    Group,
    InputError,
    Prompt,
    Sampling,
    StaleWeightsError,
    WorkerDiedError,
)

SAMPLING = Sampling(k=2, max_new_tokens=6)
REWARDS = {"reward": partial(build_reward, kind="function", function="length")}
anywhere = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


class Chaos:
    """An executor in one process. Any call may be the next to answer; `deaths` of them kill."""

    def __init__(self, seed: int = 0, deaths: int = 0) -> None:
        self.random = random.Random(seed)
        self.deaths = deaths
        self.spawned: list[Any] = []
        self.hanging: Callable[[_Worker, str], bool] = lambda worker, method: False
        self.fatal: Callable[[_Worker, str], bool] = lambda worker, method: False

    def gpus(self) -> int:
        return 0

    def check_nodes(self, folder: Path | None) -> None: ...

    def reserve(self, slots: Sequence[Any]) -> None: ...

    def spawn(self, factory: Callable[[], Any], resources: Resources, after: Any = None) -> Any:
        self.spawned.append(factory)
        return _Worker(self, factory(), len(self.spawned) - 1)

    def first_ready(self, waiting: Sequence[Any], timeout: float | None = None) -> Any | None:
        assert waiting
        ready = [one for one in waiting if not one.hangs]
        if timeout == 0 and self.random.random() < 0.5:
            return None
        if timeout and not ready:
            return None
        assert ready, "waits for ever"
        return self.random.choice(ready)

    def close(self) -> None: ...

    def dies(self, worker: _Worker, method: str) -> bool:
        if self.fatal(worker, method):
            return True
        if self.deaths and self.random.random() < 0.3:
            self.deaths -= 1
            return True
        return False


class _Worker:
    def __init__(self, executor: Chaos, target: Any, number: int) -> None:
        self.executor, self.target, self.number = executor, target, number
        self.dead = False

    def call(self, method: Callable[..., Any], *arguments: Any) -> _Answer:
        name = method.__name__
        return _Answer(self, name, iter([lambda: getattr(self.target, name)(*arguments)]))

    def stream(self, method: Callable[..., Any], *arguments: Any) -> _Answer:
        def items() -> Iterator[Callable[[], Any]]:
            for item in getattr(self.target, method.__name__)(*arguments):
                yield lambda item=item: item

        return _Answer(self, method.__name__, items())

    def kill(self) -> None:
        self.dead = True


class _Answer:
    def __init__(self, worker: _Worker, method: str, items: Iterator[Callable[[], Any]]) -> None:
        self.worker, self.method, self.items = worker, method, items
        self.kept: list[Any] = []

    @property
    def hangs(self) -> bool:
        return self.worker.executor.hanging(self.worker, self.method)

    def result(self) -> Any:
        if not self.kept:
            self.kept.append(self.take())
        return self.kept[0]

    def take(self) -> Any | None:
        assert not self.hangs, "waits for ever"
        if self.worker.dead or self.worker.executor.dies(self.worker, self.method):
            self.worker.dead = True
            raise WorkerDiedError("a worker process died")
        item = next(self.items, None)
        return None if item is None else item()


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    write_toy(tmp_path / "policy", toy_runs.WORDS, [0.1 * n for n in range(len(toy_runs.WORDS))])
    return tmp_path / "policy"


def prompts(count: int) -> list[Prompt]:
    return [Prompt(f"p{number}", "tree", token_ids=(3,)) for number in range(count)]


def rollout_workers(
    executor: Any, model: Path, workers: int = 2, respawns: int = 3, version: int = 0
) -> RolloutWorkers:
    resources = [Resources()] * workers
    policy = Policy(str(model), version)
    return RolloutWorkers(executor, resources, build_engine, policy, respawns)


def together(parcels: Iterator[list[Group]]) -> list[Group]:
    return [group for parcel in parcels for group in parcel]


def groups(count: int) -> list[Group]:
    return [
        Group(prompt, (Completion("x" * number, (number,), "stop", 0),), 0)
        for number, prompt in enumerate(prompts(count))
    ]


@pytest.mark.slow
@anywhere
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(0, 60), st.integers(0, 3))
def test_every_prompt_is_answered_once_whoever_dies(
    policy: Path, seed: int, workers: int, count: int, deaths: int
) -> None:
    # and by the same samples as one engine draws
    drawing = rollout_workers(Chaos(seed, deaths), policy, workers)
    found = together(drawing.generate(prompts(count), SAMPLING, 5))
    expected = ToyEngine(str(policy)).generate(prompts(count), SAMPLING, 5)
    assert sorted(found, key=lambda g: g.prompt.id) == sorted(expected, key=lambda g: g.prompt.id)


def test_more_deaths_than_allowed_end_it(policy: Path) -> None:
    executor = Chaos()
    workers = rollout_workers(executor, policy, respawns=2)
    executor.fatal = lambda worker, method: method == "generate"
    with pytest.raises(WorkerDiedError, match=r"died 3 times \(cluster.max_respawns is 2\)"):
        list(workers.generate(prompts(4), SAMPLING, 5))


def test_deaths_are_counted_per_stage(policy: Path) -> None:
    executor = Chaos()
    workers = rollout_workers(executor, policy, workers=1, respawns=1)
    for stage in range(5):
        executor.fatal = lambda worker, _, stage=stage: worker.number == stage
        assert len(together(workers.generate(prompts(4), SAMPLING, stage))) == 4


def test_workers_never_share_a_stream_of_random_numbers(
    policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # without per-prompt seeds each worker draws from a seed of its own
    seeds: list[int] = []
    original = ToyEngine.generate

    def noted(engine: ToyEngine, asked: Any, sampling: Any, seed: int, **named: Any) -> Any:
        seeds.append(seed)
        return original(engine, asked, sampling, seed, **named)

    monkeypatch.setattr(ToyEngine, "generate", noted)
    workers = rollout_workers(Chaos(), policy, workers=3)
    list(workers.generate(prompts(9), replace(SAMPLING, seed_per_prompt=False), 5))
    assert len(set(seeds)) == 3
    seeds.clear()
    list(workers.generate(prompts(9), SAMPLING, 5))
    assert set(seeds) == {5}


def test_a_replacement_holds_the_policy_of_now(policy: Path, tmp_path: Path) -> None:
    # one worker dies in the sync, one afterwards; both come back with version 1, verified
    write_toy(tmp_path / "next", toy_runs.WORDS, [1.0, 0, 0, 0, 0, 0, 2.0])
    executor = Chaos()
    workers = rollout_workers(executor, policy)
    probe = Probe(((1, 6),), tuple(ToyEngine(str(tmp_path / "next")).log_probs((1, 6))))
    executor.fatal = lambda worker, method: worker.number == 0 and method == "load_weights"
    workers.sync(Policy(str(tmp_path / "next"), 1, probe))
    executor.fatal = lambda worker, method: worker.number == 1
    found = together(workers.generate(prompts(6), SAMPLING, 5))
    assert [one.args[-1] for one in executor.spawned] == [0, 0, 1, 1]
    assert {group.policy_version for group in found} == {1} and len(found) == 6


def test_a_replacement_with_other_weights_is_refused(policy: Path, tmp_path: Path) -> None:
    executor = Chaos()
    workers = rollout_workers(executor, policy)
    probe = Probe(((1, 6),), tuple(ToyEngine(str(policy)).log_probs((1, 6))))
    workers.verify(probe)
    write_toy(policy, toy_runs.WORDS, [1.0, 0, 0, 0, 0, 0, 2.0])  # somebody changes the files
    executor.fatal = lambda worker, method: worker.number == 0
    with pytest.raises(StaleWeightsError, match="worker 0 does not hold policy version 0"):
        list(workers.generate(prompts(4), SAMPLING, 5))


@pytest.mark.parametrize("found", [float("nan"), float("inf"), -1.2])
def test_what_is_not_the_trainers_is_refused(
    policy: Path, monkeypatch: pytest.MonkeyPatch, found: float
) -> None:
    workers = rollout_workers(InlineExecutor(), policy)
    monkeypatch.setattr(ToyEngine, "log_probs", lambda *_: [found])
    with pytest.raises(StaleWeightsError):
        workers.verify(Probe(((1, 2),), (-1.0,), exact=False))


def test_an_engine_of_another_version_refuses_to_draw(policy: Path) -> None:
    workers = rollout_workers(InlineExecutor(), policy, version=3)
    workers._policy = Policy(str(policy), 4)
    with pytest.raises(StaleWeightsError, match=r"asked for policy version 4, .* holds 3"):
        list(workers.generate(prompts(1), SAMPLING, 5))


def test_an_answer_twice_or_unasked_is_refused(
    policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ToyEngine.generate
    monkeypatch.setattr(
        ToyEngine, "generate", lambda e, asked, *a, **k: original(e, [*asked, asked[0]], *a, **k)
    )
    workers = rollout_workers(InlineExecutor(), policy, workers=1)
    with pytest.raises(EngineError, match="p0 twice or unasked"):
        list(workers.generate(prompts(3), SAMPLING, 5))


def test_the_dead_are_replaced_when_they_are_put_to_sleep(policy: Path) -> None:
    executor = Chaos()
    rollout = rollout_workers(executor, policy)
    reward = RewardWorkers(executor, [Resources()] * 2, REWARDS)
    trainer = TrainerWorkers(
        executor, [Resources()], partial(build_trainer, str(policy), TrainConfig()), None
    )
    for group in (rollout, reward, trainer):
        group.sleep()
        alive = len(executor.spawned)
        executor.fatal = lambda worker, method, alive=alive: worker.number < alive
        group.wake()
        assert len(executor.spawned) > alive
        executor.fatal = lambda worker, method: False


@pytest.mark.slow
@anywhere
@given(
    st.integers(0, 10**6),
    st.integers(1, 3),
    st.integers(0, 50),
    st.integers(1, 8),
    st.integers(0, 3),
)
def test_every_group_gets_its_own_scores(
    seed: int, workers: int, count: int, batch: int, deaths: int
) -> None:
    scoring = RewardWorkers(
        Chaos(seed, deaths), [Resources()] * workers, REWARDS, batch_groups=batch
    )
    found: dict[str, Any] = {}

    def keep(scored: Any) -> None:
        for group, own in scored:
            assert group.prompt.id not in found
            found[group.prompt.id] = own

    for group in groups(count):
        scoring.submit(group, ["reward"])
        keep(scoring.ready())
    while not scoring.idle:
        keep(scoring.wait())
    expected = {g.prompt.id: GroupScores({"reward": length_scores(g)}) for g in groups(count)}
    assert found == expected


def length_scores(group: Group) -> list[float | None]:
    return REWARDS["reward"]().score_groups([group])[0]


def test_a_free_reward_worker_does_not_wait_for_the_others() -> None:
    # worker 0 hangs; worker 1 must get through all that is left
    executor = Chaos()
    workers = RewardWorkers(executor, [Resources()] * 2, REWARDS, batch_groups=2)
    executor.hanging = lambda worker, method: worker.number == 0
    for group in groups(12):
        workers.submit(group, ["reward"])
    scored = [group.prompt.id for _ in range(5) for group, _ in workers.wait()]
    assert len(scored) == 10


def test_what_waits_for_scores_waits_on_disk(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # scoring that never answers during generation must not gather groups in memory
    monkeypatch.setattr(raft.workers.reward, "_BATCHES_AHEAD", 2)
    executor = Chaos()
    reward = RewardWorkers(executor, [Resources()], REWARDS, batch_groups=4)
    most = 0
    original = RewardWorkers.submit

    def noted(workers: RewardWorkers, *arguments: Any) -> None:
        nonlocal most
        original(workers, *arguments)
        most = max(most, len(workers._queue))

    monkeypatch.setattr(RewardWorkers, "submit", noted)
    monkeypatch.setattr(RewardWorkers, "ready", lambda _: iter(()))
    asked = prompts(60)
    store = RolloutStore(tmp_path / "home", "rollouts", asked, version=0)
    rollout = rollout_workers(executor, policy)
    workers = WorkerGroups(rollout, reward, None, take_turns=False)
    collect(workers, store, asked, SAMPLING, 5, names=["reward"], title="rollouts")
    rows = list(store.rows())
    assert len(rows) == 60 and all(len(row.scores["scores"]) == 2 for row in rows)
    assert most <= 8


def test_a_wave_is_scored_while_the_next_is_drawn(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # samples of one length complete together, and then for a long time none does
    monkeypatch.setattr(raft.workers.rollout_worker, "_PARCEL_GROUPS", 12)
    executor = Chaos()
    drawn: list[str] = []
    scored: list[str] = []
    waited = 0

    def waits_for_scores(worker: _Worker, method: str) -> bool:
        nonlocal waited
        hangs = method == "generate" and len(drawn) == 12 and len(scored) < 12 and waited < 500
        waited += hangs
        return hangs

    class Counting(RolloutStore):
        def add_samples(self, group: Group) -> None:
            super().add_samples(group)
            drawn.append(group.prompt.id)

        def add_scores(self, prompt_id: str, *found: Any) -> None:
            super().add_scores(prompt_id, *found)
            scored.append(prompt_id)

    executor.hanging = waits_for_scores
    asked = prompts(24)
    store = Counting(tmp_path / "home", "rollouts", asked, version=0)
    reward = RewardWorkers(executor, [Resources()], REWARDS, batch_groups=4)
    rollout = rollout_workers(executor, policy, workers=1)
    workers = WorkerGroups(rollout, reward, None, take_turns=False)
    collect(workers, store, asked, SAMPLING, 5, names=["reward"], title="rollouts")
    assert len(scored) == 24 and 0 < waited < 500


def test_two_things_side_by_side() -> None:
    met = threading.Barrier(2, timeout=30)
    side_by_side(met.wait, met.wait)  # else it would wait for ever

    def fails() -> None:
        raise InputError("train.learning_rate", "diverged")

    with pytest.raises(InputError, match="diverged"):
        side_by_side(fails, lambda: None)
    ends = threading.Event()
    with pytest.raises(InputError, match="diverged"):  # though the other has no end
        side_by_side(ends.wait, fails)
    ends.set()


class Rank:
    """A trainer that remembers what it was started from."""

    made: ClassVar[list[tuple[object, ...]]] = []
    sent: ClassVar[list[tuple[int, Transfer]]] = []
    stored: ClassVar[list[str]] = []
    awake: ClassVar[set[int]] = set()
    chunks: Sequence[str] = ("a", "b")

    def __init__(self, checkpoint: str | None, rank: int, **_: Any) -> None:
        self.checkpoint, self.rank = checkpoint, rank
        self.awake.add(rank)

    def rendezvous(self) -> tuple[str, int]:
        return "127.0.0.1", 1

    def join(self, host: str, port: int) -> None: ...

    def train(self, update: Update) -> dict[str, Any]:
        self.made.append((self.checkpoint, update.rows, update.out_dir, update.seed, update.whole))
        return {"from": self.checkpoint, "rank": self.rank, "seed": update.seed}

    def store(self, checkpoint: str) -> None:
        self.stored.append(checkpoint)

    def log_probs(self, token_ids: Sequence[int]) -> list[float]:
        return [float(self.rank)]

    def dtype(self) -> str:
        return "float32"

    def rehearse(self, prompt: int, response: int) -> float:
        return 0.0

    def tensors(self, dtype: str) -> SentTensors:
        return SentTensors(["w"], [dtype], [[2]])

    def send(self, to: Transfer, dtype: str) -> None:
        self.sent.append((self.rank, to))

    def share(self, dtype: str, first: bool) -> SharedChunk | None:
        self.chunks = Rank.chunks if first else self.chunks[1:]
        tensors = SentTensors([*self.chunks[:1]], [dtype], [[2]])
        return SharedChunk(tensors, [4], {f"GPU {self.rank}": ()}) if self.chunks else None

    def sleep(self) -> None:
        self.awake.discard(self.rank)

    def wake(self) -> None:
        self.awake.add(self.rank)


def trainer_workers(executor: Chaos, ranks: int, respawns: int = 3) -> TrainerWorkers:
    return TrainerWorkers(executor, [Resources()] * ranks, Rank, "old", respawns)


GPUS = ("GPU 0", "GPU 1")


class Receiver(ToyEngine):
    """Takes what is sent or shared from the disk, where it is as well."""

    places: ClassVar[list[Transfer]] = []
    events: ClassVar[list[Any]] = []
    path: str | None = None

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.events.append(f"started, {len(Rank.awake)} awake")
        self.taken: list[Any] = []

    def receive(self, path: str, version: int, given: Transfer) -> None:
        self.places.append(given)
        self.load_weights(path, version)

    def begin_taking(self, path: str, names: Sequence[str]) -> None:
        self.events.append((path, names))
        self.path = path

    def take(self, chunk: SharedChunk | None) -> None:
        self.taken.append(chunk and (*chunk.tensors.names, *chunk.handles))
        self.events.append(self.taken[-1])

    def end_sync(self, version: int) -> None:
        self.events.append(f"ended, {len(Rank.awake)} awake")
        if self.path is not None:  # else it has been started on it
            assert self.taken == [("a", *GPUS), ("b", *GPUS), None]
            self.load_weights(self.path, version)


def receivers(executor: Chaos, model: Path) -> RolloutWorkers:
    def build(model: str, version: int = 0) -> Any:
        return Receiver(model, version=version), EngineChoice("vllm", "held")

    resources = [Resources(gpus=2)] * 2
    return RolloutWorkers(executor, resources, build, Policy(str(model), 0))


@pytest.mark.parametrize("dying", [None, ("receive", 1), ("receive", 0), ("send", 3), ("send", 2)])
def test_weights_are_sent_or_read_by_all(
    policy: Path, tmp_path: Path, dying: tuple[str, int] | None
) -> None:
    write_toy(tmp_path / "next", toy_runs.WORDS, [1.0, 0, 0, 0, 0, 0, 2.0])
    executor = Chaos()
    engines = receivers(executor, policy)
    trainers = trainer_workers(executor, 2)
    Rank.sent.clear()
    Receiver.places.clear()
    if dying is not None:  # and all others wait for it in the middle of the transfer
        executor.fatal = lambda worker, method: (method, worker.number) == dying
        executor.hanging = lambda worker, method: (
            method in ("receive", "send") and (method, worker.number) != dying
        )
    probe = Probe(((1, 6),), tuple(ToyEngine(str(tmp_path / "next")).log_probs((1, 6))))
    engines.sync(Policy(str(tmp_path / "next"), 1, probe), trainers)
    found = together(engines.generate(prompts(6), SAMPLING, 5))
    assert {group.policy_version for group in found} == {1}
    if dying is None:
        assert len(executor.spawned) == 4
        tensors = SentTensors(["w"], ["float64"], [[2]])
        places = [Transfer("127.0.0.1", 1, rank, 5, tensors) for rank in (1, 3)]  # 2 GPUs each
        assert sorted(Receiver.places, key=lambda one: one.rank) == places
        assert sorted(rank for rank, _ in Rank.sent) == [0, 1]
        return
    # the trainers from their checkpoint, the engines from the new policy
    begun = [getattr(one, "keywords", {}).get("checkpoint") for one in executor.spawned[4:]]
    assert begun == ["old", "old", None, None]
    assert [one.args[-2:] for one in executor.spawned[6:]] == [(str(tmp_path / "next"), 1)] * 2
    assert trainers.log_probs([1, 2]) == [0.0]


# the method that dies, of which worker (2 and 3 train), in its how manieth call, and how many
# trainers and engines are started anew
@pytest.mark.parametrize(
    ("dying", "anew"),
    [
        (None, (0, 0)),
        (("dtype", 0, 1), (0, 2)),
        (("tensors", 2, 1), (2, 0)),
        (("begin_taking", 1, 1), (0, 2)),
        (("share", 3, 1), (2, 2)),
        (("take", 0, 1), (2, 2)),
        (("share", 2, 2), (2, 2)),
        (("share", 3, 3), (2, 2)),
        (("take", 1, 3), (2, 2)),
        (("sleep", 2, 1), (2, 0)),
        (("end_sync", 0, 1), (0, 1)),
    ],
)
def test_weights_are_shared_or_read_by_all(
    policy: Path, tmp_path: Path, dying: tuple[str, int, int] | None, anew: tuple[int, int]
) -> None:
    write_toy(tmp_path / "next", toy_runs.WORDS, [1.0, 0, 0, 0, 0, 0, 2.0])
    Rank.awake.clear()
    Receiver.events.clear()
    executor, done = Chaos(), Counter[tuple[str, int]]()
    engines = receivers(executor, policy)
    trainers = trainer_workers(executor, 2)

    def dies(worker: _Worker, method: str) -> bool:
        done[method, worker.number] += 1
        return (method, worker.number, done[method, worker.number]) == dying

    def waits(worker: _Worker, method: str) -> bool:
        """For a rank that dies in the middle of a tensor."""
        if dying is None or dying[0] != "share" or worker.number == dying[1]:
            return False
        return method == "share" and done[method, worker.number] == dying[2] - 1

    executor.fatal, executor.hanging = dies, waits
    probe = Probe(((1, 6),), tuple(ToyEngine(str(tmp_path / "next")).log_probs((1, 6))))
    engines.sync(Policy(str(tmp_path / "next"), 1, probe), trainers, shares=True)
    found = together(engines.generate(prompts(6), SAMPLING, 5))
    assert {group.policy_version for group in found} == {1}
    begun = [getattr(one, "keywords", {}).get("checkpoint") for one in executor.spawned[4:]]
    assert begun == ["old"] * anew[0] + [None] * anew[1]
    # vLLM finds the memory of its GPU free, and has it when its cache wakes
    said = {one for one in Receiver.events if isinstance(one, str)}
    assert said <= {"started, 0 awake", "ended, 0 awake"} and Rank.awake == set()
    if dying is None:
        steps = ["started, 0 awake", (str(tmp_path / "next"), ["w"]), ("a", *GPUS), ("b", *GPUS)]
        expected = [one for step in (*steps, None, "ended, 0 awake") for one in (step, step)]
        assert Receiver.events == expected


def test_what_cannot_be_shared_is_one_line(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = Chaos()
    engines, trainers = receivers(executor, policy), trainer_workers(executor, 2)

    def share(rank: Rank, dtype: str, first: bool) -> SharedChunk:
        return SharedChunk(SentTensors([f"{rank.rank}"], [dtype], [[2]]), [4], {"GPU 0": ()})

    monkeypatch.setattr(Rank, "share", share)
    with pytest.raises(EngineError, match="different tensors"):
        trainers.share(lambda _: None, "bfloat16")
    said = "CUDA error: invalid resource handle\nCompile with TORCH_USE_CUDA_DSA"
    monkeypatch.setattr(Rank, "share", wraps(share)(lambda *_: throw(RuntimeError(said))))
    with pytest.raises(InputError, match=r"policy\.sync: ipc: CUDA error.* Use disk") as caught:
        engines.sync(Policy(str(policy), 1), trainers, shares=True)
    assert "\n" not in str(caught.value) and len(executor.spawned) == 4


def throw(error: Exception) -> Any:
    raise error


def test_a_dead_rank_is_not_waited_for(tmp_path: Path) -> None:
    # rank 0 waits in the middle of the step for rank 1, which is dead
    executor = Chaos()
    workers = trainer_workers(executor, 3)
    executor.hanging = lambda worker, method: method == "train" and worker.number in (0, 2)
    executor.fatal = lambda worker, method: method == "train" and worker.number == 1
    metrics = workers.train(Update("rows", 7, str(tmp_path / "out")))
    assert metrics == {"from": "old", "rank": 0, "seed": 7}
    assert len(executor.spawned) == 6


def test_a_trainer_begins_again_from_the_last_finished_policy(tmp_path: Path) -> None:
    executor = Chaos()
    workers = trainer_workers(executor, 1)
    (tmp_path / "out").mkdir()
    executor.fatal = lambda worker, method: worker.number == 0
    assert workers.train(Update("rows", 7, str(tmp_path / "out")))["from"] == "old"
    assert not (tmp_path / "out").exists(), "what the dead one had written is gone"
    workers.store("new")
    workers.wait_stored()
    executor.fatal = lambda worker, method: worker.number == 1
    assert workers.log_probs([1, 2]) == [0.0]
    assert [one.keywords["checkpoint"] for one in executor.spawned] == ["old", "old", "new"]


def test_a_trainer_makes_the_updates_since_its_checkpoint_again(tmp_path: Path) -> None:
    executor, out, dead = Chaos(), str(tmp_path / "out"), [0]
    given = [Update("rows-1", 1), Update("rows-2", 2)]
    workers = TrainerWorkers(executor, [Resources()], Rank, "old", since=given)

    def made() -> list[tuple[object, ...]]:
        found = Rank.made[:]
        Rank.made.clear()
        return found

    made()
    workers.log_probs([1, 2])
    again = [("old", "rows-1", None, 1, False), ("old", "rows-2", None, 2, False)]
    assert made() == again, "before anything else, and once"
    workers.train(Update("rows-3", 3, out, whole=False))
    assert made() == [("old", "rows-3", out, 3, False)]
    executor.fatal = lambda worker, method: worker.number in dead
    workers.train(Update("rows-4", 4, out))
    (tmp_path / "new").mkdir()
    workers.store(str(tmp_path / "new"))
    again.append(("old", "rows-3", None, 3, False))
    assert made() == [*again, ("old", "rows-4", out, 4, True)]
    dead.append(1)  # before the next update asks whether the checkpoint is whole
    workers.train(Update("rows-5", 5, out, whole=False))
    new = str(tmp_path / "new")
    assert made() == [(new, "rows-5", out, 5, False)]
    # and one that is not whole is none to begin from
    workers.train(Update("rows-6", 6, out, drawn_by="drawn-by"))
    write_json(tmp_path / "new/optimizer.json", ["optimizer.pt"])
    workers.store(new)
    assert made() == [(new, "rows-6", out, 6, True)]
    dead.append(2)
    assert workers.log_probs([1, 2]) == [0.0]
    assert made() == [(new, f"rows-{n}", None, n, False) for n in (5, 6)]
    stored = Rank.stored[:]
    workers.wait_stored()
    assert [*stored, new] == Rank.stored, "those that made the updates again write it"


def test_what_a_trainer_cannot_write_is_said_when_it_is_asked_next(tmp_path: Path) -> None:
    class Full(Rank):
        def store(self, checkpoint: str) -> None:
            raise OSError(errno.ENOSPC, "no space", f"{checkpoint}/optimizer.pt")

    workers = TrainerWorkers(Chaos(), [Resources()], Full, "old")
    for ask in (
        lambda: workers.train(Update("rows", 1, str(tmp_path))), workers.wait_stored, workers.dtype,
    ):  # fmt: skip
        workers.store(str(tmp_path))
        with pytest.raises(OSError, match="no space"):
            ask()


SAID = """NCCL error in: /torch/csrc/distributed/c10d/NCCLUtils.cpp:94, remote process ended
ncclRemoteError: A call failed possibly due to a network error."""


@pytest.mark.parametrize(
    ("method", "text", "where", "named"),
    [("train", SAID, "train", ""), ("send", "NCCL error: timeout", "policy.sync", "sync: disk")],
)
def test_what_nccl_says_is_one_line(
    monkeypatch: pytest.MonkeyPatch, method: str, text: str, where: str, named: str
) -> None:
    def fails(*_: Any) -> Any:
        raise (RuntimeError if method == "send" else DistBackendError)(text)

    monkeypatch.setattr(Rank, method, wraps(getattr(Rank, method))(fails))
    workers = trainer_workers(Chaos(), 2)
    with pytest.raises(InputError) as caught:
        if method == "train":
            workers.train(Update("rows", 1, "out"))
        else:
            rank: Any = workers._workers[0]
            workers.send([lambda to: rank.call(Rank.sleep)], 1, "bfloat16")
    assert caught.value.where == where and "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in ("NCCL_DEBUG", "NCCL_SOCKET_IFNAME", named))
    assert text.split()[-1] in str(caught.value) and "cpp" not in str(caught.value)


def test_trainers_that_die_every_time(tmp_path: Path) -> None:
    executor = Chaos()
    workers = trainer_workers(executor, 1, respawns=1)
    executor.fatal = lambda worker, method: True
    with pytest.raises(WorkerDiedError, match=r"trainers died 2 times \(cluster.max_respawns is 1"):
        workers.train(Update("rows", 7, str(tmp_path / "out")))


def test_what_is_drawn_is_stored_though_scoring_fails(policy: Path, tmp_path: Path) -> None:
    # the groups of the parcel in hand, and of those that have arrived
    asked = prompts(40)
    store = RolloutStore(tmp_path / "home", "rollouts", asked, version=0)
    executor = InlineExecutor()
    reward = RewardWorkers(executor, [Resources()], {"reward": partial(Failing)}, batch_groups=1)
    rollout = rollout_workers(executor, policy, workers=2)
    workers = WorkerGroups(rollout, reward, None, take_turns=False)
    with pytest.raises(RewardError):
        collect(workers, store, asked, SAMPLING, 5, names=["reward"], title="rollouts")
    again = RolloutStore(tmp_path / "home", "rollouts", asked, version=0)
    drawn = {prompt.id for prompt in asked} - {prompt.id for prompt in again.undrawn()}
    assert len(drawn) >= 16 and set(again.unscored()) == drawn
    # in one process nothing else has been drawn, and nothing is drawn on the way out
    assert len(drawn) <= 20


class Failing:
    def score_groups(self, groups: Sequence[Group]) -> list[list[float | None]]:
        raise RewardError("no score")


class Stuck(Chaos):
    """The first worker never answers, until it is ended."""

    def first_ready(self, waiting: Sequence[Any], timeout: float | None = None) -> Any | None:
        ready = [one for one in waiting if one.worker.dead or one.worker.number > 0]
        if not ready:
            time.sleep(timeout or 0)
        return ready[0] if ready else None


@pytest.mark.parametrize("limit", [None, 0.3])
def test_a_silent_worker_is_named_and_replaced_after_the_time_limit(
    limit: float | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(raft.workers.silence, "_TELL_AFTER", 0.1)
    monkeypatch.setattr(raft.workers.silence, "_LOOK_EVERY", 0.02)
    workers = RewardWorkers(
        Stuck(), [Resources()], REWARDS, stall_timeout=limit, labels={"reward": "word_list"}
    )
    workers.submit(groups(1)[0], ["reward"])
    workers.start()
    if limit is None:
        ends = time.monotonic() + 0.5
        while time.monotonic() < ends:
            assert not list(workers.ready())
            time.sleep(0.02)
        # after 0.1 s, 0.2 s and 0.4 s
        assert 2 <= len(caplog.messages) <= 3
    else:
        assert [scores.scores for _, scores in workers.wait()] == [{"reward": [0.0]}]
    assert all("word_list" in line for line in caplog.messages if "silent" in line)
    assert any("silent" in line for line in caplog.messages)


def test_what_inline_workers_loaded_is_garbage_after_them() -> None:
    class Loaded:
        def __init__(self) -> None:
            self.own = self  # as models do
            exempt_from_collection()

    gc.unfreeze()  # what other tests of this process loaded
    executor = InlineExecutor()
    worker: Any = executor.spawn(Loaded, Resources())
    held = weakref.ref(worker._target)
    executor.close()
    del worker
    gc.collect()
    assert held() is None
