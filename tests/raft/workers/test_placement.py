"""GPUs among workers, for machines of 0, 1, 4 and 8."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.workers.executors import Resources
from raft.workers.placement import Placement, place
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
    own = sum(worker.gpus for worker in workers(placement) if worker.gpu_slot is None)
    shares: dict[int, float] = defaultdict(float)
    for worker in workers(placement):
        if worker.gpu_slot is not None:
            shares[worker.gpu_slot] += worker.gpus
    assert own + len(shares) <= gpus
    assert all(share <= 1 + 1e-9 for share in shares.values())
    assert all(worker.threads >= 1 for worker in workers(placement))
    if gpus:
        assert all(worker.gpus for worker in (*placement.rollout, *placement.trainer))
        assert all(bool(worker.gpus) is reward_on_gpu for worker in placement.reward)
        assert placement.colocated is bool(shares)
    else:
        assert own == 0 and not shares


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
    ],
)
def test_what_does_not_fit_is_said_by_its_key(arguments: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as caught:
        of(**arguments)
    assert str(caught.value).startswith(f"{key}: ")


def test_threads_on_a_cpu() -> None:
    # generation and training take turns, so each kind may have every core
    placement = of(0, 2, 1, 1, cores=8)
    assert [worker.threads for worker in workers(placement)] == [4, 4, 4, 8]
    assert all(worker.threads == 1 for worker in workers(of(0, 4, 4, 4, cores=2)))
