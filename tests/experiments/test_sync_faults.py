"""The public suite of sync faults, on one real vLLM engine in bfloat16."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest


@pytest.mark.thorough
@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_every_fault_of_a_sync_is_seen_in_16_bits() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "experiments.gpu.sync_faults"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    noise, *found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one for one in found if not one["ok"]] == [] and done.returncode == 0, done.stderr[
        -2000:
    ]
    assert len(found) == 15 and noise["noise"]["mean"] > 1e-3  # of 16 bits
    # the adapter gives the engine what its trainer has; merged weights lose little at this rate
    shares = {one["fault"]: one["share_of_update"] for one in found}
    for clean in ("none, adapter", "none, merged adapter", "none, all weights"):
        assert shares[clean] == pytest.approx(1, abs=0.05)
