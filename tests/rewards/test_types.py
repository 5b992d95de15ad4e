"""What every part of `rewards` leans on."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

import rewards
from rewards.types import Comparison, RewardError


def test_swap_twice_is_the_same_comparison():
    comparison = Comparison([{"role": "user", "content": "q"}], first="a", second="b")
    swapped = comparison.swap()
    assert (swapped.first, swapped.second, swapped.prompt) == ("b", "a", comparison.prompt)
    assert swapped.swap() == comparison


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(RewardError("function 'f' failed for prompt 'p'")))
    assert isinstance(error, RuntimeError) and str(error) == "function 'f' failed for prompt 'p'"


def test_importing_rewards_loads_no_heavy_library():
    heavy = "torch", "transformers", "trl", "ray", "vllm", "datasets", "numpy"
    code = (
        "import sys, rewards; rewards.load_reward; rewards.build_reward; rewards.Reward; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_names_are_attribute_errors():
    assert {"load_reward", "build_reward"} <= set(dir(rewards))
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = rewards.nothing_here  # type: ignore[attr-defined]
