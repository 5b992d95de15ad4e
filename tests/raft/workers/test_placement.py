"""GPUs among workers, for machines of 0, 1, 4 and 8."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.workers.executors import Resources, Slot
from raft.workers.placement import Placement, assign_nodes, place
from rollout.types import InputError


def of(gpus: int, rollout: int = 1, reward: int = 1, trainer: int = 1, **more: Any) -> Placement:
    return place(
        gpus=gpus,
        cores=more.pop("cores", 16),
        rollout_workers=rollout,
        reward_workers=reward,
        trainer_workers=trainer,
        **more,
    )


def workers(placement: Placement) -> list[Resources]:
    return [*placement.rollout, *placement.reward, *placement.trainer]


@pytest.mark.parametrize(
    ("gpus", "counts", "colocated"),
    [
        (1, (1, 1, 1), True),
        (2, (1, 1, 1), True),
        (3, (1, 1, 1), False),
        (4, (2, 1, 1), False),
        (4, (4, 4, 4), True),
        (8, (4, 1, 3), False),
        (8, (6, 1, 1), False),
        (8, (8, 8, 8), True),
    ],
)
def test_examples(gpus: int, counts: tuple[int, int, int], colocated: bool) -> None:
    placement = of(gpus, *counts)
    assert placement.colocated is colocated
    assert tuple(map(len, (placement.rollout, placement.reward, placement.trainer))) == counts


@given(
    st.integers(0, 8),
    *[st.integers(1, 8)] * 3,
    st.sampled_from([1, 2, 4]),
    st.booleans(),
    st.sampled_from(["auto", "separate", "colocated"]),
    st.integers(1, 64),
)
def test_nothing_is_given_twice(
    gpus: int,
    rollout: int,
    reward: int,
    trainer: int,
    tensor_parallel: int,
    reward_on_gpu: bool,
    mode: str,
    cores: int,
) -> None:
    # no more GPUs than there are, and no more than a whole one from each shared
    try:
        placement = of(
            gpus,
            rollout,
            reward,
            trainer,
            tensor_parallel=tensor_parallel,
            reward_on_gpu=reward_on_gpu,
            mode=mode,
            cores=cores,
        )
    except InputError as error:
        assert gpus > 0 and "\n" not in str(error)
        return
    shares: dict[int, float] = defaultdict(float)
    for worker in workers(placement):
        assert (worker.slot is not None) is (worker.gpus > 0)
        if worker.slot is not None:
            shares[worker.slot] += worker.gpus
    slots = placement.slots
    assert sum(slot.gpus for slot in slots) <= gpus and len(slots) == len(shares)
    assert all(shares[number] <= slot.gpus + 1e-9 for number, slot in enumerate(slots))
    trainers = {worker.slot for worker in placement.trainer if worker.gpus}
    assert {number for number, slot in enumerate(slots) if slot.trains} == trainers
    assert all(worker.threads >= 1 for worker in workers(placement))
    if gpus:
        assert all(worker.gpus for worker in (*placement.rollout, *placement.trainer))
        assert all(bool(worker.gpus) is reward_on_gpu for worker in placement.reward)
        alone = {worker.slot for worker in workers(placement) if worker.gpus >= 1}
        assert placement.colocated is not (alone == set(shares))
    else:
        assert not shares


def every_assignment(slots: list[Slot], free: dict[str, int]) -> list[tuple[str, ...]]:
    """By brute force, those that no node is too small for."""
    found = []
    for nodes in product(free, repeat=len(slots)):
        used: dict[str, int] = defaultdict(int)
        for slot, node in zip(slots, nodes, strict=True):
            used[node] += slot.gpus
        if all(used[node] <= free[node] for node in free):
            found.append(nodes)
    return found


def homes(slots: list[Slot], nodes: Sequence[str]) -> set[str]:
    return {node for slot, node in zip(slots, nodes, strict=True) if slot.trains}


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=3),
    st.integers(1, 3),
    *[st.integers(0, 3)] * 2,
    st.integers(0, 2),
)
def test_slots_find_nodes_wherever_they_can(
    gpus: list[int], wide: int, engines: int, trainers: int, rewards: int
) -> None:
    free = {f"n{number}": count for number, count in enumerate(gpus)}
    slots = [Slot(wide)] * engines + [Slot(1)] * rewards + [Slot(1, trains=True)] * trainers
    possible, found = every_assignment(slots, free), assign_nodes(slots, free)
    if found is None:
        assert not possible
    else:
        assert tuple(found) in possible
        # trainers are on one node where that is possible at all
        together = any(len(homes(slots, nodes)) <= 1 for nodes in possible)
        assert not together or len(homes(slots, found)) <= 1


@pytest.mark.parametrize(
    ("nodes", "slots", "expected"),
    [
        # three trainers and a reward beside an engine of four: Ray alone would never place it
        ((4, 4), [Slot(4), Slot(1), *[Slot(1, True)] * 3], ["b", "a", "a", "a", "a"]),
        # engines are spread
        ((8, 8), [Slot(1)] * 4, ["a", "b", "a", "b"]),
        # trainers too many for any node are on few
        ((4, 4, 4), [*[Slot(1, True)] * 6], ["a", "a", "a", "a", "b", "b"]),
        ((2, 2), [Slot(3)], None),
    ],
)
def test_examples_of_nodes(
    nodes: tuple[int, ...], slots: list[Slot], expected: list[str] | None
) -> None:
    assert assign_nodes(slots, dict(zip("abc", nodes, strict=False))) == expected


def test_whole_gpus_for_a_wide_engine() -> None:
    placement = of(8, 2, 1, 1, tensor_parallel=2)
    assert [worker.gpus for worker in placement.rollout] == [2, 2]
    assert not placement.colocated


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"gpus": 2, "rollout": 2, "mode": "separate"}, "cluster.placement"),
        ({"gpus": 1, "rollout": 2}, "cluster.rollout_workers"),
        ({"gpus": 1, "trainer": 2}, "cluster.trainer_workers"),
        ({"gpus": 2, "tensor_parallel": 2}, "policy.tensor_parallel"),
        ({"gpus": 0, "sync": "nccl"}, "policy.sync"),
        ({"gpus": 1, "sync": "nccl"}, "policy.sync"),
        ({"gpus": 8, "sync": "nccl", "mode": "colocated"}, "policy.sync"),
        ({"gpus": 0, "sync": "ipc"}, "policy.sync"),
        ({"gpus": 3, "sync": "ipc"}, "policy.sync"),
        ({"gpus": 8, "sync": "ipc", "mode": "separate"}, "policy.sync"),
        ({"gpus": 2, "rollout": 2, "sync": "ipc"}, "cluster.trainer_workers"),
        ({"gpus": 2, "trainer": 2, "sync": "ipc"}, "cluster.trainer_workers"),
        (
            {"gpus": 2, "tensor_parallel": 2, "sync": "ipc", "mode": "colocated"},
            "policy.tensor_parallel",
        ),
    ],
)
def test_what_does_not_fit_is_said_by_its_key(arguments: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as caught:
        of(**arguments)
    assert str(caught.value).startswith(f"{key}: ")


def test_weights_are_sent_between_gpus_of_their_own_or_shared_on_one() -> None:
    assert of(8, 2, 1, 2, sync="nccl") == of(8, 2, 1, 2)
    placement = of(2, 2, 2, 2, sync="ipc")
    assert placement == of(2, 2, 2, 2) and placement.colocated
    assert [one.slot for one in placement.rollout] == [one.slot for one in placement.trainer]


def test_threads_on_a_cpu() -> None:
    # generation and training take turns, so each kind may have every core
    placement = of(0, 2, 1, 1, cores=8)
    assert [worker.threads for worker in workers(placement)] == [4, 4, 4, 8]
    assert all(worker.threads == 1 for worker in workers(of(0, 4, 4, 4, cores=2)))
